"""A routing figure's section at a scale: pictures, and a table of every measure beside its nulls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.activation_figure import activation_curves
from analysis.expert_activation import uniform_null
from analysis.heatmaps import activation_heatmaps, group_heatmaps
from analysis.measured_claims import Values
from analysis.render import Column, Row, seeds_text, table_csv, table_markdown
from analysis.routing_measures import summary, total
from experiments.finals import caption_of, generated_note, measured_systems, of_all, setting_of
from experiments.looks import looks
from experiments.runs import Records
from experiments.schema import RoutingFigure, Scale

COLUMNS = (
    Column("label", "system"),
    Column("router", "router"),
    Column("seeds", "seeds"),
    Column("distinct_share", "experts that a token reaches", ".2f", 100, "%"),
    Column("effective_experts", "effective experts", ".2f"),
    Column("collapsed_share", "collapsed", ".1f", 100, "%"),
    Column("largest_load", "largest load", ".3f"),
    Column("bits", "bits about the group", ".3f"),
    Column("normalised", "of the most possible", ".1f", 100, "%"),
    Column("permuted_bits", "groups dealt out anew", ".3f"),
    Column("permuted_quantile", "95% of them below", ".3f"),
    Column("dominant_share", "of an expert, its busiest group", ".1f", 100, "%"),
)
_EXPLAINED = (
    "Means over MoE layers and seeds. Experts that a token reaches: different experts of a layer, of all. Effective: "
    "exp of the entropy of the load. Collapsed: experts with less than a tenth of the even share. Largest load: share "
    "of the busiest expert. Bits about the group: what the choice of an expert tells of the {group}; of the most "
    "possible: log2 of the number of groups or experts, which choices of several experts cannot reach; groups dealt "
    "out anew: bits when the texts' groups are permuted, mean and 95% quantile. Of an expert, its busiest group: the "
    "largest share that a {group} has of it, mean over experts, all {group}s counting equally; {even:.1%} if it takes "
    "no sides. Untrained: the same seed before training. Random: every sub-token or token takes experts at random."
)


def routing_section(page: RoutingFigure, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
    found, runs = measured_systems(page, page.systems, scale, records)
    if not found:
        return "", ""
    counts = {
        label: {seed: total(v["trained"]["groups"]) for seed, v in seeds.items()} for label, seeds in found.items()
    }
    first = {label: next(iter(seeds)) for label, seeds in found.items()}
    tokens = next(iter(next(iter(counts.values())).values()))["tokens"]
    lines = caption_of(runs, of_all(found))
    read = f"Read: questions of {page.text}, {tokens:,} tokens.{generated_note(of_all(found))}"
    note = f"{setting_of(runs)}; {seeds_text(seeds for seeds in found.values())}. {read}"
    one = f"{setting_of(runs)}. {read} Models of seed {' and '.join(map(str, sorted(set(first.values()))))} alone."
    stem = f"{page.stem}_{scale.name}"
    activation_heatmaps(
        {page.text: {label: seeds[first[label]] for label, seeds in counts.items()}},
        folder / f"{stem}.png",
        title=page.title,
        note=f"{one} A layer makes h k selections a token, which is most of how systems differ in colour.",
    )
    nulls = {
        "untrained": {
            label: [total(v["untrained"]["groups"]) for v in seeds.values()] for label, seeds in found.items()
        },
        "random": {label: [uniform_null(c, seed) for seed, c in seeds.items()] for label, seeds in counts.items()},
    }
    activation_curves(
        {label: list(seeds.values()) for label, seeds in counts.items()},
        folder / f"{stem}_thresholds.png",
        title="Activation ratio against its threshold",
        note=note,
        paper=page.printed,
        nulls=nulls,
        looks=looks({label: page.systems[label] for label in found}),
    )
    group_heatmaps(
        {label: seeds[first[label]]["trained"]["groups"] for label, seeds in found.items()},
        folder / f"{stem}_groups.png",
        title=f"Experts by {page.group}",
        note=f"{one} Any routing has a diagonal in this order; what a choice tells of the {page.group}: see the table.",
        group=page.group,
    )
    rows = [row for label, seeds in found.items() for row in _rows(label, seeds)]
    groups = len(next(iter(next(iter(found.values())).values()))["trained"]["groups"])
    lines.append(_EXPLAINED.format(group=page.group, even=1 / groups))
    pictures = "".join(
        f"![{title}]({stem}{part}.png)\n\n"
        for title, part in ((page.title, ""), ("Thresholds", "_thresholds"), (f"By {page.group}", "_groups"))
    )
    csv_columns = (Column("scale", "scale"), *COLUMNS)
    return (
        pictures + table_markdown(COLUMNS, rows, caption=lines),
        table_csv(csv_columns, [{"scale": scale.name, **row} for row in rows]),
    )


def _rows(label: str, seeds: Mapping[int, Values]) -> list[Row]:
    """Trained, untrained and random."""
    rows: list[Row] = []
    for router in ("trained", "untrained"):
        measures = [summary(total(values[router]["groups"])) for values in seeds.values()]
        told = {
            name: [values[router][part][measure] for values in seeds.values()]
            for name, part, measure in (
                ("bits", "specialisation", "bits"),
                ("normalised", "specialisation", "normalised"),
                ("dominant_share", "specialisation", "dominant_share"),
                ("permuted_bits", "permuted", "mean_bits"),
                ("permuted_quantile", "permuted", "quantile_95_bits"),
            )
        }
        rows.append({"label": label, "router": router, "seeds": len(seeds), **_means(measures), **_mean_of(told)})
    random = [summary(uniform_null(total(v["trained"]["groups"]), seed)) for seed, v in seeds.items()]
    rows.append({"label": label, "router": "random", "seeds": len(seeds), **_means(random)})
    return rows


def _means(measures: Sequence[Mapping[str, float]]) -> Row:
    return {name: float(np.mean([m[name] for m in measures])) for name in measures[0]}


def _mean_of(values: Mapping[str, Any]) -> Row:
    return {name: float(np.mean(value)) for name, value in values.items()}
