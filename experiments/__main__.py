"""python -m experiments list | run | run-all | render | status | validate | register | pack

Every command works for every table and figure alike; `--help` says what each takes. A mistake ends in one line and exit
code 2; an option or a value that the parser does not know in its box, with the same code.
"""

import os

# torch reads it before its first allocation: large pages spare CPU training a third of its time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import signal
import sys
import tempfile
from dataclasses import replace
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
from experiments.runner.page import Page
from experiments.runner.queue import Queue
from experiments.runner.run_command import Arguments, execute_command
from experiments.runner.runs import model_config
from experiments.runner.store import COMMITTED, RESULTS, Records
from experiments.runner.texts import CACHE, OWN, load_dataset, results_of
from experiments.runner.validation import judge, order, take_in
from experiments.scales import SCALES, Scale
from mhmoe.cli import exit_code
from mhmoe.data.packing import export
from mhmoe.io import UserError, check_writable
from mhmoe.training.allocator import keep_freed_memory

app = SubcommandApp()
Slug = Annotated[Positional[str], tyro.conf.arg(help="a table or figure, or the unique beginning of its name")]
ScaleName = Annotated[str, tyro.conf.arg(help=", ".join(SCALES))]


@app.command(name="list")
def list_() -> None:
    """The tables and figures that can be reproduced, and the scales."""
    for slug, page in pages().items():
        print(f"{slug:28} {page.title}")
    print()
    for scale in SCALES.values():
        print(f"{scale.name:28} {scale.purpose}")


@app.command
def run(slug: Slug, given: Annotated[Arguments, tyro.conf.arg(name="")]) -> None:
    """Train and measure what has no current record yet. Interrupted runs go on where they stopped."""
    arguments = replace(given, slugs=(slug,), started=BEGUN)
    arguments.check()
    chosen = scale_of(given.scale).on(given.device)
    chosen.for_task(given.task or "english")  # an unknown task is said before an experiment is looked for
    page = find(slug, given.task, given.heads)
    check_task(page, given.task)
    check_scale(page, chosen)
    _check_models(page, chosen)
    sys.exit(execute_command(page, chosen, arguments))


@app.command
def run_all(
    slugs: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(help="what comes first is done first")],
    given: Annotated[Arguments, tyro.conf.arg(name="")],
) -> None:
    """All that several tables and figures of one task lack, as one queue, in their order."""
    arguments = replace(given, slugs=slugs, started=BEGUN)
    arguments.check()
    chosen = scale_of(given.scale).on(given.device)
    queue = Queue.of([find(slug, given.task, given.heads) for slug in slugs])
    check_task(queue, given.task)
    if not any(page.is_for(chosen) for page in queue.pages):
        check_scale(queue.pages[0], chosen)
    for page in queue.pages:
        if page.is_for(chosen):
            _check_models(page, chosen)
        else:
            print(f"{page.slug} is left out: it is for {' or '.join(page.only)} alone", file=sys.stderr)
    sys.exit(execute_command(queue, chosen, arguments))


def _check_models(page: Page, scale: Scale) -> None:
    """What cannot be built is said before anything is trained."""
    page.check_names()
    for system in page.all_systems():
        model_config(scale.for_task(page.task), system)


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
    _check_folder(results)
    page = None if slug in ("", "claims") else find(slug, task, heads)
    if results is None and page is not None and slug.endswith(".py"):
        results = OWN / page.slug
    if results is None and not check:
        results = folder_of(chosen, page.task if page else task or "english", data)
    elif page is not None and results is not None and data is not None:
        corpora = {page.task: corpus} if (corpus := results_of(chosen, page.task, data)[1]) else {}
        records = Records(chosen, results.absolute(), corpora)
        records.check_text()
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
        print("\n".join(text for path, text in files.items() if path.suffix == ".md"))
    else:
        print("\n".join(os.path.relpath(path) for path in files))


@app.command
def status(scale: ScaleName = "cpu", results: Path = RESULTS) -> None:
    """How many runs of every table and figure are done, stale or missing.

    Args:
        results: the folder of records.
    """
    chosen = scale_of(scale)
    _check_folder(results)
    records = Records(chosen, results)
    for slug, page in pages().items():
        runs = page.planned(chosen, records)
        states = [records.state(run) for run in runs]
        counts = ", ".join(f"{states.count(state)} {state}" for state in ("done", "stale", "missing"))
        print(f"{slug:28} {counts}")


def _check_folder(results: Path | None) -> None:
    """A folder that is not there would read as one without records."""
    if results not in (None, RESULTS) and not results.is_dir():
        raise UserError(f"results={results} is no folder; give one that has runs/, as `run` makes it")


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
