"""Records of one text never pass for those of another, nor one machine's for another's."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from mhmoe.training.record import Record
from tests.commands import Finished, Project
from tests.experiments.test_cli import TWO_SYSTEMS, is_one_line, lines_of_runs, new_project, write_corpus
from tests.forged import save, worsened

RUN = ("run", "table98", "--scale", "mini")


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with the records of one text, and the text and another one beside it."""
    project = new_project(tmp_path_factory.mktemp("committed") / "project")
    write_corpus(project.root / "other", documents=21)
    assert project.run(*RUN, "--data", "data").code == 0
    assert project.run("render").code == 0
    return project


def results_only(project: Project) -> dict[str, bytes]:
    return {name: content for name, content in project.files().items() if name.startswith("results/")}


def own_folder(project: Project) -> Path:
    (folder,) = project.root.glob("results-own/*")
    return folder


# ---- own text -------------------------------------------------------------------------------


def test_other_text_is_trained_on_though_every_committed_record_is_current(committed: Project, tmp_path: Path):
    project = committed.copied(tmp_path / "project")
    before = results_only(project)
    ran = project.run(*RUN, MHMOE_DATA=str(project.root / "other"))
    assert ran.code == 0 and len(lines_of_runs(ran)) == 6, ran
    own = own_folder(project)
    assert own.name.startswith("other-") and f"records go to results-own/{own.name}; the committed ones" in ran.out
    found = [Record.load(path) for path in sorted((own / "runs" / "mini").glob("*.json"))]
    theirs = [Record.load(path) for path in sorted((project.results / "runs" / "mini").glob("*.json"))]
    assert [r.name.partition("-lr")[0] for r in found] == [r.name.partition("-lr")[0] for r in theirs]
    assert not {json.dumps(r.config["data"]) for r in found} & {json.dumps(r.config["data"]) for r in theirs}
    assert results_only(project) == before

    again = project.run(*RUN, "--data", "other")  # the same text, named in the other way
    assert again.code == 0 and f"in results-own/{own.name}/runs/mini are current" in again.out
    rendered = project.run("render", "table98", "--scale", "mini", "--data", "other")
    assert rendered.code == 0 and rendered.out == (own / "table98_two.md").read_text() + "\n"
    assert f"records of results-own/{own.name}" in rendered.err
    assert results_only(project) == before
    status = project.run("status", "--scale", "mini", "--results", str(own)).out
    assert "table98_two                  6 done, 0 stale, 0 missing" in status


def test_learning_rates_on_own_text_are_chosen_by_its_own_runs(committed: Project, tmp_path: Path):
    project = committed.copied(tmp_path / "project")
    tuning = [f"english-dense-lr{rate}-seed1000" for rate in ("0.01", "0.02")]
    assert project.run("run", "learning_rates", "--scale", "mini", "--data", "other", "--results", "mine").code == 0
    mine = project.root / "mine"
    for name, factor in zip(tuning, (1.0, 1.5), strict=True):
        save(worsened(Record.load(mine / "runs" / "mini" / f"{name}.json"), factor), mine)
        theirs = project.results / "runs" / "mini" / f"{name}.json"
        save(worsened(Record.load(theirs), 2.5 - factor), project.results)
    assert project.run(*RUN, "--data", "other", "--results", "mine").code == 0
    rate = Record.load(mine / "runs" / "mini" / "english-dense-seed1.json").config["training"]["learning_rate"]
    assert rate == 0.01


def test_the_committed_text_in_another_place_is_the_committed_text(committed: Project, tmp_path: Path):
    shutil.copytree(committed.root / "data", tmp_path / "moved")
    ended = committed.run(*RUN, "--data", str(tmp_path / "moved"))
    assert ended.code == 0 and ended.out.startswith("nothing to run: all 6 records are current. They are those of this")


def test_a_folder_without_a_corpus_is_refused_though_every_record_is_current(committed: Project, tmp_path: Path):
    refused = committed.run(*RUN, "--data", str(tmp_path))
    assert refused.code == 2 and is_one_line(refused) and "has no manifest.json" in refused.err


def test_what_cannot_be_written_is_said_before_anything_is_packed(committed: Project, tmp_path: Path):
    project = committed.copied(tmp_path / "project")
    shutil.rmtree(project.root / ".cache")
    (project.root / ".cache").write_text("in the way")
    for jobs in ("1", "2"):
        refused = project.run(*RUN, "--data", "other", "--jobs", jobs)
        assert refused.code == 2 and is_one_line(refused) and "cannot write in" in refused.err
    refused = project.run(*RUN, "--data", "other", "--results", "data/manifest.json")
    assert refused.code == 2 and is_one_line(refused) and "cannot write in" in refused.err


