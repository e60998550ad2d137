"""What every whole layer promises, whatever it is made of; a new kind is found by its registration."""

import copy
import json
from typing import Any
from unittest.mock import patch

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.flop_counter import FlopCounterMode

from mhmoe.layers import config as configs
from mhmoe.layers import dispatch
from mhmoe.layers.absent import AbsentConfig
from mhmoe.layers.beside import BesideConfig
from mhmoe.layers.bitnet import in_precision
from mhmoe.layers.config import LayerConfig, config_from_dict
from mhmoe.layers.dense_mixture import DenseMixtureConfig
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.fine_grained import fine_grained
from mhmoe.layers.hierarchical import HierarchicalMoEConfig
from mhmoe.layers.latent import LatentConfig, latent_moe
from mhmoe.layers.multi_head import MultiHeadConfig, multi_head_moe
from mhmoe.layers.normed import NormedConfig
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.layers.routers import DotProductRouterConfig, XMoERouterConfig
from mhmoe.layers.sparse_moe import ResidualConfig, SparseMoEConfig
from tests import reference
from tests.commands import program

DIM = 16


def router(dim: int = DIM, num_experts: int = 4, top_k: int = 2, **rest: Any) -> DotProductRouterConfig:
    return DotProductRouterConfig(dim=dim, num_experts=num_experts, top_k=top_k, **rest)


def experts(dim: int = DIM, num_experts: int = 4, expert_dim: int = 8, **style: Any) -> ExpertsConfig:
    return ExpertsConfig(dim=dim, num_experts=num_experts, expert_dim=expert_dim, **style)


def sparse(dim: int = DIM, **rest: Any) -> SparseMoEConfig:
    return SparseMoEConfig(router=router(dim), experts=experts(dim), **rest)


SHARED = FeedForwardConfig(dim=DIM, inner_dim=12, activation="swiglu")
ALL = {"activation": "swiglu", "bias": True, "inner_norm": True}
PER_HEAD = MultiHeadConfig(
    dim=DIM,
    heads=2,
    inner=SparseMoEConfig(router=PerHeadRouterConfig.of(router(dim=8), heads=2), experts=experts(dim=8, num_experts=8)),
)
LAYERS: dict[str, LayerConfig] = {
    "absent": AbsentConfig(dim=DIM),
    "feed forward": SHARED,
    "sparse": sparse(shared=SHARED),
    "one expert": SparseMoEConfig(router=router(num_experts=1, top_k=1), experts=experts(num_experts=1)),
    "fine-grained": fine_grained(sparse(), by=4, shared=2),
    "normed": NormedConfig(inner=sparse()),
    "beside": BesideConfig(shared=SHARED, routed=multi_head_moe(dim=DIM, num_experts=4, expert_dim=8, moe_heads=2)),
    "residual": ResidualConfig(inner=sparse()),
    "heads": multi_head_moe(dim=DIM, num_experts=4, expert_dim=8, moe_heads=2),
    "heads with their own experts": PER_HEAD,
    "all experts": DenseMixtureConfig(router=router(top_k=4), experts=experts()),
    "all of one expert": DenseMixtureConfig(router=router(num_experts=1, top_k=1), experts=experts(num_experts=1)),
    "all experts, all options": DenseMixtureConfig(
        router=XMoERouterConfig(dim=DIM, num_experts=4, top_k=4, gate="sigmoid", renormalize=True),
        experts=experts(**ALL),
    ),
    "heads around all experts": MultiHeadConfig(
        dim=DIM, heads=2, inner=DenseMixtureConfig(router=router(8, top_k=4), experts=experts(8))
    ),
    "mixture of mixtures": HierarchicalMoEConfig(router=router(num_experts=3), inner=sparse(shared=SHARED)),
    "mixture of networks": HierarchicalMoEConfig(router=router(top_k=1), inner=SHARED),
    "mixture of all mixtures": HierarchicalMoEConfig(router=router(num_experts=3, top_k=3), inner=PER_HEAD),
    "three levels": HierarchicalMoEConfig(
        router=router(num_experts=2), inner=HierarchicalMoEConfig(router=router(num_experts=3), inner=sparse())
    ),
    "heads around mixtures of mixtures": MultiHeadConfig(
        dim=DIM, heads=2, inner=HierarchicalMoEConfig(router=router(8), inner=sparse(8))
    ),
    "latent": latent_moe(router(), experts(dim=8)),
    "latent with all": latent_moe(router(), experts(dim=8, **ALL), shared=SHARED, normed=True),
    "latent, routed there": LatentConfig(dim=DIM, inner=sparse(8), bias=True, route_by="latent"),
    "latent, heads there": LatentConfig(
        dim=DIM, inner=multi_head_moe(dim=8, num_experts=4, expert_dim=8, moe_heads=2), route_by="latent"
    ),
}
LAYERS |= {
    f"bitnet {name}": in_precision(LAYERS[name], "bitnet")
    for name in (
        "feed forward",
        "sparse",
        "heads",
        "all experts, all options",
        "latent with all",
        "mixture of mixtures",
    )
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def make(name: str, seed: int = 0) -> nn.Module:
    layer = LAYERS[name].build()
    reference.randomise(layer, seed)
    return layer


def total(output: Any) -> Tensor:
    return output.hidden.square().sum() + (0.0 if output.balance_loss is None else output.balance_loss)


def test_every_registered_layer_is_held_to_this() -> None:
    seen: set[str] = set()

    def collect(layer: configs.Config) -> None:
        seen.add(layer.kind)
        for value in vars(layer).values():
            if isinstance(value, configs.Config):
                collect(value)

    for layer in LAYERS.values():
        collect(layer)
    ours = {kind for kind, cls in configs._KINDS.items() if issubclass(cls, LayerConfig)}
    ours.remove("expert_choice")  # in which rows depend on each other: test_contract.py, test_expert_choice.py
    assert ours <= seen, "add the new kind to LAYERS"


@every_layer
def test_a_layer_comes_back_from_json_and_counts_what_it_builds(name: str) -> None:
    layer = LAYERS[name]
    assert config_from_dict(json.loads(json.dumps(layer.to_dict()))) == layer
    assert sum(p.numel() for p in layer.build().parameters()) == layer.parameters()


@every_layer
def test_counted_flops_are_those_that_torch_counts(name: str) -> None:
    def product(x: tuple[int, int], weight: tuple[int, int, int], *_: Any, **__: Any) -> int:
        return 2 * x[0] * x[1] * weight[1]

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.mhmoe.grouped_linear: product})
    with patch.object(dispatch, "BLOCK", 1), counter:  # rows that fill up a share are overhead, not work
        LAYERS[name].build()(torch.randn(7, DIM))
    assert counter.get_total_flops() == 7 * LAYERS[name].flops_per_token()


