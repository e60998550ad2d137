"""What `python -m experiments render` does with its arguments: write pages, or compare them with the committed ones."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.report.html_report import write_report
from experiments.report.index import index_rows, write_index
from experiments.report.render import render, verdicts, write_ledger
from experiments.runner.manifest import differences
from experiments.runner.page import Page
from experiments.runner.store import COMMITTED, RESULTS
from experiments.runner.texts import results_of
from experiments.scales import Scale
from mhmoe.io import UserError

TEXTS = (".md", ".csv")  # what is compared: pictures differ with the version of a font library


def folder_of(scale: Scale, task: str, data: Path | None) -> Path | None:
    """The folder that `run` takes for a text, told if it is not the committed one."""
    if scale.name not in {committed.name for committed in COMMITTED}:
        return None
    try:
        results, _ = results_of(scale, task, data)
    except UserError:
        if data is not None:
            raise
        return None  # MHMOE_DATA has no such text, and the committed records need none
    if results != RESULTS:
        print(f"these are the records of {os.path.relpath(results)}, not the committed ones", file=sys.stderr)
    return results


def write(
    slug: str,
    page: Page | None,
    known: Sequence[Page],
    scales: Sequence[Scale],
    folder: Path,
    results: Path,
    *,
    report: bool = False,
) -> dict[Path, str]:
    """The pages of one page, or the ledger ("claims"), or ("") everything, into a folder; with `report`, report.html
    too."""
    if page is not None:
        files = render(page, scales, folder, results)
        if slug.endswith(".py") and page.claims:  # one's own, which the ledger of all pages does not have
            files |= write_ledger(verdicts([page], scales, results), [page], folder, f"{page.slug}_claims")
        return files
    found = verdicts(known, scales, results)
    files = write_ledger(found, known, folder)
    if slug == "claims":
        return files
    rows = index_rows(known, scales, results)
    files |= write_index(rows, known, folder)
    for each in known:
        files |= render(each, scales, folder, results)
    return files | (write_report(known, scales, found, rows, folder) if report else {})


def edited(scales: Sequence[Scale], results: Path) -> list[str]:
    """What differs from the manifests, shortened."""
    folders = [results / kind / scale.name for kind in ("runs", "measurements") for scale in scales]
    found = [difference for folder in folders if folder.is_dir() for difference in differences(folder)]
    return [*found[:3], f"and {len(found) - 3} others"] if len(found) > 3 else found


def compare(slugs: Sequence[str], known: Sequence[str], ours: Path, committed: Path, changed: Sequence[str]) -> None:
    """Raises UserError if a committed text differs from ours, is a page of these slugs that no record gives any more,
    or if a record was edited. known: the slugs of all pages, of which one may begin like another."""

    def texts(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.glob("*") if path.suffix in TEXTS}

    wanted, found = texts(ours), texts(committed)
    differing = sorted(name for name, text in wanted.items() if found.get(name) != text)
    left = sorted(name for name in found.keys() - wanted.keys() if _owner(name, known) in slugs)
    problems = [f"{', '.join(differing)} differ from what the records give; render again"] if differing else []
    problems += [f"{', '.join(left)} come from no record; remove them"] if left else []
    problems += [f"{', '.join(changed)}; restore it, or see `register`"] if changed else []
    if problems:
        raise UserError(f"in {committed}: {'; '.join(problems)}")
    print(f"{len(wanted)} files are what the records give")


def _owner(name: str, known: Sequence[str]) -> str:
    """The page that a file is of, by its name; "" if it is of none."""
    return max((slug for slug in known if name.startswith(slug)), key=len, default="")
