"""Balance losses by name: against formulas written out, at their extremes, and of a batch in parts."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mhmoe.layers.balance import EQ10, LOSSES, BalanceLoss
from mhmoe.layers.config import config_from_dict
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.losses import balance_loss, load_fractions, smooth_load
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.routing import Routing
from mhmoe.layers.sparse_moe import SparseMoEConfig

ALL: Any = (("eq10", 1.0), ("importance", 0.3), ("load", 0.7), ("z", 0.05))


def routed(scores: Tensor, top_k: int = 2) -> Routing:
    probabilities = scores.softmax(-1)
    weight, index = probabilities.topk(top_k)
    return Routing(index, weight, probabilities, torch.ones_like(index, dtype=torch.bool), scores, index)


def by_formula(name: str, scores: Tensor, top_k: int) -> float:
    """One row and expert at a time, from the papers."""
    rows, num_experts = scores.shape
    normal = torch.distributions.Normal(0, 1 / num_experts)
    importance, load, z, counts = ([0.0] * num_experts for _ in range(4))
    for row in scores.double():
        p = torch.exp(row) / torch.exp(row).sum()
        order = row.argsort(descending=True).tolist()
        for i in range(num_experts):
            importance[i] += float(p[i])
            others = sorted((float(row[j]) for j in range(num_experts) if j != i), reverse=True)
            threshold = others[top_k - 1] if top_k <= len(others) else float("-inf")
            load[i] += float(normal.cdf(row[i] - threshold)) if threshold > float("-inf") else 1.0
            counts[i] += i in order[:top_k]
        z[0] += float(torch.log(torch.exp(row).sum())) ** 2

    def cv_squared(values: list[float]) -> float:
        mean = sum(values) / len(values)
        return sum((v - mean) ** 2 for v in values) / len(values) / mean**2

    return {
        "eq10": num_experts * sum(c / rows / top_k * g / rows for c, g in zip(counts, importance, strict=True)),
        "importance": cv_squared(importance),
        "load": cv_squared(load),
        "z": z[0] / rows,
    }[name]


@settings(max_examples=30)
@given(
    name=st.sampled_from(sorted(LOSSES)),
    num_experts=st.integers(1, 6),
    top_k=st.integers(1, 6),
    seed=st.integers(0, 999),
)
def test_every_loss_is_its_papers_formula(name: Any, num_experts: int, top_k: int, seed: int) -> None:
    scores = 0.3 * torch.randn(11, num_experts, generator=torch.Generator().manual_seed(seed))
    top_k = min(top_k, num_experts)
    expected = by_formula(name, scores, top_k)
    assert BalanceLoss(((name, 1.0),))(routed(scores, top_k)).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_default_is_equation_10_to_the_bit() -> None:
    routing = routed(torch.randn(50, 6))
    mask = torch.rand(50) < 0.7
    assert torch.equal(BalanceLoss(EQ10)(routing, mask), balance_loss(routing.probabilities, routing.index, mask))


def test_a_combination_is_the_weighted_sum_and_none_is_zero() -> None:
    routing = routed(torch.randn(50, 6))
    expected = sum(weight * BalanceLoss(((name, 1.0),))(routing) for name, weight in ALL)
    assert torch.allclose(BalanceLoss(ALL)(routing), torch.as_tensor(expected))
    assert BalanceLoss(())(routing) == 0


def test_masked_rows_count_in_no_loss() -> None:
    scores, mask = torch.randn(4, 9, 6), torch.rand(4, 9) < 0.6
    assert torch.allclose(BalanceLoss(ALL)(routed(scores), mask), BalanceLoss(ALL)(routed(scores[mask])))


def test_without_rows_every_loss_is_zero_with_a_finite_gradient() -> None:
    for rows, mask in ((0, None), (3, torch.zeros(3, dtype=torch.bool))):
        scores = torch.randn(rows, 6, requires_grad=True)
        loss = BalanceLoss(ALL)(routed(scores), mask)
        loss.backward()
        assert loss == 0 and scores.grad is not None and (scores.grad == 0).all()


def test_the_smooth_load_is_the_chance_to_be_chosen_after_one_score_is_drawn_anew() -> None:
    torch.manual_seed(0)
    scores, draws = 0.2 * torch.randn(5), 40_000
    found = smooth_load(scores.unsqueeze(0), 2)[0]
    for expert in range(5):
        noisy = scores.repeat(draws, 1)
        noisy[:, expert] += torch.randn(draws) / 5
        chosen = (noisy.topk(2).indices == expert).any(-1).float().mean().item()
        assert found[expert].item() == pytest.approx(chosen, abs=0.01)


@pytest.mark.parametrize("name", ["importance", "load", "z"])
def test_descending_a_loss_brings_about_what_it_is_for(name: Any) -> None:
    torch.manual_seed(0)
    scores = (torch.randn(200, 6) + torch.linspace(2, 0, 6)).requires_grad_()
    loss, before = BalanceLoss(((name, 1.0),)), routed(scores)
    for _ in range(100):
        (gradient,) = torch.autograd.grad(loss(routed(scores)), scores)
        scores = (scores - 0.05 * gradient.sign()).detach().requires_grad_()
    after = routed(scores)
    if name == "z":
        assert after.scores is not None and before.scores is not None
        assert after.scores.logsumexp(-1).abs().mean() < 0.3 < before.scores.logsumexp(-1).abs().mean()
    else:
        assert load_fractions(after.index, 6).max() < 0.25 < load_fractions(before.index, 6).max()


def test_over_heads_with_experts_of_their_own_a_loss_is_the_mean_of_theirs() -> None:
    router = PerHeadRouterConfig.of(DotProductRouterConfig(dim=4, num_experts=5, top_k=2), heads=3).build()
    x = torch.randn(30, 3, 4)
    together = router(x)
    for name in ("eq10", "importance", "z"):
        loss = BalanceLoss(((name, 1.0),))  # pyright: ignore[reportArgumentType]
        each = [loss(one(x[:, head])) for head, one in enumerate(router.routers)]
        assert torch.allclose(loss(together), torch.stack(each).mean(), atol=1e-6), name
    loss = BalanceLoss((("load", 1.0),))
    smooth = [smooth_load(one(x[:, head]).scores, 2).mean(0) for head, one in enumerate(router.routers)]
    load = torch.cat(smooth)
    assert loss(together).item() == pytest.approx((load.var(correction=0) / load.mean() ** 2).item(), rel=1e-4)
    together_loss = loss(together)
    together_loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in router.parameters())


def config(**rest: Any) -> SparseMoEConfig:
    return SparseMoEConfig(
        router=DotProductRouterConfig(dim=8, num_experts=4, top_k=2),
        experts=ExpertsConfig(dim=8, num_experts=4, expert_dim=6),
        **rest,
    )


def test_losses_come_back_from_json_and_the_default_is_left_out() -> None:
    assert config_from_dict(config(balance=ALL).to_dict()) == config(balance=ALL)
    assert config_from_dict(config(balance=()).to_dict()).balance == ()  # pyright: ignore
    assert "balance" not in config().to_dict()


@pytest.mark.parametrize(
    ("balance", "message"),
    [
        ((("z", 0.1), ("z", 0.2)), "balance has 'z' 2 times"),
        ((("cv", 1.0),), "balance=.* is not allowed"),
        ((("z", -1.0),), "balance=.* is not allowed; it must be at least 0"),
    ],
)
def test_losses_that_are_none_are_refused_by_name(balance: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        config(balance=balance)
