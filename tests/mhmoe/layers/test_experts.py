"""Networks, dense and stacked, and the products by which stacked ones are fast."""

import math
from typing import Any, get_args

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mhmoe.layers import dispatch, few_rows, grouped
from mhmoe.layers.activations import ACTIVATIONS, ActivationName, ClampedSwiGLU
from mhmoe.layers.config import config_from_dict
from mhmoe.layers.dispatch import combine, gather, sort_by_expert
from mhmoe.layers.experts import Experts, ExpertsConfig, FeedForwardConfig, use_slices
from mhmoe.layers.grouped import grouped_linear, linear, loop_linear
from tests import reference

STYLES = [
    {"activation": activation, "bias": bias, "inner_norm": inner_norm}
    for activation in ("gelu", "swiglu")
    for bias in (False, True)
    for inner_norm in (False, True)
]
STYLES += [
    {"activation": name, "bias": True, "inner_norm": False} for name in sorted({*ACTIVATIONS} - {"gelu", "swiglu"})
]
every_style = pytest.mark.parametrize("style", STYLES, ids=str)


def make(seed: int = 0, **sizes: Any) -> Experts:
    experts = ExpertsConfig(**{"dim": 8, "num_experts": 4, "expert_dim": 16, **sizes}).build()
    reference.randomise(experts, seed)
    return experts


def choice(rows: int, num_experts: int = 4, top_k: int = 2) -> tuple[Tensor, Tensor]:
    """Different experts for every row, and weights."""
    index = torch.rand(rows, num_experts).argsort(-1)[:, :top_k]
    return index, torch.rand(rows, top_k)


@every_style
def test_a_dense_network_is_its_equation(style: dict[str, Any]) -> None:
    config = FeedForwardConfig(dim=6, inner_dim=10, **style)
    layer = config.build()
    reference.randomise(layer, 1)
    x = torch.randn(3, 2, 6)
    exact, _ = reference.run(config.to_dict(), layer.state_dict(), x.view(-1, 6))
    assert reference.error(layer(x).hidden.view(-1, 6), exact) < 2e-6
    assert layer(x).balance_loss is None and layer(x).routing is None


@every_style
def test_stacked_experts_are_the_weighted_sum_of_their_networks(style: dict[str, Any]) -> None:
    experts, x = make(**style), torch.randn(9, 8)
    index, weight = choice(9)
    weights = {name: w.double() for name, w in experts.state_dict().items()}
    out = experts(x, index, weight)
    for row in range(9):
        exact = torch.zeros(8, dtype=torch.float64)
        for j in range(2):
            one = {name: w[index[row, j]] for name, w in weights.items()}
            exact += weight[row, j].double() * reference.expert_network(style, one, x[row].double())
        assert reference.error(out[row], exact) < 2e-6


@pytest.mark.parametrize("style", [style for style in STYLES if not style["inner_norm"]], ids=str)
def test_slices_of_the_inner_width_give_the_same_and_keep_none_of_it(style: dict[str, Any]) -> None:
    experts = make(expert_dim=40, **style)
    x, (index, weight) = torch.randn(9, 8), choice(9)
    found: list[list[Tensor]] = []
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.ndim == 2 and tensor.shape[0] >= 18 and tensor.shape[1] > 8:  # of every selection, wider than a row
            kept[experts.slices] = kept.get(experts.slices, 0) + 1
        return tensor

    for slices in (1, 2, 5, 7):  # of 40 numbers: 24 and 16, 8 each, and again 8 each
        use_slices(experts, slices)
        given = x.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = experts(given, index, weight)
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), [given, *experts.parameters()])])
    assert kept.keys() == {1}
    for other in found[1:]:
        for sliced, whole in zip(other, found[0], strict=True):
            torch.testing.assert_close(sliced, whole, rtol=2e-5, atol=2e-6)
    wide = [use_slices(experts.double(), slices) and experts(x.double(), index, weight.double()) for slices in (1, 5)]
    torch.testing.assert_close(*wide, rtol=1e-12, atol=1e-14)