def test_ternary_experts_whose_norm_stays_before_them_have_no_bias_to_add() -> None:
    ternary = DenseMixtureConfig(router=router(top_k=4), experts=experts(inner_norm=True, precision="bitnet"))
    with FlopCounterMode(display=False) as counter:
        ternary.build()(torch.randn(7, DIM))
    assert counter.get_total_flops() == 7 * ternary.flops_per_token()


@every_layer
def test_active_parameters_are_those_that_get_a_gradient_at_most(name: str) -> None:
    layer = LAYERS[name]
    found: list[int] = []
    for rows in (1, 2, 3):
        module = make(name)
        x = torch.randn(rows, DIM, requires_grad=True)
        (module(x).hidden.square().sum() + 0 * x.sum()).backward()
        touched = 0
        for part, parameter in module.named_parameters():
            grad = parameter.grad
            stacked = "experts." in part
            used = None if grad is None else grad.flatten(1 if stacked else 0).ne(0).any(-1)
            touched += 0 if used is None else int(used.sum()) * (parameter[0].numel() if stacked else parameter.numel())
        assert touched <= layer.active_parameters(rows) <= layer.parameters()
        found.append(touched)
    assert found[0] == layer.active_parameters() or any(w in name for w in ("mixture", "heads", "one expert")), found
    assert layer.active_parameters(1000) == layer.parameters()


@every_layer
def test_padded_rows_change_no_other_row_no_loss_and_no_gradient(name: str) -> None:
    x, mask = torch.randn(3, 5, DIM), torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [False] * 2 + [True] * 3])
    layer, found, x = make(name), [], x.requires_grad_()
    for padding in (x, torch.where(mask.unsqueeze(-1), x, 100 * torch.randn_like(x))):
        output = layer(padding, mask)
        layer.zero_grad()
        (
            output.hidden[mask].square().sum()
            + 0 * x.sum()
            + (0 if output.balance_loss is None else output.balance_loss)
        ).backward()
        found.append((output, [p.grad.clone() for p in layer.parameters() if p.grad is not None]))
    (one, grads), (other, other_grads) = found
    assert torch.allclose(one.hidden[mask], other.hidden[mask], atol=1e-5)
    assert (one.balance_loss is None) == (other.balance_loss is None)
    assert one.balance_loss is None or torch.allclose(one.balance_loss, other.balance_loss)
    assert all(torch.allclose(a, b, atol=1e-4, rtol=1e-4) for a, b in zip(grads, other_grads, strict=True))
    alone = layer(x[mask].view(-1, DIM))
    assert torch.allclose(alone.hidden, one.hidden[mask], atol=1e-5)
    assert one.balance_loss is None or torch.allclose(alone.balance_loss, one.balance_loss)


@every_layer
@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)], ids=str)
def test_no_rows_give_no_rows_and_zero_gradients(name: str, shape: tuple[int, ...]) -> None:
    layer, x = make(name), torch.randn(*shape, DIM, requires_grad=True)
    (total(layer(x, torch.ones(shape, dtype=torch.bool))) + x.sum()).backward()
    assert layer(x).hidden.shape == x.shape
    assert all((p.grad == 0).all() for p in layer.parameters() if p.grad is not None)


