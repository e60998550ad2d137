"""The multi-head layer: against a float64 loop over tokens, heads and experts, and by its identities."""

import inspect
import json
import math
from typing import Any
from unittest.mock import patch

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mhmoe.layers import dispatch
from mhmoe.layers.config import LayerConfig, config_from_dict
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.multi_head import MultiHead, MultiHeadConfig, MultiHeadMoE, join, multi_head_moe, split
from mhmoe.layers.normed import NormedConfig
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.layers.routers import (
    DotProductRouterConfig,
    FixedTemperatureRouterConfig,
    ReleasedRouterConfig,
    RouterConfig,
    XMoERouterConfig,
)
from mhmoe.layers.sparse_moe import ResidualConfig, SparseMoE, SparseMoEConfig
from tests import reference
from tests.commands import program

ROUTERS = (DotProductRouterConfig, XMoERouterConfig, ReleasedRouterConfig, FixedTemperatureRouterConfig)
TOLERANCE = 2e-6


@st.composite
def layers(draw: st.DrawFn) -> LayerConfig:
    """Any layer around a sparse MoE, with every option."""
    heads, width = draw(st.integers(1, 4)), draw(st.sampled_from([2, 3, 4, 5, 8]))
    num_experts = draw(st.integers(1, 6))
    inner_norm = draw(st.booleans())
    # The norm of a few nearly equal numbers is ill-conditioned in any implementation.
    expert_dim = draw(st.sampled_from([16, 20] if inner_norm else [5, 8, 12]))
    router: RouterConfig = draw(st.sampled_from(ROUTERS))(
        dim=width,
        num_experts=num_experts,
        top_k=draw(st.integers(1, num_experts)),
        renormalize=draw(st.booleans()),
        gate=draw(st.sampled_from(["softmax", "sigmoid"])),
    )
    if draw(st.booleans()):
        router = PerHeadRouterConfig.of(router, heads)
    moe: LayerConfig = SparseMoEConfig(
        router=router,
        experts=ExpertsConfig(
            dim=width,
            num_experts=router.num_experts,
            expert_dim=expert_dim,
            activation=draw(st.sampled_from(["gelu", "swiglu"])),
            bias=draw(st.booleans()),
            inner_norm=inner_norm,
        ),
    )
    if draw(st.booleans()):
        moe = ResidualConfig(inner=moe)
    if draw(st.booleans()) and width > 2:  # as with the inner norm
        moe = NormedConfig(inner=moe, eps=0.1)
    return MultiHeadConfig(
        dim=heads * width,
        heads=heads,
        inner=moe,
        head_layers=draw(st.integers(0, 3)),
        merge_layers=draw(st.integers(0, 3)),
        bias=draw(st.booleans()),
        route_by=draw(st.sampled_from(["head_output", "input"])),
    )