def test_experts_whose_inner_width_belongs_together_are_not_sliced() -> None:
    styles: tuple[dict[str, Any], ...] = ({"inner_norm": True}, {"precision": "bitnet"})
    for style in styles:
        with pytest.raises(ValueError, match="cannot be computed in slices; leave 1"):
            use_slices(make(**style), 2)
        assert use_slices(make(**style), 1)
    with pytest.raises(ValueError, match="slices=0 is not allowed"):
        use_slices(make(), 0)


@every_style
def test_one_expert_of_weight_one_is_the_dense_network(style: dict[str, Any]) -> None:
    experts = make(num_experts=1, **style)
    dense = FeedForwardConfig(dim=8, inner_dim=16, **style).build()
    stacked = {name.replace("_bias", "_proj.bias"): w[0] for name, w in experts.state_dict().items()}
    dense.load_state_dict({k + ".weight" if k.endswith("_proj") else k: w for k, w in stacked.items()})
    x = torch.randn(7, 8)
    zeros, ones = torch.zeros(7, 1, dtype=torch.long), torch.ones(7, 1)
    assert reference.error(experts(x, zeros, ones), dense(x).hidden) < 1e-6


def test_every_activation_can_be_named_in_a_config() -> None:
    assert set(get_args(ActivationName)) == set(ACTIVATIONS)


def test_the_clamped_activation_is_bounded_whatever_comes_in_and_is_the_reference_far_out() -> None:
    x = 40 * torch.randn(50, 12)
    found = ClampedSwiGLU()(x)
    assert found.abs().max() <= 56
    exact = torch.stack([reference.activated("clamped_swiglu", row.double()) for row in x])
    assert reference.error(found, exact) < 1e-6


def test_any_leading_shape_gives_what_flat_rows_give() -> None:
    experts, x = make(bias=True), torch.randn(12, 8)
    index, weight = choice(12)
    flat = experts(x, index, weight)
    for shape in ((3, 4), (2, 3, 2), (1, 12), (12, 1, 1)):
        shaped = experts(x.view(*shape, 8), index.view(*shape, 2), weight.view(*shape, 2))
        assert torch.equal(shaped, flat.view(*shape, 8))
    assert torch.allclose(experts(x[0], index[0], weight[0]), flat[0], atol=1e-6)
    assert experts(x[:0], index[:0], weight[:0]).shape == (0, 8)


def test_renaming_the_experts_changes_nothing() -> None:
    experts, renamed, x = (
        make(bias=True, inner_norm=True),
        make(bias=True, inner_norm=True),
        torch.randn(20, 8),
    )
    index, weight = choice(20)
    new_name = torch.tensor([2, 0, 3, 1])
    renamed.load_state_dict({k: w[new_name.argsort()] for k, w in experts.state_dict().items()})
    assert torch.allclose(renamed(x, new_name[index], weight), experts(x, index, weight), atol=1e-6)


def test_a_selection_of_weight_zero_adds_nothing_and_trains_nothing() -> None:
    experts, x = make(bias=True), torch.randn(5, 8, requires_grad=True)
    index = torch.tensor([[0], [1], [0], [1], [0]])
    weight = torch.tensor([[1.0], [0.0], [1.0], [0.0], [1.0]])
    out = experts(x, index, weight)
    assert (out[[1, 3]] == 0).all() and (out[[0, 2, 4]] != 0).any()
    out.square().sum().backward()
    assert x.grad is not None and (x.grad[[1, 3]] == 0).all()
    for name, parameter in experts.named_parameters():
        assert parameter.grad is not None and (parameter.grad[1:] == 0).all(), name
        assert parameter.grad[0].norm() > 0, name


