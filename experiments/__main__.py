"""python -m experiments list | run | render | status | validate | pack

Every command works for every table and figure alike; `--help` says what each takes. A wrong argument or a
file that cannot be used ends in one line and exit code 2.
"""

import os

# torch reads it before its first allocation: large pages spare CPU training a third of its time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import importlib
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional
from tyro.extras import SubcommandApp

from experiments import BEGUN
from experiments.dry_run import cost_table
from experiments.index import render_index
from experiments.processes import check_device, run_in_jobs
from experiments.rendering import COMMITTED, render, render_claims
from experiments.running import Options, run_all, text_of
from experiments.runs import RESULTS, Records, model_config, not_done, planned, systems_of
from experiments.scales import SCALES
from experiments.schema import Experiment, Scale
from mhmoe.command_line import exit_code, stopped_at
from mhmoe.memory import keep_freed_memory
from mhmoe.packing import export
from mhmoe.records import Record, UserError

app = SubcommandApp()
Stem = Annotated[Positional[str], tyro.conf.arg(help="a table or figure, or the unique beginning of its name")]
ScaleName = Annotated[str, tyro.conf.arg(help="smoke, cpu, gpu or paper")]
TEXTS = (".md", ".csv")  # what `render --check` compares: pictures differ with the version of a font library


def experiments() -> dict[str, Experiment]:
    """Every file of this folder that declares an EXPERIMENT, by its stem."""
    stems = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    modules = {stem: importlib.import_module(f"experiments.{stem}") for stem in stems}
    return {stem: module.EXPERIMENT for stem, module in modules.items() if hasattr(module, "EXPERIMENT")}


def find(name: str, task: str = "") -> Experiment:
    """The experiment whose stem is `name`, or begins with it and is the only one; table1 is not table11.

    Where several begin so, that of the task, or the English one if none is given.
    """
    known = experiments()
    whole_words = [stem for stem in known if stem == name or stem.startswith(f"{name}_")]
    matching = whole_words or [stem for stem in known if stem.startswith(name)]
    if len(matching) > 1:
        matching = [stem for stem in matching if known[stem].task == (task or "english")] or matching
    if len(matching) != 1:
        problem = "not unique" if matching else "not an experiment"
        raise UserError(f"{name!r} is {problem}; choose one of {', '.join(matching or known)}")
    return known[matching[0]]


def with_heads(stem: str, task: str, heads: Sequence[int]) -> Experiment:
    """The experiment, for these numbers of heads instead of its own if any are given."""
    experiment = find(stem, task)
    if not heads:
        return experiment
    module = importlib.import_module(f"experiments.{experiment.stem}")
    if not hasattr(module, "for_heads"):
        raise UserError(f"{experiment.stem} does not vary the number of heads; leave out --heads, or choose table5")
    return module.for_heads(heads)


def scale_of(name: str) -> Scale:
    if name not in SCALES:
        raise UserError(f"scale={name!r} is not known; choose one of {', '.join(SCALES)}")
    return SCALES[name]


@app.command(name="list")
def list_() -> None:
    """The tables and figures that can be reproduced, and the scales."""
    for stem, experiment in experiments().items():
        print(f"{stem:28} {experiment.title}")
    print()
    for scale in SCALES.values():
        print(f"{scale.name:28} {scale.purpose}")


@app.command
def run(
    stem: Stem,
    scale: ScaleName = "cpu",
    task: str = "",
    seeds: tuple[int, ...] = (),
    data: Path | None = None,
    jobs: int = 1,
    heads: tuple[int, ...] = (),
    time_budget: float | None = None,
    dry_run: bool = False,
) -> None:
    """Train and measure what has no current record yet. Interrupted runs go on where they stopped.

    Args:
        task: of a table that exists for several, such as table1; else its own.
        seeds: of the final runs; the scale's own if none are given.
        data: a folder of corpora, or one made by `pack`; else MHMOE_DATA, where the scale reads local text.
        jobs: processes that share the runs and the cores.
        heads: for table5, these numbers of heads instead of the paper's.
        time_budget: seconds after which to stop with a checkpoint.
        dry_run: print what would be run and what it would cost.
    """
    deadline = math.inf if time_budget is None else BEGUN + time_budget
    chosen = scale_of(scale)
    chosen.for_task(task or "english")  # an unknown task is said before an experiment is looked for
    experiment = with_heads(stem, task, heads)
    task = task or experiment.task
    seeds = seeds or tuple(chosen.for_task(task).seeds)
    records = Records(chosen)
    for system in systems_of(experiment):
        model_config(chosen.for_task(task), system)  # what cannot be built is said before anything is trained
    if jobs < 1:
        raise UserError(f"jobs={jobs} is not allowed; it must be at least 1")
    if dry_run:
        print(cost_table(experiment, chosen, task, seeds, records))
    elif not not_done(experiment, chosen, task, seeds, records) and not experiment.measurements:
        print("nothing to run: every record is current")
    elif jobs > 1:
        check_device(chosen)  # here, so that one line says it and not one of every job
        with stopped_at(deadline):
            text_of(chosen.for_task(task), data)
        arguments = ["run", stem, "--scale", scale, "--task", task, "--seeds", *map(str, seeds)]
        arguments += ["--heads", *map(str, heads)] if heads else []
        arguments += [] if data is None else ["--data", str(data)]
        arguments += [] if time_budget is None else ["--time-budget", str(max(deadline - time.monotonic(), 0.0))]
        sys.exit(run_in_jobs(jobs, arguments))
    else:
        options = Options(seeds=seeds, data=data, deadline=deadline)
        if not run_all(experiment, chosen, task, options):
            print("stopped at the time budget; the same command goes on from here")


