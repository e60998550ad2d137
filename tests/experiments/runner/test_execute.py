"""What a record says of the command that made it; a run on several processes leaves what one leaves."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from experiments.runner.execute import command, execute, model_folder
from experiments.runner.runs import Run, run_config
from experiments.runner.store import RESULTS, Records
from experiments.scales import Scale
from experiments.system import System
from experiments.table1_perplexity import PAGE as TABLE1
from mhmoe.data.packing import load_packed, pack
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import Sharding
from mhmoe.training.record import fingerprint
from tests.forged import forged
from tests.mini import MINI, at_rate
from tests.processes import together
from tests.tiny import ZipfText

FIXED = at_rate(MINI, 0.01)


def test_a_command_is_told_without_the_places_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = ["run", str(tmp_path / "mine.py"), "--results", str(RESULTS.parent / "results-own" / "x"), "--data", "text"]
    monkeypatch.setattr(sys, "argv", ["experiments", *given])
    assert command() == "python -m experiments run mine.py --results results-own/x --data text"
    monkeypatch.setattr(sys, "argv", ["experiments", "run", "table1", f"--data={tmp_path / 'secret' / 'my.txt'}"])
    assert command() == "python -m experiments run table1 --data=my.txt"


def test_a_record_whose_heads_were_shared_out_is_current(tmp_path: Path) -> None:
    def layer(scale: Scale) -> MultiHeadConfig:
        width = scale.model["hidden_size"] // 2
        router = PerHeadRouterConfig.of(DotProductRouterConfig(dim=width, num_experts=2, top_k=1), 2)
        experts = ExpertsConfig(dim=width, num_experts=4, expert_dim=8)
        inner = SparseMoEConfig(router=router, experts=experts, capacity_factor=1.0)  # what is dropped depends on it
        return MultiHeadConfig(dim=2 * width, heads=2, inner=inner)

    run = dataclasses.replace(xmoe_run(Records(FIXED, tmp_path)), system=System("heads", "", layer))
    record = forged(run)
    config = run_config(run, record.config["data"], 4, Sharding(expert_parallel=2))
    assert (config["processes"], config["head_parallel"]) == (4, 2)
    shared_out = dataclasses.replace(record, config=config, fingerprint=fingerprint(config, run.seed))
    records = Records(FIXED, tmp_path)
    for each in (record, shared_out):
        records.by_name = {run.name: each}
        assert records.state(run) == "done"
    assert record.fingerprint != shared_out.fingerprint


def xmoe_run(records: Records) -> Run:
    return next(run for run in TABLE1.runs(FIXED, FIXED.seeds, records) if run.tests and "xmoe" in run.name)


def executed(folder: Path, packed: str) -> str:
    """Runs it in `folder`; its record's text, in the first process."""
    records = Records(FIXED, folder / "results")
    run, sharding = xmoe_run(records), Sharding(expert_parallel=2) if dist.is_initialized() else None
    assert execute(run, load_packed(Path(packed)), records, folder / "cache", sharding=sharding)
    if dist.is_initialized():
        dist.barrier()
    return records.path(run).read_text()


@pytest.mark.slow
def test_a_sharded_run_leaves_the_record_and_the_model_of_an_unsharded_one(tmp_path: Path) -> None:
    packed = pack(ZipfText(), FIXED.packing, tmp_path / "text").folder
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    executed(tmp_path / "one", str(packed))
    together(executed, tmp_path / "two", 2, packed)
    records = [Records(FIXED, tmp_path / folder / "results") for folder in ("one", "two")]
    run = xmoe_run(records[0])
    one, two = (each.by_name[run.name] for each in records)
    assert one.fingerprint == two.fingerprint and one.parameters == two.parameters
    for split in ("valid", "test"):
        assert two.metrics[split]["nll_per_token"] == pytest.approx(one.metrics[split]["nll_per_token"], rel=1e-5)
    models = [
        MHMoEForCausalLM.from_pretrained(model_folder(run, tmp_path / folder / "cache")) for folder in ("one", "two")
    ]
    for ours, theirs in zip(models[1].parameters(), models[0].parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert [path for path in (tmp_path / "two" / "cache" / "checkpoints").rglob("*") if path.is_file()] == []
