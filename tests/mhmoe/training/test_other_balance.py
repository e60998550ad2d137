"""Balance losses other than Eq. 10, routers that draw and biases that step: right however a batch is cut."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mhmoe.data.packing import PackedDataset
from mhmoe.layers.balanced_router import BalancedRouterConfig
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.gshard_router import GShardRouterConfig
from mhmoe.layers.hierarchical import HierarchicalMoEConfig
from mhmoe.layers.losses import selections
from mhmoe.layers.routers import DotProductRouterConfig, RouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.layers.switch_router import SwitchRouterConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import identity
from mhmoe.training.loop import train
from mhmoe.training.objective import Accumulated, Objective, accumulate_gradients, balance_losses, rebalance
from tests import tiny
from tests.mhmoe.training.test_training import MIXED, batch, text, with_

__all__ = ["text"]  # a fixture

DOT = DotProductRouterConfig(dim=tiny.DIM, num_experts=4, top_k=2)
BALANCED = BalancedRouterConfig(dim=tiny.DIM, num_experts=4, top_k=2, bias_step=0.02)


def model_of(router: RouterConfig, **rest: Any) -> MHMoEForCausalLM:
    moe = SparseMoEConfig(router=router, experts=ExpertsConfig(dim=tiny.DIM, num_experts=4, expert_dim=16), **rest)
    return tiny.model("xmoe", moe=moe.to_dict(), **MIXED)


def accumulated(
    tokens: Tensor, micro_batches: int, weight: float, balance: Any
) -> tuple[dict[str, Tensor], Accumulated]:
    model = model_of(DOT, balance=balance).double()
    found = accumulate_gradients(Objective(model, "float32"), tokens, with_(micro_batches=micro_batches), weight)
    return tiny.gradients(model), found


@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize(
    "balance",
    [(("importance", 1.0),), (("load", 1.0),), (("z", 1.0),), (("eq10", 1.0), ("importance", 0.5), ("z", 0.1))],
    ids=lambda balance: "+".join(name for name, _ in balance),
)
def test_every_loss_and_its_gradient_is_that_of_the_global_batch(
    text: PackedDataset, balance: Any, micro_batches: int
) -> None:
    """By autograd through the model's own loss of the whole batch. In float64; t and G are in float32."""
    tokens = batch(text)
    model = model_of(DOT, balance=balance).double()
    loss = model(tokens[:, :-1]).balance_loss
    loss.backward()
    expected = {name: 50 * gradient for name, gradient in tiny.gradients(model).items()}
    both, found = accumulated(tokens, micro_batches, 50.0, balance)
    task, _ = accumulated(tokens, micro_batches, 0.0, balance)
    assert found.balance == pytest.approx(loss.item(), rel=1e-5)
    assert tiny.difference({name: both[name] - task[name] for name in expected}, expected) < 1e-5


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_hierarchys_loss_is_that_of_the_leaves_of_the_global_batch(text: PackedDataset, micro_batches: int) -> None:
    inner = SparseMoEConfig(
        router=DotProductRouterConfig(dim=tiny.DIM, num_experts=2, top_k=1),
        experts=ExpertsConfig(dim=tiny.DIM, num_experts=2, expert_dim=8),
    )
    moe = HierarchicalMoEConfig(router=DOT, inner=inner, balance=(("eq10", 1.0), ("importance", 0.5))).to_dict()
    tokens, models = batch(text), [tiny.model("xmoe", moe=moe, **MIXED).double() for _ in range(2)]
    loss = models[0](tokens[:, :-1]).balance_loss
    config = with_(micro_batches=micro_batches)
    found = accumulate_gradients(Objective(models[1], "float32"), tokens, config, 1.0)
    assert found.balance == pytest.approx(loss.item(), rel=1e-5) and found.loads[0].shape == (8,)


class Recording(nn.Module):
    """An objective that keeps the counts of selections of each pass, which is what is asked here."""

    def __init__(self, model: MHMoEForCausalLM) -> None:
        super().__init__()
        self.objective, self.counted, self.trained = Objective(model, "float32"), list[Tensor](), list[Tensor]()

    def forward(self, inputs: Tensor, targets: Tensor | None = None) -> Any:
        found = self.objective(inputs, targets)
        (self.counted if targets is None else self.trained).append(torch.stack(found[-2]))
        return found


