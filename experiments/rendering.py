"""Records into results/: tables, figures, the ledger. Reads committed records and nothing else.

results/<stem>.md, .csv and .png hold every committed scale; the smoke scale is a check of the machinery, so
its records and pages stay out of git, under results/smoke.
"""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from analysis.claims import Verdict, divide, judge
from analysis.figures import Panel, Point, learning_curves, trend_figure
from analysis.languages import language_figure, language_markdown
from analysis.learning_speed import final_point
from analysis.ledger import ledger_markdown
from analysis.render import (
    NOT_RUN,
    PERPLEXITY_COLUMNS,
    STALE,
    Column,
    RowSpec,
    caption,
    csv_text,
    perplexity_table,
    table_csv,
    table_markdown,
)
from analysis.routing_measures import distinct_share
from experiments.measurements import MEASUREMENTS, measured
from experiments.recipes import HEADS, SCALES, paper_numbers
from experiments.runs import RESULTS, Records, final_name, final_runs, systems_of, tuning_runs
from experiments.schema import (
    Curves,
    Experiment,
    Page,
    PrintedSizes,
    Scale,
    Sensitivity,
    Sizes,
    Sweep,
    System,
    Table,
    Trend,
    Variation,
)
from experiments.sizes import (
    COST_COLUMNS,
    ERRATA_COLUMNS,
    FOLLOW_UP_COLUMNS,
    FOLLOW_UP_TITLE,
    PRINTED_COLUMNS,
    SIZE_COLUMNS,
    cost_rows,
    errata_rows,
    follow_up_rows,
    printed_rows,
    size_rows,
)
from mhmoe.records import Record, write_atomically

COMMITTED = tuple(scale for scale in SCALES.values() if scale.name != "smoke")
READINGS = (
    "`parameters`: as many parameters as X-MoE, by the inner width (v1 Table 11; h times the expert FLOPs). "
    "`compute`: as many parameters and FLOPs, by inner width and number of experts (v2). "
    f"The control is X-MoE with k = h = {HEADS}: the FLOPs and selections of `parameters`, without heads"
)


def render(experiment: Experiment, scales: Sequence[Scale], folder: Path, results: Path = RESULTS) -> dict[Path, str]:
    """Write an experiment's files; returns those that are text, for printing and comparing."""
    pages: list[str] = [f"# {experiment.title}\n"]
    tables: list[str] = []
    for scale in scales:
        records = Records(scale, results)
        if experiment.task != "english" and experiment.task not in scale.texts:
            continue
        section = _SECTIONS[type(experiment)]
        page, table = section(experiment, scale, records, folder)
        if page:
            pages.append(f"## Scale {scale.name}\n\n{page}")
            tables.append(table)
    if not tables:
        pages.append(f"Not run at any of the scales {', '.join(scale.name for scale in scales)}.\n")
    pages += [f"{note}\n" for note in experiment.notes]
    files = {
        folder / f"{experiment.stem}.md": "\n".join(pages),
        folder / f"{experiment.stem}.csv": _joined(tables),
    }
    for path, content in files.items():
        write_atomically(path, content)
    return files


def verdicts(experiments: Sequence[Experiment], scales: Sequence[Scale], results: Path = RESULTS) -> list[Verdict]:
    """A verdict on every claim, by the current records alone."""
    found: list[Verdict] = []
    for experiment in experiments:
        for scale in scales:
            records = Records(scale, results)
            if experiment.task != "english" and experiment.task not in scale.texts:
                continue
            if not isinstance(experiment, Table | Curves) or not experiment.claims or not records.by_name:
                continue
            current = _current(systems_of(experiment), scale, records, experiment.task)
            found += judge(experiment.claims, [r for rs in current.values() for r in rs], scales=[scale.name])
    return found


def render_claims(
    experiments: Sequence[Experiment], scales: Sequence[Scale], folder: Path, results: Path = RESULTS
) -> dict[Path, str]:
    """The ledger, claims.md."""
    titles = {experiment.stem: experiment.title for experiment in experiments}
    path = folder / "claims.md"
    files = {path: ledger_markdown(verdicts(experiments, scales, results), titles)}
    write_atomically(path, files[path])
    return files


def _current(systems: Sequence[System], scale: Scale, records: Records, task: str) -> dict[str, list[Record]]:
    """Each system's finished final runs, the stale ones left out."""
    current: dict[str, list[Record]] = {}
    for system in systems:
        runs = final_runs(scale, task, system, records.seeds(task, system), records)
        current[system.name] = [records.by_name[run.name] for run in runs if records.state(run) == "done"]
    return current


def _declared(systems: Sequence[System], scale: Scale, records: Records, task: str) -> dict[tuple[str, str], str]:
    """What `divide` asks for: the fingerprint that every final run should have."""
    runs = (run for s in systems for run in final_runs(scale, task, s, records.seeds(task, s), records))
    return {(scale.name, run.name): records.declared(run) or "other" for run in runs}


