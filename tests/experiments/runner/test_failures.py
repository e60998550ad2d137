"""A run that fails does not keep the others of a queue from being done, and is not passed over in silence."""

import dataclasses
import gc
import shutil
import subprocess
import tarfile
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.kinds.comparison import DROPPED
from experiments.runner import launch, run_command
from experiments.runner.failures import Failures
from experiments.runner.launch import Options, run_all
from experiments.runner.run_command import Arguments, execute_command
from experiments.runner.store import Records
from experiments.runner.task import IN_ARRAY, Task
from experiments.table1_perplexity import PAGE as TABLE1
from mhmoe.io import RunError, UserError
from tests.finished import measure, train
from tests.mini import MINI, at_rate
from tests.tiny import ZipfText

SCALE = dataclasses.replace(at_rate(MINI, 0.01), corpus=ZipfText)
PAGE = dataclasses.replace(TABLE1, rows=TABLE1.rows[:3], claims=())
NAMES = [row.system.name for row in PAGE.rows]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
    """What training raises, by what the name of the run contains."""
    errors = dict[str, Exception]()
    train = launch.execute

    def execute(run: Any, *rest: Any, **others: Any) -> bool:
        for part, error in errors.items():
            if part in run.name:
                raise error
        return train(run, *rest, **others)

    monkeypatch.setattr(launch, "execute", execute)
    return errors


def options(folder: Path) -> Options:
    return Options(seeds=(1,), results=folder / "results", cache=folder / "cache", train_only=True)


def done(folder: Path, scale: Any = SCALE) -> set[str]:
    return {record.system for record in Records(scale, folder / "results").by_name.values() if record.seed == 1}