@pytest.mark.parametrize(
    "router",
    [
        SwitchRouterConfig(dim=tiny.DIM, num_experts=4, jitter=0.9),
        GShardRouterConfig(dim=tiny.DIM, num_experts=4),
    ],
    ids=lambda router: router.kind,
)
def test_what_is_drawn_is_the_same_where_selections_are_counted_first(text: PackedDataset, router: Any) -> None:
    objective = Recording(model_of(router))
    torch.manual_seed(0)
    found = accumulate_gradients(objective, batch(text), with_(micro_batches=4), 0.1)
    counted, trained = torch.stack(objective.counted), torch.stack(objective.trained)
    assert counted.shape == (4, 2, 4) and torch.equal(counted, trained)
    total = trained.sum(0)
    assert torch.allclose(torch.stack(found.loads), total / total.sum(-1, keepdim=True))
    if router.kind == "switch_router":
        torch.manual_seed(1)
        accumulate_gradients(objective, batch(text), with_(micro_batches=4), 0.1)
        assert not torch.equal(torch.stack(objective.trained[4:]), trained), "nothing was drawn"


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_the_bias_takes_one_step_from_the_load_of_the_whole_batch(text: PackedDataset, micro_batches: int) -> None:
    model, tokens = model_of(BALANCED, balance=()), batch(text)
    routing = model.train()(tokens[:, :-1], output_routing=True).routing
    objective = Objective(model, "float32")
    found = accumulate_gradients(objective, tokens, with_(micro_batches=micro_batches), 0.01)
    assert found.balance == 0 and not any(buffer.any() for name, buffer in biases(model))
    rebalance(model, found.loads)
    for (_, bias), of_layer in zip(biases(model), routing, strict=True):
        load = selections(of_layer.index, 4).double()
        assert torch.equal(bias, 0.02 * (load.mean() - load).sign().float()) and bias.any()


def biases(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, buffer) for name, buffer in model.named_buffers() if name.endswith("balancing_bias")]


def test_what_is_drawn_goes_on_from_a_checkpoint_and_leaves_torchs_generator_alone(
    text: PackedDataset, tmp_path: Any
) -> None:
    config, path, states = with_(steps=4, evaluations=1, evaluation_windows=2), tmp_path / "run.pt", []
    router = GShardRouterConfig(dim=tiny.DIM, num_experts=4)
    for ways in ([None], [0.0, None]):
        torch.manual_seed(len(ways))  # another state each time
        for deadline in ways:
            model = model_of(router).double()
            stop: dict[str, Any] = {} if len(ways) == 1 else {"checkpoint": path}
            before = torch.get_rng_state()
            train(model, text, config, seed=0, deadline=math.inf if deadline is None else deadline, **stop)
            assert torch.equal(torch.get_rng_state(), before)
        states.append(model.state_dict())
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())


def test_the_number_of_processes_belongs_to_a_run_whose_routers_draw() -> None:
    def processes(router: Any) -> Any:
        return identity(model_of(router).config, tiny.TRAINING, {}, 2).get("processes")

    assert processes(GShardRouterConfig(dim=tiny.DIM, num_experts=4)) == 2
    assert processes(SwitchRouterConfig(dim=tiny.DIM, num_experts=4)) == 2
    assert processes(SwitchRouterConfig(dim=tiny.DIM, num_experts=4, jitter=0.0)) is None
    assert processes(BALANCED) is None


def test_the_bias_goes_on_from_a_checkpoint_and_under_gradient_checkpointing(
    text: PackedDataset, tmp_path: Any
) -> None:
    config, states = with_(steps=6, evaluations=1, evaluation_windows=2), list[dict[str, Tensor]]()
    for way in ("whole", "in pieces", "checkpointed gradients"):
        model = model_of(BALANCED, balance=()).double()
        if way == "checkpointed gradients":
            tiny.checkpoint_blocks(model, reentrant=False)
        if way == "in pieces":
            path = tmp_path / "run.pt"
            assert train(model, text, config, seed=0, checkpoint=path, deadline=0.0) is None
            model = model_of(BALANCED, balance=()).double()
            assert train(model, text, config, seed=0, checkpoint=path) is not None
        else:
            assert train(model, text, config, seed=0) is not None
        states.append(model.state_dict())
    for state in states[1:]:
        for name, value in states[0].items():
            assert torch.allclose(state[name], value, rtol=1e-9), name
    steps = states[0]["model.layers.0.feed_forward.router.balancing_bias"] / 0.02
    assert torch.allclose(steps, steps.round(), atol=1e-4) and steps.any()


def test_the_bias_evens_out_the_load_of_a_model_in_training(text: PackedDataset) -> None:
    spread = dict[str, float]()
    for name, router in (("with", BALANCED), ("without", BALANCED.replace(bias_step=0.0))):
        model = model_of(router, balance=())
        assert train(model, text, with_(steps=40, evaluations=1, evaluation_windows=2), seed=0) is not None
        routing = model.eval()(batch(text, step=50)[:, :-1], output_routing=True).routing
        loads = [selections(of_layer.index, 4).double() for of_layer in routing]
        spread[name] = float(sum(load.std(correction=0) / load.mean() for load in loads))
    assert spread["with"] < 0.6 * spread["without"], spread


def test_losses_of_other_layers_are_equation_10_and_a_mixture_of_both_is_refused() -> None:
    model = model_of(DOT, balance=(("z", 1.0),))
    assert [loss.is_eq10 for loss in balance_losses(model, 2)] == [False, False]
    assert all(loss.is_eq10 for loss in balance_losses(tiny.model("dense"), 3))
    with pytest.raises(ValueError, match="2 mixtures have a balance loss of their own, but 3 blocks route"):
        balance_losses(model, 3)
