"""Perplexity language by language, or kind by kind of images and text, from the documents of records.

The ids of a corpus begin with the language (mhmoe/data/multilingual.py) or kind (multimodal.py), so that what a record
says of its documents says it of these too. Changes are of nll per token, paired by seed, as everywhere.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.figures import Panel, category_figure
from analysis.plotting import Look, Point
from analysis.statistics import paired_difference, summarise
from analysis.tables import Column, Row, table_markdown
from mhmoe.training.evaluation import by_group
from mhmoe.training.record import Record, by_seed


def language_rows(records: Mapping[str, Sequence[Record]]) -> list[Row]:
    """One row a language: tokens, bytes a token, and mean perplexity and bits per byte by system over seeds.

    records: by label of the system. Keys of the row: language, tokens, bytes_per_token, and for each label
    (label, "perplexity") joined by a colon, likewise "bits_per_byte".
    """
    groups = {label: [by_group(r.metrics["test"]["documents"]) for r in several] for label, several in records.items()}
    first = next((seeds[0] for seeds in groups.values() if seeds), {})
    rows: list[Row] = []
    for language, whole in first.items():
        row: Row = {"language": language, "tokens": whole["tokens"]}
        row["bytes_per_token"] = whole["bytes"] / whole["tokens"]
        for label, seeds in groups.items():
            for name in ("perplexity", "bits_per_byte"):
                row[f"{label}:{name}"] = summarise(s[language][name] for s in seeds).mean
        rows.append(row)
    return rows


def language_markdown(records: Mapping[str, Sequence[Record]], noun: str = "language") -> str:
    """A table of perplexity, and for languages, whose text has bytes, one of bits per byte; a line each, a column a
    system."""
    rows = language_rows(records)
    parts: list[str] = []
    tables = (("perplexity", "Perplexity", ".1f"), ("bits_per_byte", "Bits per byte", ".3f"))
    has_bytes = noun == "language"
    for name, title, spec in tables if has_bytes else tables[:1]:
        columns = (
            Column("language", noun),
            Column("tokens", "tokens", ","),
            *([Column("bytes_per_token", "bytes a token", ".2f")] if has_bytes else []),
            *(Column(f"{label}:{name}", label, spec) for label in records),
        )
        parts.append(f"### {title} by {noun}\n\n" + table_markdown(columns, rows))
    return "\n".join(parts)


def language_figure(
    panels: Sequence[Sequence[str]],
    records: Mapping[str, Sequence[Record]],
    reference: str,
    path: Path,
    *,
    title: str,
    noun: str = "language",
    note: str = "",
    looks: Mapping[str, Look] | None = None,
) -> None:
    """Write `path` (.png) and its .csv: each system's change of perplexity to the reference's, by language.

    In percent, mean over the common seeds with the 95% interval of the paired difference (claims.py). panels: labels
    of the systems in each panel. records: by label, the reference's too. looks: of the labels.
    """

    def nll(several: Sequence[Record]) -> dict[int, dict[str, float]]:
        found = by_seed(several)
        return {
            seed: {language: g["nll_per_token"] for language, g in by_group(r.metrics["test"]["documents"]).items()}
            for seed, r in found.items()
        }

    base = nll(records[reference])
    languages = list(next(iter(base.values()), {}))
    series: dict[str, list[Point]] = {}
    for label in (label for panel in panels for label in panel if label != reference):
        ours = nll(records[label])
        points: list[Point] = []
        for i, language in enumerate(languages):
            difference = paired_difference(
                {seed: values[language] for seed, values in ours.items()},
                {seed: values[language] for seed, values in base.items()},
            )
            mean, low, high = (100 * math.expm1(x) for x in (difference.mean, difference.low, difference.high))
            if difference.n:
                points.append(Point(i, mean, low, high, difference.n))
        series[label] = points
    drawn = [
        Panel(
            f"perplexity, change to {reference} (%)",
            {label: series[label] for label in panel if label != reference},
            reference={reference: 0.0},
        )
        for panel in panels
    ]
    category_figure(drawn, languages, path, title=title, x_label=noun, note=note, looks=looks)
