"""Every record is listed with its hash; one that was edited, lost or slipped in is found; others can be taken in."""

import copy
import dataclasses
import json
import multiprocessing
import signal
import subprocess
from pathlib import Path

import pytest

from experiments.catalog import pages
from experiments.kinds.routing import EXPERT_ACTIVATION
from experiments.runner.manifest import NAME, differences, register, write_listed
from experiments.runner.measurements import path_of, save
from experiments.runner.runs import Run, run_config
from experiments.runner.store import COMMITTED, RESULTS, Records
from experiments.runner.validation import judge, order, take_in
from experiments.scales import SCALES
from experiments.table1_perplexity import PAGE as TABLE1
from mhmoe.io import UserError
from mhmoe.training.record import Record, fingerprint
from tests import forged
from tests.commands import program
from tests.fake_records import PROVENANCE
from tests.mini import MINI

KNOWN = list(pages().values())


def records_at(folder: Path) -> Path:
    for name in ("a.json", "b/c.json"):
        write_listed(folder / name, f'"{name}"\n', folder)
    return folder


# ---- the list -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["runs", "measurements"])
@pytest.mark.parametrize("scale", COMMITTED, ids=lambda scale: scale.name)
def test_committed_records_are_as_they_are_listed(kind: str, scale) -> None:
    assert differences(RESULTS / kind / scale.name) == []


def test_sha256sum_reads_the_list(tmp_path: Path) -> None:
    folder = records_at(tmp_path / "runs" / "mini")
    assert subprocess.run(["sha256sum", "--check", "--strict", "--quiet", NAME], cwd=folder).returncode == 0


def test_what_was_edited_slipped_in_or_lost_is_named(tmp_path: Path) -> None:
    folder = records_at(tmp_path / "runs" / "mini")
    assert differences(folder) == []
    (folder / "a.json").write_text('"A"\n')
    (folder / "new.json").write_text("1\n")
    (folder / "b" / "c.json").unlink()
    assert differences(folder) == [
        "runs/mini/a.json was changed",
        "runs/mini/b/c.json is missing",
        f"runs/mini/new.json is not in {NAME}",
    ]
    register(folder / "a.json", folder)
    assert len(differences(folder)) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from experiments.runner.manifest import write_listed
replace = os.replace
def stop(source, target):  # in the middle of whatever is written after the list
    replace(source, target) if target.name == "SHA256SUMS" else os.kill(os.getpid(), signal.SIGKILL)
os.replace = stop
folder = Path(sys.argv[1])
write_listed(folder / "a.json", "1", folder)
"""


def test_a_run_that_was_killed_between_list_and_record_is_healed_by_being_done_again(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mini"
    assert program(KILLED, folder).wait().code == -signal.SIGKILL
    assert differences(folder) == ["runs/mini/a.json is missing"]
    write_listed(folder / "a.json", "2\n", folder)
    assert differences(folder) == []


def _write_many(folder: Path, process: int) -> None:
    for i in range(20):
        write_listed(folder / f"{process}-{i}.json", f"{i}\n", folder)


def test_processes_that_write_at_once_lose_no_line(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mini"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write_many, args=(folder, i)) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len((folder / NAME).read_text().splitlines()) == 80 and differences(folder) == []


@pytest.mark.parametrize("text", ["no hash\n", "0" * 64 + "\n", "\xff"])
def test_a_damaged_list_is_named_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=rf"{NAME}.* git") as refused:
        differences(tmp_path)
    assert "\n" not in str(refused.value)


# ---- what somebody sends --------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results in which the learning rates of one scale are chosen, and that scale is declared."""
    monkeypatch.setitem(SCALES, "mini", MINI)
    for run in TABLE1.runs(MINI, (), Records(MINI, tmp_path / "results")):
        forged.save(forged.forged(run), tmp_path / "results")
    return tmp_path / "results"


def final(results: Path, seed: int = 1) -> Run:
    runs = TABLE1.runs(MINI, (seed,), Records(MINI, results))
    return next(run for run in runs if run.tests)


def sent(record: Record, folder: Path) -> Path:
    path = folder / "sent" / f"{record.name}.json"
    record.save(path)
    return path


def test_a_record_of_a_declared_run_is_current_and_taken_in(results: Path, tmp_path: Path) -> None:
    path = sent(forged.forged(final(results)), tmp_path)
    judged = judge(path, KNOWN, results)
    assert judged.verdict == "current" and judged.name == "mini english-dense-seed1"
    take_in(path, judged)
    assert judged.place.read_bytes() == path.read_bytes()
    assert all("is not in" in line for line in differences(results / "runs" / "mini"))  # the forged grid
    assert not any(judged.place.name in line for line in differences(results / "runs" / "mini"))
    take_in(path, judged)  # once more changes nothing
    take_in(judged.place, judge(judged.place, KNOWN, results))


