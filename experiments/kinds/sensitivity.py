"""A page that screens our choices: does one of them decide the comparison?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.tables import NOT_RUN, STALE, Column, Row, table_markdown
from experiments.report.captions import caption_of
from experiments.runner.page import Page, Section, unique
from experiments.runner.plan import final_runs
from experiments.runner.runs import Run
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.system import System
from mhmoe.training.record import Record


@dataclass(frozen=True, kw_only=True)
class Variation:
    """One thing changed, in the systems of a `Sensitivity`, in its order; None where it cannot be."""

    label: str
    systems: Sequence[System | None]


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Page):
    """A row a variation, a column a system; the first is the reference. All on the scale's first seed.

    systems: label of the column -> the system as it is elsewhere.
    """

    systems: Mapping[str, System]
    variations: Sequence[Variation]

    def all_systems(self) -> list[System]:
        ablated = [system for variation in self.variations for system in variation.systems if system is not None]
        return unique([*self.systems.values(), *ablated])

    def runs(self, scale: Scale, seeds: Sequence[int], records: Records) -> list[Run]:
        return super().runs(scale, [seed for seed in seeds if seed == scale.for_task(self.task).seeds[0]], records)

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        rows: list[Row] = []
        current: list[Record] = []
        unchanged = Variation(label="as elsewhere", systems=[*self.systems.values()])
        for variation in (unchanged, *self.variations):
            row: Row = {"label": variation.label}
            for column, system in zip(self.systems, variation.systems, strict=True):
                if system is None:
                    row[column] = rows[0][column]  # nothing changes there
                    continue
                (run,) = final_runs(scale, self.task, system, [scale.for_task(self.task).seeds[0]], records)
                record, state = records.by_name.get(run.name), records.state(run)
                row[column] = NOT_RUN if record is None else STALE
                if record is not None and state == "done":
                    current.append(record)
                    row[column] = record.metrics["test"]["perplexity"]
            reference, *others = (row[column] for column in self.systems)
            for column, value in zip([*self.systems][1:], others, strict=True):
                known = isinstance(value, float) and isinstance(reference, float)
                row[f"{column} to reference"] = 100 * (value / reference - 1) if known else None
            rows.append(row)
        if not current:
            return None
        first, *others = self.systems
        columns = (
            Column("label", "changed"),
            *(Column(column, column, ".2f") for column in self.systems),
            *(Column(f"{c} to reference", f"{c}, to {first}", "+.1f", suffix="%") for c in others),
        )
        lines = [*caption_of(current), "Perplexity on `test`, one seed: a screening, without intervals."]
        return Section(table_markdown(columns, rows, caption=lines), columns, rows)
