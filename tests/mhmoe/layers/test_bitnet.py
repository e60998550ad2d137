"""Ternary weights and inputs of 8 bits: against the paper's equations in float64, a number at a time."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mhmoe.layers.bitnet import BitLinear, eight_bits, in_precision, ternary
from mhmoe.layers.config import LayerConfig, config_from_dict
from mhmoe.layers.dense_mixture import DenseMixtureConfig
from mhmoe.layers.experts import Experts, ExpertsConfig, FeedForwardConfig
from mhmoe.layers.matching import match
from mhmoe.layers.multi_head import MultiHeadConfig, Projection, multi_head_moe
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from tests import reference
from tests.small import DIM, MOE, make, make_config, tokens, xmoe

STYLES: list[dict[str, Any]] = [{}, {"activation": "swiglu", "bias": True, "inner_norm": True}]
every_style = pytest.mark.parametrize("style", STYLES, ids=["plain", "all"])


def rounded_matrix(weight: Tensor) -> Tensor:
    """One matrix, one number at a time (arXiv 2402.17764, Eq. 1 to 3)."""
    gamma = sum(abs(float(w)) for w in weight.flatten()) / weight.numel()
    return torch.tensor([[max(-1, min(1, round(float(w) / gamma))) * gamma for w in row] for row in weight.double()])


def rounded_row(row: Tensor) -> Tensor:
    most = max(abs(float(x)) for x in row)
    return torch.tensor([max(-128, min(127, round(float(x) * 127 / most))) * most / 127 for x in row.double()])


@settings(max_examples=30)
@given(rows=st.integers(1, 6), columns=st.integers(1, 7), seed=st.integers(0, 10**6))
def test_weights_and_rows_are_those_of_the_papers_equations(rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(ternary(matrix).double(), rounded_matrix(matrix).double(), atol=1e-6)
    expected = torch.stack([rounded_row(row) for row in matrix])
    assert torch.allclose(eight_bits(matrix).double(), expected.double(), atol=1e-6)


def test_weights_take_three_values_times_a_scale_and_rows_at_most_256() -> None:
    weight, x = ternary(torch.randn(64, 50)), eight_bits(torch.randn(3, 1000))
    values = weight.unique()
    assert len(values) == 3 and values[1] == 0 and values[0] == -values[2]
    assert all(100 < len(row.unique()) <= 256 for row in x)


def test_stacked_experts_and_the_halves_of_a_gated_matrix_have_a_scale_each() -> None:
    stacked = torch.randn(3, 8, 6) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1)
    rounded = ternary(stacked, parts=2)
    for expert, matrix in enumerate(stacked):
        for half in (slice(0, 4), slice(4, 8)):
            assert torch.allclose(rounded[expert, half].double(), rounded_matrix(matrix[half]).double(), rtol=1e-5)


def test_gradients_pass_straight_through() -> None:
    layer, x = BitLinear(20, 10), torch.randn(7, 20, requires_grad=True)
    direction = torch.randn(7, 10)
    (layer(x) * direction).sum().backward()
    assert layer.weight.grad is not None and layer.bias.grad is not None and x.grad is not None
    assert reference.error(layer.weight.grad, direction.T @ eight_bits(x)) < 1e-6  # of W~, given to W
    assert reference.error(x.grad, direction @ ternary(layer.weight)) < 1e-6  # of x~, given to x
    assert reference.error(layer.bias.grad, direction.sum(0)) < 1e-6


def test_rows_of_zeros_and_matrices_of_zeros_stay_zero() -> None:
    assert not eight_bits(torch.zeros(2, 5)).any() and not ternary(torch.zeros(4, 5)).any()
    assert eight_bits(torch.zeros(0, 5)).shape == (0, 5)


@every_style
def test_a_network_and_one_expert_are_the_papers_layers_in_full(style: dict[str, Any]) -> None:
    dense = FeedForwardConfig(dim=8, inner_dim=6, precision="bitnet", **style).build()
    reference.randomise(dense, 0)
    stacked = ExpertsConfig(dim=8, num_experts=2, expert_dim=6, precision="bitnet", **style).build()
    x, one = torch.randn(5, 8), torch.ones(5, 1)
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            name = name.replace("_proj.weight", "_proj").replace("_proj.bias", "_bias")
            dict(stacked.named_parameters())[name][1].copy_(parameter)
    expected = by_rows(dense, x, style)
    assert reference.error(dense(x).hidden, expected) < 1e-5
    assert reference.error(stacked(x, torch.ones(5, 1, dtype=torch.int64), one), expected) < 1e-5


def by_rows(dense: Any, x: Tensor, style: dict[str, Any]) -> Tensor:
    """W~_down q(norm(act(W~_up q(x) + b))) + b, a row at a time."""
    weights = {name: tensor.detach().double() for name, tensor in dense.named_parameters()}
    up = weights["up_proj.weight"]
    gated = style.get("activation") == "swiglu"
    up = torch.cat([rounded_matrix(half).double() for half in (up.chunk(2) if gated else [up])])
    down, outs = rounded_matrix(weights["down_proj.weight"]).double(), []
    for row in x:
        inner = up @ rounded_row(row).double() + weights.get("up_proj.bias", 0)
        if gated:
            gate, value = inner.chunk(2)
            inner = gate * torch.sigmoid(gate) * value
        else:
            inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        if "inner_norm.weight" in weights:
            centred = inner - inner.mean()
            inner = centred / (centred.square().mean() + 1e-5).sqrt()
            inner = inner * weights["inner_norm.weight"] + weights["inner_norm.bias"]
        outs.append(down @ rounded_row(inner).double() + weights.get("down_proj.bias", 0))
    return torch.stack(outs)


@every_style
def test_all_experts_densely_and_by_choice_round_the_same(style: dict[str, Any]) -> None:
    parts: dict[str, Any] = {
        "router": DotProductRouterConfig(dim=8, num_experts=3, top_k=3),
        "experts": ExpertsConfig(dim=8, num_experts=3, expert_dim=6, precision="bitnet", **style),
    }
    one, other = DenseMixtureConfig(**parts).build(), SparseMoEConfig(**parts).build()
    reference.randomise(one, 0)
    other.load_state_dict(one.state_dict())
    x = torch.randn(40, 8)
    wrong = (one(x).hidden - other(x).hidden).norm(dim=-1) / other(x).hidden.norm(dim=-1)
    assert (wrong < 1e-5).float().mean() > 0.9  # a number on the edge may be rounded either way


@pytest.mark.parametrize("bias", [False, True])
def test_head_and_merge_layer_are_rounded_and_start_as_before(bias: bool) -> None:
    config = multi_head_moe(dim=12, num_experts=4, expert_dim=5, moe_heads=3).replace(bias=bias, precision="bitnet")
    torch.manual_seed(0)
    layer: Any = config.build()
    torch.manual_seed(0)
    plain: Any = config.replace(precision="full").build()
    for name in ("head", "merge"):
        ours, theirs_ = getattr(layer, name), getattr(plain, name)
        assert isinstance(ours, Projection) and torch.equal(ours.weight, theirs_.weight)
        x = torch.randn(4, 12)
        expected = torch.nn.functional.linear(eight_bits(x), ternary(ours.weight), ours.bias)
        assert torch.equal(ours(x), expected) and not torch.allclose(ours(x), theirs_(x), atol=1e-3)


def test_a_whole_layer_is_put_into_a_precision_and_back() -> None:
    layer = multi_head_moe(dim=12, num_experts=4, expert_dim=5, moe_heads=3, inner_residual=True)
    rounded = in_precision(layer, "bitnet")
    assert isinstance(rounded, MultiHeadConfig) and rounded.precision == "bitnet"
    found: list[str] = []

    def collect(raw: Any) -> None:
        if isinstance(raw, dict):
            found.extend([raw["kind"]] if "precision" in raw else [])
            for value in raw.values():
                collect(value)

    collect(rounded.to_dict())
    assert sorted(found) == ["experts", "multi_head"]
    assert in_precision(rounded, "full") == layer and config_from_dict(rounded.to_dict()) == rounded
    for count in ("parameters", "active_parameters", "flops_per_token"):
        assert getattr(rounded, count)() == getattr(layer, count)()


def test_a_matched_layer_has_the_precision_of_its_reference() -> None:
    reference_ = in_precision(xmoe(), "bitnet")
    layer = match("compute", reference_, heads=2)
    assert layer == in_precision(match("compute", xmoe(), heads=2), "bitnet") and layer.precision == "bitnet"


def bitnet(system: str, **rest: Any) -> dict[str, Any]:
    moe = MOE[system]
    assert isinstance(moe, LayerConfig)
    dense = FeedForwardConfig(dim=DIM, inner_dim=4 * DIM, precision="bitnet")
    return {
        "moe": in_precision(moe, "bitnet").to_dict(),
        "feed_forward": dense,
        "attention_precision": "bitnet",
        **rest,
    }


def test_a_model_of_ternary_weights_starts_counts_and_learns_as_one_of_full_precision() -> None:
    plain, rounded = make(), make(**bitnet("mhmoe compute"))
    assert sum(p.numel() for p in rounded.parameters()) == rounded.config.parameters() == plain.config.parameters()
    for (name, ours), (_, theirs_) in zip(rounded.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.equal(ours, theirs_), name
    bit = {name for name, m in rounded.named_modules() if isinstance(m, BitLinear) or hasattr(m, "parts")}
    assert {"model.layers.0.attention.qkv_proj", "model.layers.1.feed_forward.head"} <= bit
    assert "lm_head" not in bit and any(isinstance(m, Experts) for m in rounded.modules())
    ids, optimizer = tokens(4, 16), torch.optim.AdamW(rounded.parameters(), lr=0.01)
    losses: list[float] = []
    for _ in range(30):
        loss = rounded(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_precision_came_later_and_changes_no_earlier_fingerprint() -> None:
    config = make_config("mhmoe compute")
    assert "attention_precision" not in config.identity() and "precision" not in str(config.moe)
    assert make_config(**bitnet("xmoe")).identity()["attention_precision"] == "bitnet"
    with pytest.raises(ValueError, match="attention_precision='4 bits' is not allowed; it must be one of full, bitnet"):
        make_config(attention_precision="4 bits")


def test_query_key_and_value_have_a_scale_each() -> None:
    attention = make(attention_precision="bitnet").model.layers[0].attention
    with torch.no_grad():
        attention.qkv_proj.weight[:DIM] *= 100
    rounded = ternary(attention.qkv_proj.weight, attention.qkv_proj.parts)
    assert [len(part.unique()) for part in rounded.chunk(3)] == [3, 3, 3]
