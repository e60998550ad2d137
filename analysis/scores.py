"""Zero-shot scores of several systems side by side, from what zero_shot.evaluate gave for each seed.

An accuracy says little near chance, so every table comes three times: accuracy beside chance and beside the
paper's, bits per byte of the right answer (lower is better), and its margin over the best wrong one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.answers import unpack
from analysis.measured_claims import Items, Quantity, Values
from analysis.render import NOT_RUN, Column, Row, table_markdown
from analysis.statistics import CONFIDENCE, summarise
from analysis.zero_shot_tasks import TASKS

Scores = Mapping[int, Values]
"""Seed -> the result of zero_shot.evaluate, of one system."""
UP, DOWN = "↑", "↓"
AVERAGE = "average"


@dataclass(frozen=True)
class Score:
    """A line of a table: its label, the task in lm-eval and which of its accuracies; `counts` for the finer measures.

    TruthfulQA is one set of questions scored twice, so only one of its lines counts there.
    """

    label: str
    task: str
    measure: str = "acc"
    counts: bool = True


def mean_accuracy(scores: Sequence[Score]) -> Quantity:
    """The mean of all lines, in percent, as the paper's last column."""

    def of(values: Values) -> float:
        return float(np.mean([100 * values["tasks"][s.task][s.measure]["value"] for s in scores]))

    def items(values: Values) -> list[Items]:
        return [_items(values, s.task, s.measure, 100.0) for s in scores]

    return Quantity(name="mean accuracy", unit="points", of=of, items=items)


def mean_bits_per_byte(scores: Sequence[Score]) -> Quantity:
    """Bits per byte of the right answers, mean over tasks; lower is better."""
    tasks = [s.task for s in _finer(scores)]

    def of(values: Values) -> float:
        return float(np.mean([values["tasks"][task]["bits_per_byte"]["value"] for task in tasks]))

    def items(values: Values) -> list[Items]:
        return [_items(values, task, "bits_per_byte", 1.0) for task in tasks]

    return Quantity(name="mean bits per byte", unit="bits per byte", of=of, items=items)


def _items(values: Values, task: str, measure: str, factor: float) -> Items:
    packed = values["tasks"][task]["items"]
    folder = TASKS[task].folder if task in TASKS else task
    cluster = "xnli" if folder.startswith("xnli") else folder  # its languages are translations of the same items
    return Items(packed["sha256"], factor * unpack(packed[measure]), cluster)


def _finer(scores: Sequence[Score]) -> list[Score]:
    return list({s.task: s for s in scores if s.counts}.values())


def score_tables(
    scores: Sequence[Score], systems: Mapping[str, Scores], paper: Mapping[str, Sequence[float]]
) -> tuple[str, list[Row]]:
    """Markdown of the three tables, and one row for every number, for a CSV.

    systems: by label, in the order of the columns. paper: by label, its values in the order of `scores`, then
    their mean as printed. Arrows mark accuracies that in every seed lie above or below what guessing gives.
    """
    parts = [_accuracies(scores, systems, paper)]
    parts += [_finer_table(title, name, spec, scores, systems) for title, name, spec in _FINER]
    rows: list[Row] = []
    for label, seeds in systems.items():
        for score in scores:
            lines = [(score.measure, 100.0)] + [(name, 1.0) for _, name, _ in _FINER if score in _finer(scores)]
            for measure, factor in lines:
                found = [values["tasks"][score.task][measure] for values in seeds.values()]
                of_seeds = summarise(factor * f["value"] for f in found)
                rows.append(
                    {
                        "label": label,
                        "task": score.task,
                        "measure": measure,
                        "seeds": of_seeds.n,
                        "value": of_seeds.mean,
                        "std": of_seeds.std,
                        "stderr_over_items": summarise(factor * f["stderr"] for f in found).mean,
                    }
                )
    return "\n".join(parts), rows


