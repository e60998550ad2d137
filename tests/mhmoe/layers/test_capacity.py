"""What overflows goes to the next best expert with room: against a plain loop, and what holds whatever comes."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mhmoe.layers.capacity import OVERFLOW, Capacity, NextBest
from mhmoe.layers.config import config_from_dict
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.routing import Routing
from mhmoe.layers.sparse_moe import SparseMoEConfig
from tests import reference

every_policy = pytest.mark.parametrize("overflow", OVERFLOW)


def routed(
    rows: int, num_experts: int, top_k: int, seed: int, renormalize: bool = False, masked: float = 0.0
) -> Routing:
    """By a router with a strong liking for its first experts."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"dim": num_experts, "num_experts": num_experts, "top_k": top_k}
    router = DotProductRouterConfig(**sizes, renormalize=renormalize).build()
    with torch.no_grad():
        router.expert_embeddings.copy_(torch.eye(num_experts))
    liking = torch.linspace(2, 0, num_experts)
    return router(torch.randn(rows, num_experts) + liking, torch.rand(rows) >= masked)


def by_loop(routing: Routing, limit: int) -> tuple[list[list[int]], list[list[bool]]]:
    """From the docstring: drop first; then rounds, in which rows ask once each and in order."""
    rows, top_k = routing.index.shape
    probabilities = routing.probabilities.tolist()
    wanted, index = routing.index.tolist(), routing.index.tolist()
    room = [limit] * len(probabilities[0])
    kept = [[False] * top_k for _ in range(rows)]
    left: list[list[int]] = [[] for _ in range(rows)]
    for j in range(top_k):
        for i in range(rows):
            if not routing.kept[i, j]:
                continue
            if room[wanted[i][j]]:
                room[wanted[i][j]] -= 1
                kept[i][j] = True
            else:
                left[i].append(j)
    reached = [set(chosen) for chosen in wanted]
    while True:
        open_now = [p for p in range(len(room)) if room[p]]
        asking = [(i, [p for p in open_now if p not in reached[i]]) for i in range(rows) if left[i]]
        asking = [(i, free) for i, free in asking if free]
        if not asking:
            return index, kept
        for i, free in asking:
            best = max(free, key=lambda p: probabilities[i][p])
            if room[best]:
                room[best] -= 1
                j = left[i].pop(0)
                index[i][j], kept[i][j] = best, True
                reached[i].add(best)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 30),
    num_experts=st.integers(1, 7),
    top_k=st.integers(1, 7),
    factor=st.sampled_from([0.3, 0.6, 1.0, 1.5]),
    seed=st.integers(0, 9999),
    masked=st.sampled_from([0.0, 0.3]),
)
def test_moves_are_those_of_a_loop_over_rounds_and_rows(
    rows: int, num_experts: int, top_k: int, factor: float, seed: int, masked: float
) -> None:
    top_k = min(top_k, num_experts)
    routing = routed(rows, num_experts, top_k, seed, masked=masked)
    capacity = NextBest(factor)
    limit = capacity.limit(rows, num_experts, top_k)
    moved = capacity(routing)
    index, kept = by_loop(routing, limit)
    assert moved.kept.tolist() == kept
    assert moved.index[moved.kept].tolist() == torch.tensor(index)[moved.kept].tolist()
    load = torch.bincount(moved.index[moved.kept], minlength=num_experts)
    assert load.max() <= limit
    dropped = Capacity(factor)(routing)
    assert (moved.kept | ~dropped.kept).all() and torch.equal(moved.index[dropped.kept], routing.index[dropped.kept])
    for i in range(rows):
        assert len(set(moved.index[i][moved.kept[i]].tolist())) == moved.kept[i].sum()


def test_with_room_for_all_nothing_is_dropped_where_dropping_loses_a_third() -> None:
    routing = routed(rows=64, num_experts=8, top_k=1, seed=0)
    assert (~Capacity(1.0)(routing).kept).float().mean() > 0.3
    moved = NextBest(1.0)(routing)
    assert moved.kept.all() and (torch.bincount(moved.index.flatten()) == 8).all()


@pytest.mark.parametrize("renormalize", [False, True])
def test_a_moved_selection_weighs_by_its_probability_in_its_rows_own_proportion(renormalize: bool) -> None:
    routing = routed(rows=40, num_experts=6, top_k=2, seed=1, renormalize=renormalize)
    moved = NextBest(0.8)(routing)
    was_moved = moved.kept & (moved.index != routing.index)
    assert was_moved.sum() > 5
    own = routing.probabilities.gather(-1, routing.index).sum(-1, keepdim=True) if renormalize else 1.0
    expected = routing.probabilities.gather(-1, moved.index) / own
    assert torch.allclose(moved.weight[was_moved], expected[was_moved], atol=1e-6)
    stayed = moved.kept & ~was_moved
    assert torch.equal(moved.weight[stayed], routing.weight[stayed]) and (moved.weight[~moved.kept] == 0).all()


def layer_of(overflow: Any, factor: float = 0.5) -> SparseMoEConfig:
    return SparseMoEConfig(
        router=DotProductRouterConfig(dim=8, num_experts=4, top_k=2),
        experts=ExpertsConfig(dim=8, num_experts=4, expert_dim=16),
        capacity_factor=factor,
        overflow=overflow,
    )


@every_policy
def test_evaluation_neither_drops_nor_moves(overflow: str) -> None:
    layer = layer_of(overflow).build()
    reference.randomise(layer, 0)
    x = torch.randn(40, 8)
    trained, evaluated = layer(x).routing, layer.eval()(x).routing
    assert evaluated.kept.all() and torch.equal(evaluated.index, evaluated.wanted)
    assert not trained.kept.all() and torch.equal(trained.wanted, evaluated.index)


@every_policy
def test_balance_losses_count_what_the_router_wanted(overflow: str) -> None:
    layer = layer_of(overflow, factor=0.9).build()
    reference.randomise(layer, 0)
    x = torch.randn(40, 8) + 1
    limited, free = layer(x), layer.eval()(x)
    assert torch.equal(limited.balance_loss, free.balance_loss)
    assert (overflow == "next") == (not torch.equal(limited.routing.index, free.routing.index))


@every_policy
def test_the_output_is_the_weighted_sum_of_where_selections_went(overflow: str) -> None:
    config = layer_of(overflow, factor=0.9)
    layer = config.build()
    reference.randomise(layer, 2)
    x = torch.randn(30, 8)
    output = layer(x)
    networks = dict(layer.experts.named_parameters())
    for i in range(30):
        expected = torch.zeros(8, dtype=torch.float64)
        for j in range(2):
            one = {name: w[output.routing.index[i, j]].double() for name, w in networks.items()}
            weight = output.routing.weight[i, j].double() * output.routing.kept[i, j]
            expected += weight * reference.expert_network(config.experts.to_dict(), one, x[i].double())
        assert torch.allclose(output.hidden[i].double(), expected, atol=1e-5)


def test_an_overflow_without_a_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="overflow='next' needs a capacity_factor"):
        layer_of("next").replace(capacity_factor=None)


def test_a_policy_comes_back_from_json_and_the_default_is_left_out() -> None:
    assert config_from_dict(layer_of("next").to_dict()) == layer_of("next")
    assert "overflow" not in layer_of("drop").to_dict() and "balance" not in layer_of("drop").to_dict()