@settings(max_examples=60)
@given(
    config=layers(),
    shape=st.sampled_from([(1,), (7,), (2, 3), (2, 1, 3), ()]),
    padding=st.sampled_from([None, 0.0, 0.4, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_outputs_and_gradients_are_those_of_a_float64_loop(
    config: MultiHeadConfig, shape: tuple[int, ...], padding: float | None, seed: int
) -> None:
    errors = errors_against_the_loop(config, shape, padding, seed)
    assert max(errors.values()) < TOLERANCE, errors


def errors_against_the_loop(
    config: MultiHeadConfig, shape: tuple[int, ...], padding: float | None, seed: int
) -> dict[str, float]:
    """Of the output and the loss relative to their norms, of every gradient relative to the norm of all of them."""
    layer = config.build()
    reference.randomise(layer, seed)
    torch.manual_seed(seed)
    x, grad = torch.randn(*shape, config.dim, requires_grad=True), torch.randn(*shape, config.dim)
    mask = None if padding is None else torch.rand(shape) >= padding
    output = layer(x, mask)
    weights = {name: p.detach().double().requires_grad_() for name, p in layer.named_parameters()}
    flat = x.detach().double().reshape(-1, config.dim).requires_grad_()
    exact, trace = reference.run(
        config.to_dict(),
        weights,
        flat,
        None if mask is None else mask.flatten().tolist(),
        output.routing.index.flatten(0, -2).tolist(),
    )
    assert trace.balance_loss is not None
    assert output.routing.kept.flatten(0, -2).tolist() == trace.kept
    probabilities = torch.stack(trace.probabilities)
    worst = (output.routing.probabilities.flatten(0, -2).double() - probabilities).abs().max()
    assert worst < 1e-5, worst

    # 0 * x: where everything is padding, nothing else may need a gradient
    ((output.hidden * grad).sum() + output.balance_loss + 0 * x.sum()).backward()
    ((exact * grad.view(-1, config.dim)).sum() + trace.balance_loss + 0 * flat.sum()).backward()
    errors = {
        "hidden": reference.error(output.hidden.reshape(exact.shape), exact),
        "balance_loss": reference.error(output.balance_loss, trace.balance_loss),
    }
    ours = {"x": x.grad} | {name: p.grad for name, p in layer.named_parameters()}
    theirs = {"x": flat.grad} | {name: w.grad for name, w in weights.items()}
    sizes = [float(g.norm()) for g in theirs.values() if g is not None]
    whole = sum(size**2 for size in sizes) ** 0.5
    for name, gradient in ours.items():
        exact_gradient = theirs[name]
        if gradient is None or exact_gradient is None:  # no path in one: the other must be zero
            for given_one in (gradient, exact_gradient):
                assert given_one is None or given_one.norm() <= TOLERANCE * whole, name
            continue
        difference = float((gradient.double().view_as(exact_gradient) - exact_gradient).norm())
        errors[name] = difference / whole if whole else difference
        if exact_gradient.norm() > 1e-2 * whole:  # else rounding of what cancels is all there is
            assert difference < 5e-5 * exact_gradient.norm(), name
    return errors


@settings(max_examples=30)
@given(config=layers(), seed=st.integers(0, 10**6))
def test_every_subtoken_chooses_the_experts_that_float64_chooses(config: MultiHeadConfig, seed: int) -> None:
    layer = config.build()
    reference.randomise(layer, seed)
    x = torch.randn(4, config.dim, generator=torch.Generator().manual_seed(seed))
    routing = layer(x).routing
    _, trace = reference.run(config.to_dict(), layer.state_dict(), x)
    top_k = routing.index.shape[-1]
    for chosen, exact, gates in zip(
        routing.index.flatten(0, -2).tolist(), trace.index, trace.probabilities, strict=True
    ):
        ranked = gates.sort(descending=True).values
        gaps = -ranked[: top_k + 1].diff()
        if not len(gaps) or gaps.min() > 1e-5:  # float32 may order near ties as it likes
            assert chosen == exact
        assert set(chosen) == set(exact) or gaps[-1] <= 1e-5


@given(st.integers(1, 12), st.integers(1, 12), st.lists(st.integers(1, 4), max_size=3))
@settings(max_examples=30)
def test_split_then_merge_is_the_identity(heads: int, width: int, shape: list[int]) -> None:
    x = torch.randn(*shape, heads * width)
    subtokens = split(x, heads)
    assert subtokens.shape == (*shape, heads, width)
    assert torch.equal(join(subtokens), x)
    for head in range(heads):
        assert torch.equal(subtokens[..., head, :], x[..., head * width : (head + 1) * width])


def make(seed: int = 0, **sizes: Any) -> MultiHead:
    config = multi_head_moe(**{"dim": 12, "num_experts": 4, "expert_dim": 16, "moe_heads": 3, "top_k": 2, **sizes})
    layer = config.build()
    reference.randomise(layer, seed)
    return layer


def test_one_head_with_identity_projections_is_the_inner_layer() -> None:
    layer, x = make(moe_heads=1), torch.randn(5, 12)
    assert isinstance(layer.head, nn.Linear) and isinstance(layer.merge, nn.Linear)
    with torch.no_grad():
        for projection in (layer.head, layer.merge):
            nn.init.eye_(projection.weight)
            nn.init.zeros_(projection.bias)
    output, inner = layer(x), layer.inner(x)
    assert torch.equal(output.hidden, inner.hidden)
    assert torch.equal(output.balance_loss, inner.balance_loss)
    assert torch.equal(output.routing.index.squeeze(-2), inner.routing.index)


def test_without_head_and_merge_layer_every_slice_goes_through_the_inner_layer() -> None:
    layer, x = make(head_layers=0, merge_layers=0), torch.randn(5, 12)
    assert isinstance(layer.head, nn.Identity) and isinstance(layer.merge, nn.Identity)
    slices = [layer.inner(x[:, 4 * head : 4 * head + 4]).hidden for head in range(3)]
    assert torch.allclose(layer(x).hidden, torch.cat(slices, dim=-1), atol=1e-6)


def test_one_expert_in_every_head_is_the_dense_network_on_every_slice() -> None:
    layer, x = make(num_experts=1, top_k=1, bias=True, head_layers=0, merge_layers=0), torch.randn(5, 12)
    assert isinstance(layer.inner, SparseMoE)
    dense = FeedForwardConfig(dim=4, inner_dim=16, bias=True).build()
    stacked = {n.replace("_bias", "_proj.bias"): w[0] for n, w in layer.inner.experts.state_dict().items()}
    dense.load_state_dict({n + ".weight" if n.endswith("_proj") else n: w for n, w in stacked.items()})
    assert reference.error(layer(x).hidden, dense(x.view(5, 3, 4)).hidden.flatten(-2)) < 1e-6


def test_the_class_to_import_is_the_composition() -> None:
    torch.manual_seed(5)
    ready = MultiHeadMoE(dim=12, num_experts=4, expert_dim=16, moe_heads=3, top_k=2)
    torch.manual_seed(5)
    composed = multi_head_moe(dim=12, num_experts=4, expert_dim=16, moe_heads=3, top_k=2).build()
    hidden, loss, routing = ready(x := torch.randn(2, 5, 12))
    assert torch.equal(hidden, composed(x).hidden) and torch.equal(loss, composed(x).balance_loss)
    assert routing.index.shape == (2, 5, 3, 2)
    assert routing.probabilities.shape == (2, 5, 3, 4)


def test_any_inner_layer_works_on_subtokens() -> None:
    dense = MultiHeadConfig(dim=12, heads=3, inner=FeedForwardConfig(dim=4, inner_dim=8))
    nested = MultiHeadConfig(dim=24, heads=2, inner=make_config())
    for config in (dense, nested):
        layer, x = config.build(), torch.randn(2, 3, config.dim)
        reference.randomise(layer, 0)
        exact, _ = reference.run(config.to_dict(), layer.state_dict(), x.view(6, -1))
        assert reference.error(layer(x).hidden.view(6, -1), exact) < TOLERANCE
        assert config_from_dict(config.to_dict()) == config


def make_config(**sizes: Any) -> MultiHeadConfig:
    return multi_head_moe(**{"dim": 12, "num_experts": 4, "expert_dim": 16, "moe_heads": 3, **sizes})


def test_padded_tokens_give_what_the_merge_layer_makes_of_zero_and_leave_no_trace() -> None:
    layer = make(bias=True)
    x = torch.randn(2, 5, 12)
    mask = torch.tensor([[True] * 5, [False] * 2 + [True] * 3])
    other = torch.where(mask.unsqueeze(-1), x, 100 * torch.randn_like(x))

    def gradients(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        tokens = tokens.clone().requires_grad_()
        output = layer(tokens, mask)
        layer.zero_grad()
        (output.hidden[mask].square().sum() + output.balance_loss).backward()
        assert tokens.grad is not None
        taken = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
        return output.hidden.detach(), output.balance_loss.detach(), tokens.grad, taken

    hidden, loss, x_grad, taken = gradients(x)
    hidden_other, loss_other, _, taken_other = gradients(other)
    assert isinstance(layer.merge, nn.Linear)
    assert torch.equal(hidden[~mask], layer.merge.bias.detach().expand(2, 12))
    assert layer.merge.bias.abs().min() > 0
    assert (x_grad[~mask] == 0).all() and (x_grad[mask] != 0).any()
    assert torch.allclose(hidden[mask], hidden_other[mask], atol=1e-6) and loss == loss_other
    assert len(taken) == len(list(layer.parameters()))
    for name, gradient in taken.items():
        assert torch.allclose(gradient, taken_other[name], atol=1e-5), name
    alone = layer(x[mask])
    assert torch.allclose(alone.hidden, hidden[mask], atol=1e-5)
    assert torch.allclose(alone.balance_loss, loss)
    assert not layer(x, mask).routing.kept[~mask].any()


def test_permuting_tokens_permutes_outputs_and_permuting_heads_does_not() -> None:
    layer, x = make(), torch.randn(9, 12)
    order = torch.randperm(9)
    assert torch.allclose(layer(x[order]).hidden, layer(x).hidden[order], atol=1e-5)
    turned = x.view(9, 3, 4).roll(1, dims=1).reshape(9, 12)
    assert not torch.allclose(layer(turned).hidden, layer(x).hidden, atol=0.1)


def test_any_leading_shape_gives_what_flat_tokens_give() -> None:
    layer, x = make(bias=True), torch.randn(12, 12)
    flat = layer(x).hidden
    for shape in ((3, 4), (2, 3, 2), (12, 1)):
        assert torch.allclose(layer(x.view(*shape, 12)).hidden, flat.view(*shape, 12), atol=1e-5)
    assert torch.allclose(layer(x[0]).hidden, flat[0], atol=1e-5)
    assert layer(x[:0]).hidden.shape == (0, 12)


def test_initialisation_is_that_of_appendix_e() -> None:
    layer = make_config(dim=96, moe_heads=4).build()
    assert isinstance(layer.head, nn.Linear) and isinstance(layer.merge, nn.Linear)
    bound = (6 / (96 + 96)) ** 0.5  # Xavier-uniform
    for projection, gain in ((layer.head, 2**-0.5), (layer.merge, 1.0)):
        assert 0.98 * gain * bound < projection.weight.abs().max() <= gain * bound
        assert projection.weight.std().item() == pytest.approx(gain * bound / 3**0.5, rel=0.03)
        assert (projection.bias == 0).all()


def test_deeper_head_and_merge_layers_have_relu_between_them() -> None:
    layer = make(head_layers=3, merge_layers=2)
    shapes = [type(module).__name__ for module in (*layer.head, *layer.merge)]  # pyright: ignore
    assert shapes == [
        *("Projection", "ReLU", "Projection", "ReLU", "Projection"),
        *("Projection", "ReLU", "Projection"),
    ]


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain, again, x = make(bias=True), make(bias=True), torch.randn(5, 12)
    for run in (plain, lambda x: checkpoint(again, x, use_reentrant=False)):
        output = run(x)
        (output.hidden.square().sum() + output.balance_loss).backward()
    for ours, theirs in zip(plain.parameters(), again.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None and torch.equal(ours.grad, theirs.grad)


def test_bfloat16_and_autocast_stay_near_float32() -> None:
    # one selection of many is enough to move a token: compare where the routing agrees
    layer, half, x = make(moe_heads=2), make(moe_heads=2).bfloat16(), torch.randn(60, 12)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = layer(x)
    rounded = half(x.bfloat16())
    assert rounded.hidden.dtype == torch.bfloat16 and rounded.routing.probabilities.dtype == torch.float32
    for output in (autocast, rounded):
        agree = (output.routing.index == exact.routing.index).all(-1).all(-1)
        assert agree.float().mean() > 0.7
        assert 1e-4 < reference.error(output.hidden[agree], exact.hidden[agree]) < 0.04
        assert abs(output.balance_loss - exact.balance_loss) < 0.02


def test_a_state_dict_moves_every_number() -> None:
    layer, copy, x = make(0), make(1), torch.randn(9, 12)
    copy.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x).hidden, copy(x).hidden)


COMPILED = """
import json, sys
import torch
from mhmoe import MultiHeadMoE
from mhmoe.layers import grouped
torch.set_num_threads(1)
worst = 0.0
for bias, capacity_factor, grouped.MOST_GROUPS in ((False, None, 1024), (True, 1.0, 1024), (False, None, 3)):
    torch.manual_seed(0)
    layer = MultiHeadMoE(dim=16, num_experts=4, expert_dim=12, moe_heads=2, top_k=2, bias=bias, inner_norm=bias,
                         capacity_factor=capacity_factor, inner_residual=bias)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x, mask = torch.randn(3, 7, 16), torch.rand(3, 7) < 0.8
    results = []
    for run in (layer, compiled):
        rows = x.clone().requires_grad_()
        layer.zero_grad()
        hidden, loss, routing = run(rows, mask)
        (hidden.square().sum() + loss).backward()
        results.append([hidden, loss, rows.grad, *(p.grad.clone() for p in layer.parameters())])
    worst = max([worst] + [float(((a - b).norm() / b.norm()).detach()) for a, b in zip(*results)])
print(json.dumps(worst))
"""


@pytest.mark.slow  # layers with heads are compiled in test_networks.py too
def test_torch_compile_takes_the_layer_as_one_graph_with_the_same_gradients() -> None:
    """In a process of its own: the checks of shapes that tests run under are not made for tracing."""
    done = program(COMPILED).wait()
    assert done.code == 0, done.err
    assert json.loads(done.out.splitlines()[-1]) < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sizes", [{}, {"expert_dim": 5, "bias": True, "inner_norm": True}], ids=str)
def test_a_gpu_gives_what_the_cpu_gives(sizes: dict[str, Any]) -> None:
    here, there, x = make(**sizes), make(**sizes).cuda(), torch.randn(3, 7, 12)
    mask = torch.rand(3, 7) < 0.8
    for layer, rows, rows_mask in ((here, x, mask), (there, x.cuda(), mask.cuda())):
        output = layer(rows, rows_mask)
        (output.hidden.square().sum() + output.balance_loss).backward()
    assert reference.error(there(x.cuda(), mask.cuda()).hidden.cpu(), here(x, mask).hidden) < 1e-5
    for ours, theirs in zip(there.parameters(), here.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert reference.error(ours.grad.cpu(), theirs.grad) < 1e-4


def flops(count_of: MultiHeadConfig, tokens: int = 7) -> int:
    """What torch counts; our fast product, which it does not know, by the formula of a matrix product."""

    def product(x: tuple[int, int], weight: tuple[int, int, int], *_: Any, **__: Any) -> int:
        return 2 * x[0] * x[1] * weight[1]

    layer = count_of.build()
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.mhmoe.grouped_linear: product})
    # Rows that fill up an expert's share are the fast product's overhead, not the layer's work.
    with patch.object(dispatch, "BLOCK", 1), counter:
        layer(torch.randn(tokens, count_of.dim))
    return counter.get_total_flops()


@settings(max_examples=30)
@given(layers())
def test_parameters_and_flops_counted_from_the_config_are_those_of_the_layer(config: MultiHeadConfig) -> None:
    assert sum(p.numel() for p in config.build().parameters()) == config.parameters()
    assert flops(config) == 7 * config.flops_per_token()
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_active_parameters_count_the_experts_of_all_heads() -> None:
    config = make_config(num_experts=8, top_k=2, bias=True)  # 3 heads choose 2 each
    one_expert = 2 * 4 * 16 + 16 + 4
    always = 2 * (12 * 12 + 12) + 16 * (4 + 8) + 1
    assert config.active_parameters() == always + 6 * one_expert
    assert config.active_parameters(rows=2) == config.parameters() == always + 8 * one_expert


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"dim": 96, "moe_heads": 5},
            "moe_heads=5 does not divide dim=96; choose one of 1, 2, 3, 4, 6, 8, 12, 16, 24",
        ),
        ({"moe_heads": 0}, "moe_heads=0 does not divide dim=12"),
        ({"dim": 1, "moe_heads": 2}, "moe_heads=2 does not divide dim=1; choose one of 1$"),
        ({"top_k": 5}, "top_k=5 exceeds num_experts=4; choose at most 4"),
        ({"expert_dim": 0}, "expert_dim=0 is not allowed; it must be at least 1"),
        ({"head_layers": -1}, "head_layers=-1 is not allowed; it must be at least 0"),
        ({"capacity_factor": -1.0}, "capacity_factor=-1.0 is not allowed"),
        (
            {"router": DotProductRouterConfig(dim=12, num_experts=4)},
            "router.dim=12 and experts.dim=4 differ; give both the same",
        ),
    ],
)
def test_sizes_that_make_no_layer_are_refused_by_name(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**sizes)


