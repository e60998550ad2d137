"""Several pages as one: their runs in one queue, in the order of the pages; and the new records in one file."""

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.runner.page import Page, unique
from experiments.runner.runs import Run
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.system import System
from mhmoe.io import UserError, check_output, write_atomically


@dataclass(frozen=True, kw_only=True)
class Queue(Page):
    """Pages of one task; what several of them need is done once, for the first."""

    pages: Sequence[Page]

    @classmethod
    def of(cls, pages: Sequence[Page]) -> "Queue":
        """Raises UserError if they are of several tasks, whose texts differ."""
        tasks = {page.task for page in pages}
        if len(tasks) != 1:
            raise UserError(f"one queue is of one task, and these pages are of {', '.join(sorted(tasks)) or 'none'}")
        return cls(slug="+".join(page.slug for page in pages), title="", task=tasks.pop(), pages=pages)

    @property
    def parts(self) -> Sequence[Page]:
        return self.pages

    def all_systems(self) -> list[System]:
        return unique([system for page in self.pages for system in page.all_systems()])

    def runs(self, scale: Scale, seeds: Sequence[int], records: Records) -> list[Run]:
        found = [run for page in self.pages if page.is_for(scale) for run in page.runs(scale, seeds, records)]
        return list({run.name: run for run in found}.values())

    def gathered(self, scale: Scale) -> dict[str, Sequence[Run]]:
        return {name: runs for page in self.pages for name, runs in page.gathered(scale).items()}


def listing(results: Path) -> dict[Path, float]:
    """All records and measurements with the times they were written at."""
    files = [path for kind in ("runs", "measurements") for path in (results / kind).rglob("[!.]*.json*")]
    return {path: path.stat().st_mtime_ns for path in files}


def bundle(results: Path, before: dict[Path, float], out: Path) -> int:
    """Put what is new into a tar file, to be carried elsewhere and taken in there by `register`; returns how many.

    What an earlier call has put there stays, for the same command goes on where its time was over. Raises UserError if
    the file cannot be written, or is no tar file.
    """
    new = {
        str(path.relative_to(results)): path.read_bytes()
        for path, written in sorted(listing(results).items())
        if before.get(path) != written
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in sorted({**_bundled(out), **new}.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    write_atomically(out, packed.getvalue())
    return len(new)


def check_bundle(out: Path) -> None:
    """Raises UserError if no bundle can be written there, or a file is there that none can be added to."""
    check_output(out)
    _bundled(out)


def _bundled(out: Path) -> dict[str, bytes]:
    if not out.exists():
        return {}
    try:
        with tarfile.open(out) as tar:
            files = {entry.name: tar.extractfile(entry) for entry in tar}
            return {name: file.read() for name, file in files.items() if file is not None}
    except (OSError, tarfile.TarError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{out} is there and is no tar file ({reason}); name another --out") from None
