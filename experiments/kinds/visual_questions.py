"""A table of how well models of masked images and text answer questions about images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.routing.text import load_checkpoint
from analysis.statistics import summarise
from analysis.tables import Column, filled, table_markdown
from analysis.tables import Row as Cells
from analysis.visual_questions import Answers, measure_answers
from experiments.report.captions import caption_of, measured_systems, of_all
from experiments.runner.measurements import Measurement, Subject
from experiments.runner.page import Page, Section, unique
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.system import System
from mhmoe.data.local_images import FILES

COLUMNS = (
    Column("label", "system"),
    Column("paper", "paper, VQAv2 test-dev", ".1f"),
    Column("accuracy", "all", ".1f", 100),
    Column("std", "std", ".1f", 100),
    Column("seeds", "seeds"),
    Column("yes_no", "by yes or no", ".1f", 100),
    Column("other", "others", ".1f", 100),
    Column("hidden", "all, image masked", ".1f", 100),
    Column("nll", "nats a right answer", ".3f"),
    Column("nll_hidden", "image masked", ".3f"),
)


@dataclass(frozen=True, kw_only=True)
class AnsweredRow:
    """paper: what the paper prints of the system on VQAv2."""

    system: System
    paper: float | None = None


@dataclass(frozen=True, kw_only=True)
class VisualQuestions(Page):
    """The first of `measurements`, for each of the rows."""

    measurements: Sequence[Measurement[Answers]] = ()
    rows: Sequence[AnsweredRow]

    def all_systems(self) -> list[System]:
        return unique([row.system for row in self.rows])

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        named = {row.system.label: row.system for row in self.rows}
        found, runs = measured_systems(self.measurements[0], named, scale, records, self.task)
        if not found:
            return None
        rows = [
            {"label": row.system.label, "paper": row.paper, **_cells([*found[row.system.label].values()])}
            for row in self.rows
            if row.system.label in found
        ]
        first = of_all(found)[0]
        lines = caption_of(runs, of_all(found))
        lines.append(
            f"{first.questions:,} questions, answered by what is likeliest of {len(first.answers)} answers "
            f"({', '.join(first.answers)}) where the answer is masked; percent of right answers, means over seeds. "
            "Image masked: the same without anything of the image. The paper's are other questions about photographs, "
            "after training on such: compare the order of systems, and not the values."
        )
        return Section(table_markdown(filled(COLUMNS, rows), rows, caption=lines), COLUMNS, rows)


def _cells(seeds: Sequence[Answers]) -> Cells:
    accuracy = summarise(found.accuracy() for found in seeds)
    means = {
        "yes_no": [found.accuracy("1") for found in seeds],
        "other": [found.accuracy("0") for found in seeds],
        "hidden": [found.accuracy(hidden=True) for found in seeds],
        "nll": [found.nll for found in seeds],
        "nll_hidden": [found.nll_hidden for found in seeds],
    }
    cells: Cells = {name: float(np.mean(values)) for name, values in means.items()}
    return cells | {"accuracy": accuracy.mean, "std": accuracy.std, "seeds": len(seeds)}


# ---- what is measured ------------------------------------------------------------------------


def _answers(subject: Subject, settings: Mapping[str, Any]) -> Answers:
    model, tokenizer = load_checkpoint(subject.model)
    corpus, source = subject.images(settings["files"])
    asked = [*corpus.images.questions(settings["split"])]
    chosen = np.unique(np.linspace(0, len(asked) - 1, settings["questions"]).round().astype(int))
    visual = corpus.visual_tokenizer()
    found = measure_answers(model, tokenizer, visual, [asked[i] for i in chosen], end_of_text=subject.text.end_of_text)
    return replace(found, data=source)


VISUAL_QUESTIONS = Measurement(
    name="visual_questions",
    settings={"split": "test", "questions": 2000, "files": FILES},
    smoke={"questions": 200, "files": []},
    result=Answers,
    measure=_answers,
    files=lambda settings: settings["files"],
)
