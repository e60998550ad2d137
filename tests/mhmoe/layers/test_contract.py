"""What every router, every overflow policy and every compared system promises. New ones are found by themselves.

A router stands in a sparse mixture, a policy in one with little room, a system is what its file in baselines/ makes.
Expert choice, in which rows depend on each other, is held to all but the claims that say so.
"""

import copy
import json
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mhmoe.layers import config as configs
from mhmoe.layers import dispatch
from mhmoe.layers.capacity import OVERFLOW, Capacity
from mhmoe.layers.config import LayerConfig, config_from_dict
from mhmoe.layers.expert_choice import ExpertChoiceConfig
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.layers.routers import DotProductRouterConfig, RouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from tests import reference
from tests.mhmoe.layers import test_networks
from tests.systems import DIM, SYSTEMS

ROUTERS = {kind: cls for kind, cls in configs._KINDS.items() if issubclass(cls, RouterConfig)}
ROWS = (4, 12)  # 48, which every number of experts here divides


def mixture(router: RouterConfig, **rest: Any) -> SparseMoEConfig:
    experts = ExpertsConfig(dim=router.dim, num_experts=router.num_experts, expert_dim=8)
    return SparseMoEConfig(router=router, experts=experts, **rest)


def with_router(kind: str, num_experts: int = 4, top_k: int = 2) -> LayerConfig:
    if kind == PerHeadRouterConfig.kind:
        one = DotProductRouterConfig(dim=DIM // 2, num_experts=num_experts, top_k=top_k)
        return MultiHeadConfig(dim=DIM, heads=2, inner=mixture(PerHeadRouterConfig.of(one, heads=2)))
    return mixture(ROUTERS[kind](dim=DIM, num_experts=num_experts, top_k=top_k))  # pyright: ignore[reportCallIssue]


DOT = DotProductRouterConfig(dim=DIM, num_experts=4, top_k=2)
SUBJECTS: dict[str, LayerConfig] = {
    **{kind: with_router(kind) for kind in ROUTERS},
    **{f"overflow: {name}": mixture(DOT, capacity_factor=0.5, overflow=name) for name in OVERFLOW},  # pyright: ignore[reportArgumentType]
    "expert choice": ExpertChoiceConfig(router=DOT, experts=mixture(DOT).experts),
    **{f"system: {name}": layer for name, layer in SYSTEMS.items()},
}
every = pytest.mark.parametrize("name", SUBJECTS)


def make(name: str, seed: int = 0) -> nn.Module:
    """In evaluation, where nothing is drawn and nothing dropped."""
    layer = SUBJECTS[name].build().eval()
    reference.randomise(layer, seed)
    return layer


def total(output: Any) -> Tensor:
    return output.hidden.square().sum() + (0.0 if output.balance_loss is None else output.balance_loss)


def kinds(layers: Any) -> set[str]:
    return {part.kind for layer in layers for part in layer.parts()}


def test_every_kind_of_layer_and_router_is_in_a_contract() -> None:
    seen = kinds(SUBJECTS.values()) | kinds(test_networks.LAYERS.values())
    assert {kind for kind, cls in configs._KINDS.items() if issubclass(cls, LayerConfig | RouterConfig)} <= seen


def test_every_kind_of_layer_in_a_system_is_traced_by_torch_compile_in_some_test() -> None:
    """test_compiled.py finds routers by itself; of low dimension and of heads they are in test_networks.py."""
    traced = kinds(test_networks.LAYERS[name] for name in test_networks.TRACED) | set(ROUTERS)
    assert kinds(SYSTEMS.values()) <= traced


@every
def test_it_comes_back_from_json_and_counts_what_it_builds(name: str) -> None:
    layer = SUBJECTS[name]
    assert config_from_dict(json.loads(json.dumps(layer.to_dict()))) == layer
    assert sum(p.numel() for p in layer.build().parameters()) == layer.parameters()


@every
def test_its_flops_are_within_two_percent_of_those_that_torch_counts(name: str) -> None:
    def product(x: tuple[int, int], weight: tuple[int, int, int], *_: Any, **__: Any) -> int:
        return 2 * x[0] * x[1] * weight[1]

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.mhmoe.grouped_linear: product})
    with patch.object(dispatch, "BLOCK", 1), counter, torch.no_grad():  # what fills up a share is overhead, not work
        make(name)(torch.randn(*ROWS, DIM))
    assert counter.get_total_flops() == pytest.approx(48 * SUBJECTS[name].flops_per_token(), rel=0.02)


@every
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_what_stands_in_padded_rows_changes_nothing(name: str, training: bool) -> None:
    layer, mask = make(name).train(training), torch.rand(ROWS) < 0.7
    x, found = torch.randn(*ROWS, DIM), list[list[Tensor]]()
    for rows in (x, torch.where(mask.unsqueeze(-1), x, 50 * torch.randn_like(x))):
        torch.manual_seed(0)
        output = layer(rows, mask)
        found.append([output.hidden[mask], *([] if output.balance_loss is None else [output.balance_loss])])
        if output.routing is not None:
            kept = output.routing.kept.flatten(2).any(-1)
            assert not kept[~mask].any() and not output.routing.weight[~mask].any()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found, strict=True))
    if not training and not any(part.looks_ahead for part in SUBJECTS[name].parts()):
        assert torch.allclose(layer(x[mask]).hidden, found[0][0], atol=1e-5)


