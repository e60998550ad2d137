"""The layer under what torch does to functions: torch.func, vmap, second derivatives, export, tracing, no data."""

import warnings
from collections.abc import Mapping
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap

from mhmoe.layers.balanced_router import BalancedRouterConfig
from mhmoe.layers.experts import FeedForwardConfig
from mhmoe.layers.multi_head import MultiHead, multi_head_moe
from mhmoe.layers.sparse_moe import SparseMoEConfig
from tests import reference

GROUPED = BalancedRouterConfig(dim=4, num_experts=4, top_k=2, num_groups=2, top_groups=1)
STYLES: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"bias": True, "inner_norm": True, "activation": "swiglu", "inner_residual": True, "head_layers": 2},
    "capacity": {"capacity_factor": 1.0},
    "next": {"capacity_factor": 0.75, "overflow": "next"},
    "balanced": {"router": GROUPED, "balance": (("eq10", 1.0), ("importance", 0.5), ("load", 0.5), ("z", 0.1))},
}
LATER = ("overflow", "balance")
every_style = pytest.mark.parametrize("style", STYLES)


def make(style: str, seed: int = 0) -> MultiHead:
    sizes = {"num_experts": 4 if "router" in STYLES[style] else 3, **STYLES[style]}
    later = {name: sizes.pop(name) for name in LATER if name in sizes}
    config = multi_head_moe(dim=8, expert_dim=4, moe_heads=2, top_k=2, **sizes)
    if later:
        config = config.replace(inner=config.inner.replace(**later))
    layer = config.build()
    reference.randomise(layer, seed)
    return layer


def loss(layer: MultiHead, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
    output = functional_call(layer, dict(parameters), (x,))
    return output.hidden.square().mean() + output.balance_loss


def gradients(layer: MultiHead, x: Tensor) -> dict[str, Tensor]:
    """By backward, which other tests hold against float64."""
    parameters = dict(layer.named_parameters())
    found = torch.autograd.grad(loss(layer, parameters, x), list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


def near(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    assert ours.keys() == theirs.keys()
    return all(torch.allclose(ours[name], theirs[name], atol=1e-6, rtol=1e-5) for name in ours)


def constants(layer: MultiHead) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in layer.named_parameters()}


@every_style
def test_torch_func_grad_is_what_backward_gives(style: str) -> None:
    layer, x = make(style), torch.randn(5, 8)
    assert near(grad(lambda p: loss(layer, p, x))(constants(layer)), gradients(layer, x))


@every_style
def test_vmap_over_batches_gives_what_each_gives_alone(style: str) -> None:
    layer, x = make(style), torch.randn(4, 5, 8)
    alone = [layer(part) for part in x]
    hidden, losses = vmap(lambda part: layer(part)[:2])(x)
    assert torch.allclose(hidden, torch.stack([output.hidden for output in alone]), atol=1e-6)
    assert torch.allclose(losses, torch.stack([output.balance_loss for output in alone]))


@every_style
def test_gradients_of_every_sample_come_from_vmap_of_grad(style: str) -> None:
    """In float64: the inner norm of four numbers is ill-conditioned."""
    layer, x = make(style).double(), torch.randn(4, 5, 8, dtype=torch.float64)
    together = vmap(grad(lambda p, part: loss(layer, p, part)), (None, 0))(constants(layer), x)
    for i, part in enumerate(x):
        assert near({name: g[i] for name, g in together.items()}, gradients(layer, part))


@every_style
def test_an_ensemble_of_layers_runs_as_one(style: str) -> None:
    layers, x = [make(style, seed).double() for seed in range(3)], torch.randn(5, 8, dtype=torch.float64)
    parameters, buffers = stack_module_state(layers)  # pyright: ignore[reportArgumentType]
    together = vmap(lambda p, b: functional_call(layers[0], (p, b), (x,)).hidden)(parameters, buffers)
    assert torch.allclose(together, torch.stack([layer(x).hidden for layer in layers]), atol=1e-6)


@every_style
def test_first_and_second_derivatives_pass_gradcheck_in_float64(style: str) -> None:
    layer = make(style).double()
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        return functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))[:2]

    inputs = (torch.randn(3, 8, dtype=torch.float64, requires_grad=True), *layer.parameters())
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_the_hessian_by_reverse_mode_is_symmetric_and_not_zero() -> None:
    layer, x = make("plain").double(), torch.randn(2, 8, dtype=torch.float64)
    hessian = jacrev(jacrev(lambda x: layer(x).hidden.square().sum()))(x).view(16, 16)
    assert torch.allclose(hessian, hessian.T) and hessian.norm() > 1


