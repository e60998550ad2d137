"""python -m experiments list | run | run-all | render | status | validate | register | pack

Every command works for every table and figure alike; `--help` says what each takes. A wrong argument or a
file that cannot be used ends in one line and exit code 2.
"""

import os

# torch reads it before its first allocation: large pages spare CPU training a third of its time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import tyro
from transformers.utils import logging as transformers_logging
from tyro.conf import Positional
from tyro.extras import SubcommandApp

from analysis.plotting import without_pictures
from experiments import BEGUN
from experiments.catalog import check_scale, check_task, find, pages, scale_of
from experiments.report.command import compare, edited, folder_of, write
from experiments.runner.cluster import HERE, Cluster
from experiments.runner.queue import Queue
from experiments.runner.run_command import Arguments, execute_command
from experiments.runner.runs import model_config
from experiments.runner.store import COMMITTED, RESULTS, Records
from experiments.runner.texts import CACHE, OWN, load_dataset
from experiments.runner.validation import judge, order, take_in
from experiments.scales import SCALES
from mhmoe.cli import exit_code
from mhmoe.data.packing import export
from mhmoe.io import UserError, check_writable
from mhmoe.training.allocator import keep_freed_memory
from mhmoe.training.config import Sharding

app = SubcommandApp()
Slug = Annotated[Positional[str], tyro.conf.arg(help="a table or figure, or the unique beginning of its name")]
ScaleName = Annotated[str, tyro.conf.arg(help="smoke, cpu, gpu or paper")]


@app.command(name="list")
def list_() -> None:
    """The tables and figures that can be reproduced, and the scales."""
    for slug, page in pages().items():
        print(f"{slug:28} {page.title}")
    print()
    for scale in SCALES.values():
        print(f"{scale.name:28} {scale.purpose}")


@app.command
def run(
    slug: Slug,
    scale: ScaleName = "cpu",
    task: str = "",
    seeds: tuple[int, ...] = (),
    data: Path | None = None,
    results: Path | None = None,
    jobs: int = 1,
    heads: tuple[int, ...] = (),
    device: str = "",
    time_budget: float | None = None,
    train_only: bool = False,
    again: bool = False,
    shard: bool = False,
    expert_parallel: int = 1,
    dry_run: bool = False,
    gpus: str = "",
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = HERE,
) -> None:
    """Train and measure what has no current record yet. Interrupted runs go on where they stopped.

    Args:
        task: of a table that exists for several, such as table1; else its own.
        seeds: of the final runs; the scale's own if none are given.
        data: a folder of corpora, or one made by `pack`; else MHMOE_DATA, where the scale reads local text.
        results: the folder for the records; else results, or one in results-own for text that those are not of.
        jobs: processes that share the runs and the cores.
        heads: for table5, these numbers of heads instead of the paper's.
        device: cpu, cuda, or auto for whichever there is; else the scale's own. Records say which it was.
        time_budget: seconds after which to stop with a checkpoint.
        train_only: measure nothing, which needs no folder of questions; the same command without it goes on.
        again: train the runs that have current records once more, at their learning rates, in a folder of their
            own, and compare; exit code 1 if one differs by more than is to be expected.
        shard: under torchrun or --together, no process has a whole model (FSDP2); else each has a copy (DDP).
        expert_parallel: likewise, so many processes share out the experts of each layer; shards all else, too.
        dry_run: print what would be run and what it would cost.
        gpus: for dry_run, such as 8xH100 or 32xV100: memory of each, tokens a second and days there.
        cluster: where it is done.
    """
    arguments = Arguments(
        slugs=(slug,),
        seeds=seeds,
        data=data,
        results=results,
        jobs=jobs,
        heads=heads,
        device=device,
        time_budget=time_budget,
        train_only=train_only,
        again=again,
        started=BEGUN,
        sharding=Sharding(expert_parallel=expert_parallel) if shard or expert_parallel != 1 else None,
        cluster=cluster,
        gpus=gpus,
    )
    arguments.check()
    chosen = scale_of(scale).on(device)
    chosen.for_task(task or "english")  # an unknown task is said before an experiment is looked for
    page = find(slug, task, heads)
    check_task(page, task)
    check_scale(page, chosen)
    for system in page.all_systems():
        model_config(chosen.for_task(page.task), system)  # what cannot be built is said before anything is trained
    sys.exit(execute_command(page, chosen, arguments, dry_run))


@app.command
def run_all(
    slugs: Positional[tuple[str, ...]],
    scale: ScaleName = "cpu",
    task: str = "",
    seeds: tuple[int, ...] = (),
    data: Path | None = None,
    results: Path | None = None,
    jobs: int = 1,
    device: str = "",
    time_budget: float | None = None,
    train_only: bool = False,
    dry_run: bool = False,
    gpus: str = "",
    out: Path | None = None,
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = HERE,
) -> None:
    """All that several tables and figures of one task lack, as one queue, in their order.

    Args:
        slugs: tables and figures; what comes first is done first.
        task: of those that several tasks have, whose; English if none is named.
        seeds, data, results, jobs, device, time_budget, train_only, dry_run, gpus: as for run.
        out: a tar file for the new records and measurements, to be carried elsewhere and taken in by `register`.
        cluster: where it is done.
    """
    arguments = Arguments(
        slugs=slugs,
        seeds=seeds,
        data=data,
        results=results,
        jobs=jobs,
        heads=(),
        device=device,
        time_budget=time_budget,
        train_only=train_only,
        again=False,
        started=BEGUN,
        cluster=cluster,
        gpus=gpus,
    )
    arguments.check()
    queue = Queue.of([find(slug, task) for slug in slugs])
    check_task(queue, task)
    sys.exit(execute_command(queue, scale_of(scale).on(device), arguments, dry_run, out))


