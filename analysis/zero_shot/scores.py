"""Zero-shot scores of several systems side by side, from what zero_shot.evaluate gave for each seed.

An accuracy says little near chance, so every table comes several times: accuracy beside chance and beside the
paper's, and each of the finer measures of answers.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.claims.measured import Items, Quantity
from analysis.statistics import CONFIDENCE, holm, summarise
from analysis.tables import NOT_RUN, Column, Row, table_markdown
from analysis.zero_shot.answers import FINER, ItemValues, Mean, unpack
from analysis.zero_shot.results import ZeroShotScores
from analysis.zero_shot.tasks import TASKS

OfSeeds = Mapping[int, ZeroShotScores]
"""Of one system, by seed."""
UP, DOWN = "↑", "↓"
_SURE = f"p < {1 - CONFIDENCE:.2f} after Holm's correction for the cells of this table"
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


Cell = tuple[Score, str]  # a line and the label of a system
Distance = tuple[float, float | None]  # of a seed's value from what is expected, with its p-value


def mean_accuracy(scores: Sequence[Score]) -> Quantity[ZeroShotScores]:
    """The mean of all lines, in percent, as the paper's last column."""
    return _mean("mean accuracy", "points", [(s.task, s.measure) for s in scores], 100.0)


def mean_advantage(scores: Sequence[Score]) -> Quantity[ZeroShotScores]:
    """The advantage of right answers over wrong ones, mean over tasks."""
    return _mean("mean advantage", "bits per byte", [(s.task, "advantage") for s in _finer(scores)], 1.0)


def _mean(name: str, unit: str, lines: Sequence[tuple[str, str]], factor: float) -> Quantity[ZeroShotScores]:
    """Of measures of tasks, each in units of 1 / factor."""

    def of(result: ZeroShotScores) -> float | None:
        means = [result.tasks[task].measure(measure).value for task, measure in lines]
        known = [factor * mean for mean in means if mean is not None]
        return float(np.mean(known)) if len(known) == len(means) else None

    def items(result: ZeroShotScores) -> list[Items]:
        return [_items(result.tasks[task].items, task, measure, factor) for task, measure in lines]

    return Quantity(name=name, unit=unit, of=of, items=items)


def _items(items: ItemValues, task: str, measure: str, factor: float) -> Items:
    folder = TASKS[task].folder if task in TASKS else task
    cluster = "xnli" if folder.startswith("xnli") else folder  # its languages are translations of the same items
    return Items(items.sha256, factor * unpack(items.values[measure]), cluster)


def _finer(scores: Sequence[Score]) -> list[Score]:
    return list({s.task: s for s in scores if s.counts}.values())


def score_tables(
    scores: Sequence[Score], systems: Mapping[str, OfSeeds], paper: Mapping[str, Sequence[float]]
) -> tuple[str, list[Row]]:
    """Markdown of the tables, and one row for every number, for a CSV.

    systems: by label, in the order of the columns. paper: by label, its values in the order of `scores`, then
    their mean as printed. Arrows mark accuracies that in every seed lie above or below what guessing gives, and
    advantages that in every seed lie above or below zero; both are corrected for the number of cells (Holm).
    """
    parts = [_accuracies(scores, systems, paper)]
    parts += [_finer_table(*measure, scores, systems) for measure in _FINER]
    rows: list[Row] = []
    for label, seeds in systems.items():
        for score in scores:
            lines = [(score.measure, 100.0)] + [(name, 1.0) for name in FINER if score in _finer(scores)]
            for measure, factor in lines:
                found = [result.tasks[score.task].measure(measure) for result in seeds.values()]
                of_seeds = summarise(factor * f.value for f in found if f.value is not None)
                rows.append(
                    {
                        "label": label,
                        "task": score.task,
                        "measure": measure,
                        "seeds": of_seeds.n,
                        "value": of_seeds.mean,
                        "std": of_seeds.std,
                        "stderr_over_items": summarise(factor * f.stderr for f in found if f.stderr is not None).mean,
                    }
                )
    return "\n".join(parts), rows


_FINER = (
    (
        "Bits per byte of the right answer (lower is better)",
        "bits_per_byte",
        ".3f",
        "How well the answer's text is known, whether or not anything is known of the question.",
    ),
    (
        "Margin over the best wrong answer, bits per byte (higher is better)",
        "margin",
        "+.3f",
        "The best of several wrong answers: below zero for a model to which all read alike.",
    ),
    (
        "Advantage over the mean wrong answer, bits per byte (higher is better)",
        "advantage",
        "+.4f",
        "Zero for a model to which right and wrong answers read alike; this one is judged. Answers differ in form too, "
        "so that a model which never sees the question need not be at zero. "
        f"{UP} above and {DOWN} below zero in every seed ({_SURE}).",
    ),
)


