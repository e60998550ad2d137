"""The command line from end to end, in processes of its own, on a generated text and models of 16 numbers."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.catalog import find
from experiments.table1_perplexity import PAGE as TABLE1
from mhmoe.io import UserError, sha256_of
from mhmoe.training.record import Record
from tests.commands import ROOT, Finished, Project
from tests.forged import save, worsened
from tests.tiny import ZipfText

# What the copied code gets: the scale `mini`, one with longer runs, and an experiment with two systems.
SCALES = """
import dataclasses as _d
from tests.mini import MINI, at_rate
SCALES["mini"] = MINI
SCALES["long"] = _d.replace(at_rate(MINI, 0.01), name="long", training={**MINI.training, "steps": 80})
"""
TWO_SYSTEMS = '''"""Two systems."""

from experiments.kinds.table import Row, Table
from experiments.systems import dense, mhmoe

PAGE = Table(
    slug="table98_two", title="Two", rows=(Row(system=dense()), Row(system=mhmoe(8, "compute")))
)
'''
OTHER_TWO = TWO_SYSTEMS.replace("98", "97").replace("dense()", "xmoe(8)").replace("import dense", "import xmoe")
NAMES = [system.name for system in TABLE1.all_systems() if not system.settled_by]
WAITING = len(TABLE1.all_systems()) - len(NAMES)


def write_corpus(folder: Path, documents: int = 20) -> None:
    """A folder of generated text that `LocalCorpus` reads."""
    listing: list[dict[str, str]] = []
    for name in ("wikipedia", "books"):
        for split in ("train", "valid", "test"):
            path = folder / "english" / f"{name}-{split}.jsonl.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            texts = [document.text for document in ZipfText(documents).documents(f"{name}-{split}")]
            lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
            path.write_bytes(gzip.compress(lines.encode(), mtime=0))
            listing.append({"file": str(path.relative_to(folder)), "sha256": sha256_of(path)})
    (folder / "manifest.json").write_text(json.dumps({"files": listing}))


def new_project(root: Path) -> Project:
    """Nothing was run here yet."""
    project = Project.new(root)
    (project.root / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "mini.py", project.root / "tests")
    with (project.root / "experiments" / "scales.py").open("a") as scales:
        scales.write(SCALES)
    (project.root / "experiments" / "table98_two.py").write_text(TWO_SYSTEMS)
    (project.root / "experiments" / "table97_two.py").write_text(OTHER_TWO)
    write_corpus(project.root / "data")
    return project


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return new_project(tmp_path_factory.mktemp("new") / "project")


@pytest.fixture(scope="module")
def finished(new: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Finished]:
    """All of Table 1 was run and rendered here; and what the run said."""
    project = new.copied(tmp_path_factory.mktemp("finished") / "project")
    ran = project.run("run", "table1", "--scale", "mini", "--data", "data")
    rendered = project.run("render")
    assert rendered.code == 0, rendered.err
    return project, ran


def lines_of_runs(finished: Finished) -> list[str]:
    """The names of the runs that a command reports as done."""
    return [line.split()[1].rstrip(":") for line in finished.out.splitlines() if ": perplexity " in line]


def stopped_at_once(project: Project, *command: str) -> Finished:
    """The command under a budget that is over before it trains, which leaves the checkpoint of one step."""
    project.run("pack", ".cache/of-long", "--scale", "long", "--data", "data")  # else packing may take the grace
    return project.run(*command, "--time-budget", "0.001")


def numbers(project: Project, scale: str) -> dict[str, Any]:
    """What determines and what came out of every run, without the time that it took."""
    found: dict[str, Any] = {}
    for path in sorted((project.results / "runs" / scale).glob("*.json")):
        record = Record.load(path)
        curve = [{k: v for k, v in point.items() if k != "seconds"} for point in record.curve]
        found[record.name] = (record.fingerprint, record.steps, record.metrics, curve)
    return found


# ---- end to end -----------------------------------------------------------------------------


def test_table_1_trains_every_run_once_the_learning_rates_first(finished):
    project, ran = finished
    assert ran.code == 0, ran.err
    names = lines_of_runs(ran)
    tuning = [f"english-{name}-lr{rate}-seed1000" for name in NAMES for rate in ("0.01", "0.02")]
    assert names == tuning + [f"english-{name}-seed1" for name in NAMES]
    assert set(numbers(project, "mini")) == set(names)
    before = project.files()
    again = project.run("run", "table1", "--scale", "mini")  # without data: there is nothing to train
    assert again.code == 0 and again.out.startswith(
        f"nothing to run: all {3 * len(NAMES)} records are current. They ar"
    )
    assert "device cpu; commit unknown" in again.out and "add --again" in again.out
    assert project.files() == before


def test_what_waits_for_a_search_is_named_with_the_command_that_settles_it(finished):
    _, ran = finished
    assert WAITING > 5
    assert f"{WAITING} runs wait for what another page settles: python -m experiments run tuning" in ran.out


def test_several_pages_are_one_queue_whose_new_records_can_be_carried_elsewhere(new, tmp_path):
    here, there = new.copied(tmp_path / "here"), new.copied(tmp_path / "there")
    pages = ("run-all", "table98", "table97", "--scale", "mini", "--data", "data")
    ran = here.run(*pages, "--out", "new.tar")
    assert ran.code == 0, ran.err
    names = lines_of_runs(ran)
    assert len(names) == len(set(names)) == 9, "nothing is done twice"
    first = {f"english-{name}-lr{rate}-seed1000" for name in ("dense", "mhmoe_8_compute") for rate in ("0.01", "0.02")}
    assert set(names[:4]) == first
    assert f"new.tar: {len(names)} new records and measurements" in ran.out
    once_more = here.run(*pages, "--out", "new.tar")
    assert once_more.code == 0 and "new.tar: 0 new records and measurements" in once_more.out
    assert "is no tar file" in refusal(here, *pages, "--out", "data/manifest.json")
    assert "cannot write data/manifest.json/new.tar" in refusal(new, *pages, "--out", "data/manifest.json/new.tar")
    shutil.unpack_archive(here.root / "new.tar", there.root / "carried")  # with what the first call put there
    files = sorted(str(path.relative_to(there.root)) for path in (there.root / "carried").rglob("*.json"))
    taken = there.run("register", *files)
    assert taken.code == 0, taken.err
    assert numbers(there, "mini") == numbers(here, "mini")
    refused = here.run("run-all", "table98", "table3", "--scale", "mini")
    assert refused.code == 2 and "one queue is of one task, and these pages are of english, multilingual" in refused.err
    partly = here.run("run-all", "table98", "regime", "--scale", "mini", "--dry-run")
    assert partly.code == 0 and "regime is left out: it is for smoke or long alone" in partly.err
    refused = here.run("run-all", "regime", "--scale", "mini")
    assert refused.code == 2 and "scale='mini' is not one of regime; choose smoke or long" in refused.err
    refused = here.run("run-all", "table98", "--scale", "mini", "--task", "multilingual")
    assert refused.code == 2 and "task='multilingual' is not that of table98" in refused.err


def test_what_cannot_be_asked_is_said_before_the_training_unless_that_is_all_that_is_wanted(new, finished):
    for project in (new, finished[0]):  # nothing is trained, and everything
        said = refusal(project, "run", "table2", "--scale", "mini", "--data", "data", "--jobs", "2")
        assert "harness/arc_challenge/test.jsonl.gz is missing" in said
        said = refusal(project, "run", "table2", "--scale", "mini")
        assert "needs a data folder; set MHMOE_DATA or give --data, or say --train-only" in said
    trained = finished[0].run("run", "table2", "--scale", "mini", "--train-only")
    assert trained.code == 0 and trained.out.startswith("nothing to run: all ")


def test_records_say_where_they_come_from_and_models_are_kept_and_checkpoints_not(finished):
    project, _ = finished
    record = Record.load(project.results / "runs" / "mini" / "english-mhmoe_8_compute-seed1.json")
    assert record.provenance["command"] == "python -m experiments run table1 --scale mini --data data"
    assert (record.steps, record.tokens, record.system) == (2, 128, "mhmoe_8_compute")
    assert set(record.metrics) == {"valid", "test"} and len(record.curve) == 2
    tuning = Record.load(project.results / "runs" / "mini" / "english-dense-lr0.01-seed1000.json")
    assert set(tuning.metrics) == {"valid"} and tuning.steps == 1
    models = {path.name: {f.name for f in path.iterdir()} for path in project.root.glob(".cache/models/mini/*")}
    assert set(models) == {f"english-{name}-seed1" for name in NAMES}
    for files in models.values():
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
    assert not list(project.root.glob(".cache/checkpoints/mini/*"))


def test_rendering_gives_page_table_and_picture_with_every_row_filled(finished):
    project, _ = finished
    for name in (
        *("table1_perplexity.md", "table1_perplexity.csv", "claims.md", "README.md", "learning_rates.md"),
        *(
            "figure4_training_curves.md",
            "figure4_training_curves_mini.csv",
            "figure4_training_curves_mini.png",
        ),
    ):
        assert (project.results / name).stat().st_size > 100, name
    page = (project.results / "table1_perplexity.md").read_text()
    assert page.count("not run") == WAITING and "stale" not in page and "## Scale mini" in page
    assert page.count("| MH-MoE") == 8 and "14.82" in page  # the paper's X-MoE
    assert project.run("render", "table1").out == page + "\n"


def test_status_counts_runs_and_a_dry_run_trains_nothing(finished, new):
    project, _ = finished
    status = project.run("status", "--scale", "mini").out
    assert f"table1_perplexity            {3 * len(NAMES)} done, 0 stale, {WAITING} missing" in status
    assert "table98_two                  6 done, 0 stale, 0 missing" in status  # they share runs
    before = new.files()
    dry = new.run("run", "table1", "--scale", "mini", "--dry-run")
    runs = 3 * len(NAMES) + WAITING
    assert dry.code == 0 and dry.out.count("english-") == runs and f"{runs} of {runs} runs are not done" in dry.out
    assert new.files() == before == {}


def test_list_shows_every_experiment_and_scale(new):
    shown = new.run("list").out
    for name in ("table1_perplexity", "figure4_training_curves", "learning_rates", "table98_two"):
        assert f"\n{name} " in f"\n{shown}"
    for name in ("smoke", "cpu", "gpu", "paper", "mini"):
        assert f"\n{name} " in shown


def test_render_check_passes_until_a_record_or_a_page_is_changed(finished, tmp_path):
    project = finished[0].copied(tmp_path / "project")
    before = project.files()
    checked = project.run("render", "--check")
    assert (checked.code, checked.err) == (0, "") and "files are what the records give" in checked.out
    assert project.files() == before

    page = project.results / "table1_perplexity.md"
    page.write_text(page.read_text().replace("14.82", "14.83"))
    (project.results / "figure4_training_curves_gpu.csv").write_text("of records that are gone\n")
    refused = project.run("render", "table1", "--check")
    assert refused.code == 2 and "table1_perplexity.md differ from what the records give" in refused.err
    refused = project.run("render", "figure4", "--check")
    assert refused.code == 2 and "figure4_training_curves_gpu.csv come from no record" in refused.err

    (project.results / "figure4_training_curves_gpu.csv").unlink()
    assert project.run("render", "table1").code == 0
    assert page.read_bytes() == before["results/table1_perplexity.md"]

    path = project.results / "runs" / "mini" / "english-dense-seed1.json"
    save(worsened(Record.load(path), 1.01), project.results)
    refused = project.run("render", "--check")
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert "table1_perplexity.csv, table1_perplexity.md" in refused.err
    assert "figure4_training_curves_mini.csv" not in refused.err  # the curve did not change
    assert project.run("render", "table1").code == 0  # and the record is still found
    assert "runs/mini/english-dense-seed1.json was changed" in project.run("render", "table1", "--check").err


# ---- interrupted, shared --------------------------------------------------------------------


def test_runs_that_are_stopped_and_killed_end_with_the_numbers_of_uninterrupted_ones(new, tmp_path):
    whole, cut = new.copied(tmp_path / "whole"), new.copied(tmp_path / "cut")
    command = ("run", "table98", "--scale", "long", "--data", "data")
    first, second = (
        cut.results / "runs" / "long" / f"english-{name}-seed1.json" for name in ("dense", "mhmoe_8_compute")
    )

    stopped = stopped_at_once(cut, *command)
    assert stopped.code == 0 and "the same command goes on from here" in stopped.out
    assert not first.exists() and len(list(cut.root.glob(".cache/checkpoints/long/*.pt"))) == 1

    killed = cut.start(*command).kill_when(first.exists)
    assert killed.code == -9 and first.exists() and not second.exists()
    done = first.read_bytes()

    ended = cut.run(*command)
    assert ended.code == 0 and lines_of_runs(ended) == ["english-mhmoe_8_compute-seed1"]
    assert first.read_bytes() == done
    assert whole.run(*command).code == 0
    assert len(numbers(whole, "long")) == 2 and numbers(cut, "long") == numbers(whole, "long")
    assert not [name for name in cut.files() if "writing" in name or name.endswith(".pt")]


def test_two_processes_share_the_runs_and_do_none_twice(new, finished, tmp_path):
    project = new.copied(tmp_path / "project")
    command = ("run", "table1", "--scale", "mini", "--data", "data")
    both = [project.start(*command) for _ in range(2)]
    ended = [command.wait() for command in both]
    assert [e.code for e in ended] == [0, 0], ended
    names = [name for e in ended for name in lines_of_runs(e)]
    assert len(names) == len(set(names)) == 3 * len(NAMES)
    assert numbers(project, "mini") == numbers(finished[0], "mini")


def test_of_a_page_only_the_systems_that_are_named_are_run(new, tmp_path):
    project = new.copied(tmp_path / "project")
    ended = project.run("run", "table98", "--scale=mini", "--data=data", "--systems", "den*", "mhm")
    assert (
        ended.code == 2 and "systems=mhm is none of table98_two's 2 systems; the nearest: mhmoe_8_compute" in ended.err
    )
    ended = project.run("run", "table98", "--scale=mini", "--data=data", "--systems", "den*", "*nse")
    assert ended.code == 0, ended.err
    rates = ["english-dense-lr0.01-seed1000", "english-dense-lr0.02-seed1000"]
    assert lines_of_runs(ended) == [*rates, "english-dense-seed1"]


@pytest.mark.slow  # as does the queue
def test_the_option_jobs_starts_the_same_command_in_several_processes(new, finished, tmp_path):
    project = new.copied(tmp_path / "project")
    options = ("--scale=mini", "--data=data", "--jobs=2", "--seeds", "1", "2", "--systems", "*")
    ended = project.run("run", "table98", *options)
    assert ended.code == 0, ended.err
    names = lines_of_runs(ended)
    assert len(names) == len(set(names)) == 8
    found, alone = numbers(project, "mini"), numbers(finished[0], "mini")
    assert set(found) - set(alone) == {"english-dense-seed2", "english-mhmoe_8_compute-seed2"}
    assert all(alone[name] == found[name] for name in found.keys() & alone.keys())


def test_without_a_task_a_table_is_of_its_own_and_table_1_is_english(finished):
    assert {stem: find(stem).task for stem in ("table1", "table3", "figure1")} == {
        "table1": "english", "table3": "multilingual", "figure1": "multilingual",
    }  # fmt: skip
    project, _ = finished
    planned = project.run("run", "table3", "--scale", "smoke", "--dry-run")
    names = [line.split()[1] for line in planned.out.splitlines() if line.startswith("| ")][2:]
    assert planned.code == 0 and names and all(name.startswith("multilingual-") for name in names), planned.err
    refused = project.run("run", "table3", "--scale", "smoke", "--task", "english", "--dry-run")
    assert refused.code == 2 and "choose multilingual" in refused.err


# ---- text -----------------------------------------------------------------------------------


def test_packed_text_gives_the_records_of_the_corpus_it_was_packed_from(new, finished, tmp_path):
    project = new.copied(tmp_path / "project")
    data = str(project.root / "data")
    packed = project.run("pack", "packed", "--scale", "mini", MHMOE_DATA=data)
    assert packed.code == 0 and "for scale mini" in packed.out
    shutil.rmtree(project.root / "data")
    shutil.rmtree(project.root / ".cache")
    assert project.run("run", "table98", "--scale", "mini", "--data", "packed").code == 0
    found, from_corpus = numbers(project, "mini"), numbers(finished[0], "mini")
    assert len(found) == 6 and all(from_corpus[name] == found[name] for name in found)


# ---- what cannot be used --------------------------------------------------------------------


def is_one_line(ended: Finished) -> bool:
    return ended.err.startswith("error: ") and ended.err.endswith("\n") and ended.err.count("\n") == 1


def refusal(project: Project, *arguments: str, **environment: str) -> str:
    """What a command says that is refused: one line, exit code 2, and no file more or less than before."""
    before = project.files()
    ended = project.run(*arguments, **environment)
    assert ended.code == 2 and ended.out == "" and is_one_line(ended), ended
    assert project.files() == before
    return ended.err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("run table1 --scale huge", "scale='huge' is not known; choose one of smoke, cpu"),
        ("render table1 --scale huge", "scale='huge' is not known"),
        ("run table77", "'table77' is not a table or figure; choose one of carried_rates,"),
        ("run table", "'table' is not unique; choose one of table11_parameters, table1_perplexity, table2"),
        ("render nothing", "'nothing' is not a table or figure"),
        (
            "run table1 --scale mini --task french",
            "scale mini has no text for task 'french'; it has english, multilingual",
        ),
        ("run table1 --scale mini --seeds 1000", "seed 1000 chooses learning rates"),
        ("run table1 --scale mini --seeds 1 1001", "seed 1001 chooses learning rates"),
        ("render --scale mini --results nowhere", "results=nowhere is no folder"),
        ("status --scale mini --results nowhere", "results=nowhere is no folder"),
        ("run table1 --scale mini --seeds -1", "seeds=-1 is not allowed; a seed is 0 or more"),
        ("run table1 --scale mini --seeds 2 1 2", "seeds=2 is given twice"),
        ("run table5 --scale mini --heads 0", "heads=0 is not allowed; it must be at least 1"),
        ("run table5 --scale mini --heads 5", "does not divide dim=16"),
        ("run-all table5 --scale mini --heads 5 --data data", "does not divide dim=16"),
        ("run table5 --scale mini --heads 2 -2", "heads=-2 is not allowed; it must be at least 1"),
        ("render table5 --heads -2", "heads=-2 is not allowed; it must be at least 1"),
        ("run table1 --scale mini --jobs 0", "jobs=0 is not allowed"),
        ("run table1 --scale mini --jobs -1", "jobs=-1 is not allowed"),
        (
            "run table1 --scale mini --jobs 2 --launcher slurm --together",
            "jobs=2 would share out runs that processes",
        ),
        *(
            (
                f"run table1 --scale mini --time-budget {budget}",
                f"time_budget={float(budget)} is not allowed; give seco",
            )
            for budget in ("nan", "inf", "0", "-1")
        ),
        ("run table1 --scale mini --again", "no run of table1_perplexity at scale mini has a current record"),
        ("render table1 --scale mini --data nowhere", "data folder nowhere has no manifest.json"),
        ("register", "register needs at least one file"),
        ("run table1 --scale mini", "no data folder is given; set MHMOE_DATA"),
        ("run table1 --scale mini --jobs 2", "no data folder is given; set MHMOE_DATA"),
        ("run table1 --scale mini --data nowhere", "data folder nowhere has no manifest.json"),
        ("run table1 --scale smoke --data data", "takes its text from embedded"),
        ("run table1 --scale paper", "needs a CUDA device"),
        ("validate", "validate needs at least one file"),
        ("validate none.json", "record none.json does not exist"),
        ("pack data --scale mini", "data exists already"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(command, said, new):
    assert said in refusal(new, *command.split())


def test_an_argument_of_bytes_that_are_no_text_is_refused(new):
    assert "the argument 'caf?' is not UTF-8" in refusal(new, "run", "table1", "--scale", "mini", "--data", "caf\udce9")


def test_an_environment_variable_that_points_nowhere_is_named(new):
    said = refusal(new, "run", "table1", "--scale", "mini", MHMOE_DATA="/nowhere")
    assert "data folder /nowhere has no manifest.json; set MHMOE_DATA" in said


@pytest.mark.slow
def test_a_fresh_interpreter_says_the_same(new):
    environment = {k: v for k, v in os.environ.items() if k != "MHMOE_DATA"}
    ended = subprocess.run(
        [sys.executable, "-m", "experiments", "run", "table1", "--scale", "mini"],
        cwd=new.root, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr == refusal(new, "run", "table1", "--scale", "mini")


@pytest.mark.parametrize("command", ["", "run", "run table1 --no-such-option", "run table1 --seeds one", "runn"])
def test_what_is_no_command_is_refused_and_trains_nothing(command, new):
    ended = new.run(*command.split())
    assert ended.code not in (0, 1) and "Traceback" not in ended.err, ended
    assert new.files() == {}


@pytest.mark.parametrize("listed", [False, True], ids=["as it is", "with the manifest corrected"])
def test_a_corrupt_line_of_the_corpus_is_named_and_nothing_is_packed(listed, new, tmp_path):
    project = new.copied(tmp_path / "project")
    path = project.root / "data" / "english" / "books-valid.jsonl.gz"
    manifest = project.root / "data" / "manifest.json"
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    old = sha256_of(path)
    path.write_bytes(gzip.compress(b"".join([*lines[:4], b'{"text": "cut sho\n', *lines[5:]])))
    if listed:
        manifest.write_text(manifest.read_text().replace(old, sha256_of(path)))
    said = refusal(project, "run", "table1", "--scale", "mini", "--data", "data")
    assert "books-valid.jsonl.gz, line 5, is not a JSON object" in said
    assert "books-valid.jsonl.gz, line 5" in refusal(project, "pack", "packed", "--scale=mini", "--data=data")
    assert not (project.root / "packed").exists() and not list(project.root.glob(".cache/packed/*"))


def test_a_packed_folder_of_another_scale_or_cut_short_is_refused(finished, tmp_path):
    project = finished[0].copied(tmp_path / "project")
    packed = project.root / "packed"
    assert project.run("pack", "packed", "--scale", "mini", "--data", "data").code == 0
    said = refusal(project, "run", "table1", "--scale", "cpu", "--data", "packed")
    assert "packed was not packed for scale cpu; run `python -m experiments pack FOLDER --scale cpu`" in said
    whole = (packed / "train.bin").read_bytes()
    (packed / "train.bin").write_bytes(whole[:-2])
    said = refusal(project, "run", "table1", "--scale", "long", "--data", "packed")
    assert f"train.bin has {len(whole) - 2} bytes instead of {len(whole)}" in said


def test_a_checkpoint_cut_short_is_named_and_left_for_the_user_to_remove(new, tmp_path):
    project = new.copied(tmp_path / "project")
    command = ("run", "table98", "--scale", "long", "--data", "data")
    assert stopped_at_once(project, *command).code == 0
    (checkpoint,) = project.root.glob(".cache/checkpoints/long/*.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    assert f"{checkpoint.name} cannot be read" in refusal(project, *command)


def test_records_that_were_tampered_with_are_refused(finished, tmp_path):
    project = finished[0].copied(tmp_path / "project")
    path = project.results / "runs" / "mini" / "english-dense-seed1.json"
    here = str(path.relative_to(project.root))
    assert project.run("validate", here).out == f"{here}: valid; mini english-dense-seed1; current\n"
    raw = json.loads(path.read_text())

    better = {**raw["metrics"], "test": {**raw["metrics"]["test"], "perplexity": 1.0}}
    path.write_text(json.dumps({**raw, "metrics": better}))
    said = refusal(project, "validate", here)
    assert "metrics.test.perplexity=1.0 does not follow from its documents" in said
    training = {**raw["config"]["training"], "steps": 1}
    for changes, why in (
        ({"config": {**raw["config"], "training": training}}, "does not belong to its config"),
        ({"seed": 2}, "does not belong to its config"),
        ({"tokens": "many"}, "tokens='many' is not allowed; it must be a whole number"),
        ({"schema_version": 9}, "schema_version=9"),
    ):
        path.write_text(json.dumps({**raw, **changes}))
        with pytest.raises(UserError, match=re.escape(why)):
            Record.load(path)
    path.write_text(json.dumps(raw)[:-10])
    for command in ("status", "render", "run table1"):  # what reads all records does not overlook it
        assert "english-dense-seed1.json is not readable JSON" in refusal(
            project, *command.split(), *([] if command == "render" else ["--scale", "mini"])
        )
