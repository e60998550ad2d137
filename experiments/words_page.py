"""A words figure's section at a scale: two groups of words, raw and matched, and every comparison in a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.group_comparison import WordValue, compare, matched_pairs
from analysis.measured_claims import Values
from analysis.plotting import LOOKS
from analysis.render import Column, Row, seeds_text, table_csv, table_markdown
from analysis.statistics import CONFIDENCE
from analysis.word_figure import TwoGroups, two_group_figure
from experiments.finals import caption_of, generated_note, measured_systems, of_all, setting_of
from experiments.looks import ROLES
from experiments.runs import Records
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
CHOICES = (
    Column("label", "system"),
    Column("router", "model"),
    Column("seeds", "seeds"),
    Column("n", "choices"),
    Column("accuracy", "right sense", ".1f", 100, "%"),
    Column("low", "lowest seed", ".1f", 100, "%"),
    Column("high", "highest seed", ".1f", 100, "%"),
    Column("margin", "margin, nats", "+.3f"),
)
_EXPLAINED = (
    "null: the same on the untrained model. change: trained minus untrained. Means over seeds; lowest and highest: the "
    "lowest lower and the highest upper end of d's 95% interval in any seed, over the n words or items; the last "
    f"column counts seeds whose permutation test has p < {1 - CONFIDENCE:.2f}."
)
_CHOICES = (
    "Are the senses learned? After an ambiguous word, how often the follower that stands in the text is likelier than "
    "one of another sense that the word has in the same language. Chance is 50%."
)


def words_section(page: WordsFigure, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
    found, runs = measured_systems(page, page.systems, scale, records)
    if not found:
        return "", ""
    lines, picture = caption_of(runs, of_all(found)), f"{page.stem}_{scale.name}.png"
    label, seeds = next(iter(found.items()))
    values = next(iter(seeds.values()))
    two_group_figure(
        _panels(list(seeds.values())),
        folder / picture,
        title=f"{page.title}: {label}, every word's mean over {len(seeds)} seeds",
        names=page.groups,
        note=f"{setting_of(runs)}; {seeds_text([seeds])}. Read: {values['text']['tokens']:,} tokens of {page.text}."
        + generated_note(of_all(found)),
        look=ROLES.get(page.systems[label].role, LOOKS[-1]),
    )
    rows = [row for label, seeds in found.items() for row in _rows(label, seeds, page.headings)]
    csv_columns = (Column("scale", "scale"), *COLUMNS)
    return (
        f"![{page.title}]({picture})\n\n"
        + table_markdown(COLUMNS, rows, caption=[*lines, f"{page.explained} {_EXPLAINED}"])
        + (f"\n{table_markdown(CHOICES, _choices(found), caption=[_CHOICES])}" if "choices" in values else ""),
        table_csv(csv_columns, [{"scale": scale.name, **row} for row in rows]),
    )


def _panels(seeds: Sequence[Values]) -> dict[str, TwoGroups]:
    """The words raw and in matched pairs, of the trained and of the untrained models; means over seeds."""
    words: Mapping[str, Sequence[Any]] = seeds[0]["words"]  # all seeds read the same text
    groups = {word: bool(entry[0]) for word, entry in words.items()}
    of = {word: WordValue(*entry[2:5]) for word, entry in words.items()}
    pairs = matched_pairs(of, groups, {word: entry[1] for word, entry in words.items()})
    panels: dict[str, TwoGroups] = {}
    for name, column in (("trained", 4), ("untrained", 5)):
        mean = {word: float(np.mean([values["words"][word][column] for values in seeds])) for word in words}
        first, second = ([mean[word] for word in sorted(words) if groups[word] is s] for s in (True, False))
        panels[f"{name}, all words"] = TwoGroups(first, second, compare(first, second))
        first, second = ([mean[pair[side]] for pair in pairs] for side in (0, 1))
        panels[f"{name}, matched pairs"] = TwoGroups(first, second, compare(first, second, paired=True))
    return panels


def _choices(found: Mapping[str, Mapping[int, Values]]) -> list[Row]:
    rows: list[Row] = []
    for label, seeds in found.items():
        for router in ("trained", "untrained"):
            several = [values["choices"][router] for values in seeds.values()]
            accuracies = [one["accuracy"] for one in several]
            rows.append(
                {
                    "label": label,
                    "router": router,
                    "seeds": len(seeds),
                    "n": several[0]["n"],
                    "accuracy": float(np.mean(accuracies)),
                    "low": min(accuracies),
                    "high": max(accuracies),
                    "margin": float(np.mean([one["margin"] for one in several])),
                }
            )
    return rows


def _rows(label: str, seeds: Mapping[int, Values], headings: Mapping[str, str]) -> list[Row]:
    rows: list[Row] = []
    for key, heading in headings.items():
        views = [view for view in next(iter(seeds.values()))[key] if view != "pairs"]
        for view in views:
            found = [values[key][view] for values in seeds.values()]
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