def _accuracies(scores: Sequence[Score], systems: Mapping[str, OfSeeds], paper: Mapping[str, Sequence[float]]) -> str:
    average = mean_accuracy(scores)
    of_cells: dict[Cell, list[Distance]] = {}
    for score in scores:
        for label, seeds in systems.items():
            tasks = [result.tasks[score.task] for result in seeds.values()]
            guesses = [task.best_guess(score.measure) for task in tasks]
            found = [task.accuracies[score.measure].value for task in tasks]
            gaps = [value - guess for value, (guess, _) in zip(found, guesses, strict=True)]
            of_cells[score, label] = [(gap, p) for gap, (_, p) in zip(gaps, guesses, strict=True)]
    marks = _marks(of_cells)
    rows: list[Row] = []
    for i, score in enumerate(scores):
        row: Row = {"label": score.label} | _facts(score, systems)
        for label, seeds in systems.items():
            found = [100 * result.tasks[score.task].accuracies[score.measure].value for result in seeds.values()]
            row[label] = _cell(found, ".1f", marks[score, label], paper.get(label, ())[i : i + 1])
        rows.append(row)
    chances = [row["chance"] for row in rows if "chance" in row]
    last: Row = {"label": AVERAGE, "chance": sum(chances) / len(chances) if len(chances) == len(rows) else None}
    for label, seeds in systems.items():
        known = [value for result in seeds.values() if (value := average.of(result)) is not None]
        last[label] = _cell(known, ".1f", "", paper.get(label, ())[len(scores) :])
    columns = (
        Column("label", "score"),
        Column("n", "n", ","),
        Column("cut", "cut %", ".0f", 100),
        Column("stderr", "s.e.", ".1f", 100),
        Column("chance", "chance %", ".1f", 100),
        Column("majority", "majority %", ".1f", 100),
        *(Column(label, label) for label in systems),
    )
    note = (
        "Percent, mean ± standard deviation over seeds, in brackets the paper's. cut: requests longer than the "
        "context. s.e.: over items, of one model. majority: always the more frequent answer, where all items have the "
        "same choices; a score at it, or at 100 less it, is one answer to everything. "
        f"{UP} above and {DOWN} below the larger of chance and majority in every seed ({_SURE}; binomial, for mc2 "
        "normal). Where answers differ in length, a model that knows nothing need not be at chance: the score that is "
        f"not normalised prefers short ones. {AVERAGE}: of all lines, as the paper's."
    )
    return "### Accuracy\n\n" + table_markdown(columns, [*rows, last], caption=[note])


def _facts(score: Score, systems: Mapping[str, OfSeeds]) -> Row:
    """What is the same for every model: items, chance, what was cut; and the first model's standard error."""
    for seeds in systems.values():
        for result in seeds.values():
            found = result.tasks[score.task]
            same = {key: getattr(found, key) for key in ("n", "chance", "majority", "cut")}
            return same | {"stderr": found.accuracies[score.measure].stderr}
    return {}


def _marks(found: Mapping[Cell, Sequence[Distance]]) -> dict[Cell, str]:
    """An arrow where every seed lies on one side of what is expected, and the least sure of them is sure."""
    worst = [_least_sure([p for _, p in seeds]) for seeds in found.values()]
    marks: dict[Cell, str] = {}
    for (cell, seeds), p_value in zip(found.items(), holm(worst), strict=True):
        above, below = (all(sign * gap > 0 for gap, _ in seeds) for sign in (1, -1))
        marks[cell] = f" {UP if above else DOWN}" if p_value < 1 - CONFIDENCE and (above or below) else ""
    return marks


def _least_sure(p_values: Sequence[float | None]) -> float:
    known = [p for p in p_values if p is not None]
    return max(known) if known and len(known) == len(p_values) else math.nan


def _cell(values: Sequence[float], spec: str, mark: str, paper: Sequence[float] = ()) -> str:
    printed = f" ({paper[0]:g})" if paper else ""
    if not values:
        return NOT_RUN + printed
    of_seeds = summarise(values)
    spread = f" ± {format(of_seeds.std, spec.lstrip('+'))}" if of_seeds.n > 1 else ""
    return format(of_seeds.mean, spec) + spread + mark + printed


def _finer_table(
    title: str, name: str, spec: str, note: str, scores: Sequence[Score], systems: Mapping[str, OfSeeds]
) -> str:
    finer = _finer(scores)
    found: dict[Cell, list[Mean]] = {
        (score, label): [result.tasks[score.task].finer[name] for result in seeds.values()]
        for score in finer
        for label, seeds in systems.items()
    }
    marks = dict.fromkeys(found, "")
    if name == "advantage":
        marks = _marks({cell: [(f.value or 0.0, _p_value(f)) for f in of] for cell, of in found.items()})
    rows: list[Row] = []
    for score in finer:
        of_first = next((of[0].stderr for (line, _), of in found.items() if line == score and of), None)
        row: Row = {"label": score.label.split(",")[0], "stderr": of_first}
        for label in systems:
            values = [f.value for f in found[score, label] if f.value is not None]
            row[label] = _cell(values, spec, marks[score, label])
        rows.append(row)
    last: Row = {"label": AVERAGE, "stderr": None}
    average = _mean(AVERAGE, "", [(s.task, name) for s in finer], 1.0)
    for label, seeds in systems.items():
        last[label] = _cell([m for result in seeds.values() if (m := average.of(result)) is not None], spec, "")
    columns = (Column("label", "task"), Column("stderr", "s.e.", spec.lstrip("+")), *(Column(x, x) for x in systems))
    return f"### {title}\n\n" + table_markdown(columns, [*rows, last], caption=[note])


def _p_value(mean: Mean) -> float | None:
    """Of a mean over items being zero, by the normal distribution."""
    return float(2 * stats.norm.sf(abs(mean.value) / mean.stderr)) if mean.value is not None and mean.stderr else None
