"""python -m experiments list | run | render | status | validate | pack

Every command works for every table and figure alike; `--help` says what each takes. A wrong argument or a
file that cannot be used ends in one line and exit code 2.
"""

import os

# torch reads it before its first allocation: large pages spare CPU training a third of its time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import contextlib
import filecmp
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional
from tyro.extras import SubcommandApp

from experiments.dry_run import dry_run
from experiments.index import render_index
from experiments.recipes import SCALES
from experiments.rendering import COMMITTED, render, render_claims
from experiments.running import Options, run_in_jobs, run_missing, text_of
from experiments.runs import RESULTS, Records, plan
from experiments.schema import Experiment, Scale
from mhmoe.packing import export
from mhmoe.records import Record, UserError

app = SubcommandApp()
Stem = Annotated[
    Positional[str], tyro.conf.arg(help="a table or figure, or the unique beginning of its name")
]
ScaleName = Annotated[str, tyro.conf.arg(help="smoke, cpu, gpu or paper")]


def experiments() -> dict[str, Experiment]:
    """Every file of this folder that declares an EXPERIMENT, by its stem."""
    stems = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    modules = {stem: importlib.import_module(f"experiments.{stem}") for stem in stems}
    return {stem: module.EXPERIMENT for stem, module in modules.items() if hasattr(module, "EXPERIMENT")}


def find(name: str) -> Experiment:
    known = experiments()
    matching = [stem for stem in known if stem == name or stem.startswith(f"{name}_")] or [
        s for s in known if s.startswith(name)
    ]
    if len(matching) != 1:
        raise UserError(
            f"{name!r} is {'not unique' if matching else 'not an experiment'}; choose one of {', '.join(known)}"
        )
    return known[matching[0]]


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
    task: str = "english",
    seeds: tuple[int, ...] = (),
    data: Path | None = None,
    jobs: int = 1,
    time_budget: float | None = None,
    dry_run: bool = False,
) -> None:
    """Train and measure what has no current record yet. Interrupted runs go on where they stopped.

    Args:
        seeds: of the final runs; the scale's own if none are given.
        data: a folder of corpora, or one made by `pack`; else MHMOE_DATA, where the scale reads local text.
        jobs: processes that share the runs and the cores.
        time_budget: seconds after which to stop with a checkpoint.
        dry_run: print what would be run and what it would cost.
    """
    experiment, chosen = find(stem), scale_of(scale)
    if jobs < 1:
        raise UserError(f"jobs={jobs} is not allowed; it must be at least 1")
    if dry_run:
        print(_dry_run(experiment, chosen, task, seeds or tuple(chosen.seeds)))
        return
    plan(
        experiment, chosen, task, seeds or tuple(chosen.seeds), Records(chosen)
    )  # refuse a wrong task at once
    options = Options(seeds=seeds, data=data, time_budget=time_budget)
    if jobs > 1:
        text_of(chosen, data)  # pack once, before the jobs would all do it
        arguments = [a for a in sys.argv[1:] if not a.startswith("--jobs=")]
        if "--jobs" in arguments:
            at = arguments.index("--jobs")
            del arguments[at : at + 2]
        sys.exit(run_in_jobs(jobs, arguments))
    if not run_missing(experiment, chosen, task, options):
        print("stopped at the time budget; the same command goes on from here")


_dry_run = dry_run


@app.command(name="render")
def render_(
    stem: Annotated[
        Positional[str], tyro.conf.arg(help="which; all of them, and the ledger, if left out")
    ] = "",
    scale: ScaleName = "cpu",
    check: bool = False,
) -> None:
    """Tables and figures from the committed records.

    Args:
        scale: smoke renders that scale alone, into results/smoke; all others are rendered together.
        check: change nothing, and fail if a text file would differ.
    """
    smoke = scale_of(scale).name == "smoke"
    with contextlib.ExitStack() as stack:
        target = RESULTS / "smoke" if smoke else RESULTS
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) if check else target
        scales = (SCALES["smoke"],) if smoke else COMMITTED
        known = experiments()
        if stem == "claims":
            files = render_claims(list(known.values()), scales, folder)
        elif stem:
            files = render(find(stem), scales, folder)
        else:
            files = render_claims(list(known.values()), scales, folder)
            files |= render_index(list(known.values()), scales, folder)
            for experiment in known.values():
                files |= render(experiment, scales, folder)
        if check:
            differing = [path.name for path in files if not _same(path, target / path.name)]
            if differing:
                raise UserError(
                    f"{', '.join(differing)} in results/ differ from what the records give; run `make report`"
                )
            print(f"{len(files)} files are what the records give")
        elif stem:
            print(next(text for path, text in files.items() if path.suffix == ".md"))
        else:
            print("\n".join(str(path.relative_to(RESULTS.parent)) for path in files))


def _same(ours: Path, committed: Path) -> bool:
    return committed.exists() and filecmp.cmp(ours, committed, shallow=False)


@app.command
def status(scale: ScaleName = "cpu") -> None:
    """How many runs of every table and figure are done, stale or missing."""
    chosen = scale_of(scale)
    records = Records(chosen)
    for stem, experiment in experiments().items():
        runs = plan(experiment, chosen, experiment.task, tuple(chosen.seeds), records)
        states = [records.state(run) for run in runs]
        counts = ", ".join(f"{states.count(state)} {state}" for state in ("done", "stale", "missing"))
        print(f"{stem:28} {counts}")


@app.command
def validate(files: Positional[tuple[Path, ...]]) -> None:
    """Check records that somebody sends: fields, types, fingerprint, and that the figures follow from the documents."""
    if not files:
        raise UserError("validate needs at least one file")
    for path in files:
        record = Record.load(path)
        print(f"{path}: valid; {record.scale} {record.name}, fingerprint {record.fingerprint}")


@app.command
def pack(folder: Positional[Path], scale: ScaleName = "cpu", data: Path | None = None) -> None:
    """Pack a scale's text into a folder that a machine without corpora can train from (`run --data FOLDER`)."""
    export(text_of(scale_of(scale), data), folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 2**20:.1f} MiB for scale {scale}")


def main() -> int:
    try:
        app.cli(prog="python -m experiments")
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
