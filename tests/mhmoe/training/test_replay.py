"""Which training steps are recorded as a CUDA graph; that a record gives the same numbers, tests/gpu/ holds."""

import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.gshard_router import GShardRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.objective import Objective, accumulate_gradients
from mhmoe.training.replay import Gradients, records
from tests import tiny

GSHARD = SparseMoEConfig(
    router=GShardRouterConfig(dim=32, num_experts=4, top_k=2),
    experts=ExpertsConfig(dim=32, num_experts=4, expert_dim=8),
)


def objective(device: str, layer: LayerConfig | None = None) -> Objective:
    model = tiny.model("full")
    if layer is not None:
        model = MHMoEForCausalLM(model.config.__class__(**{**model.config.to_dict(), "moe": layer.to_dict()}))
    found = Objective(model, "float32")
    with FakeTensorMode():
        anywhere = torch.nn.Parameter(torch.empty(1, device=device))
    found.parameters = lambda recurse=True: iter([anywhere])  # pyright: ignore[reportAttributeAccessIssue]
    return found


def test_steps_on_a_card_are_and_on_a_cpu_are_not() -> None:
    assert records(objective("cuda"), tiny.TRAINING) and not records(objective("cpu"), tiny.TRAINING)


@pytest.mark.parametrize("change", [{"micro_batches": 2}, {"compile": True}], ids=str)
def test_steps_in_parts_or_compiled_are_not(change: dict[str, int]) -> None:
    assert not records(objective("cuda"), dataclasses.replace(tiny.TRAINING, **change))


def test_steps_are_not_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MHMOE_GRAPH", "0")
    assert not records(objective("cuda"), tiny.TRAINING)


def test_steps_that_draw_or_are_shared_among_processes_are_not() -> None:
    assert not records(objective("cuda", GSHARD), tiny.TRAINING)
    assert not records(torch.nn.Sequential(objective("cuda")), tiny.TRAINING)


def test_on_a_cpu_the_gradients_are_those_of_every_step() -> None:
    tokens = torch.randint(0, 50, (4, tiny.TRAINING.length + 1))
    found = list[tuple[float, ...]]()
    for replayed in (False, True):
        model = tiny.model("full")
        whole = Objective(model, "float32")
        if replayed:
            losses = Gradients(whole, tiny.TRAINING, 0.01)(tokens)
        else:
            losses = accumulate_gradients(whole, tokens, tiny.TRAINING, 0.01)
        sums = [float(p.grad.sum()) for p in model.parameters() if p.grad is not None]
        found.append((losses.nll, losses.balance, *sums))
    assert found[0] == found[1]