@app.command(name="render")
def render_(
    stem: Annotated[Positional[str], tyro.conf.arg(help="which; all of them, and the ledger, if left out")] = "",
    scale: ScaleName = "cpu",
    task: str = "",
    heads: tuple[int, ...] = (),
    check: bool = False,
) -> None:
    """Tables and figures from the committed records.

    Args:
        task: of a table that exists for several, such as table1.
        heads: for table5, the page of these numbers of heads, results/ablate_heads.md.
        scale: smoke renders that scale alone, into results/smoke; all others are rendered together.
        check: change nothing, and fail if a text file would differ (pictures are not compared).
    """
    smoke = scale_of(scale).name == "smoke"
    scales, target = ((SCALES["smoke"],), RESULTS / "smoke") if smoke else (COMMITTED, RESULTS)
    if heads:
        files = render(with_heads(stem, task, heads), scales, target)
        print(next(text for path, text in files.items() if path.suffix == ".md"))
        return
    if check:
        with tempfile.TemporaryDirectory() as folder:
            _render(stem, task, scales, Path(folder))
            _compare(stem, task, Path(folder), target)
        return
    files = _render(stem, task, scales, target)
    if stem:
        print(next(text for path, text in files.items() if path.suffix == ".md"))
    else:
        print("\n".join(str(path.relative_to(RESULTS.parent)) for path in files))


def _render(stem: str, task: str, scales: Sequence[Scale], folder: Path) -> dict[Path, str]:
    """The pages of one experiment, or the ledger ("claims"), or ("") everything, into a folder."""
    known = list(experiments().values())
    if stem == "claims":
        return render_claims(known, scales, folder)
    if stem:
        return render(find(stem, task), scales, folder)
    files = render_claims(known, scales, folder) | render_index(known, scales, folder)
    for experiment in known:
        files |= render(experiment, scales, folder)
    return files


def _compare(stem: str, task: str, ours: Path, committed: Path) -> None:
    """Raises UserError if a committed text differs from ours, or is a page that no record gives any more."""

    def texts(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.glob("*") if path.suffix in TEXTS}

    wanted, found = texts(ours), texts(committed)
    stems = () if stem == "claims" else (find(stem, task).stem,) if stem else tuple(experiments())
    differing = sorted(name for name, text in wanted.items() if found.get(name) != text)
    left = sorted(name for name in found.keys() - wanted.keys() if name.startswith(stems))
    problems = [f"{', '.join(differing)} differ from what the records give; render again"] if differing else []
    problems += [f"{', '.join(left)} come from no record; remove them"] if left else []
    if problems:
        raise UserError(f"in {committed}: {'; '.join(problems)}")
    print(f"{len(wanted)} files are what the records give")


@app.command
def status(scale: ScaleName = "cpu") -> None:
    """How many runs of every table and figure are done, stale or missing."""
    chosen = scale_of(scale)
    records = Records(chosen)
    for stem, experiment in experiments().items():
        runs = planned(experiment, chosen, records)
        states = [records.state(run) for run in runs]
        counts = ", ".join(f"{states.count(state)} {state}" for state in ("done", "stale", "missing"))
        print(f"{stem:28} {counts}")


@app.command
def validate(files: Positional[tuple[Path, ...]]) -> None:
    """Check records that somebody sends.

    Fields and types, the fingerprint, and that the figures follow from the documents.
    """
    if not files:
        raise UserError("validate needs at least one file")
    for path in files:
        record = Record.load(path)
        print(f"{path}: valid; {record.scale} {record.name}, fingerprint {record.fingerprint}")


@app.command
def pack(folder: Positional[Path], scale: ScaleName = "cpu", task: str = "english", data: Path | None = None) -> None:
    """Pack a scale's text into a folder, for a machine without corpora (`run --data FOLDER`)."""
    if folder.exists():  # said before the packing, which may take long
        raise UserError(f"{folder} exists already; remove it or name another folder")
    export(text_of(scale_of(scale).for_task(task), data), folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 2**20:.1f} MiB for scale {scale}")


def main() -> int:
    keep_freed_memory()
    return exit_code(
        lambda: app.cli(prog="python -m experiments"),
        interrupted="interrupted; the same command goes on from the last checkpoint",
    )


if __name__ == "__main__":
    sys.exit(main())