@every_style
def test_gradients_pass_gradcheck_in_float64(style: dict[str, Any]) -> None:
    experts = make(dim=3, expert_dim=4, num_experts=3, **style).double()
    index, weight = choice(4, 3)
    names = [name for name, _ in experts.named_parameters()]

    def run(x: Tensor, weight: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(experts, state, (x, index, weight))

    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    inputs = (x, weight.double().requires_grad_(), *experts.parameters())
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@settings(max_examples=30)
@given(
    rows=st.integers(0, 30),
    dim=st.sampled_from([1, 3, 4, 8, 130]),
    out=st.sampled_from([1, 5, 8, 128]),
    num_experts=st.integers(1, 6),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 999),
)
def test_the_fast_product_and_its_gradients_are_those_of_the_loop(
    rows: int, dim: int, out: int, num_experts: int, dtype: torch.dtype, seed: int
) -> None:
    """130 x 128 is beyond the width from which float32 takes another path; 1, 3 and 5 are not aligned."""
    torch.manual_seed(seed)
    ends = torch.randint(0, num_experts, (rows,)).bincount(minlength=num_experts).cumsum(0).int()
    x, weight, grad = torch.randn(rows, dim), torch.randn(num_experts, out, dim), torch.randn(rows, out)
    results: list[list[Tensor]] = []
    for product in (grouped_linear, loop_linear):
        inputs, matrices = (t.to(dtype).requires_grad_() for t in (x, weight))
        y = product(inputs, matrices, ends)
        results.append([y, *torch.autograd.grad(y, (inputs, matrices), grad.to(dtype))])
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
    for ours, loop in zip(*results, strict=True):
        assert ours.shape == loop.shape and ours.dtype == dtype
        assert reference.error(ours, loop) < tolerance