def test_another_seed_of_a_declared_system_is_of_a_declared_run(results: Path, tmp_path: Path) -> None:
    assert judge(sent(forged.forged(final(results, seed=77)), tmp_path), KNOWN, results).verdict == "current"


def test_a_record_of_another_text_than_those_there_is_not_taken_in(results: Path, tmp_path: Path) -> None:
    """Of files of the same names, cut alike; a table would have the mean of both."""
    run = final(results)
    record = forged.forged(run)
    data = copy.deepcopy(record.config["data"])
    data["corpus"]["files"] = dict.fromkeys(data["corpus"]["files"], "1")
    config = run_config(run, data)
    other = dataclasses.replace(record, config=config, fingerprint=fingerprint(config, run.seed))
    judged = judge(path := sent(other, tmp_path), KNOWN, results)
    assert judged.verdict.startswith("of another text than english-dense-lr0.01-seed1000 there")
    with pytest.raises(UserError, match="only current ones are registered"):
        take_in(path, judged)


def test_what_is_not_declared_is_said_and_not_taken_in(results: Path, tmp_path: Path) -> None:
    run = final(results)
    longer = dataclasses.replace(run, scale=dataclasses.replace(MINI, training={**MINI.training, "steps": 4}))
    other = dataclasses.replace(run, learning_rate=0.03)
    unknown = dataclasses.replace(forged.forged(run), name="english-mystery-seed1", system="mystery")
    for record, said in (
        (forged.forged(longer), "not current"),
        (forged.forged(other), "not current"),
        (unknown, "of no declared run"),
    ):
        path = sent(record, tmp_path)
        judged = judge(path, KNOWN, results)
        assert judged.verdict.startswith(said)
        with pytest.raises(UserError, match="only current ones are registered"):
            take_in(path, judged)
    assert not (results / "runs" / "mini" / NAME).exists()


def test_a_final_record_before_those_of_its_learning_rates_cannot_be_judged(results: Path, tmp_path: Path) -> None:
    path = sent(forged.forged(final(results)), tmp_path)
    assert "choose its learning rate are not here" in judge(path, KNOWN, tmp_path / "empty").verdict
    tuning = path.with_name("english-dense-lr0.01-seed1000.json")
    measured = tmp_path / "measured.json"
    measured.write_text('{"measurement": "known"}')
    tuning.write_text("{}")
    trial = path.with_name("english-xmoe_8_t03-seed1000.json")  # by which the finals of tuned systems are judged
    trial.write_text("{}")
    assert sorted([measured, path, trial, tuning], key=order) == [tuning, trial, path, measured]


def test_another_record_in_its_place_is_not_overwritten(results: Path, tmp_path: Path) -> None:
    record = forged.forged(final(results))
    kept = forged.save(forged.worsened(record, 1.1), results).read_bytes()
    path = sent(record, tmp_path)
    judged = judge(path, KNOWN, results)
    with pytest.raises(UserError, match="is there already, and differs"):
        take_in(path, judged)
    assert judged.place.read_bytes() == kept


def test_a_measurement_is_judged_by_the_record_of_its_run_and_taken_in(results: Path, tmp_path: Path) -> None:
    record, measurement = forged.forged(final(results)), EXPERT_ACTIVATION
    elsewhere = tmp_path / "elsewhere"
    save(measurement, record, None, PROVENANCE, elsewhere)
    path = path_of(measurement, record, elsewhere)
    with pytest.raises(UserError, match="whose record is not in"):
        judge(path, KNOWN, results)
    forged.save(record, results)
    judged = judge(path, KNOWN, results)
    assert judged.verdict == "current"
    take_in(path, judged)
    assert judged.place == path_of(measurement, record, results) and judged.place.is_file()
    assert differences(results / "measurements" / "mini") == []
    raw = json.loads(path.read_bytes())
    path.write_text(json.dumps({**raw, "settings": {}, "fingerprint": "0" * 16}))
    assert judge(path, KNOWN, results).verdict.startswith("not current")
    path.write_text(json.dumps({**raw, "run_fingerprint": "0" * 16}))
    with pytest.raises(UserError, match="is not of the run english-dense-seed1"):
        judge(path, KNOWN, results)


@pytest.mark.parametrize("text", ["[" * 100_000, "{}", "", '{"measurement": "known_senses"}', '{"measurement": 3}'])
def test_what_is_no_record_is_refused_in_one_line(text: str, results: Path, tmp_path: Path) -> None:
    path = tmp_path / "sent.json"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        judge(path, KNOWN, results)
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)