def test_a_router_keeps_its_own_top_k_and_another_one_is_refused() -> None:
    router = DotProductRouterConfig(dim=4, num_experts=4, top_k=3)
    for top_k in (None, 3):
        moe = make_config(router=router, top_k=top_k).inner
        assert isinstance(moe, SparseMoEConfig) and moe.router == router
    for top_k in (1, 2):
        with pytest.raises(
            ValueError, match=f"top_k={top_k} and router.top_k=3 differ; give both the same, or the router's alone"
        ):
            make_config(router=router, top_k=top_k)
    with pytest.raises(ValueError, match=r"router.num_experts=4 and experts.num_experts=5 differ"):
        make_config(router=router, num_experts=5)


@pytest.mark.parametrize("heads", [3.0, True, "3", None, math.nan, 10**30], ids=str)
def test_heads_that_are_no_whole_number_of_slices_are_refused_by_name(
    heads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse other types first, in tests
    with pytest.raises(ValueError, match=r"^moe_heads=") as caught:
        make_config(moe_heads=heads)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "part", [XMoERouterConfig(dim=4, num_experts=4), ExpertsConfig(dim=4, num_experts=4, expert_dim=4)]
)
def test_a_part_of_a_layer_is_no_inner_layer(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for make_outer in (lambda: MultiHeadConfig(dim=12, heads=3, inner=part), lambda: ResidualConfig(inner=part)):
        with pytest.raises(ValueError, match=f"inner=<{part.kind}> is not allowed; it must be LayerConfig"):
            make_outer()


def test_an_inner_layer_of_another_width_is_refused() -> None:
    moe = make_config().inner
    with pytest.raises(ValueError, match="inner works on width 4, but a sub-token has dim / heads = 6 numbers"):
        MultiHeadConfig(dim=12, heads=2, inner=moe)
    with pytest.raises(ValueError, match="inner works on width 4"):
        MultiHeadConfig(dim=12, heads=2, inner=ResidualConfig(inner=moe))
    with pytest.raises(ValueError, match="heads=5 does not divide dim=12; choose one of 1, 2, 3, 4, 6"):
        MultiHeadConfig(dim=12, heads=5, inner=moe)


def test_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x has width 8, this layer has dim=12; give x of shape \(..., 12\)"):
        make()(torch.randn(3, 8))


def test_a_mask_of_another_shape_is_refused() -> None:
    forward = inspect.unwrap(MultiHead.forward)  # as users have it, whose types nobody checks
    with pytest.raises(ValueError, match=r"mask is \(2, 4\), x \(2, 5, 12\); give a mask of \(2, 5\)"):
        forward(make(), torch.randn(2, 5, 12), torch.ones(2, 4, dtype=torch.bool))