def _of_systems(systems: Sequence[System], scale: Scale, records: Records, task: str) -> dict[str, list[Record]]:
    """Each system's records of final runs, stale ones included."""
    names = {s.name: [final_name(task, s, seed) for seed in records.seeds(task, s)] for s in systems}
    return {s: [records.by_name[n] for n in found if n in records.by_name] for s, found in names.items()}


def _sources(records: Sequence[Record]) -> list[str]:
    """What the text is, from the records: kind and files of the corpus."""
    found: set[str] = set()
    for record in records:
        corpus = record.config["data"]["corpus"]
        names = {Path(name).name.rsplit("-", 1)[0] for name in corpus.get("files", {})}
        found.add(f"{corpus['kind']} ({', '.join(sorted(names))})" if names else str(corpus["kind"]))
    return sorted(found)


def _table(table: Table, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
    systems = systems_of(table)
    of_systems = _of_systems(systems, scale, records, table.task)
    found = [record for several in of_systems.values() for record in several]
    if not found:
        return "", ""
    declared = _declared(systems, scale, records, table.task)
    specs = [
        RowSpec(system=row.system.name, label=row.system.label, paper=_printed(row.paper), reference=row.reference)
        for row in table.rows
    ]
    rows = perplexity_table(specs, of_systems, reference=table.reference, split=table.split, declared=declared)
    current, _ = divide(found, declared)
    lines = caption(current, reading=READINGS, sources=_sources(current))
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
    current = _current(systems_of(table), scale, records, table.task)
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
    text = f"{note} Bars: lowest to highest seed. Speed: benchmarks/results/training.md."
    trend_figure(panels, path, title=table.title, x_label=trend.x_label, note=text)


def _languages(table: Table, reference: str, scale: Scale, records: Records, folder: Path, note: str) -> str:
    """Tables and figure language by language."""
    current = _current(systems_of(table), scale, records, table.task)
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


def _curves(curves: Curves, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
    systems = systems_of(curves)
    of_systems = _of_systems(systems, scale, records, curves.task)
    if not any(of_systems.values()):
        return "", ""
    current = _current(systems, scale, records, curves.task)
    found = [record for several in current.values() for record in several]
    panels = {
        title: {label: [record.curve for record in current[system.name]] for label, system in panel.items()}
        for title, panel in curves.panels.items()
    }
    name = f"{curves.stem}_{scale.name}.png"
    lines = caption(found, reading=READINGS, sources=_sources(found))
    learning_curves(panels, folder / name, title=curves.title, note=lines[0])
    rows = [{"scale": scale.name, "label": s.label, **_end(current[s.name], of_systems[s.name])} for s in systems]
    columns = (
        Column("label", "system"),
        Column("seeds", "seeds"),
        Column("perplexity", "final validation perplexity", ".2f"),
        Column("tokens", "tokens (M)", ",.2f", 1e-6),
        Column("flops", "training FLOPs (T)", ",.1f", 1e-12),
        Column("seconds", "seconds", ",.0f"),
    )
    page = f"![{curves.title}]({name})\n\n" + table_markdown(columns, rows, caption=lines)
    return page, table_csv((Column("scale", "scale"), *columns), rows)


def _end(current: Sequence[Record], records: Sequence[Record]) -> dict[str, Any]:
    """Where a system's curves end: means over its current records; `records` has the stale ones too."""
    if not current:
        return {"perplexity": STALE if records else NOT_RUN}

    def mean(of: Callable[[Record], float]) -> float:
        return sum(map(of, current)) / len(current)

    stale = len(records) - len(current)
    return {
        "seeds": f"{len(current)} ({stale} stale)" if stale else str(len(current)),
        "perplexity": mean(lambda r: math.exp(final_point(r)["valid_nll"])),
        "tokens": mean(lambda r: r.tokens),
        "flops": mean(lambda r: 3 * r.flops_per_token * r.tokens),
        "seconds": mean(lambda r: r.wall_seconds),
    }


def _sweep(sweep: Sweep, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
    rows: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []  # of the CSV: scales have other rates, so a rate is no column there
    current: list[Record] = []
    for system in sweep.systems:
        chosen = records.chosen_rate(sweep.task, system)
        row: dict[str, Any] = {"label": system.label, "chosen": chosen}
        for run in tuning_runs(scale, sweep.task, system):
            state, record = records.state(run), records.by_name.get(run.name)
            cell: Any = NOT_RUN if record is None else STALE
            if record is not None and state == "done":
                current.append(record)
                cell = record.metrics["valid"]["perplexity"]
            row[f"{run.learning_rate:g}"] = cell
            lines.append(
                {
                    "scale": scale.name,
                    "label": system.label,
                    "rate": run.learning_rate,
                    "perplexity": cell,
                    "chosen": "yes" if run.learning_rate == chosen else "no",
                }
            )
        rows.append(row)
    if all(line["perplexity"] == NOT_RUN for line in lines):
        return "", ""
    columns = (
        Column("label", "system"),
        *(Column(f"{rate:g}", f"rate {rate:g}", ".2f") for rate in scale.learning_rates),
        Column("chosen", "chosen", "g"),
    )
    tokens = ", ".join(f"{n:,}" for n in sorted({record.tokens for record in current})) or "no"
    above = (
        f"Perplexity on `valid`, seed {scale.tuning_seed}, {tokens} tokens a run "
        f"({scale.tuning_share:.0%} of a final run's); text: {', '.join(_sources(current)) or 'none'}."
    )
    csv_columns = [Column(key, key) for key in ("scale", "label", "rate", "perplexity", "chosen")]
    return table_markdown(columns, rows, caption=[above]), table_csv(csv_columns, lines)


def _sensitivity(sensitivity: Sensitivity, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
    seed, task = scale.seeds[0], sensitivity.task
    rows: list[dict[str, Any]] = []
    current: list[Record] = []
    for variation in (
        Variation(label="as elsewhere", systems=[*sensitivity.systems.values()]),
        *sensitivity.variations,
    ):
        row: dict[str, Any] = {"label": variation.label}
        for column, system in zip(sensitivity.systems, variation.systems, strict=True):
            if system is None:
                row[column] = rows[0][column]  # nothing changes there
                continue
            (run,) = final_runs(scale, task, system, [seed], records)
            record, state = records.by_name.get(run.name), records.state(run)
            row[column] = NOT_RUN if record is None else STALE
            if record is not None and state == "done":
                current.append(record)
                row[column] = record.metrics["test"]["perplexity"]
        reference, *others = (row[column] for column in sensitivity.systems)
        for column, value in zip([*sensitivity.systems][1:], others, strict=True):
            known = isinstance(value, float) and isinstance(reference, float)
            row[f"{column} to reference"] = 100 * (value / reference - 1) if known else None
        rows.append(row)
    if not current:
        return "", ""
    first = next(iter(sensitivity.systems))
    columns = (
        Column("label", "changed"),
        *(Column(column, column, ".2f") for column in sensitivity.systems),
        *(Column(f"{c} to reference", f"{c}, to {first}", "+.1f", suffix="%") for c in [*sensitivity.systems][1:]),
    )
    lines = caption(current, reading=READINGS, sources=_sources(current))
    lines.append("Perplexity on `test`, one seed: a screening, without intervals.")
    csv_rows = [{"scale": scale.name, **row} for row in rows]
    return table_markdown(columns, rows, caption=lines), table_csv((Column("scale", "scale"), *columns), csv_rows)


def _sizes(sizes: Sizes, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
    if scale.name not in sizes.scales:
        return "", ""
    rows = size_rows(sizes.systems, scale)
    page = table_markdown(SIZE_COLUMNS, rows)
    if scale is SCALES["paper"] and sizes.follow_up:
        page += f"\n### {FOLLOW_UP_TITLE}\n\n" + table_markdown(FOLLOW_UP_COLUMNS, follow_up_rows(sizes.follow_up))
    return page, table_csv((Column("scale", "scale"), *SIZE_COLUMNS), [{"scale": scale.name, **r} for r in rows])


def _printed_sizes(page: PrintedSizes, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
    if scale.name != "paper":
        return "", ""
    rows = printed_rows(page.models, scale, at)
    parts = [
        table_markdown(
            PRINTED_COLUMNS, rows, caption=["Millions of parameters; a dash where the paper gives no model."]
        ),
        "### Appendix D: what a token costs in one MoE layer\n\n"
        + table_markdown(
            COST_COLUMNS,
            cost_rows(page.experts, scale),
            caption=["Millions of multiply-adds of the forward pass, by part; parameters are the layer's."],
        ),
        "### Errata: where v1 contradicts itself\n\n" + table_markdown(ERRATA_COLUMNS, errata_rows()),
    ]
    return "\n".join(parts), table_csv(
        (Column("scale", "scale"), *PRINTED_COLUMNS), [{"scale": scale.name, **r} for r in rows]
    )


_SECTIONS: dict[type[Page], Callable[..., tuple[str, str]]] = {
    Table: _table,
    Curves: _curves,
    Sweep: _sweep,
    Sensitivity: _sensitivity,
    Sizes: _sizes,
    PrintedSizes: _printed_sizes,
}


def _printed(path: Sequence[str | int]) -> float | None:
    """The paper's number for a row, if it has one."""
    return float(at(path)) if path else None


def at(path: Sequence[str | int]) -> Any:
    """What stands at a path in paper.json."""
    value: Any = paper_numbers()
    for key in path:
        value = value[key]
    return value


def _joined(tables: Sequence[str]) -> str:
    """Several CSV texts with the same heading as one."""
    lines = [table.splitlines() for table in tables]
    return (
        "\n".join([*lines[0][:1], *(line for table in lines for line in table[1:])]) + "\n" if lines else csv_text([])
    )
