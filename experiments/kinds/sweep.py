"""A page of learning rates: what every system was given, and what came out on `valid`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.tables import NOT_RUN, STALE, Column, Row, table_markdown
from experiments.report.captions import sources
from experiments.runner.page import Page, Section, unique
from experiments.runner.plan import tuning_plan
from experiments.runner.runs import Run, tuning_runs
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.system import System
from mhmoe.training.record import Record

CHOICE_OF_RATE = (
    "Chosen is the smallest rate within 1% of the system's best perplexity: the grid's runs are short, and short runs "
    "favour high rates. A chosen rate at the edge of the grid says that the grid should be wider."
)
# Scales have other rates, so that a rate is a row here, and no column.
CSV_COLUMNS = tuple(Column(key, key) for key in ("label", "rate", "perplexity", "chosen"))


@dataclass(frozen=True, kw_only=True)
class Sweep(Page):
    """The learning rates of some systems."""

    systems: Sequence[System]

    def all_systems(self) -> list[System]:
        return unique(self.systems)

    def runs(self, scale: Scale, seeds: Sequence[int], records: Records) -> list[Run]:
        return tuning_plan(self.systems, scale, self.task, records)

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        rows: list[Row] = []
        csv_rows: list[Row] = []
        current: list[Record] = []
        for declared in self.systems:
            if (system := declared.chosen(records)) is None:  # a search settles what it is, and is not done
                continue
            chosen = records.chosen_learning_rate(self.task, system)
            row: Row = {"label": system.label, "chosen": chosen}
            for run in tuning_runs(scale, self.task, system):
                state, record = records.state(run), records.by_name.get(run.name)
                cell: Any = NOT_RUN if record is None else STALE
                if record is not None and state == "done":
                    current.append(record)
                    cell = record.metrics["valid"]["perplexity"]
                row[f"{run.learning_rate:g}"] = cell
                csv_rows.append(
                    {
                        "label": system.label,
                        "rate": run.learning_rate,
                        "perplexity": cell,
                        "chosen": "yes" if run.learning_rate == chosen else "no",
                    }
                )
            rows.append(row)
        if all(row["perplexity"] == NOT_RUN for row in csv_rows):
            return None
        columns = (
            Column("label", "system"),
            *(Column(f"{rate:g}", f"rate {rate:g}", ".2f") for rate in scale.learning_rates),
            Column("chosen", "chosen", "g"),
        )
        tokens = ", ".join(f"{n:,}" for n in sorted({record.tokens for record in current})) or "no"
        above = (
            f"Perplexity on `valid`, seed {scale.tuning_seeds[0]}, {tokens} tokens a run "
            f"({scale.tuning_share:.0%} of a final run's); text: {', '.join(sources(current)) or 'none'}."
        )
        return Section(table_markdown(columns, rows, caption=[above]), CSV_COLUMNS, csv_rows)
