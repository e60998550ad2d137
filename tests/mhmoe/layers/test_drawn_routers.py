"""What Switch's and GShard's routers do by chance in training, and how DeepSeek-V3's bias moves."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mhmoe.layers.balanced_router import BalancedRouterConfig
from mhmoe.layers.capacity import Capacity
from mhmoe.layers.gshard_router import GShardRouterConfig
from mhmoe.layers.losses import load_fractions
from mhmoe.layers.multi_head import multi_head_moe
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.switch_router import SwitchRouterConfig
from tests import reference


def make(config: Any, seed: int = 0) -> Any:
    router = config.build()
    reference.randomise(router, seed)
    return router


# ---- Switch ---------------------------------------------------------------------------------


def test_jitter_multiplies_the_routers_input_by_what_torchs_generator_draws() -> None:
    router = make(SwitchRouterConfig(dim=8, num_experts=4, jitter=0.3))
    plain = DotProductRouterConfig(dim=8, num_experts=4).build()
    plain.load_state_dict(router.state_dict())
    x = torch.randn(50, 8)
    torch.manual_seed(5)
    jittered = router(x)
    torch.manual_seed(5)
    factors = torch.rand(50, 8) * 0.6 + 0.7
    assert torch.allclose(jittered.probabilities, plain(x * factors).probabilities, atol=1e-6)
    assert not torch.allclose(jittered.probabilities, plain(x).probabilities, atol=1e-2)
    assert torch.equal(router.eval()(x).probabilities, plain(x).probabilities)


def test_switchs_weights_start_within_two_deviations_of_a_tenth_of_the_usual_variance() -> None:
    weights = SwitchRouterConfig(dim=100, num_experts=500).build().expert_embeddings
    std = (0.1 / 100) ** 0.5
    assert weights.abs().max() <= 2 * std and weights.abs().max() > 1.95 * std
    assert weights.std().item() == pytest.approx(0.8796 * std, rel=0.01)  # of a normal one cut at two deviations


# ---- GShard ---------------------------------------------------------------------------------


def algorithm_1(gates: Tensor, capacity: int, draws: Tensor, training: bool) -> Tensor:
    """Combine weights [rows, experts] of Lepikhin et al. 2020, Algorithm 1; who is not drawn takes no room."""
    rows, num_experts = gates.shape
    combined = torch.zeros(rows, num_experts)
    used = [0] * num_experts
    pairs: list[tuple[float, int, float, int]] = []
    for s in range(rows):
        e1, e2 = reference.best(gates[s].tolist(), 2)
        total = float(gates[s, e1] + gates[s, e2])
        pairs.append((float(gates[s, e1]) / total, e1, float(gates[s, e2]) / total, e2))
    for s, (g1, e1, _, _) in enumerate(pairs):
        if not training or used[e1] < capacity:
            combined[s, e1] = g1
        used[e1] += 1
    for s, (_, _, g2, e2) in enumerate(pairs):
        if training and not 2 * g2 > draws[s]:
            continue
        if not training or used[e2] < capacity:
            combined[s, e2] = g2
        used[e2] += 1
    return combined


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("factor", [0.5, 1.0, 10.0])
def test_top_2_with_a_capacity_is_algorithm_1_of_gshard(factor: float, training: bool) -> None:
    router = make(GShardRouterConfig(dim=8, num_experts=5)).train(training)
    capacity = Capacity(factor).train(training)
    x = torch.randn(61, 8)
    torch.manual_seed(3)
    routing = capacity(router(x))
    torch.manual_seed(3)
    draws = torch.rand(61, 2)[:, 1]
    ours = torch.zeros(61, 5).scatter(-1, routing.index, routing.weight)
    expected = algorithm_1(routing.probabilities.detach(), capacity.limit(61, 5, 2), draws, training)
    assert torch.allclose(ours, expected, atol=1e-6)
    assert torch.equal(ours > 0, expected > 0)
    if training:
        assert 0 < (routing.kept[:, 1]).sum() < 61


def test_the_second_expert_is_kept_in_proportion_to_twice_its_weight() -> None:
    router = make(GShardRouterConfig(dim=8, num_experts=5))
    x = torch.randn(8).expand(20_000, 8)
    routing = router(x)
    evaluated = router.eval()(x[:1])
    assert routing.kept[:, 0].all()
    share, chance = routing.kept[:, 1].float().mean().item(), 2 * evaluated.weight[0, 1].item()
    assert 0.05 < chance < 0.95 and share == pytest.approx(chance, abs=4 * (chance * (1 - chance) / 20_000) ** 0.5)
    assert torch.allclose(routing.weight[:, 0], evaluated.weight[0, 0].expand(20_000))


def test_a_router_by_chance_is_the_same_again_under_gradient_checkpointing() -> None:
    layer = multi_head_moe(
        dim=8, num_experts=4, expert_dim=6, moe_heads=2, router=GShardRouterConfig(dim=4, num_experts=4)
    ).build()
    reference.randomise(layer, 0)
    x, found = torch.randn(30, 8), list[list[Tensor]]()
    for run in (layer, lambda x: checkpoint(layer, x, use_reentrant=False)):
        torch.manual_seed(0)
        layer.zero_grad()
        output = run(x)
        (output.hidden.square().sum() + output.balance_loss).backward()
        found.append([p.grad.clone() for p in layer.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# ---- DeepSeek-V3 ----------------------------------------------------------------------------


def test_the_bias_steps_against_the_load_by_a_fixed_size() -> None:
    router = make(BalancedRouterConfig(dim=8, num_experts=4, bias_step=0.01))
    router.rebalance(torch.tensor([0.5, 0.25, 0.2, 0.05]))
    assert torch.allclose(router.balancing_bias, torch.tensor([-0.01, 0.0, 0.01, 0.01]))


def test_the_bias_evens_out_the_load_without_a_loss_and_leaves_the_gates_alone() -> None:
    router = make(BalancedRouterConfig(dim=8, num_experts=8, top_k=2, bias_step=0.01))
    x = torch.randn(500, 8) + 1
    before = router(x)
    assert load_fractions(before.index, 8).max() > 0.2
    for _ in range(200):
        router.rebalance(load_fractions(router(x).index, 8))
    after = router(x)
    assert load_fractions(after.index, 8).max() < 0.14
    assert torch.equal(after.probabilities, before.probabilities) and torch.equal(after.scores, before.scores)
    chosen = after.scores.sigmoid().gather(-1, after.index)
    assert torch.allclose(after.weight, chosen / chosen.sum(-1, keepdim=True))


def test_forward_never_moves_the_bias_and_the_state_dict_carries_it() -> None:
    router, again = (make(BalancedRouterConfig(dim=8, num_experts=4), seed) for seed in range(2))
    router.rebalance(torch.tensor([0.7, 0.1, 0.1, 0.1]))
    bias = router.balancing_bias.clone()
    assert bias.any()
    router(torch.randn(30, 8)).weight.sum().backward()
    assert torch.equal(router.balancing_bias, bias) and not router.balancing_bias.requires_grad
    again.load_state_dict(router.state_dict())
    assert torch.equal(again.balancing_bias, bias)


def test_the_bias_stays_in_float32_in_half_precision() -> None:
    router = make(BalancedRouterConfig(dim=8, num_experts=4)).bfloat16()
    assert router.expert_embeddings.dtype == torch.bfloat16 and router.balancing_bias.dtype == torch.float32
    for _ in range(700):
        router.rebalance(torch.tensor([0.7, 0.1, 0.1, 0.1]))
    assert router.balancing_bias.tolist() == pytest.approx([-0.7, 0.7, 0.7, 0.7], rel=1e-3)


def test_an_expert_chosen_by_its_bias_against_a_gate_of_0_has_a_finite_weight() -> None:
    router = make(BalancedRouterConfig(dim=8, num_experts=4, gate="softmax"))
    router.balancing_bias += torch.tensor([2.0, 0.0, 0.0, 0.0])
    routing = router(1e3 * torch.randn(50, 8))
    assert not routing.index.any() and routing.weight.isfinite().all()


def test_every_heads_router_steps_by_its_own_part_of_the_load() -> None:
    router = PerHeadRouterConfig.of(BalancedRouterConfig(dim=4, num_experts=2), heads=2).build()
    router.rebalance(torch.tensor([0.4, 0.1, 0.2, 0.3]))
    biases = [one.get_buffer("balancing_bias").sign().tolist() for one in router.routers]
    assert biases == [[-1, 1], [1, -1]]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_groups": 3}, "num_groups=3 does not divide num_experts=8"),
        ({"num_groups": 2, "top_groups": 4}, "top_groups=4 exceeds num_groups=2"),
        ({"num_groups": 4, "top_groups": 1, "top_k": 3}, "top_k=3 exceeds the 2 experts of top_groups=1 groups"),
        ({"scale": 0.0}, r"scale=0.0 is not allowed; it must be above 0"),
    ],
)
def test_groups_that_do_not_fit_are_refused_by_name(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BalancedRouterConfig(dim=8, num_experts=8, **sizes)