def test_all_others_are_done_and_it_is_told_at_once_and_at_the_end(
    tmp_path: Path, broken: dict[str, Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    broken[f"-{NAMES[0]}-"] = RuntimeError("no such kernel")
    broken[f"-{NAMES[2]}-"] = RunError("the task loss is not finite")
    with pytest.raises(
        UserError, match=rf"^2 failed, as told above: english-{NAMES[0]}-seed1, english-{NAMES[2]}-seed1$"
    ):
        train(PAGE, SCALE, options(tmp_path))
    said = capsys.readouterr().err
    assert f"english-{NAMES[0]}-seed1 failed, the others go on: RuntimeError" in said and "Traceback" in said
    assert f"english-{NAMES[2]}-seed1 failed, the others go on: the task loss is not finite" in said
    assert done(tmp_path) == {NAMES[1]}


def test_what_is_done_is_carried_away_although_a_run_has_failed(
    tmp_path: Path, broken: dict[str, Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken[f"-{NAMES[0]}-"] = RuntimeError("no such kernel")
    monkeypatch.setattr(run_command, "CACHE", tmp_path / "text")
    out = tmp_path / "new.tar"
    command = Arguments(slugs=("table1",), seeds=(1,), results=tmp_path / "results", out=out, train_only=True)
    with pytest.raises(UserError, match="1 failed"):
        execute_command(PAGE, SCALE, command)
    with tarfile.open(out) as tar:
        assert set(tar.getnames()) == {f"runs/mini/english-{name}-seed1.json" for name in NAMES[1:]}


def test_final_runs_do_not_wait_for_a_rate_that_a_failed_run_was_to_help_to_choose(
    tmp_path: Path, broken: dict[str, Exception]
) -> None:
    scale = dataclasses.replace(MINI, corpus=ZipfText)
    broken[f"-{NAMES[0]}-lr0.02-"] = RunError("the task loss is not finite")
    with pytest.raises(UserError, match=rf"^1 failed, as told above: english-{NAMES[0]}-lr0.02-seed1000$"):
        train(PAGE, scale, options(tmp_path))
    assert done(tmp_path, scale) == {NAMES[1], NAMES[2]}


@pytest.mark.parametrize("error", [UserError("no space"), OSError(28, "No space left on device")], ids=repr)
def test_what_would_befall_the_others_too_ends_the_command(
    tmp_path: Path, broken: dict[str, Exception], error: Exception
) -> None:
    broken["english"] = error
    with pytest.raises(type(error)):
        train(PAGE, SCALE, options(tmp_path))
    assert Failures(SCALE, tmp_path / "cache").names() == set() and done(tmp_path) == set()


def test_a_job_passes_over_what_failed_in_another_and_the_next_command_tries_it_again(
    tmp_path: Path, broken: dict[str, Exception]
) -> None:
    failed = Failures.new(SCALE, tmp_path / "cache")
    with failed.noted(f"english-{NAMES[0]}-seed1"):
        raise RuntimeError("out of memory")
    assert run_all(PAGE, SCALE, options(tmp_path))
    assert done(tmp_path) == {NAMES[1], NAMES[2]}
    assert train(PAGE, SCALE, options(tmp_path)) and done(tmp_path) == set(NAMES)


def test_a_job_of_an_array_keeps_what_the_others_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Failures.new(SCALE, tmp_path).noted("one"):
        raise RuntimeError("out of memory")
    given: dict[str, str] = {}
    monkeypatch.setattr(subprocess, "run", lambda *_, env, **__: given.update(env))
    Task(["run"], 1, together=False)()
    monkeypatch.setenv(IN_ARRAY, given[IN_ARRAY])
    assert Failures.new(SCALE, tmp_path).names() == {"one"}
    monkeypatch.delenv(IN_ARRAY)
    assert Failures.new(SCALE, tmp_path).names() == set()


def test_finished_models_are_measured_although_a_run_failed(tmp_path: Path, broken: dict[str, Exception]) -> None:
    broken[f"-{NAMES[0]}-"] = RuntimeError("no such kernel")
    measured = dataclasses.replace(DROPPED, settings={**DROPPED.settings, "batch_sequences": 2, "batches": 1})
    page = dataclasses.replace(PAGE, measurements=(measured,))
    with pytest.raises(UserError, match="1 failed"):
        run_all(page, SCALE, dataclasses.replace(options(tmp_path), train_only=False))
    found = {path.stem for path in (tmp_path / "results" / "measurements").rglob("*.json")}
    assert found == {f"english-{name}-seed1" for name in NAMES[1:]}


def test_a_model_that_does_not_come_out_again_is_tried_once_for_all_measurements(
    tmp_path: Path, broken: dict[str, Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    here = dataclasses.replace(options(tmp_path), train_only=False)
    assert train(PAGE, SCALE, here)
    shutil.rmtree(tmp_path / "cache" / "models")
    broken[f"-{NAMES[1]}-"] = RunError("it differs")
    settings = {**DROPPED.settings, "batch_sequences": 2, "batches": 1}
    two = tuple(dataclasses.replace(DROPPED, name=name, settings=settings) for name in ("one", "two"))
    with pytest.raises(UserError, match=rf"^1 failed, as told above: english-{NAMES[1]}-seed1$"):
        measure(dataclasses.replace(PAGE, measurements=two), SCALE, here)
    assert capsys.readouterr().err.count("it differs") == 1
    measured = (tmp_path / "results" / "measurements").rglob("*.json")
    assert sorted(path.stem for path in measured) == sorted(2 * [f"english-{NAMES[i]}-seed1" for i in (0, 2)])


def test_nothing_of_a_failed_run_is_held(tmp_path: Path) -> None:
    failures = Failures.new(SCALE, tmp_path)
    kept: list[weakref.ref[torch.nn.Module]] = []

    def train() -> None:
        model = torch.nn.Linear(2, 2)
        kept.append(weakref.ref(model))
        raise RuntimeError("out of memory")

    with failures.noted("a run"):
        train()
    gc.collect()
    assert kept[0]() is None and failures.own == ["a run"]
