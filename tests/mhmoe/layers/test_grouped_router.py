"""Two-level routing: against a loop in float64 over rows, groups and experts; and what it costs."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.grouped_router import GroupedRouter, GroupedRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from tests import reference


def make(seed: int = 0, **sizes: Any) -> GroupedRouter:
    router = GroupedRouterConfig(**{"dim": 8, "num_experts": 12, "top_k": 2, "num_groups": 4, **sizes}).build()
    reference.randomise(router, seed)
    with torch.no_grad():  # groups that are clearly apart, in float32 too
        router.group_embeddings.mul_(2)
    return router


@settings(max_examples=30)
@given(
    groups=st.sampled_from([1, 2, 3, 4, 6]),
    top_k=st.integers(1, 2),
    gate=st.sampled_from(["softmax", "sigmoid"]),
    renormalize=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_best_group_is_chosen_and_then_the_best_of_its_experts(
    groups: int, top_k: int, gate: str, renormalize: bool, seed: int
) -> None:
    router = make(seed, num_groups=groups, top_k=top_k, gate=gate, renormalize=renormalize)
    x = torch.randn(9, 8, generator=torch.Generator().manual_seed(seed))
    routing, size = router(x), 12 // groups
    of_groups, of_experts = router.group_embeddings.double(), router.expert_embeddings.double()
    for i, row in enumerate(x.double()):
        p, g = gates(gate, [reference.dot(row, u) for u in of_groups])
        best = int(p.argmax())
        p_within, g_within = gates(gate, [reference.dot(row, e) for e in of_experts[best]])
        order = p_within.argsort(descending=True)[:top_k]
        weight = g[best] * g_within[order]
        expected = torch.cat([p[j] * p_within if j == best else p[j].repeat(size) / size for j in range(groups)])
        assert routing.index[i].tolist() == (best * size + order).tolist()
        assert torch.allclose(routing.weight[i].double(), weight / weight.sum() if renormalize else weight, atol=1e-6)
        assert torch.allclose(routing.probabilities[i].double(), expected, atol=1e-6)
        assert expected.sum().item() == pytest.approx(1)


def gates(gate: str, scores: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    if gate == "softmax":
        probabilities = reference.softmax(scores)
        return probabilities, probabilities
    each = torch.stack([1 / (1 + torch.exp(-s)) for s in scores])
    return each / each.sum(), each


def test_the_gradient_of_the_weights_is_that_of_scoring_all_experts() -> None:
    router, x = make().double(), torch.randn(20, 8, dtype=torch.float64, requires_grad=True)
    routing = router(x)
    cotangent = torch.randn_like(routing.weight)
    inputs = (x, router.group_embeddings, router.expert_embeddings)
    ours = torch.autograd.grad((routing.weight * cotangent).sum(), inputs)
    p = (x @ router.group_embeddings.T).softmax(-1)
    within = torch.einsum("rd,ged->rge", x, router.expert_embeddings).softmax(-1)
    weight = (p.unsqueeze(-1) * within).flatten(-2).gather(-1, routing.index)
    dense = torch.autograd.grad((weight * cotangent).sum(), inputs)
    for one, other in zip(ours, dense, strict=True):
        assert reference.error(one, other) < 1e-12


@pytest.mark.parametrize(("num_experts", "products"), [(16, 8), (64, 16), (256, 32), (1024, 64), (8, 6), (7, 8)])
def test_by_default_the_cost_is_twice_the_square_root_of_the_experts(num_experts: int, products: int) -> None:
    config = GroupedRouterConfig(dim=8, num_experts=num_experts)
    assert config.flops_per_token() == 2 * 8 * products
    assert sum(p.numel() for p in config.build().parameters()) == config.parameters()


def test_counted_flops_are_those_that_torch_counts() -> None:
    def product(x: Any, weight: Any, *_: Any, **__: Any) -> int:
        return 2 * x[0] * x[1] * weight[1]

    config = GroupedRouterConfig(dim=8, num_experts=64)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.mhmoe.grouped_linear: product})
    router, x = config.build(), torch.randn(2048, 8)
    with torch.no_grad(), counter:
        router(x)
    expected = 2048 * config.flops_per_token()  # shares are filled up to a multiple of 32 rows
    assert expected <= counter.get_total_flops() < expected + 8 * 32 * 2 * 8 * 8


def test_groups_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"num_groups=6 does not cut num_experts=12 .* top_k=3; choose one of 1, 2, 3, 4"
    ):
        GroupedRouterConfig(dim=8, num_experts=12, top_k=3, num_groups=6)
    router = GroupedRouterConfig(dim=8, num_experts=12, top_k=3)
    with pytest.raises(ValueError, match="balance='z' needs scores of all experts, which grouped_router does not give"):
        SparseMoEConfig(
            router=router, experts=ExpertsConfig(dim=8, num_experts=12, expert_dim=4), balance=(("z", 0.1),)
        )


def test_all_experts_of_a_row_can_be_chosen_when_there_is_one_group() -> None:
    config = GroupedRouterConfig(dim=8, num_experts=9, top_k=9)
    assert config.groups == 1
    assert config.build()(torch.randn(5, 8)).index.sort(-1).values.tolist() == [list(range(9))] * 5
