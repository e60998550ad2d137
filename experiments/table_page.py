"""A table's section at a scale: perplexity, the figure of a trend, and the languages of a multilingual one."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from analysis.claims import divide
from analysis.figures import Panel, Point, trend_figure
from analysis.languages import language_figure, language_markdown
from analysis.render import (
    PERPLEXITY_COLUMNS,
    Column,
    RowSpec,
    caption,
    perplexity_table,
    table_csv,
    table_markdown,
)
from analysis.routing_measures import distinct_share
from experiments.finals import READINGS, all_runs, current_runs, declared_marks, sources
from experiments.measurements import MEASUREMENTS, measured
from experiments.recipes import paper_number
from experiments.runs import RESULTS, Records, systems_of
from experiments.schema import Scale, Table, Trend
from mhmoe.records import Record


def table_section(table: Table, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
    systems = systems_of(table)
    of_systems = all_runs(systems, scale, records, table.task)
    found = [record for several in of_systems.values() for record in several]
    if not found:
        return "", ""
    declared = declared_marks(systems, scale, records, table.task)
    specs = [
        RowSpec(system=row.system.name, label=row.system.label, paper=_printed(row.paper), reference=row.reference)
        for row in table.rows
    ]
    rows = perplexity_table(specs, of_systems, reference=table.reference, split=table.split, declared=declared)
    current, _ = divide(found, declared)
    lines = caption(current, reading=READINGS, sources=sources(current))
    lines.append(
        f"Perplexity on `{table.split}`; ours: mean and standard deviation over seeds. The paper's values "
        "are of models of 162M parameters and more, on other text: compare the changes relative to the "
        "reference, not the values."
    )
    columns = (Column("scale", "scale"), *PERPLEXITY_COLUMNS)
    page = table_markdown(PERPLEXITY_COLUMNS, rows, caption=lines)
    if table.trend is not None:
        name = f"{table.stem}_{scale.name}.png"
        _trend(table, table.trend, scale, records, folder / name, lines[0])
        page += f"\n![{table.title}]({name})\n"
    if table.task == "multilingual" and table.reference is not None:
        page += _languages(table, table.reference, scale, records, folder, lines[0])
    return page, table_csv(columns, [{"scale": scale.name, **row} for row in rows])


def _trend(table: Table, trend: Trend, scale: Scale, records: Records, path: Path, note: str) -> None:
    """Perplexity, active experts and speed of a table's systems against a number of theirs."""
    current = current_runs(systems_of(table), scale, records, table.task)
    active = MEASUREMENTS["expert_activation"]
    speeds = measured_speeds(scale)

    def points(of: Callable[[Record], float | None]) -> dict[str, list[Point]]:
        found: dict[str, list[Point]] = {}
        for label, series in trend.series.items():
            values = {x: [v for r in current[system.name] if (v := of(r)) is not None] for x, system in series}
            found[label] = [Point(x, sum(v) / len(v), min(v), max(v), len(v)) for x, v in values.items() if v]
        return found

    def activation(record: Record) -> float | None:
        found = measured(active, record, records.results)
        return None if found is None else 100 * distinct_share(found.values)

    speed = {
        label: [Point(x, v, v, v, 1) for x, system in series if (v := speeds.get(system.name)) is not None]
        for label, series in trend.series.items()
    }
    panels = [
        Panel("test perplexity", points(lambda r: r.metrics["test"]["perplexity"])),
        Panel("experts of a layer that a token reaches (%)", points(activation)),
        Panel("training speed, tokens/s on one thread", speed),
    ]
    panels = [panel for panel in panels if any(panel.series.values())]
    text = f"{note} Bars: lowest to highest seed." + (" Speed: benchmarks/results/training.md." if speeds else "")
    trend_figure(panels, path, title=table.title, x_label=trend.x_label, note=text)


def _languages(table: Table, reference: str, scale: Scale, records: Records, folder: Path, note: str) -> str:
    """Tables and figure language by language."""
    current = current_runs(systems_of(table), scale, records, table.task)
    labels = {row.system.name: row.system.label for row in table.rows}
    by_label = {labels[name]: found for name, found in current.items() if found}
    if not current[reference]:
        return ""
    name = f"{table.stem}_{scale.name}_languages.png"
    language_figure(
        {label: found for label, found in by_label.items() if label != labels[reference]},
        current[reference],
        folder / name,
        title="Perplexity by language",
        reference_label=labels[reference],
        note=f"{note} Bars: 95% interval of the difference paired by seed.",
    )
    return f"\n![Perplexity by language]({name})\n\n" + language_markdown(by_label)


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


def _printed(path: Sequence[str | int]) -> float | None:
    """The paper's number for a row, if it has one."""
    return float(paper_number(path)) if path else None
