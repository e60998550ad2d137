"""One model on two or four processes trains as on one: FSDP2, expert parallelism, Head Parallel, checkpoints."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from baselines.multi_head_latentmoe import multi_head_latentmoe
from mhmoe.data.batches import TrainingBatches
from mhmoe.data.packing import PackedDataset, load_packed
from mhmoe.layers.balanced_router import BalancedRouterConfig
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.routers import XMoERouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import Sharding
from mhmoe.training.loop import train
from mhmoe.training.objective import Objective, accumulate_gradients
from mhmoe.training.sharded_checkpoint import whole_model
from tests import tiny
from tests.commands import program

CONFIG = dataclasses.replace(tiny.TRAINING, steps=20, length=16, evaluations=20, evaluation_windows=4)
SHARDED, REPLICATED = Sharding(), Sharding(parameters="replicated", expert_parallel=2)
BOTH = Sharding(expert_parallel=2)


def mhmoe() -> MHMoEForCausalLM:
    return tiny.model("mhmoe_compute", balance_weight=0.1)


def top_two() -> MHMoEForCausalLM:
    """All kinds of parameters that experts have."""
    router = XMoERouterConfig(dim=tiny.DIM, num_experts=4, top_k=2, router_dim=8)
    experts = ExpertsConfig(dim=tiny.DIM, num_experts=4, expert_dim=16, bias=True, inner_norm=True)
    return tiny.model("xmoe", moe=SparseMoEConfig(router=router, experts=experts).to_dict(), balance_weight=0.1)


def one_expert() -> MHMoEForCausalLM:
    """A bias makes all tokens choose the last expert, and the others have none."""
    router = BalancedRouterConfig(dim=tiny.DIM, num_experts=4, bias_step=0.001)
    experts = ExpertsConfig(dim=tiny.DIM, num_experts=4, expert_dim=16)
    moe = SparseMoEConfig(router=router, experts=experts, balance=(("importance", 1.0), ("z", 0.1)))
    model = tiny.model("xmoe", moe=moe.to_dict(), balance_weight=0.1)
    for name, bias in model.named_buffers():
        if name.endswith("balancing_bias"):
            bias[-1] = 100.0
    return model


def heads() -> MHMoEForCausalLM:
    """Each of four heads has a router and four experts of its own."""
    moe = multi_head_latentmoe(tiny.DIM, 4, 4, expert_dim=8)
    return tiny.model("xmoe", moe=moe.to_dict(), balance_weight=0.1)


SYSTEMS: dict[str, Callable[[], MHMoEForCausalLM]] = {
    "mhmoe": mhmoe,
    "top_two": top_two,
    "one_expert": one_expert,
    "heads": heads,
}
QUICK = {
    "mhmoe sharded": ("mhmoe", SHARDED),
    "top_two replicated": ("top_two", REPLICATED),
    "one_expert both": ("one_expert", BOTH),
    "heads both": ("heads", BOTH),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return tiny.text(tmp_path_factory.mktemp("cache"))


def launch(text: PackedDataset, folder: Path, processes: int, work: str) -> list[dict[str, Any]]:
    """What each of the processes found, which run the function `work` of this file."""
    code = (
        f"import sys; from tests.mhmoe.training import test_sharding as t; t.begin(t.{work}, sys.argv[1], sys.argv[2])"
    )
    environment = {"WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    commands = [program(code, text.folder, folder, RANK=str(rank), **environment) for rank in range(processes)]
    try:
        for command in commands:
            ended = command.wait()
            assert ended.code == 0, ended.err
    finally:
        for command in commands:
            command.process.kill()
    return [torch.load(folder / f"rank{rank}") for rank in range(processes)]


def begin(work: Callable[[PackedDataset, Path], dict[str, Any]], packed: str, folder: str) -> None:
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    torch.save(work(load_packed(Path(packed)), Path(folder)), Path(folder) / f"rank{rank}")
    dist.destroy_process_group()


def gradients_on(model: MHMoEForCausalLM, text: PackedDataset, micro_batches: int = 1) -> dict[str, torch.Tensor]:
    """Of the first batch; whole tensors, of the parameters that this process has a part of."""
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    batches = TrainingBatches(text.train, CONFIG.length, CONFIG.batch_sequences, seed=0)
    tokens = torch.from_numpy(batches.batch(0, rank, processes))
    config = dataclasses.replace(CONFIG, micro_batches=micro_batches)
    accumulate_gradients(Objective(model, "float32"), tokens, config, 0.5)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    whole = {name: g.full_tensor() if isinstance(g, DTensor) else g.clone() for name, g in found.items()}
    model.zero_grad()
    return whole


def trained(name: str, sharding: Sharding | None, text: PackedDataset, folder: Path) -> dict[str, Any]:
    model = SYSTEMS[name]().double()
    progress = train(model, text, CONFIG, seed=0, checkpoint=folder, sharding=sharding)
    assert progress is not None
    return {"curve": progress.curve, "gradients": gradients_on(model, text, micro_batches=2)}


def quick(text: PackedDataset, folder: Path) -> dict[str, Any]:
    return {case: trained(name, sharding, text, folder / case) for case, (name, sharding) in QUICK.items()}


@pytest.fixture(scope="module")
def two(text: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return launch(text, tmp_path_factory.mktemp("two"), 2, "quick")


@pytest.fixture(scope="module")
def one(text: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("one")
    return {name: trained(name, None, text, folder / name) for name in SYSTEMS}


@pytest.mark.parametrize("case", QUICK)
def test_two_processes_train_a_sharded_model_as_one_does(
    one: dict[str, Any], two: list[dict[str, Any]], case: str
) -> None:
    assert_same([rank[case] for rank in two], one[QUICK[case][0]])


def assert_same(ours: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    for rank in ours:
        assert len(rank["curve"]) == CONFIG.steps
        for point, wanted in zip(rank["curve"], expected["curve"], strict=True):
            for name in ("step", "task_loss", "balance_loss", "valid_nll"):
                assert point[name] == pytest.approx(wanted[name], rel=1e-5)
        own = {name: expected["gradients"][name] for name in rank["gradients"]}
        assert tiny.worst_tensor(rank["gradients"], own) < 1e-5
    assert {name for rank in ours for name in rank["gradients"]} == expected["gradients"].keys()