@pytest.mark.parametrize(
    "training", [pytest.param(False, id="evaluation"), pytest.param(True, id="training", marks=pytest.mark.slow)]
)
@every_style
def test_an_exported_layer_takes_any_batch_and_length(
    style: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its checks fix the shapes
    layer, dynamic = make(style).train(training), torch.export.Dim.DYNAMIC
    exported = torch.export.export(layer, (torch.randn(2, 6, 8),), dynamic_shapes=({0: dynamic, 1: dynamic},))
    for shape in ((3, 11, 8), (1, 2, 8)):
        x = torch.randn(shape)
        hidden, balance_loss, *_ = exported.module()(x)
        assert torch.allclose(hidden, layer(x).hidden, atol=1e-6)
        assert torch.allclose(balance_loss, layer(x).balance_loss)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@every_style
def test_a_traced_layer_has_nothing_of_its_sample_baked_in(
    style: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    layer = make(style).train(training)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tracing is deprecated, and that it takes checks of shapes as passed
        traced: Any = torch.jit.trace(layer, torch.randn(2, 6, 8), check_trace=False, strict=False)
    for shape in ((2, 6, 8), (3, 11, 8)):
        x = torch.randn(shape)
        hidden, balance_loss, *_ = traced(x)
        assert torch.allclose(hidden, layer(x).hidden, atol=1e-6)
        assert torch.allclose(balance_loss, layer(x).balance_loss)


@every_style
def test_on_the_meta_device_shapes_go_forward_and_back(style: str) -> None:
    layer, x = make(style).to("meta"), torch.empty(2, 6, 8, device="meta", requires_grad=True)
    output = layer(x, torch.ones(2, 6, dtype=torch.bool, device="meta"))
    (output.hidden.sum() + output.balance_loss).backward()
    assert output.hidden.shape == (2, 6, 8) and output.hidden.is_meta
    assert output.routing.index.shape == (2, 6, 2, 2)
    assert all(p.grad is not None and p.grad.shape == p.shape for p in layer.parameters())


def test_fake_tensors_give_shapes_too() -> None:
    with FakeTensorMode():
        layer = multi_head_moe(dim=8, num_experts=3, expert_dim=4, moe_heads=2, top_k=2).build()
        output = layer(torch.randn(2, 6, 8))
        (output.hidden.sum() + output.balance_loss).backward()
    assert output.hidden.shape == (2, 6, 8)


@pytest.mark.parametrize("shape", [(0, 6), (2, 0), (0,)], ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@every_style
def test_an_empty_batch_gives_empty_outputs_and_zero_gradients(
    style: str, training: bool, shape: tuple[int, ...]
) -> None:
    layer = make(style).train(training)
    for mask in (None, torch.ones(shape, dtype=torch.bool)):
        x = torch.randn(*shape, 8, requires_grad=True)
        output = layer(x, mask)
        layer.zero_grad()
        (output.hidden.sum() + output.balance_loss).backward()
        assert output.hidden.shape == x.shape and output.balance_loss == 0
        assert x.grad is not None and x.grad.shape == x.shape
        assert all((p.grad == 0).all() for p in layer.parameters() if p.grad is not None)


def test_a_layer_with_a_shared_network_is_transformed_too() -> None:
    moe = multi_head_moe(dim=8, num_experts=3, expert_dim=4, moe_heads=1, top_k=2).inner
    assert isinstance(moe, SparseMoEConfig)
    layer: Any = moe.replace(shared=FeedForwardConfig(dim=8, inner_dim=6)).build()
    x = torch.randn(4, 5, 8)
    together = vmap(grad(lambda p, part: loss(layer, p, part)), (None, 0))(constants(layer), x)
    for i, part in enumerate(x):
        assert near({name: g[i] for name, g in together.items()}, gradients(layer, part))
