"""A figure of two groups of words, and what is claimed of words of several senses (v1 Section 5.2).

Every claim is that one group's mean is above the other's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis.claims.measured import MeasuredClaim, Quantity, Side, Values
from analysis.plotting import LOOKS
from analysis.routing.text import load_checkpoint
from analysis.routing.words.comparison import WordValue, compare, matched_pairs
from analysis.routing.words.figure import TwoGroups, two_group_figure
from analysis.routing.words.known_senses import measure_known_senses
from analysis.routing.words.senses import measure_senses
from analysis.routing.words.sub_tokens import texts_of
from analysis.statistics import CONFIDENCE
from analysis.tables import Column, Row, seeds_text, table_markdown
from experiments.report.captions import caption_of, generated_note, measured_systems, of_all, setting_of
from experiments.report.looks import ROLES
from experiments.runner.measurements import Measurement, Subject
from experiments.runner.page import Page, Section, unique
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.stand_in.folder import CONTEXTS, FALSE_FRIENDS, LEXICON
from experiments.systems import System, mhmoe
from mhmoe.data.synthetic import GeneratedCorpus

HEADS = 8
SEEDS = 5  # with fewer, no difference between words could pass the correction for so many claims
SYSTEMS: dict[str, System] = {
    f"MH-MoE, h = {HEADS}": mhmoe(8, "parameters", HEADS, seeds=SEEDS),
    f"MH-MoE, h = {HEADS}, equal FLOPs": mhmoe(8, "compute", HEADS, seeds=SEEDS),
}
EXPERTS, SHARE = "experts", "share of sub-tokens"
PAPER = "v1 Section 5.2"


class WordClaim(NamedTuple):
    """That the first group's mean is above the second's in a comparison of the measured values, seen in a view.

    unit: of the values. source: who says so. beside: another comparison, whose difference is to be exceeded.
    """

    comparison: str
    view: str
    statement: str
    unit: str
    source: str
    beside: str | None = None


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


@dataclass(frozen=True, kw_only=True)
class WordsFigure(Page):
    """Two groups of words and how many experts their sub-tokens reach: the first of `measurements`, by label.

    headings: of each comparison, by its key in the measured values. groups: what the two groups of the figure are,
    those of the comparison `senses`. text: what was read. explained: the table's columns and views.
    """

    systems: Mapping[str, System]
    headings: Mapping[str, str]
    groups: tuple[str, str]
    text: str
    explained: str

    def all_systems(self) -> list[System]:
        return unique([*self.systems.values()])

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        found, runs = measured_systems(self, self.systems, scale, records)
        if not found:
            return None
        lines, picture = caption_of(runs, of_all(found)), f"{self.slug}_{scale.name}.png"
        label, seeds = next(iter(found.items()))
        values = next(iter(seeds.values()))
        two_group_figure(
            _panels(list(seeds.values())),
            folder / picture,
            title=f"{self.title}: {label}, every word's mean over {len(seeds)} seeds",
            names=self.groups,
            note=f"{setting_of(runs)}; {seeds_text([seeds])}. Read: {values['text']['tokens']:,} tokens of {self.text}."
            + generated_note(of_all(found)),
            look=ROLES.get(self.systems[label].role, LOOKS[-1]),
        )
        rows = [row for label, seeds in found.items() for row in _rows(label, seeds, self.headings)]
        page = f"![{self.title}]({picture})\n\n"
        page += table_markdown(COLUMNS, rows, caption=[*lines, f"{self.explained} {_EXPLAINED}"])
        if "choices" in values:
            page += f"\n{table_markdown(CHOICES, _choices(found), caption=[_CHOICES])}"
        return Section(page, COLUMNS, rows)


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


def _mean(comparison: str, view: str, unit: str, side: int) -> Quantity:
    """Of the first (0) or second (1) group."""

    def of(values: Values) -> float | None:
        means = values[comparison][view].get("mean") if values else None
        return None if means is None else means[side]

    return Quantity(name=f"{comparison}, {view}, group {side + 1}", unit=unit, of=of)


def _difference(comparison: str, view: str, unit: str) -> Quantity:
    def of(values: Values) -> float | None:
        return values[comparison][view]["difference"] if values else None

    return Quantity(name=f"{comparison}, {view}, difference", unit=unit, of=of)


def words_figure(
    *,
    slug: str,
    title: str,
    headings: Mapping[str, str],
    groups: tuple[str, str],
    text: str,
    explained: str,
    claimed: Sequence[WordClaim],
    measurement: Measurement,
    task: str = "english",
) -> WordsFigure:
    """The figure, and its claims for every system."""

    def claim(label: str, system: System, said: WordClaim) -> MeasuredClaim:
        if said.beside is not None:
            higher, lower = (_difference(name, said.view, said.unit) for name in (said.comparison, said.beside))
        else:
            higher, lower = (_mean(said.comparison, said.view, said.unit, side) for side in (0, 1))
        return MeasuredClaim(
            slug=slug,
            statement=f"{label}: {said.statement}",
            source=said.source,
            reading=system.reading,
            task=task,
            measurement=measurement.name,
            higher=Side(system=system.name, quantity=higher),
            lower=Side(system=system.name, quantity=lower),
        )

    return WordsFigure(
        slug=slug,
        title=title,
        task=task,
        systems=SYSTEMS,
        headings=headings,
        groups=groups,
        text=text,
        explained=(
            f"For words, the values are numbers of different experts that a word's {HEADS} sub-tokens go to, mean over "
            f"MoE layers: at most {HEADS}. {explained}"
        ),
        measurements=(measurement,),
        claims=[claim(label, system, said) for label, system in SYSTEMS.items() for said in claimed],
    )


# ---- what is measured -----------------------------------------------------------------------


def _of_words(settings: Mapping[str, Any]) -> list[str]:
    return [settings[name] for name in ("lexicon", "false_friends", "contexts")]


def _word_senses(subject: Subject, settings: Mapping[str, Any]) -> dict[str, Any]:
    model, tokenizer = load_checkpoint(subject.model)
    if model.config.moe is None:
        return {}
    files = {name: settings[name] for name in ("lexicon", "false_friends", "contexts")}
    folder = subject.data
    source = {"kind": folder.kind} | {file: folder.hash_of(file) for file in files.values()}
    measured = measure_senses(
        model,
        tokenizer,
        texts_of(getattr(subject.text, settings["split"]), tokenizer),
        seed=subject.seed,
        **{name: folder.path / file for name, file in files.items()},
        **{name: settings[name] for name in ("language", "many", "rule", "min_count", "max_words")},
    )
    return {"data": source, **measured}


def _known_senses(subject: Subject, settings: Mapping[str, Any]) -> dict[str, Any]:
    model, tokenizer = load_checkpoint(subject.model)
    if model.config.moe is None:
        return {}
    corpus = GeneratedCorpus.of_fingerprint(subject.text.fingerprint["corpus"])
    return measure_known_senses(model, tokenizer, corpus, seed=subject.seed, **settings)


WORD_SENSES = Measurement(
    name="word_senses",  # do words of several senses reach more experts?
    settings={
        "split": "test",
        "lexicon": LEXICON,
        "false_friends": FALSE_FRIENDS,
        "contexts": CONTEXTS,
        "language": "en",
        "many": 3,
        "rule": "mean",
        "min_count": 5,
        "max_words": 4000,
    },
    measure=_word_senses,
    files=_of_words,
)
KNOWN_SENSES = Measurement(
    name="known_senses",  # the same on the generated text, whose truth is known
    settings={
        "split": "test",
        "rule": "mean",
        "min_count": 5,
        "per_word": 8,
        "choices": 2000,
        "true_cognates": "diverse",
    },
    smoke={"per_word": 2, "choices": 200},
    measure=_known_senses,
)