_FINER = (
    ("Bits per byte of the right answer (lower is better)", "bits_per_byte", ".4f"),
    ("Margin over the best wrong answer, bits per byte (higher is better)", "margin", "+.4f"),
)


def _accuracies(scores: Sequence[Score], systems: Mapping[str, Scores], paper: Mapping[str, Sequence[float]]) -> str:
    average = mean_accuracy(scores)
    rows: list[Row] = []
    for i, score in enumerate(scores):
        row: Row = {"label": score.label} | _facts(score, systems)
        for label, seeds in systems.items():
            found = [values["tasks"][score.task][score.measure] for values in seeds.values()]
            mark = _mark([(f["value"], *_best_guess(row, f)) for f in found])
            row[label] = _cell([100 * f["value"] for f in found], paper.get(label, ())[i : i + 1], ".1f", mark)
        rows.append(row)
    last: Row = {"label": AVERAGE}
    for label, seeds in systems.items():
        known = [value for values in seeds.values() if (value := average.of(values)) is not None]
        last[label] = _cell(known, paper.get(label, ())[len(scores) :], ".1f", "")
    columns = (
        Column("label", "score"),
        Column("n", "n", ","),
        Column("stderr", "s.e.", ".1f", 100),
        Column("chance", "chance %", ".1f", 100),
        Column("majority", "majority %", ".1f", 100),
        *(Column(label, label) for label in systems),
    )
    note = (
        f"Percent, mean over seeds, in brackets the paper's. majority: always the more frequent answer, where all "
        f"items have the same choices. {UP} above and {DOWN} below the larger of chance and majority in every seed "
        f"(p < {1 - CONFIDENCE:.2f}, binomial; for mc2 normal). s.e.: over items, of one model."
    )
    return "### Accuracy\n\n" + table_markdown(columns, [*rows, last], caption=[note])


def _facts(score: Score, systems: Mapping[str, Scores]) -> Row:
    """What is the same for every model: items, chance; and the first model's standard error."""
    for seeds in systems.values():
        for values in seeds.values():
            found = values["tasks"][score.task]
            return {
                "n": found["n"],
                "chance": found["chance"],
                "majority": found["majority"],
                "stderr": found[score.measure]["stderr"],
            }
    return {}


def _best_guess(row: Row, found: Mapping[str, Any]) -> tuple[float, float | None]:
    """What a model without knowledge can reach at most, and the p-value of being there."""
    if row["majority"] is not None and row["majority"] > row["chance"]:
        return row["majority"], found["p_majority"]
    return row["chance"], found["p_chance"]


def _mark(found: Sequence[tuple[float, float, float | None]]) -> str:
    sure = bool(found) and all(p is not None and p < 1 - CONFIDENCE for _, _, p in found)
    if sure and all(value > guess for value, guess, _ in found):
        return f" {UP}"
    return f" {DOWN}" if sure and all(value < guess for value, guess, _ in found) else ""


def _cell(values: Sequence[float], paper: Sequence[float], spec: str, mark: str) -> str:
    printed = f" ({paper[0]:g})" if paper else ""
    return (format(summarise(values).mean, spec) + mark if values else NOT_RUN) + printed


def _finer_table(title: str, name: str, spec: str, scores: Sequence[Score], systems: Mapping[str, Scores]) -> str:
    rows: list[Row] = []
    of_systems: dict[str, list[float]] = {label: [] for label in systems}
    for score in _finer(scores):
        row: Row = {"label": score.label.split(",")[0]}
        for label, seeds in systems.items():
            value = summarise(values["tasks"][score.task][name]["value"] for values in seeds.values()).mean
            row[label] = value if seeds else NOT_RUN
            of_systems[label].append(value)
        rows.append(row)
    means = {label: float(np.mean(values)) if systems[label] else NOT_RUN for label, values in of_systems.items()}
    columns = (Column("label", "task"), *(Column(label, label, spec) for label in systems))
    return f"### {title}\n\n" + table_markdown(columns, [*rows, {"label": AVERAGE, **means}])