@every_layer
def test_half_precision_and_autocast_stay_near_float32_of_the_same_numbers(name: str) -> None:
    layer, x = make(name), torch.randn(40, DIM)
    half = copy.deepcopy(layer).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        autocast = layer(x)
    pairs = ((autocast, layer(x)), (half(x.bfloat16()), copy.deepcopy(half).float()(x.bfloat16().float())))
    assert pairs[1][0].hidden.dtype == torch.bfloat16
    for ours, exact in pairs:  # in half precision a close choice may fall otherwise
        rows = torch.ones(40, dtype=torch.bool)
        if exact.routing is not None:
            assert ours.routing.probabilities.dtype == torch.float32
            same = ours.routing.index.sort(-1).values == exact.routing.index.sort(-1).values
            rows = same.flatten(1).all(-1)
            assert rows.float().mean() > 0.6
        wrong = (ours.hidden.float() - exact.hidden)[rows].norm(dim=-1)
        size = exact.hidden[rows].norm(dim=-1)
        assert (wrong <= 0.06 * size).float().mean() > 0.8
        assert wrong.isfinite().all()


@every_layer
def test_on_the_meta_device_a_layer_has_shapes_alone(name: str) -> None:
    with torch.device("meta"):
        layer, x = LAYERS[name].build(), torch.empty(2, 6, DIM)
    output = layer(x, torch.ones(2, 6, dtype=torch.bool, device="meta"))
    assert output.hidden.shape == x.shape and output.hidden.is_meta


@every_layer
def test_gradients_of_every_sample_come_from_vmap_of_grad(name: str) -> None:
    layer, x = make(name).double(), torch.randn(3, 2, DIM, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], part: Tensor) -> Tensor:
        return total(functional_call(layer, parameters, (part,)))

    start = {key: p.detach() for key, p in layer.named_parameters()}
    together = vmap(grad(loss), (None, 0))(start, x)
    for i, part in enumerate(x):
        layer.zero_grad()
        unused = (
            torch.stack([0 * p.sum() for p in layer.parameters()]).sum()
            if start
            else torch.zeros((), requires_grad=True)
        )
        (total(layer(part)) + unused).backward()
        for key, parameter in layer.named_parameters():
            assert parameter.grad is not None and torch.allclose(together[key][i], parameter.grad, atol=1e-8), key


@every_layer
def test_a_state_dict_moves_every_number_of_a_layer(name: str) -> None:
    layer, copied, x = make(name), make(name, 1), torch.randn(9, DIM)
    copied.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x).hidden, copied(x).hidden)


COMPILED = """
import json
import torch
from mhmoe.layers.config import config_from_dict

torch.set_num_threads(1)
worst = {}
for name, raw in json.loads(LAYERS).items():
    torch.manual_seed(0)
    layer = config_from_dict(raw).build()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x, mask, results = torch.randn(3, 7, 16), torch.rand(3, 7) < 0.8, []
    for run in (layer, compiled):
        rows = x.clone().requires_grad_()
        layer.zero_grad()
        hidden, loss, routing = run(rows, mask)
        (hidden.square().sum() + (0 if loss is None else loss)).backward()
        found = [hidden, rows.grad, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]
        results.append(found + ([] if loss is None else [loss]))
    assert len(results[0]) == len(results[1])
    worst[name] = max(float(((a - b).norm() / b.norm().clamp(min=1e-3)).detach()) for a, b in zip(*results))
    torch.compiler.reset()
print(json.dumps(worst))
"""


# Tracing all of them takes two minutes, so that each kind is traced once by the quick tests.
TRACED = [
    *("sparse", "normed", "heads", "heads with their own experts", "all experts", "mixture of mixtures"),
    *("latent with all", "bitnet sparse"),
]
REST = [name for name in LAYERS if name not in (*TRACED, "absent")]


# Compiling takes longer than exporting, which the quick tests do for these too.
DEEP = ["all experts", "mixture of mixtures", "latent with all"]
COMPILED_FIRST = [name for name in TRACED if name not in DEEP]


@pytest.mark.parametrize(
    "names", [COMPILED_FIRST, pytest.param([*DEEP, *REST], marks=pytest.mark.slow)], ids=["kinds", "rest"]
)
def test_every_compiled_layer_is_one_graph_with_the_same_output_and_gradients(names: list[str]) -> None:
    """In a process of its own: the checks of shapes that tests run under are not made for tracing."""
    layers = json.dumps({name: LAYERS[name].to_dict() for name in names})
    done = program(COMPILED.replace("LAYERS", repr(layers))).wait()
    assert done.code == 0, done.err
    worst = json.loads(done.out.splitlines()[-1])
    assert worst.keys() == set(names) and max(worst.values()) < 1e-5, worst


@pytest.mark.parametrize("name", [*TRACED, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)])
def test_an_exported_layer_takes_any_number_of_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its checks fix the shapes
    layer, dynamic = make(name), torch.export.Dim.DYNAMIC
    exported = torch.export.export(layer, (torch.randn(2, 6, DIM),), dynamic_shapes=({0: dynamic, 1: dynamic},))
    x = torch.randn(3, 11, DIM)
    assert torch.allclose(exported.module()(x)[0], layer(x).hidden, atol=1e-5)
