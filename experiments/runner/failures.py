"""Runs and measurements that fail: told of at once, passed over by all jobs of a command, and named at its end.

What befalls one alone: a loss that is not finite, too little memory, a fault of its own. What would befall the others
too ends the command: files that cannot be read or written, a mistake of the user's, a card that answers no more.
"""

import os
import shutil
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from experiments.runner.task import IN_ARRAY
from experiments.scales import Scale
from mhmoe.cli import memory_wanted, one_line
from mhmoe.io import RunError, UserError


class Failures:
    """Those of a scale, in files of the cache that the jobs of a command share; `own` are of this process."""

    def __init__(self, scale: Scale, cache: Path) -> None:
        self.folder, self.on_card = cache / "failed" / scale.name, scale.device == "cuda"
        self.own: list[str] = []

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()

    @classmethod
    def new(cls, scale: Scale, cache: Path) -> "Failures":
        """A command's, at its begin: what failed under earlier ones is tried again, but not by each job of an array."""
        found = cls(scale, cache)
        if IN_ARRAY not in os.environ:
            shutil.rmtree(found.folder, ignore_errors=True)
        return found

    @contextmanager
    def noted(self, name: str) -> Generator[None]:
        """An error of the block that is its own is told and noted under its name; any other is raised."""
        try:
            yield
        except Exception as error:  # nothing of it is kept, as it holds the model
            if _concerns_all(error) or dist.is_initialized() or (self.on_card and not _card_answers()):
                raise
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / name).touch()
            self.own.append(name)
            told = one_line(error)
            if told is None:
                told = repr(error)
                tqdm.write("".join(traceback.format_exception(error)), file=sys.stderr, end="")
            tqdm.write(f"{name} failed, the others go on: {told}", file=sys.stderr)

    def report(self) -> None:
        """Raises UserError if any failed here."""
        if self.own:
            raise UserError(f"{len(self.own)} failed, as told above: {', '.join(self.own)}")


def _concerns_all(error: Exception) -> bool:
    usual = isinstance(error, UserError | OSError) and not isinstance(error, RunError)
    return usual and memory_wanted(error) is None


def _card_answers() -> bool:
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