@app.command(name="render")
def render_(
    slug: Annotated[Positional[str], tyro.conf.arg(help="which; all of them, and the ledger, if left out")] = "",
    scale: ScaleName = "cpu",
    task: str = "",
    heads: tuple[int, ...] = (),
    data: Path | None = None,
    results: Path | None = None,
    check: bool = False,
) -> None:
    """Tables and figures from the records.

    Args:
        task: of a table that exists for several, such as table1.
        heads: for table5, the page of these numbers of heads, results/ablate_heads.md.
        scale: smoke renders that scale alone, into results/smoke; all others are rendered together.
        data: the text whose records are rendered, as for run; else MHMOE_DATA.
        results: the folder of records and pages; else the one that run took for this text.
        check: change nothing, and fail if a text file would differ (pictures are not compared), or a committed record
            is not the one that its manifest lists.
    """
    chosen = scale_of(scale)
    page = None if slug in ("", "claims") else find(slug, task, heads)
    if results is None and page is not None and slug.endswith(".py"):
        results = OWN / page.slug
    if results is None and not check:
        results = folder_of(chosen, page.task if page else task or "english", data)
    results = (results or RESULTS).absolute()
    known = list(pages().values())
    smoke = chosen.name == "smoke"
    scales, target = ((SCALES["smoke"],), results / "smoke") if smoke else (COMMITTED, results)
    if check:
        with tempfile.TemporaryDirectory() as folder, without_pictures():
            write(slug, page, known, scales, Path(folder), results)
            every = [each.slug for each in (*known, *([page] if page else []))]
            slugs = () if slug == "claims" else (page.slug,) if page else every
            compare(slugs, every, Path(folder), target, edited(scales, results))
        return
    files = write(slug, page, known, scales, target, results, report=True)
    if slug:
        print(next(text for path, text in files.items() if path.suffix == ".md"))
    else:
        print("\n".join(os.path.relpath(path) for path in files))


@app.command
def status(scale: ScaleName = "cpu", results: Path = RESULTS) -> None:
    """How many runs of every table and figure are done, stale or missing.

    Args:
        results: the folder of records.
    """
    chosen = scale_of(scale)
    records = Records(chosen, results)
    for slug, page in pages().items():
        runs = page.planned(chosen, records)
        states = [records.state(run) for run in runs]
        counts = ", ".join(f"{states.count(state)} {state}" for state in ("done", "stale", "missing"))
        print(f"{slug:28} {counts}")


@app.command
def validate(files: Positional[tuple[Path, ...]]) -> None:
    """Check records and measurements that somebody sends.

    Fields and types, the fingerprint, that the figures follow from the documents, and whether the run is one that
    is declared.
    """
    if not files:
        raise UserError("validate needs at least one file")
    known = list(pages().values())
    for path in files:
        judged = judge(path, known)
        print(f"{path}: valid; {judged.name}; {judged.verdict}")


@app.command
def register(files: Positional[tuple[Path, ...]]) -> None:
    """Take in valid and current records and measurements: copy them into results and list them in SHA256SUMS."""
    if not files:
        raise UserError("register needs at least one file")
    known = list(pages().values())
    for path in sorted(files, key=order):
        judged = judge(path, known)
        take_in(path, judged)
        print(f"{path}: registered; {judged.name}")


@app.command
def pack(folder: Positional[Path], scale: ScaleName = "cpu", task: str = "english", data: Path | None = None) -> None:
    """Pack a scale's text into a folder, for a machine without corpora (`run --data FOLDER`)."""
    if folder.exists():  # said before the packing, which may take long
        raise UserError(f"{folder} exists already; remove it or name another folder")
    check_writable(folder.absolute().parent)
    check_writable(CACHE)
    export(load_dataset(scale_of(scale).for_task(task), data), folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 2**20:.1f} MiB for scale {scale}")


def _end(*_: object) -> None:
    raise KeyboardInterrupt


def _command() -> None:
    transformers_logging.disable_progress_bar()  # of writing a model, which takes no time
    for argument in sys.argv:
        if argument != argument.encode(errors="replace").decode():
            raise UserError(f"the argument {argument.encode(errors='replace').decode()!r} is not UTF-8; rename it")
    app.cli(prog="python -m experiments")


def main() -> int:
    signal.signal(signal.SIGTERM, _end)  # as Ctrl-C: nothing half-written stays, and jobs end too
    keep_freed_memory()
    return exit_code(_command, interrupted="interrupted; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    sys.exit(main())
