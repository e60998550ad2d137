"""The figure of a table's systems against a number of theirs: heads, experts."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

from analysis.figures import Panel, Point, trend_figure
from analysis.routing_measures import distinct_share
from experiments.finals import current_runs
from experiments.measurements import MEASUREMENTS, measured
from experiments.runs import RESULTS, Records, systems_of
from experiments.schema import Scale, Table, Trend
from mhmoe.records import Record

Of = Callable[[Record, Path], float | None]


def _perplexity(record: Record, results: Path) -> float:
    return record.metrics["test"]["perplexity"]


def _activation(record: Record, results: Path) -> float | None:
    found = measured(MEASUREMENTS["expert_activation"], record, results)
    return None if found is None else 100 * distinct_share(found.values)


def _hellaswag(record: Record, results: Path) -> float | None:
    found = measured(MEASUREMENTS["zero_shot_hellaswag"], record, results)
    return None if found is None else found.values["tasks"]["hellaswag"]["bits_per_byte"]["value"]


PANELS: dict[str, tuple[str, Of]] = {
    "perplexity": ("test perplexity", _perplexity),
    "activation": ("experts of a layer that a token reaches (%)", _activation),
    "hellaswag": ("HellaSwag, bits per byte of the right ending", _hellaswag),
}
SPEED = "training speed, tokens/s on one thread"


def draw(table: Table, trend: Trend, scale: Scale, records: Records, path: Path, note: str) -> None:
    """A panel for each quantity that the trend names and that is known of a system, and one for the speed."""
    current = current_runs(systems_of(table), scale, records, table.task)
    speeds = measured_speeds(scale)

    def points(of: Of) -> dict[str, list[Point]]:
        found: dict[str, list[Point]] = {}
        for label, series in trend.series.items():
            of_place = {
                x: [v for r in current[system.name] if (v := of(r, records.results)) is not None]
                for x, system in series
            }
            found[label] = [Point(x, sum(v) / len(v), min(v), max(v), len(v)) for x, v in of_place.items() if v]
        return found

    speed = {
        label: [Point(x, v, v, v, 1) for x, system in series if (v := speeds.get(system.name)) is not None]
        for label, series in trend.series.items()
    }
    panels = [Panel(label, points(of)) for label, of in (PANELS[name] for name in trend.panels)]
    panels = [panel for panel in [*panels, Panel(SPEED, speed)] if any(panel.series.values())]
    text = f"{note} Bars: lowest to highest seed." + (" Speed: benchmarks/results/training.md." if speeds else "")
    trend_figure(panels, path, title=table.title, x_label=trend.x_label, note=text, log_x=trend.log_x)


def measured_speeds(scale: Scale) -> dict[str, float]:
    """Tokens/s of training by system, from the committed benchmark, if it is of this scale."""
    path = RESULTS.parent / "benchmarks" / "results" / "training.json"
    if not path.is_file():
        return {}
    benchmark = json.loads(path.read_bytes())["measured"]
    if benchmark["scale"] != scale.name:
        return {}
    tokens = benchmark["tokens_per_step"]
    eager = {row["system"]: row["seconds"] for row in benchmark["rows"] if not row["compiled"]}
    return {system: tokens / statistics.median(seconds) for system, seconds in eager.items() if seconds}
