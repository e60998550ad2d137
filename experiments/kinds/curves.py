"""A page of learning curves: validation perplexity along training, in panels."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.claims.learning_speed import final_point
from analysis.figures import Curve, learning_curves
from analysis.statistics import over_common_seeds
from analysis.tables import NOT_RUN, STALE, Column, Row, table_markdown
from experiments.report.captions import caption_of, final_records
from experiments.report.looks import looks
from experiments.runner.page import Page, Section, unique
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.system import System
from mhmoe.training.record import Record

COLUMNS = (
    Column("label", "system"),
    Column("seeds", "seeds"),
    Column("perplexity", "final validation perplexity", ".2f"),
    Column("tokens", "tokens (M)", ",.2f", 1e-6),
    Column("flops", "training FLOPs (T)", ",.1f", 1e-12),
    Column("seconds", "seconds", ",.0f"),
)


@dataclass(frozen=True, kw_only=True)
class Curves(Page):
    """panels: title -> label there -> system. A label looks alike in all panels. One of which nothing is run is left to
    the table, which names every system."""

    panels: Mapping[str, Mapping[str, System]]

    def all_systems(self) -> list[System]:
        return unique([system for panel in self.panels.values() for system in panel.values()])

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        systems = self.all_systems()
        current, stale = final_records(systems, scale, records, self.task)
        if not any((*current.values(), *stale.values())):
            return None
        panels: dict[str, dict[str, list[Curve]]] = {}
        for title, panel in self.panels.items():
            of_seeds = {label: {r.seed: r.curve for r in current[system.name]} for label, system in panel.items()}
            panels[title] = {label: [*curves.values()] for label, curves in over_common_seeds(of_seeds).items()}
        name = f"{self.slug}_{scale.name}.png"
        lines = caption_of([record for several in current.values() for record in several])
        labelled = {label: system for panel in self.panels.values() for label, system in panel.items()}
        drawn = {title: series for title, series in panels.items() if any(series.values())} or panels
        learning_curves(drawn, folder / name, title=self.title, note=lines[0], looks=looks(labelled))
        rows: list[Row] = [{"label": s.label, **_end(current[s.name], len(stale[s.name]))} for s in systems]
        page = f"![{self.title}]({name})\n\n" + table_markdown(COLUMNS, rows, caption=lines)
        return Section(page, COLUMNS, rows)


def _end(current: Sequence[Record], stale: int) -> Row:
    """Where a system's curves end: means over its current records, beside which so many are stale."""
    if not current:
        return {"perplexity": STALE if stale else NOT_RUN}

    def mean(of: Callable[[Record], float]) -> float:
        return sum(map(of, current)) / len(current)

    return {
        "seeds": f"{len(current)} ({stale} stale)" if stale else str(len(current)),
        "perplexity": mean(lambda r: math.exp(final_point(r)["valid_nll"])),
        "tokens": mean(lambda r: r.tokens),
        "flops": mean(lambda r: 3 * r.flops_per_token * r.tokens),
        "seconds": mean(lambda r: r.wall_seconds),
    }
