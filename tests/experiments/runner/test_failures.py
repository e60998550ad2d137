"""A run that fails does not keep the others of a queue from being done, and is not passed over in silence."""

import dataclasses
from pathlib import Path

import pytest

from experiments.runner import launch
from experiments.runner.launch import Options, run_missing
from experiments.runner.runs import Run
from experiments.table1_perplexity import PAGE as TABLE1
from mhmoe.io import UserError
from tests.mini import MINI, at_rate
from tests.tiny import ZipfText

SCALE = dataclasses.replace(at_rate(MINI, 0.01), corpus=ZipfText)


class Executed:
    """In the place of `execute`: fails for some systems, and leaves no record of the others."""

    def __init__(self, failing: set[str]) -> None:
        self.failing, self.done = failing, list[str]()

    def __call__(self, run: Run, *_: object, **__: object) -> bool:
        if run.system.name in self.failing:
            raise RuntimeError(f"{run.system.name} is broken")
        self.done.append(run.name)
        return True


def run_all(failing: set[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Executed, list[str]]:
    """What was done, and the published runs that were asked for."""
    executed = Executed(failing)
    options = Options(seeds=tuple(SCALE.seeds), results=folder / "results", cache=folder / "cache")
    wanted = [run.name for run in TABLE1.runs(SCALE, SCALE.seeds, options.records(SCALE)) if not run.waits_for]
    monkeypatch.setattr(launch, "execute", executed)
    monkeypatch.setattr(  # a run that was done leaves the queue, as its record would make it
        launch.Records,
        "pending_runs",
        lambda _, runs: [run for run in runs if run.name not in executed.done and not run.waits_for],
    )
    run_missing(TABLE1, SCALE, options)
    return executed, wanted


def test_all_others_are_done_and_then_its_error_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="xmoe_8 is broken"):
        run_all({"xmoe_8"}, tmp_path, monkeypatch)
    assert "english-xmoe_8-seed1 failed, the others go on" in capsys.readouterr().err
    executed = launch.execute
    assert isinstance(executed, Executed) and len(executed.done) > 5
    assert not any("xmoe_8-" in name for name in executed.done)


def test_of_several_all_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"2 runs failed; .*dense is broken; .*xmoe_32 is broken"):
        run_all({"dense", "xmoe_32"}, tmp_path, monkeypatch)


def test_after_three_in_a_row_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = {run.system.name for run in TABLE1.runs(SCALE, SCALE.seeds, Options(seeds=(1,)).records(SCALE))}
    with pytest.raises(RuntimeError, match="is broken"):
        run_all(every, tmp_path, monkeypatch)
    executed = launch.execute
    assert isinstance(executed, Executed) and executed.done == []


def test_without_a_failure_nothing_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executed, wanted = run_all(set(), tmp_path, monkeypatch)
    assert executed.done == wanted