def test_a_page_of_ones_own_replaces_no_records_of_another_text(committed: Project, tmp_path: Path):
    project = committed.copied(tmp_path / "project")
    (project.root / "mine.py").write_text(TWO_SYSTEMS.replace("table98_two", "mine"))
    run = ("run", "mine.py", "--scale", "mini", "--systems", "dense")
    assert project.run(*run, "--data", "data").code == 0
    own = own_folder(project)
    before = {path: path.read_bytes() for path in own.rglob("*.json")}, project.files()
    render = ("render", "mine.py", "--scale", "mini")
    others = (*run[:-1], "mhmoe_8_compute")  # beside which the other text's would stand
    for command in ((*run, "--jobs", "2"), (*run, "--results", str(own)), others, (*run, "--seeds", "7"), render):
        refused = project.run(*command, "--data", "other")
        assert refused.code == 2 and is_one_line(refused), refused
        assert "results-own/mine/runs/mini has records of another text, such as english-dense-lr0.01" in refused.err
    assert ({path: path.read_bytes() for path in own.rglob("*.json")}, project.files()) == before
    assert project.run(*render, "--data", "data").code == 0
    assert len(lines_of_runs(project.run(*run, "--data", "other", "--results", "another"))) == 3

    with (project.root / "experiments" / "scales.py").open(
        "a"
    ) as scales:  # stale: of the same text, or packed otherwise
        scales.write('SCALES["mini"] = _d.replace(MINI, training={**MINI.training, "steps": 4})\n')
    assert len(lines_of_runs(project.run(*run, "--data", "data"))) == 3
    with (project.root / "experiments" / "scales.py").open("a") as scales:
        scales.write('SCALES["mini"] = _d.replace(MINI, packing=_d.replace(MINI.packing, max_test_tokens=300))\n')
    assert len(lines_of_runs(project.run(*run, "--data", "other"))) == 3


# ---- again ----------------------------------------------------------------------------------


def table_of(ended: Finished) -> dict[str, list[str]]:
    """The comparison: run -> its cells."""
    _, _, *lines = (line for line in ended.out.splitlines() if line.startswith("| "))
    return {line.split()[1]: [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}


def test_again_trains_the_final_runs_anew_and_sets_them_beside_the_committed_ones(committed: Project, tmp_path: Path):
    project = committed.copied(tmp_path / "project")
    before = results_only(project)
    again = project.run(*RUN, "--data", "data", "--again")
    finals = ["english-dense-seed1", "english-mhmoe_8_compute-seed1"]
    assert again.code == 0 and lines_of_runs(again) == finals, again
    assert results_only(project) == before
    assert re.fullmatch("again-[0-9a-f]{8}-cpu", own_folder(project).name)
    found = table_of(again)
    assert list(found) == finals and "2 of 2 runs are the same as their records" in again.out
    for theirs, ours, difference, where, verdict in found.values():
        assert theirs == ours and difference == "+0.00%" and where == "the same (cpu)" and verdict == "same"
    for command in (RUN, ("run-all", *RUN[1:])):
        once_more = project.run(*command, "--again", "--jobs", "2")
        assert once_more.code == 0 and not lines_of_runs(once_more) and table_of(once_more) == found


def test_again_says_by_how_much_a_run_differs_where_it_ran_and_fails(committed: Project, tmp_path: Path):
    project = committed.copied(tmp_path / "project")
    path = project.results / "runs" / "mini" / "english-dense-seed1.json"
    record = worsened(Record.load(path), 1.01)
    source: dict[str, Any] = {**record.provenance, "versions": {**record.provenance["versions"], "torch": "1.0"}}
    save(dataclasses.replace(record, provenance=source), project.results)
    again = project.run(*RUN, "--data", "data", "--again")
    assert again.code == 1, again
    theirs, ours, difference, where, verdict = table_of(again)["english-dense-seed1"]
    assert float(difference.rstrip("%")) == pytest.approx(100 * (float(ours) / float(theirs) - 1), abs=0.02)
    assert float(difference.rstrip("%")) < -1 and "torch 1.0, now" in where and verdict == "differs"
    assert "1 of 2 runs are the same as their records" in again.out


def test_again_is_refused_on_text_that_the_committed_records_are_not_of(committed: Project):
    refused = committed.run(*RUN, "--data", "other", "--again")
    assert refused.code == 2 and is_one_line(refused) and "those are of other text" in refused.err
