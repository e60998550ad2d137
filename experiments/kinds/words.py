"""A figure of two groups of words, and what is claimed of words of several senses (v1 Section 5.2).

Every claim is that one group's mean is above the other's.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis.claims.measured import MeasuredClaim, Quantity
from analysis.plotting import LOOKS
from analysis.results import Source
from analysis.routing.text import load_checkpoint, routes
from analysis.routing.words.comparison import WordValue, compare, matched_pairs
from analysis.routing.words.figure import TwoGroups, two_group_figure
from analysis.routing.words.known_senses import KnownSenses, measure_known_senses
from analysis.routing.words.rows import (
    CHOICES,
    CHOICES_EXPLAINED,
    COMPARISONS,
    EXPLAINED,
    choice_rows,
    comparison_rows,
)
from analysis.routing.words.senses import WordRouting, measure_senses
from analysis.routing.words.sub_tokens import texts_of
from analysis.tables import seeds_text, table_markdown
from experiments.claims import higher
from experiments.report.captions import caption_of, generated_note, measured_systems, of_all, setting_of
from experiments.report.looks import ROLES
from experiments.runner.measurements import Measurement, Subject
from experiments.runner.page import Page, Section, unique
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.stand_in.folder import CONTEXTS, FALSE_FRIENDS, LEXICON
from experiments.system import System
from mhmoe.data.synthetic import GeneratedCorpus

HEADS = 8
EXPERTS, SHARE = "experts", "share of sub-tokens"
PAPER = "v1 Section 5.2"
_VALUES = (
    "For words, the values are numbers of different experts that a word's h sub-tokens go to, mean over MoE layers: at "
    "most h k."
)


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


@dataclass(frozen=True, kw_only=True)
class WordsFigure(Page):
    """Two groups of words and how many experts their sub-tokens reach: the first of `measurements`, by label.

    headings: of each comparison, by its name in the results. groups: what the two groups of the figure are,
    those of the comparison `senses`. text: what was read. explained: the table's columns and views.
    """

    measurements: Sequence[Measurement[WordRouting]] = ()
    systems: Mapping[str, System]
    headings: Mapping[str, str]
    groups: tuple[str, str]
    text: str
    explained: str

    def all_systems(self) -> list[System]:
        return unique([*self.systems.values()])

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        found, runs = measured_systems(self.measurements[0], self.systems, scale, records, self.task)
        if not found:
            return None
        lines, picture = caption_of(runs, of_all(found)), f"{self.slug}_{scale.name}.png"
        label, seeds = next(iter(found.items()))
        tokens = next(iter(seeds.values())).text.tokens
        two_group_figure(
            _panels(list(seeds.values())),
            folder / picture,
            title=f"{self.title}: {label}, every word's mean over {len(seeds)} seeds",
            names=self.groups,
            note=f"{setting_of(runs)}; {seeds_text([seeds])}. Read: {tokens:,} tokens of {self.text}."
            + generated_note(of_all(found)),
            look=ROLES.get(self.systems[label].role, LOOKS[-1]),
        )
        rows = [row for label, seeds in found.items() for row in comparison_rows(label, seeds, self.headings)]
        page = f"![{self.title}]({picture})\n\n"
        page += table_markdown(COMPARISONS, rows, caption=[*lines, f"{_VALUES} {self.explained} {EXPLAINED}"])
        if choices := choice_rows(found):
            page += f"\n{table_markdown(CHOICES, choices, caption=[CHOICES_EXPLAINED])}"
        return Section(page, COMPARISONS, rows)


def _panels(seeds: Sequence[WordRouting]) -> dict[str, TwoGroups]:
    """The words raw and in matched pairs, of the trained and of the untrained models; means over seeds."""
    words = seeds[0].words  # all seeds read the same text
    groups = dict(zip(words.word, words.first, strict=True))
    measured = map(WordValue, words.count, words.tokens, words.trained)
    of, parts = dict(zip(words.word, measured, strict=True)), dict(zip(words.word, words.part, strict=True))
    pairs = matched_pairs(of, groups, parts)
    panels: dict[str, TwoGroups] = {}
    columns = {"trained": [r.words.trained for r in seeds], "untrained": [r.words.untrained for r in seeds]}
    for name, values in columns.items():
        mean = dict(zip(words.word, np.mean(values, axis=0).tolist(), strict=True))
        first, second = ([mean[word] for word in sorted(mean) if groups[word] is s] for s in (True, False))
        panels[f"{name}, all words"] = TwoGroups(first, second, compare(first, second))
        first, second = ([mean[pair[side]] for pair in pairs] for side in (0, 1))
        panels[f"{name}, matched pairs"] = TwoGroups(first, second, compare(first, second, paired=True))
    return panels


def _mean(comparison: str, view: str, unit: str, side: int) -> Quantity[WordRouting]:
    """Of the first (0) or second (1) group."""

    def of(result: WordRouting) -> float | None:
        means = result.comparisons[comparison][view].mean
        return None if means is None else means[side]

    return Quantity(name=f"{comparison}, {view}, group {side + 1}", unit=unit, of=of)


def _difference(comparison: str, view: str, unit: str) -> Quantity[WordRouting]:
    return Quantity(
        name=f"{comparison}, {view}, difference",
        unit=unit,
        of=lambda result: result.comparisons[comparison][view].difference,
    )


def word_claims(
    systems: Mapping[str, System], measurement: Measurement[WordRouting], claimed: Sequence[WordClaim]
) -> list[MeasuredClaim]:
    """What is claimed of words, of every system."""

    def claim(label: str, system: System, said: WordClaim) -> MeasuredClaim:
        if said.beside is not None:
            first, second = (_difference(name, said.view, said.unit) for name in (said.comparison, said.beside))
        else:
            first, second = (_mean(said.comparison, said.view, said.unit, side) for side in (0, 1))
        return higher(f"{label}: {said.statement}", said.source, measurement, (system, first), (system, second))

    return [claim(label, system, said) for label, system in systems.items() for said in claimed]


# ---- what is measured -----------------------------------------------------------------------


_FILES = ("lexicon", "false_friends", "contexts")


def _word_senses(subject: Subject, settings: Mapping[str, Any]) -> WordRouting | None:
    model, tokenizer = load_checkpoint(subject.model)
    if not routes(model):
        return None
    files = {name: settings[name] for name in _FILES}
    folder = subject.data
    measured = measure_senses(
        model,
        tokenizer,
        texts_of(getattr(subject.text, settings["split"]), tokenizer),
        seed=subject.seed,
        **{name: folder.path / file for name, file in files.items()},
        **{name: settings[name] for name in ("language", "many", "rule", "min_count", "max_words")},
    )
    source = Source(kind=folder.kind, files={file: folder.hash_of(file) for file in files.values()})
    return dataclasses.replace(measured, data=source)


def _known_senses(subject: Subject, settings: Mapping[str, Any]) -> KnownSenses | None:
    model, tokenizer = load_checkpoint(subject.model)
    if not routes(model):
        return None
    corpus = GeneratedCorpus.from_fingerprint(subject.text.fingerprint["corpus"])
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
    result=WordRouting,
    measure=_word_senses,
    files=lambda settings: [settings[name] for name in _FILES],
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
    result=KnownSenses,
    measure=_known_senses,
)