@pytest.mark.parametrize("most", [1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_more_groups_than_one_call_takes_go_by_in_several(
    most: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA's kernel takes 1,024. Empty experts lie at either side of where the calls are cut, and at the ends."""
    sizes = torch.tensor([0, 3, 0, 0, 4, 1, 0, 2, 0, 5, 0])
    ends = sizes.cumsum(0).int()
    monkeypatch.setattr(grouped, "MOST_GROUPS", most)
    monkeypatch.setattr(F, "grouped_mm", counted := CountedCalls(F.grouped_mm, most))
    x, weight, grad = torch.randn(15, 8), torch.randn(11, 16, 8), torch.randn(15, 16)
    results: list[list[Tensor]] = []
    for product in (grouped_linear, loop_linear):
        inputs, matrices = (t.to(dtype).requires_grad_() for t in (x, weight))
        y = product(inputs, matrices, ends)
        results.append([y, *torch.autograd.grad(y, (inputs, matrices), grad.to(dtype))])
    assert counted.calls == 3 * math.ceil(11 / most)
    for ours, loop in zip(*results, strict=True):
        assert reference.error(ours, loop) < (1e-2 if dtype == torch.bfloat16 else 1e-6)
    assert (results[0][2][sizes == 0] == 0).all()


class CountedCalls:
    """torch's own product, which refuses more groups than `most` as CUDA's does."""

    def __init__(self, product: Any, most: int) -> None:
        self.product, self.most, self.calls = product, most, 0

    def __call__(self, x: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
        assert 0 < len(offs) <= self.most
        self.calls += 1
        return self.product(x, weight, offs=offs)


def test_the_fast_product_takes_an_expanded_gradient() -> None:
    x, weight = torch.randn(6, 8, requires_grad=True), torch.randn(2, 8, 8, requires_grad=True)
    grouped_linear(x, weight, torch.tensor([2, 6], dtype=torch.int32)).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad[0], weight[0].sum(0), atol=1e-6)


@pytest.mark.parametrize("width", [8, 5], ids=["aligned", "not aligned"])
def test_the_fast_products_are_well_formed_operators(width: int) -> None:
    x, weight = torch.randn(6, width), torch.randn(3, 8, width)
    ends = torch.tensor([2, 2, 6], dtype=torch.int32)
    for operator, inputs in ((grouped._linear, (x, weight, ends)), (grouped._outer, (torch.randn(6, 8), x, ends))):
        result = torch.library.opcheck(operator, inputs, test_utils=("test_schema", "test_faketensor"))
        assert set(result.values()) == {"SUCCESS"}


@pytest.mark.parametrize("shape", [(3, 300, 128), (200, 128), (2, 4)], ids=str)  # the last is torch's own product
def test_a_wide_product_is_torchs_linear_with_its_gradients_of_both_orders(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(160, shape[-1], requires_grad=True)
    grad = torch.randn(*shape[:-1], 160)
    found = []
    for product in (linear, F.linear):
        y = product(x, weight)
        first = torch.autograd.grad((y.square() * grad).sum(), (x, weight), create_graph=True)
        found.append((y, *first, *torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), (x, weight))))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.detach().abs().max().item())


@settings(max_examples=30)
@given(st.integers(0, 12), st.integers(1, 5), st.integers(1, 5), st.integers(0, 999))
def test_sorting_gathering_and_combining_puts_every_row_back(
    rows: int, num_experts: int, top_k: int, seed: int
) -> None:
    torch.manual_seed(seed)
    top_k = min(top_k, num_experts)
    index, weight = choice(rows, num_experts, top_k)
    order = sort_by_expert(index, num_experts)
    place = order.slot.flatten()
    assert torch.equal(order.expert[place], index.flatten())
    assert torch.equal(order.row[place], torch.arange(rows).repeat_interleave(top_k))
    assert len(place.unique()) == len(place)
    begins = torch.cat([order.offsets.new_zeros(1), order.offsets[:-1]])
    assert torch.all((begins[order.expert[place]] <= place) & (place < order.offsets[order.expert[place]]))
    filled = (order.offsets - begins) - index.flatten().bincount(minlength=num_experts)
    assert torch.all((filled >= 0) & (filled < dispatch.BLOCK))
    assert len(order.row) == order.offsets[-1]
    x = torch.randn(rows, 3, requires_grad=True)
    weight.requires_grad_()
    back = combine(gather(x, order), weight, order)
    assert torch.allclose(back, x * weight.sum(-1, keepdim=True), atol=1e-6)
    grad = torch.randn(rows, 3)
    x_grad, weight_grad = torch.autograd.grad(back, (x, weight), grad)
    assert torch.allclose(x_grad, grad * weight.sum(-1, keepdim=True), atol=1e-6)
    assert torch.allclose(weight_grad, (grad * x).sum(-1, keepdim=True).expand(rows, top_k), atol=1e-6)


@pytest.mark.parametrize("share", [64, 100, 128, 256, 1000])
def test_filling_up_adds_less_than_an_eighth_from_64_rows_an_expert_on(share: int) -> None:
    torch.manual_seed(0)
    index = torch.randint(64, (64 * share, 1))
    order = sort_by_expert(index, 64)
    assert len(index) <= len(order.row) < len(index) * 9 / 8
    assert order.offsets.diff().remainder(8).count_nonzero() == 0  # shapes recur


@every_style
def test_networks_have_the_parameters_and_flops_their_configs_count(style: dict[str, Any]) -> None:
    dense = FeedForwardConfig(dim=8, inner_dim=20, **style)
    stacked = ExpertsConfig(dim=8, expert_dim=20, num_experts=3, **style)
    for config in (dense, stacked):
        assert sum(p.numel() for p in config.build().parameters()) == config.parameters()
        assert config_from_dict(config.to_dict()) == config
    assert stacked.parameters() == 3 * dense.parameters()
    with FlopCounterMode(display=False) as counter:
        dense.build()(torch.randn(7, 8))
    assert counter.get_total_flops() == 7 * dense.flops_per_token()


def test_bfloat16_and_autocast_stay_near_float32() -> None:
    experts, x = make(bias=True, inner_norm=True), torch.randn(40, 8)
    index, weight = choice(40)
    exact = experts(x, index, weight)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = experts(x, index, weight)
    half = make(bias=True, inner_norm=True).bfloat16()(x.bfloat16(), index, weight)
    assert half.dtype == torch.bfloat16
    assert 1e-4 < reference.error(autocast, exact) < 0.02  # not 0: the products did run in bfloat16
    assert reference.error(half, exact) < 0.03


def test_under_autocast_the_inner_layer_is_in_half_precision_with_biases_too() -> None:
    seen: list[torch.dtype] = []
    for bias in (False, True):
        experts = make(bias=bias)
        experts.activation.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
        with torch.autocast("cpu", torch.bfloat16):
            experts(torch.randn(40, 8), *choice(40))
    assert seen == [torch.bfloat16, torch.bfloat16]


def test_every_matrix_starts_with_the_inverse_of_its_input_width_as_variance() -> None:
    experts = ExpertsConfig(dim=64, num_experts=4, expert_dim=256, bias=True, inner_norm=True).build()
    dense = FeedForwardConfig(dim=64, inner_dim=256, bias=True).build()
    for up, down in ((experts.up_proj, experts.down_proj), (dense.up_proj.weight, dense.down_proj.weight)):
        assert up.std().item() == pytest.approx(64**-0.5, rel=0.03)
        assert down.std().item() == pytest.approx(256**-0.5, rel=0.03)
    assert (experts.up_bias == 0).all() and (dense.down_proj.bias == 0).all()  # pyright: ignore


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"dim": 0}, "dim=0 is not allowed; it must be at least 1"),
        ({"expert_dim": 0}, "expert_dim=0 is not allowed; it must be at least 1"),
        ({"num_experts": -1}, "num_experts=-1 is not allowed"),
    ],
)
def test_sizes_that_make_no_experts_are_refused_by_name(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExpertsConfig(**{"dim": 8, "num_experts": 4, "expert_dim": 16, **sizes})


def test_an_unknown_activation_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse it first, in tests
    with pytest.raises(
        ValueError, match="activation='tanh' is not allowed; it must be one of gelu, relu, relu2, swiglu"
    ):
        FeedForwardConfig(dim=8, inner_dim=16, activation="tanh")  # pyright: ignore


def test_weights_that_begin_at_any_address_are_taken() -> None:
    """As those mapped from a file do; torch 2.10 refuses them."""
    apart = torch.randn(1 + 4 * 8 * 8)[1:].view(4, 8, 8)
    x, ends = torch.randn(12, 8), torch.tensor([3, 3, 7, 12], dtype=torch.int32)
    assert apart.data_ptr() % 16 and torch.allclose(
        grouped_linear(x, apart, ends), loop_linear(x, apart, ends), atol=1e-5
    )


# ---- a handful of rows ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("rows", "top_k"), [(1, 1), (1, 3), (5, 2), (32, 2)])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_a_handful_of_rows_without_gradients_gives_what_sorted_ones_give(
    activation: str, rows: int, top_k: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five and more rows share experts; some weights are 0, as masked rows have them."""
    experts, x = make(activation=activation).to(dtype), torch.randn(rows, 8, dtype=dtype)
    index, weight = torch.rand(rows, 4).argsort(dim=-1)[:, :top_k], torch.rand(rows, top_k)
    weight[rows // 2 :, 0] = 0.0
    sorted_out = experts(x, index, weight).detach()
    monkeypatch.setattr(dispatch, "BLOCK", None)  # with which nothing could be sorted
    with torch.no_grad():
        few = experts(x, index, weight)
    assert few.shape == x.shape and few.dtype == dtype
    assert reference.error(few, sorted_out) < (2e-2 if dtype == torch.bfloat16 else 1e-6)


def test_many_rows_wanted_gradients_and_autocast_go_by_the_sorted_path() -> None:
    x, index = torch.randn(1, 8), torch.zeros(1, 2, dtype=torch.long)
    assert not few_rows.takes(x, index), "gradients are wanted"
    with torch.no_grad():
        assert few_rows.takes(x, index) and not few_rows.takes(x, index.expand(33, 2))
        with torch.autocast("cpu", torch.bfloat16):
            assert not few_rows.takes(x, index)


@torch.no_grad()
def test_in_generation_experts_without_rows_give_none() -> None:
    experts = ExpertsConfig(dim=8, num_experts=3, expert_dim=4).build()
    empty = experts(torch.randn(0, 8), torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 2))
    assert empty.shape == (0, 8)
