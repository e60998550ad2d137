"""What every page of results is: a declaration that knows its systems, its runs and how it is shown.

A kind of page is a subclass (kinds/), a table or figure one instance of a kind, in a file of its own.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from analysis.claims.controls import Controls
from analysis.claims.measured import MeasuredClaim
from analysis.claims.rules import Claim
from analysis.tables import Column, Row
from experiments.runner.measurements import Measurement
from experiments.runner.plan import final_plan, tuning_plan
from experiments.runner.runs import Run
from experiments.runner.store import Records
from experiments.scales import SCALES, Scale
from experiments.system import System
from mhmoe.io import UserError

_PROBE = SCALES["smoke"]  # where layers of equal names are compared


class Section(NamedTuple):
    """A page at one scale: Markdown for people, rows for the CSV file. Pictures lie beside."""

    markdown: str
    columns: Sequence[Column]
    rows: Sequence[Row]


@dataclass(frozen=True, kw_only=True)
class Page:
    """slug: the name of its file, and of its pages. task: the pre-training task it is about. claims: for the ledger.

    measurements: what is measured on its finished models. notes: remarks below. only: the scales that it is for; all if
    none is named.
    """

    trains: ClassVar[bool] = True
    """False for kinds that are counted from configs alone."""

    slug: str
    title: str
    notes: Sequence[str] = ()
    task: str = "english"
    claims: Sequence[Claim | MeasuredClaim] = ()
    measurements: Sequence[Measurement[Any]] = ()
    only: Sequence[str] = ()

    def is_for(self, scale: Scale) -> bool:
        """Whether it has runs at a scale: the scale has text for its task, and the page is not for others alone."""
        return scale.reads(self.task) and (not self.only or scale.name in self.only)

    @property
    def parts(self) -> "Sequence[Page]":
        """The pages that it stands for: itself, but for a queue."""
        return [self]

    def all_systems(self) -> list[System]:
        """Every system once, in the order of their first appearance."""
        raise NotImplementedError

    def systems_at(self, scale: Scale) -> list[System]:
        """Those that it has at a scale: all, but for pages that have others at some scales."""
        return self.all_systems()

    def __post_init__(self) -> None:
        """Claims are of their page and its task."""
        own = tuple(dataclasses.replace(claim, slug=self.slug, task=self.task) for claim in self.claims)
        object.__setattr__(self, "claims", own)

    def check_names(self) -> None:
        """Raises UserError if a claim is of a system that it does not have, and would never be judged."""
        names = {system.name for system in self.all_systems()}
        for claim in self.claims:
            if unknown := sorted(claim.systems - names):
                raise UserError(unknown_name(f"the claim {claim.statement!r}", unknown[0], names))

    def claims_at(self, scale: Scale) -> Sequence[Claim | MeasuredClaim]:
        """The claims about systems that it has at a scale."""
        return self.claims

    def runs(self, scale: Scale, seeds: Sequence[int], records: Records) -> list[Run]:
        """What must be trained: the learning rates first, then the finals seed by seed.

        Raises UserError if a final seed is the one that chooses the rates.
        """
        if not self.trains:
            return []
        systems = self.systems_at(scale)
        finals = final_plan(systems, scale, self.task, seeds, records)
        return [*tuning_plan(systems, scale, self.task, records), *finals]

    def planned(self, scale: Scale, records: Records) -> list[Run]:
        """The runs with the scale's own seeds; none where it is not for the scale."""
        if not self.is_for(scale):
            return []
        return self.runs(scale, tuple(scale.for_task(self.task).seeds), records)

    def gathered(self, scale: Scale) -> Mapping[str, Sequence[Run]]:
        """Runs whose records lie in one file once all are done, by its name."""
        return {}

    def scales(self, rendered: Sequence[Scale]) -> Sequence[Scale]:
        """At which of the scales that are rendered it can have a section."""
        return [scale for scale in rendered if self.is_for(scale)]

    def controls(self) -> Controls | None:
        """The known effects that it looks for, on which the claims of its task rest; None but of a testbed."""
        return None

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        """Its content at a scale, pictures drawn into `folder`; None while nothing of it was run."""
        raise NotImplementedError


def unique(systems: Sequence[System]) -> list[System]:
    """Every system once, in the order of their first appearance. Raises UserError if two that differ have one name:
    records are found by it, so that a table would show those of one for both."""
    found: dict[str, System] = {}
    for system in systems:
        known = found.setdefault(system.name, system)
        if known is not system and _trained(known) != _trained(system):
            raise UserError(f"two systems that differ are named {system.name!r}; give each a name of its own")
    return list(found.values())


def _trained(system: System) -> tuple[Any, ...]:
    """What tells systems apart; pages may have one with fewer seeds than others, or with another's rate."""
    return system.label, system.layer(_PROBE), dict(system.model), dict(system.training), system.steps


def unknown_name(what: str, name: str, names: Iterable[str]) -> str:
    return f"{what} names {name!r}, which is no system of the page; choose among {', '.join(sorted(names))}"
