"""Two processes train as one: the same gradients, the same weights; they stop and go on together."""

import dataclasses
import os
import shutil
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mhmoe.data.batches import TrainingBatches
from mhmoe.data.packing import PackedDataset, load_packed
from mhmoe.io import UserError
from mhmoe.layers.balanced_router import BalancedRouterConfig
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training import loop, objective
from mhmoe.training.checkpoint import read_checkpoint
from mhmoe.training.loop import train
from mhmoe.training.objective import Objective, accumulate_gradients
from tests import tiny
from tests.processes import together

SYSTEMS = ("dense", "xmoe", "mhmoe_compute", "mhmoe_parameters")
MICRO_BATCHES = (1, 2)
WEIGHTS = (0.0, 0.5)
CONFIG = dataclasses.replace(tiny.TRAINING, steps=10, length=16, evaluations=5)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return tiny.text(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def two(text: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found; they run `work` below."""
    return together(work, tmp_path_factory.mktemp("two"), 2, text.folder)


def work(folder: Path, packed: str) -> dict[str, Any]:
    """What one of two processes does."""
    rank = dist.get_rank()
    for name in ("RANK", "WORLD_SIZE"):  # which processes that met otherwise than by torchrun have not
        del os.environ[name]
    text, found = load_packed(Path(packed)), dict[str, Any]()

    batches = TrainingBatches(text.train, CONFIG.length, CONFIG.batch_sequences, seed=0)
    tokens = torch.from_numpy(batches.batch(0, rank, 2))
    for system in SYSTEMS:
        for micro_batches in MICRO_BATCHES:
            for weight in WEIGHTS:
                model = tiny.model(system)
                objective = nn.parallel.DistributedDataParallel(Objective(model, "float32"))
                config = dataclasses.replace(CONFIG, micro_batches=micro_batches)
                losses = accumulate_gradients(objective, tokens, config, weight)[:2]
                found[f"{system} {micro_batches} {weight}"] = (tiny.gradients(model), losses)

    model = tiny.model("mhmoe_compute", balance_weight=0.1).double()
    progress = train(model, text, CONFIG, seed=0)
    assert progress is not None
    found["trained"] = (model.state_dict(), progress.curve)

    def in_one_storage(model: nn.Module, _: float) -> torch.Tensor:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found["storages"] = len({g.untyped_storage().data_ptr() for g in gradients}), len(gradients)
        return loop.nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip_norm)

    with patch.object(loop, "clip_gradients", in_one_storage):
        train(tiny.model("dense"), text, dataclasses.replace(CONFIG, steps=2, evaluations=1), seed=0)

    model = balanced_by_bias_and_importance()
    assert train(model, text, CONFIG, seed=0) is not None
    found["balanced"] = model.state_dict()

    path = folder / "capacity.pt"
    assert train(with_capacity(), text, CONFIG, seed=0, checkpoint=path, deadline=0.0) is None

    # The second process believes to have more time.
    path, pieces = folder / "run.pt", list[int]()
    model = tiny.model("mhmoe_compute", balance_weight=0.1).double()
    deadline = time.monotonic() + (0.0 if rank == 0 else 3600.0)
    assert train(model, text, CONFIG, seed=0, checkpoint=path, deadline=deadline) is None
    dist.barrier()
    pieces.append(read_checkpoint(path)["progress"]["step"])
    model = tiny.model("mhmoe_compute", seed=9, balance_weight=0.1).double()
    progress = train(model, text, CONFIG, seed=0, checkpoint=path)
    assert progress is not None
    found["in pieces"] = (model.state_dict(), progress.curve, pieces)
    return found | {"folder": str(folder)}


@pytest.mark.parametrize("micro_batches", MICRO_BATCHES)
@pytest.mark.parametrize("system", SYSTEMS)
def test_two_processes_give_the_task_gradient_of_one(
    text: PackedDataset, two: list[dict[str, Any]], system: str, micro_batches: int
) -> None:
    model = tiny.model(system)
    tokens = torch.from_numpy(TrainingBatches(text.train, CONFIG.length, 8, seed=0).batch(0))
    nll, *_ = accumulate_gradients(Objective(model, "float32"), tokens, CONFIG, 0.0)
    expected = tiny.gradients(model)
    for rank in two:
        gradients, _ = rank[f"{system} {micro_batches} 0.0"]
        assert tiny.worst_tensor(gradients, expected) < 1e-5
    losses = [rank[f"{system} {micro_batches} 0.0"][1][0] for rank in two]
    assert sum(losses) / 2 == pytest.approx(nll, rel=1e-6) and losses[0] != losses[1]


@pytest.mark.parametrize("micro_batches", MICRO_BATCHES)
@pytest.mark.parametrize("system", [s for s in SYSTEMS if s != "dense"])
def test_two_processes_give_the_balance_loss_and_gradient_of_one(
    text: PackedDataset, two: list[dict[str, Any]], system: str, micro_batches: int
) -> None:
    """Of the whole global batch at once, computed here by the model itself."""
    model = tiny.model(system)
    tokens = torch.from_numpy(TrainingBatches(text.train, CONFIG.length, 8, seed=0).batch(0))
    loss = model(tokens[:, :-1]).balance_loss
    loss.backward()
    expected = {name: 0.5 * gradient for name, gradient in tiny.gradients(model).items()}
    for rank in two:
        task, _ = rank[f"{system} {micro_batches} 0.0"]
        both, _ = rank[f"{system} {micro_batches} 0.5"]
        assert tiny.difference({name: both[name] - task[name] for name in expected}, expected) < 1e-5
    balances = [rank[f"{system} {micro_batches} 0.5"][1][1] for rank in two]
    assert sum(balances) / 2 == pytest.approx(loss.item(), rel=1e-6)


def test_training_on_two_processes_gives_the_weights_and_the_curve_of_one(
    text: PackedDataset, two: list[dict[str, Any]]
) -> None:
    model = tiny.model("mhmoe_compute", balance_weight=0.1).double()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    progress = train(model, text, CONFIG, seed=0)
    assert progress is not None
    for weights, curve in (rank["trained"] for rank in two):
        assert tiny.difference(weights, model.state_dict()) < 1e-5
        assert tiny.difference(start, model.state_dict()) > 0.01
        for ours, expected in zip(curve, progress.curve, strict=True):
            for name in ("step", "tokens", "task_loss", "balance_loss", "valid_nll"):
                assert ours[name] == pytest.approx(expected[name], rel=1e-5)
    assert all(torch.equal(value, two[1]["trained"][0][name]) for name, value in two[0]["trained"][0].items())


def test_gradients_lie_in_the_buckets_that_are_sent_and_not_beside_them(two: list[dict[str, Any]]) -> None:
    """Of the last step, by when DDP knows the order of its buckets."""
    for rank in two:
        storages, gradients = rank["storages"]
        assert storages < gradients / 2


def balanced_by_bias_and_importance() -> MHMoEForCausalLM:
    router = BalancedRouterConfig(dim=tiny.DIM, num_experts=4, top_k=2, bias_step=0.02)
    experts = ExpertsConfig(dim=tiny.DIM, num_experts=4, expert_dim=16)
    moe = SparseMoEConfig(router=router, experts=experts, balance=(("importance", 1.0), ("z", 0.1)))
    return tiny.model("xmoe", moe=moe.to_dict(), balance_weight=0.1).double()


@pytest.mark.parametrize("micro_batches", MICRO_BATCHES)
def test_biases_and_losses_that_need_the_means_of_all_are_those_of_one_process(
    text: PackedDataset, two: list[dict[str, Any]], micro_batches: int
) -> None:
    model = balanced_by_bias_and_importance()
    assert train(model, text, dataclasses.replace(CONFIG, micro_batches=micro_batches), seed=0) is not None
    for rank in two:
        assert tiny.difference(rank["balanced"], model.state_dict()) < 1e-5
        biases = [name for name in rank["balanced"] if name.endswith("balancing_bias")]
        assert biases and all(torch.equal(rank["balanced"][name], model.state_dict()[name]) for name in biases)
        assert all(rank["balanced"][name].any() for name in biases)


def with_capacity() -> MHMoEForCausalLM:
    moe = tiny.config("xmoe").moe
    assert moe is not None
    return tiny.model("xmoe", moe=moe | {"capacity_factor": 1.0})


def test_with_a_capacity_another_number_of_processes_is_another_run(
    text: PackedDataset, two: list[dict[str, Any]], tmp_path: Path
) -> None:
    """What is dropped depends on each process's share; without a capacity the run is the same, and goes on."""
    folder = Path(two[0]["folder"])
    with pytest.raises(UserError, match="belongs to another run"):
        train(with_capacity(), text, CONFIG, seed=0, checkpoint=Path(shutil.copy(folder / "capacity.pt", tmp_path)))
    model = tiny.model("mhmoe_compute", seed=9, balance_weight=0.1).double()
    assert train(model, text, CONFIG, seed=0, checkpoint=Path(shutil.copy(folder / "run.pt", tmp_path))) is not None


def test_two_processes_stop_together_at_the_earlier_deadline_and_go_on_as_if_they_had_not(
    two: list[dict[str, Any]],
) -> None:
    for rank in two:
        weights, curve, pieces = rank["in pieces"]
        assert pieces == [1]
        assert all(torch.equal(value, weights[name]) for name, value in rank["trained"][0].items())
        assert [p["task_loss"] for p in curve] == [p["task_loss"] for p in rank["trained"][1]]


def test_a_compiled_module_too_adds_up_over_processes_once_a_batch() -> None:
    inner = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(inner)
    compiled = nn.Module()
    compiled._orig_mod = inner  # as what torch.compile gives has it
    for now in (False, True):
        objective._add_up_over_processes(compiled, now)
        assert inner.require_backward_grad_sync is now
