"""Errors of runs and measurements, kept until all others of a queue are done."""

import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager

import torch.distributed as dist
from tqdm import tqdm

from mhmoe.io import UserError

MOST_FAILURES = 3


class Failures:
    """The errors of runs, by their names."""

    def __init__(self) -> None:
        self.of = dict[str, Exception]()
        self.in_a_row = 0

    @contextmanager
    def noted(self, name: str) -> Generator[None]:
        """An error of the block is kept; it is raised after MOST_FAILURES in a row, and where processes share a run."""
        try:
            yield
            self.in_a_row = 0
        except Exception as error:
            self.of[name], self.in_a_row = error, self.in_a_row + 1
            if self.in_a_row == MOST_FAILURES or dist.is_initialized():
                raise
            where = "" if isinstance(error, UserError) else "".join(traceback.format_exception(error))
            tqdm.write(f"{where}{name} failed, the others go on: {error}", file=sys.stderr)

    def report(self) -> None:
        """Raises the error of the run that failed, or one that names all that did."""
        if len(self.of) == 1:
            raise next(iter(self.of.values()))
        if self.of:
            told = "; ".join(f"{name}: {error}" for name, error in self.of.items())
            raise UserError(f"{len(self.of)} runs failed; {told}")
