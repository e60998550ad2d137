"""Sections of the other kinds of pages at a scale: curves, learning rates, sensitivity, sizes."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from analysis.figures import learning_curves
from analysis.learning_speed import final_point
from analysis.render import NOT_RUN, STALE, Column, table_csv, table_markdown
from experiments.finals import all_runs, caption_of, current_runs, sources
from experiments.looks import looks
from experiments.recipes import paper_number
from experiments.runs import Records, final_runs, systems_of, tuning_runs
from experiments.scales import SCALES
from experiments.schema import Curves, Page, PrintedSizes, Scale, Sensitivity, Sizes, Sweep, Variation
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
from mhmoe.records import Record


def curves_section(curves: Curves, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
    systems = systems_of(curves)
    of_systems = all_runs(systems, scale, records, curves.task)
    if not any(of_systems.values()):
        return "", ""
    current = current_runs(systems, scale, records, curves.task)
    found = [record for several in current.values() for record in several]
    panels = {
        title: {label: [record.curve for record in current[system.name]] for label, system in panel.items()}
        for title, panel in curves.panels.items()
    }
    name = f"{curves.stem}_{scale.name}.png"
    lines = caption_of(found)
    labelled = {label: system for panel in curves.panels.values() for label, system in panel.items()}
    learning_curves(panels, folder / name, title=curves.title, note=lines[0], looks=looks(labelled))
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


def sweep_section(sweep: Sweep, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
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
        f"({scale.tuning_share:.0%} of a final run's); text: {', '.join(sources(current)) or 'none'}."
    )
    csv_columns = [Column(key, key) for key in ("scale", "label", "rate", "perplexity", "chosen")]
    return table_markdown(columns, rows, caption=[above]), table_csv(csv_columns, lines)


def sensitivity_section(sensitivity: Sensitivity, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
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
    lines = caption_of(current)
    lines.append("Perplexity on `test`, one seed: a screening, without intervals.")
    csv_rows = [{"scale": scale.name, **row} for row in rows]
    return table_markdown(columns, rows, caption=lines), table_csv((Column("scale", "scale"), *columns), csv_rows)


def scales_of(page: Page, rendered: Sequence[Scale]) -> Sequence[Scale]:
    """Those of `rendered`; of what is counted from configs alone, the page's own, whatever else is rendered."""
    match page:
        case Sizes():
            names = page.scales
        case PrintedSizes():
            names = ("paper",)
        case _:
            return rendered
    return [scale for scale in SCALES.values() if scale.name in names]


def sizes_section(sizes: Sizes, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
    rows = size_rows(sizes.systems, scale)
    page = table_markdown(SIZE_COLUMNS, rows)
    if scale is SCALES["paper"] and sizes.follow_up:
        page += f"\n### {FOLLOW_UP_TITLE}\n\n" + table_markdown(FOLLOW_UP_COLUMNS, follow_up_rows(sizes.follow_up))
    return page, table_csv((Column("scale", "scale"), *SIZE_COLUMNS), [{"scale": scale.name, **r} for r in rows])


def printed_sizes_section(page: PrintedSizes, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
    rows = printed_rows(page.models, scale, paper_number)
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
