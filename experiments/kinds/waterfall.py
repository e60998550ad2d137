"""A page that goes from one system to another step by step, each step one thing changed: a waterfall.

Beside a step's perplexity stands its difference from the step before, paired by seed, and how much of the way from the
first system to the goal is covered by then.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from analysis.claims.rules import percent_of_perplexity
from analysis.plotting import Point
from analysis.statistics import covered, over_common_seeds, paired_difference
from analysis.tables import NOT_RUN, Column, Row, table_markdown
from analysis.waterfall import waterfall_figure
from experiments.report.captions import caption_of, current_runs, setting_of
from experiments.runner.page import Page, Section, unique
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.system import System

COLUMNS = (
    Column("label", "step"),
    Column("perplexity", "test perplexity", ".2f"),
    Column("rate", "learning rate", "g"),
    Column("n", "seeds"),
    Column("change", "to the step before", "+.2f", suffix="%"),
    Column("low", "low", "+.2f", suffix="%"),
    Column("high", "high", "+.2f", suffix="%"),
    Column("covered", "share of the gap closed", ".0f", suffix="%"),
)


@dataclass(frozen=True, kw_only=True)
class Waterfall(Page):
    """steps: what was changed -> the system, in their order; the first is where it begins. goal: what it leads to.
    beside: other systems to compare with, by what is said of them."""

    steps: Mapping[str, System]
    goal: System
    beside: Mapping[str, System] = field(default_factory=dict[str, System])

    def all_systems(self) -> list[System]:
        return unique([*self.steps.values(), *self.beside.values(), self.goal])

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        current = current_runs(self.all_systems(), scale, records, self.task)
        runs = [record for of_system in current.values() for record in of_system]
        if not runs:
            return None
        nll = {
            name: {r.seed: r.metrics["test"]["nll_per_token"] for r in of_system} for name, of_system in current.items()
        }
        nll = over_common_seeds(nll)
        first, goal = next(iter(self.steps.values())), nll[self.goal.name]
        others = {**self.beside, self.goal.label: self.goal}
        beside = {f"for comparison: {label}": system for label, system in others.items()}
        rows: list[Row] = []
        points: list[tuple[str, Point | None]] = []
        before: Mapping[int, float] | None = None
        for place, (label, system) in enumerate({**self.steps, **beside}.items()):
            found = nll[system.name]
            row: Row = {"label": label, "n": len(found), "perplexity": NOT_RUN}
            if found:
                values = [math.exp(value) for value in found.values()]
                row["perplexity"] = sum(values) / len(values)
                row["rate"] = current[system.name][0].config["training"]["learning_rate"]
                points.append((label, Point(place, row["perplexity"], min(values), max(values), len(values))))
            else:
                points.append((label, None))
            if before is not None and place < len(self.steps):
                change = percent_of_perplexity(paired_difference(found, before))
                row |= dict(zip(("change", "low", "high"), change, strict=True))
            shares = covered(nll[first.name], found, goal)
            row["covered"] = sum(shares.values()) / len(shares) if shares else None
            rows.append(row)
            before = found
        picture = f"{self.slug}_{scale.name}.png"
        waterfall_figure(
            points[: len(self.steps)],
            folder / picture,
            title=self.title,
            x_label="test perplexity",
            note=f"{setting_of(runs)}. Points: mean over seeds, hollow of one; lines: lowest to highest.",
            levels={label.partition(": ")[2]: point.mean for label, point in points[len(self.steps) :] if point},
        )
        lines = caption_of(runs)[:1]
        lines.append("Each step keeps what stands above it. Differences are paired by seed, with 95% intervals.")
        page = table_markdown(COLUMNS, rows, caption=lines) + f"\n![{self.title}]({picture})\n"
        return Section(page, COLUMNS, rows)
