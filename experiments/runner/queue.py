"""Several pages as one: their runs in one queue, in the order of the pages."""

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.runner.page import Page, unique
from experiments.runner.runs import Run
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.system import System
from mhmoe.io import UserError


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
        return {name: runs for page in self.pages if page.is_for(scale) for name, runs in page.gathered(scale).items()}