@every
def test_half_precision_stays_near_float32_of_the_same_numbers(name: str) -> None:
    half, x = make(name).bfloat16(), torch.randn(*ROWS, DIM).bfloat16()
    found, exact = half(x), copy.deepcopy(half).float()(x.float())
    assert found.hidden.dtype == torch.bfloat16 and found.hidden.isfinite().all()
    wrong = (found.hidden.float() - exact.hidden).norm(dim=-1) / exact.hidden.norm(dim=-1).clamp(min=1e-3)
    assert wrong.median() < 0.02
    if found.routing is not None:
        assert found.routing.probabilities.dtype == torch.float32


@every
def test_no_rows_give_no_rows_and_gradients_of_zero(name: str) -> None:
    layer, x = make(name).train(), torch.randn(0, DIM, requires_grad=True)
    if "per_head_router" in kinds([SUBJECTS[name]]):
        x = torch.randn(2, 0, DIM, requires_grad=True)
    output = layer(x)
    (total(output) + x.sum()).backward()
    assert output.hidden.shape == x.shape
    assert all(not p.grad.any() for p in layer.parameters() if p.grad is not None)


@every
def test_a_state_dict_moves_every_number(name: str) -> None:
    layer, copied, x = make(name), make(name, 1), torch.randn(*ROWS, DIM)
    with torch.no_grad():
        for buffer in layer.buffers():
            buffer += 0.3 * torch.rand_like(buffer)
    assert not torch.equal(copied(x).hidden, layer(x).hidden)
    copied.load_state_dict(layer.state_dict())
    assert torch.equal(copied(x).hidden, layer(x).hidden)


@pytest.mark.parametrize("name", [n for n in SUBJECTS if any(hasattr(p, "overflow") for p in SUBJECTS[n].parts())])
@pytest.mark.parametrize("overflow", OVERFLOW)
def test_with_a_capacity_no_expert_takes_more_than_its_limit_in_training(name: str, overflow: Any) -> None:
    """Whatever the policy; and evaluation keeps all that padding does not forbid."""
    layer = limited(SUBJECTS[name], overflow).build()
    reference.randomise(layer, 0)
    capacities = [module for module in layer.modules() if isinstance(module, Capacity)]
    loads: list[tuple[int, int]] = []

    def count(capacity: nn.Module, _: Any, routing: Any) -> None:
        assert isinstance(capacity, Capacity)
        chosen, rows = routing.index[routing.kept], routing.kept[..., 0].numel()
        limit = capacity.limit(rows, routing.probabilities.shape[-1], routing.index.shape[-1])
        loads.append((int(torch.bincount(chosen).max()) if len(chosen) else 0, limit))

    for capacity in capacities:
        capacity.register_forward_hook(count)
    layer(torch.randn(*ROWS, DIM) + 0.5)
    assert len(loads) == len(capacities) > 0 and all(load <= limit for load, limit in loads)
    assert any(load == limit for load, limit in loads), "no expert was full, so nothing was tested"
    assert layer.eval()(torch.randn(*ROWS, DIM)).routing.kept.all()


def limited(layer: LayerConfig, overflow: Any) -> LayerConfig:
    """The layer with little room in every sparse mixture in it."""
    inner = {name: limited(value, overflow) for name, value in vars(layer).items() if isinstance(value, LayerConfig)}
    own = {"capacity_factor": 0.5, "overflow": overflow} if isinstance(layer, SparseMoEConfig) else {}
    return layer.replace(**inner, **own) if inner or own else layer


@pytest.mark.parametrize("kind", ROUTERS)
def test_one_expert_gets_every_row_and_all_of_n_are_chosen_once_each(kind: str) -> None:
    x = torch.randn(*ROWS, DIM)
    for num_experts in (1, 4):
        layer = with_router(kind, num_experts, num_experts).build().eval()
        reference.randomise(layer, 0)
        output = layer(x)
        index = output.routing.index
        first = index.min(-1, keepdim=True).values  # of heads that have experts of their own, their first
        assert torch.equal((index - first).sort(-1).values, torch.arange(num_experts).expand_as(index))
        assert output.routing.kept.all() and output.hidden.isfinite().all()
        assert torch.allclose(output.routing.probabilities.sum(-1), torch.ones(index.shape[:-1]), atol=1e-5)


@pytest.mark.parametrize("overflow", OVERFLOW)
@pytest.mark.parametrize(("num_experts", "top_k"), [(1, 1), (4, 4)])
def test_with_room_for_an_even_share_a_policy_moves_and_drops_nothing_that_is_even(
    overflow: Any, num_experts: int, top_k: int
) -> None:
    router = DotProductRouterConfig(dim=DIM, num_experts=num_experts, top_k=top_k)
    limited_, free = (mixture(router, **rest).build() for rest in ({"capacity_factor": 1.0, "overflow": overflow}, {}))
    reference.randomise(limited_, 0)
    free.load_state_dict(limited_.state_dict())
    x = torch.randn(*ROWS, DIM)
    assert torch.equal(limited_(x).hidden, free(x).hidden) and limited_(x).routing.kept.all()
