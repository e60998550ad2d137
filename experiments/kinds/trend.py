"""The figure of a page's systems against a number of theirs: heads, experts."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.figures import Panel, trend_figure
from analysis.plotting import Point
from analysis.routing.measures import Summary, summary
from analysis.statistics import over_common_seeds
from analysis.tables import seeds_text
from experiments.kinds.routing import EXPERT_ACTIVATION
from experiments.kinds.score_table import ZERO_SHOT_HELLASWAG
from experiments.report.captions import current_runs, generated_note, measured_values
from experiments.report.looks import looks
from experiments.runner.measurements import values_of
from experiments.runner.page import Page
from experiments.runner.store import RESULTS, Records
from experiments.scales import Scale
from experiments.system import System
from mhmoe.io import UserError
from mhmoe.training.record import Record

Of = Callable[[Record, Path], float | None]


def _perplexity(record: Record, results: Path) -> float:
    return record.metrics["test"]["perplexity"]


def _of_activation(measure: Callable[[Summary], float]) -> Of:
    """A share of a layer's experts, in percent."""

    def of(record: Record, results: Path) -> float | None:
        found = values_of(EXPERT_ACTIVATION, record, results)
        return None if found is None else 100 * measure(summary(found.counts))

    return of


def _hellaswag(record: Record, results: Path) -> float | None:
    found = values_of(ZERO_SHOT_HELLASWAG, record, results)
    return None if found is None else found.tasks["hellaswag"].finer["advantage"].value


PANELS: dict[str, tuple[str, Of]] = {
    "perplexity": ("test perplexity", _perplexity),
    "activation": ("experts of a layer that a token reaches (%)", _of_activation(lambda s: s.distinct_share)),
    "effective": ("experts of a layer in effective use (%)", _of_activation(lambda s: s.effective_share)),
    "collapsed": ("experts below a tenth of the even share (%)", _of_activation(lambda s: s.collapsed_share)),
    "hellaswag": ("HellaSwag, advantage (bits per byte)", _hellaswag),
}
BENCHMARK = RESULTS / "speed" / "training.json"
COSTS: dict[str, tuple[str, Callable[[Mapping[str, Any], int], float | None]]] = {
    "speed": ("training speed, tokens/s on one thread", lambda row, tokens: tokens / statistics.median(row["seconds"])),
    "memory": ("memory of training (MB)", lambda row, _: held / 1e6 if (held := row.get("held_bytes")) else None),
}


@dataclass(frozen=True, kw_only=True)
class Trend:
    """series: label -> (number, system). panels: the quantities, by their keys in PANELS and COSTS, or "gain": below
    `nulls`, the series at the same number that a gain is counted from. of_tokens: the numbers are shares of a scale's
    training tokens, and are shown as so many million."""

    x_label: str
    series: Mapping[str, Sequence[tuple[float, System]]]
    panels: Sequence[str]
    log_x: bool = False
    of_tokens: bool = False
    nulls: Mapping[str, Mapping[float, System]] = field(default_factory=dict[str, Mapping[float, System]])

    def shown(self, x: float, scale: Scale) -> float:
        """Where a number stands on the axis."""
        if not self.of_tokens:
            return x
        training = scale.training
        return float(f"{x * training['steps'] * training['batch_sequences'] * training['length'] / 1e6:.2g}")


def draw(page: Page, trend: Trend, scale: Scale, records: Records, path: Path, setting: str) -> bool:
    """A panel for each quantity that the trend names and that is known of a system. False if none is: no figure."""
    current = current_runs(page.all_systems(), scale, records, page.task)
    seeds: list[list[int]] = []

    def of_runs(of: Of) -> dict[str, list[Point]]:
        every = {system.name: system for series in trend.series.values() for _, system in series}
        known = {name: {r.seed: of(r, records.results) for r in current[name]} for name in every}
        found_in = {name: {seed: v for seed, v in values.items() if v is not None} for name, values in known.items()}
        common: dict[str, dict[int, float]] = {}
        for arm in dict.fromkeys(system.arm for system in every.values()):  # one may lack seeds that the other has
            common |= over_common_seeds({name: values for name, values in found_in.items() if every[name].arm == arm})
        seeds.extend([*of_seeds] for of_seeds in common.values())
        found: dict[str, list[Point]] = {}
        for label, series in trend.series.items():
            values = {x: [*common[system.name].values()] for x, system in series if common[system.name]}
            found[label] = [
                Point(trend.shown(x, scale), sum(v) / len(v), min(v), max(v), len(v)) for x, v in values.items()
            ]
        return found

    def gain() -> dict[str, list[Point]]:
        """Percent of the null's perplexity, seed by seed; positive where it is lower."""
        found: dict[str, list[Point]] = {}
        for label, nulls in trend.nulls.items():
            for x, system in trend.series[label]:
                null = {r.seed: _perplexity(r, records.results) for r in current[nulls[x].name]}
                ours = {r.seed: _perplexity(r, records.results) for r in current[system.name] if r.seed in null}
                values = [100 * (1 - value / null[seed]) for seed, value in ours.items()]
                seeds.append([*ours])
                if values:
                    mean = sum(values) / len(values)
                    point = Point(trend.shown(x, scale), mean, min(values), max(values), len(values))
                    found.setdefault(label, []).append(point)
        return found

    def of_benchmark(costs: Mapping[str, float]) -> dict[str, list[Point]]:
        return {
            label: [Point(x, v, v, v, 1) for x, system in series if (v := costs.get(system.name)) is not None]
            for label, series in trend.series.items()
        }

    def panel(name: str) -> Panel:
        if name == "gain":
            return Panel("perplexity below the model without the layer (%)", gain())
        if name in PANELS:
            return Panel(PANELS[name][0], of_runs(PANELS[name][1]))
        return Panel(COSTS[name][0], of_benchmark(measured_costs(name, scale)))

    panels = [panel(name) for name in trend.panels]
    shown = [panel for panel in panels if any(panel.series.values())]
    if not shown:
        return False
    timed = any(panel.y_label in {label for label, _ in COSTS.values()} for panel in shown)
    text = f"{setting}. n: number of seeds, of each point from left to right where it differs; {seeds_text(seeds)}."
    text += " Bars: lowest to highest seed."
    if "hellaswag" in trend.panels:
        asked = measured_values([ZERO_SHOT_HELLASWAG], current, records.results)
        text += generated_note(found for of_seeds in asked.values() for found in of_seeds.values())
    text += " Speed and memory: one measurement, results/speed/training.md." if timed else ""
    look = looks({label: series[-1][1] for label, series in trend.series.items() if series})
    trend_figure(shown, path, title=page.title, x_label=trend.x_label, note=text, log_x=trend.log_x, looks=look)
    return True


def measured_costs(name: str, scale: Scale) -> dict[str, float]:
    """A cost of training by system, from the committed benchmark, if it is of this scale."""
    if not BENCHMARK.is_file():
        return {}
    try:
        benchmark = json.loads(BENCHMARK.read_bytes())["measured"]
        if benchmark["scale"] != scale.name:
            return {}
        rows = {row["system"]: row for row in benchmark["rows"] if not row["compiled"] and row["seconds"]}
        costs = {system: COSTS[name][1](row, benchmark["tokens_per_step"]) for system, row in rows.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{BENCHMARK} is damaged ({error!r}); run: make bench") from None
    return {system: cost for system, cost in costs.items() if cost is not None}
