"""A words figure's section at a scale: two groups of words, raw and matched, and every comparison in a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.group_comparison import WordValue, matched_pairs
from analysis.heatmaps import TwoGroups, two_group_figure
from analysis.measured_claims import Values
from analysis.render import Column, Row, caption, table_csv, table_markdown
from analysis.statistics import CONFIDENCE
from experiments.finals import READINGS, current_runs, measured_values, sources
from experiments.runs import Records, systems_of
from experiments.schema import Scale, WordsFigure

COLUMNS = (
    Column("label", "system"),
    Column("compared", "compared"),
    Column("view", "view"),
    Column("seeds", "seeds"),
    Column("n", "n"),
    Column("first", "first group", ".3f"),
    Column("second", "second group", ".3f"),
    Column("difference", "difference", "+.4f"),
    Column("cohens_d", "Cohen's d", "+.3f"),
    Column("d_low", "lowest", "+.3f"),
    Column("d_high", "highest", "+.3f"),
    Column("significant", "above / below, p < 0.05"),
)
COMPARED = {
    "senses": "three senses or more / one sense",
    "false_friends": "false friends / all other words",
    "contexts": "one word in two senses / in one sense",
}
_EXPLAINED = (
    "For words, the values are numbers of different experts that a word's sub-tokens go to, mean over MoE layers; in "
    "context, the share of a word's sub-tokens that go to another expert in the second sentence. matched: pairs of "
    "words alike in frequency, number of tokens, letters and part of speech. same_form, beyond_others, adjusted: see "
    "analysis/word_in_context.py. null: the same on the untrained model. change: trained minus untrained, word by "
    "word. Means over seeds; lowest and highest: the lowest lower and the highest upper end of d's 95% interval over "
    f"words in any seed; the last column counts seeds whose permutation test has p < {1 - CONFIDENCE:.2f}."
)


def words_section(page: WordsFigure, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
    (name,) = page.measurements
    current = current_runs(systems_of(page), scale, records, page.task)
    measured = measured_values([name], current, records.results)
    found = {label: dict(measured[name, system.name]) for label, system in page.systems.items()}
    found = {label: seeds for label, seeds in found.items() if seeds}
    if not found:
        return "", ""
    runs = [r for label in found for r in current[page.systems[label].name] if r.seed in found[label]]
    lines = caption(runs, reading=READINGS, sources=sources(runs))
    picture = f"{page.stem}_{scale.name}.png"
    label, seeds = next(iter(found.items()))
    seed, values = next(iter(seeds.items()))
    two_group_figure(
        _panels(values),
        folder / picture,
        title=f"{page.title}: {label}, seed {seed}",
        names=("three senses or more", "one sense"),
        note=f"{lines[0]} Read: {values['text']['tokens']:,} tokens of its test text.",
    )
    rows = [row for label, seeds in found.items() for row in _rows(label, seeds)]
    csv_columns = (Column("scale", "scale"), *COLUMNS)
    return (
        f"![{page.title}]({picture})\n\n" + table_markdown(COLUMNS, rows, caption=[*lines, _EXPLAINED]),
        table_csv(csv_columns, [{"scale": scale.name, **row} for row in rows]),
    )


def _panels(values: Values) -> dict[str, TwoGroups]:
    """The words raw and in matched pairs, of the trained and of the untrained model."""
    words: Mapping[str, Sequence[Any]] = values["words"]
    groups = {word: bool(entry[0]) for word, entry in words.items()}
    of = {word: WordValue(*entry[2:5]) for word, entry in words.items()}
    pairs = matched_pairs(of, groups, {word: entry[1] for word, entry in words.items()})
    panels: dict[str, TwoGroups] = {}
    for name, column, prefix in (("trained", 4, ""), ("untrained", 5, "null_")):
        first, second = ([words[word][column] for word in sorted(words) if groups[word] is s] for s in (True, False))
        panels[f"{name}, all words"] = TwoGroups(first, second, values["senses"][f"{prefix}raw"])
        first, second = ([words[pair[side]][column] for pair in pairs] for side in (0, 1))
        panels[f"{name}, matched pairs"] = TwoGroups(first, second, values["senses"][f"{prefix}matched"])
    return panels


def _rows(label: str, seeds: Mapping[int, Values]) -> list[Row]:
    rows: list[Row] = []
    for compared, heading in COMPARED.items():
        views = [view for view in next(iter(seeds.values()))[compared] if view != "pairs"]
        for view in views:
            found = [values[compared][view] for values in seeds.values()]
            found = [f for f in found if f["d_low"] is not None]  # else too few words, or all alike
            if not found:
                continue
            sure = [f for f in found if f["p_value"] < 1 - CONFIDENCE]
            up = sum(f["difference"] > 0 for f in sure)
            rows.append(
                {
                    "label": label,
                    "compared": heading,
                    "view": view,
                    "seeds": len(found),
                    "n": " / ".join(f"{n:,}" for n in found[0]["n"]),
                    "first": float(np.mean([f["mean"][0] for f in found])),
                    "second": float(np.mean([f["mean"][1] for f in found])),
                    "difference": float(np.mean([f["difference"] for f in found])),
                    "cohens_d": float(np.mean([f["cohens_d"] for f in found])),
                    "d_low": min(f["d_low"] for f in found),
                    "d_high": max(f["d_high"] for f in found),
                    "significant": f"{up} / {len(sure) - up} of {len(found)}",
                }
            )
    return rows
