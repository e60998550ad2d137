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
from analysis.visual_questions import Answers, fine_tune, measure_answers
from experiments.report.captions import caption_of, measured_systems, of_all
from experiments.runner.measurements import Measurement, Subject
from experiments.runner.page import Page, Section, unique
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.system import System
from mhmoe.data.local_images import FILES

COLUMNS = (
    Column("trained", "model"),
    Column("label", "system"),
    Column("paper", "paper, VQAv2 test-dev", ".1f"),
    Column("accuracy", "all", ".1f", 100),
    Column("std", "std", ".1f", 100),
    Column("seeds", "seeds"),
    Column("yes_no", "by yes or no", ".1f", 100),
    Column("other", "others", ".1f", 100),
    Column("hidden", "all, image masked", ".1f", 100),
    Column("yes_no_hidden", "by yes or no, image masked", ".1f", 100),
    Column("other_hidden", "others, image masked", ".1f", 100),
    Column("nll", "nats a right answer", ".3f"),
    Column("nll_hidden", "image masked", ".3f"),
)


@dataclass(frozen=True, kw_only=True)
class AnsweredRow:
    """paper: what the paper prints of the system on VQAv2, after fine-tuning."""

    system: System
    paper: float | None = None


@dataclass(frozen=True, kw_only=True)
class VisualQuestions(Page):
    """A table for each of `measurements`, with a line for each of the rows."""

    measurements: Sequence[Measurement[Answers]] = ()
    rows: Sequence[AnsweredRow]

    def all_systems(self) -> list[System]:
        return unique([row.system for row in self.rows])

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        named = {row.system.label: row.system for row in self.rows}
        tables: list[str] = []
        all_rows: list[Cells] = []
        for measurement in self.measurements:
            found, runs = measured_systems(measurement, named, scale, records, self.task)
            if not found:
                continue
            settings = measurement.settings_at(scale.name)
            rows = [
                {
                    "label": row.system.label,
                    "paper": row.paper if "steps" in settings else None,
                    **_cells([*found[row.system.label].values()]),
                }
                for row in self.rows
                if row.system.label in found
            ]
            lines = [*caption_of(runs, of_all(found)), _how(settings, of_all(found)[0])]
            tables.append(table_markdown(filled(COLUMNS, rows), rows, caption=lines))
            all_rows += [{"trained": "fine-tuned" if "steps" in settings else "pre-trained", **row} for row in rows]
        return Section("\n".join(tables), COLUMNS, all_rows) if tables else None


def _how(settings: Mapping[str, Any], first: Answers) -> str:
    asked = (
        f"{first.questions:,} questions, answered by what is likeliest of {len(first.answers)} answers "
        f"({', '.join(first.answers)}) where the answer is masked; percent of right answers, means over seeds. "
        "Image masked: the same without anything of the image."
    )
    if "steps" not in settings:
        return (
            f"As pre-trained, on a text that has questions of this kind with their answers. {asked} The paper prints "
            "nothing of models before fine-tuning."
        )
    trained = settings["steps"] * settings["batch_sequences"]
    return (
        f"Fine-tuned as v1's are: each model after {settings['steps']:,} more steps, on {trained:,} questions of other "
        f"images, at {settings['learning_rate_share']:g} times its learning rate. {asked} The paper's are other "
        "questions, about photographs: compare the order of systems, and not the values."
    )


def _cells(seeds: Sequence[Answers]) -> Cells:
    accuracy = summarise(found.accuracy() for found in seeds)
    means = {
        "yes_no": [found.accuracy("1") for found in seeds],
        "other": [found.accuracy("0") for found in seeds],
        "hidden": [found.accuracy(hidden=True) for found in seeds],
        "yes_no_hidden": [found.accuracy("1", hidden=True) for found in seeds],
        "other_hidden": [found.accuracy("0", hidden=True) for found in seeds],
        "nll": [found.nll for found in seeds],
        "nll_hidden": [found.nll_hidden for found in seeds],
    }
    cells: Cells = {name: float(np.mean(values)) for name, values in means.items()}
    return cells | {"accuracy": accuracy.mean, "std": accuracy.std, "seeds": len(seeds)}


# ---- what is measured ------------------------------------------------------------------------


def _answers(subject: Subject, settings: Mapping[str, Any]) -> Answers:
    model, tokenizer = load_checkpoint(subject.model)
    corpus, source = subject.images(settings["files"])
    visual, end = corpus.visual_tokenizer(), subject.text.end_of_text
    if "steps" in settings:
        of_steps = {name: settings[name] for name in ("steps", "batch_sequences")}
        rate = settings["learning_rate_share"] * subject.training.learning_rate
        training = replace(subject.training, **of_steps, micro_batches=1, learning_rate=rate)
        asked = [*corpus.images.questions("train")]
        fine_tune(model, tokenizer, visual, asked, training, seed=subject.seed, end_of_text=end)
    asked = [*corpus.images.questions(settings["split"])]
    chosen = np.unique(np.linspace(0, len(asked) - 1, settings["questions"]).round().astype(int))
    found = measure_answers(model, tokenizer, visual, [asked[i] for i in chosen], end_of_text=end)
    return replace(found, data=source)


VISUAL_QUESTIONS = Measurement(
    name="visual_questions",
    settings={"split": "test", "questions": 2000, "files": FILES},
    smoke={"questions": 200, "files": []},
    result=Answers,
    measure=_answers,
    files=lambda settings: settings["files"],
)
# Half of a model's own learning rate was the first value tried, for Dense and on `valid`.
FINE_TUNED = replace(
    VISUAL_QUESTIONS,
    name="visual_questions_fine_tuned",
    settings={**VISUAL_QUESTIONS.settings, "steps": 400, "batch_sequences": 32, "learning_rate_share": 0.5},
    smoke={**VISUAL_QUESTIONS.smoke, "steps": 20, "batch_sequences": 16},
)
