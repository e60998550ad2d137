"""A page of zero-shot scores, a row a score and a column a system; and the measurements behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.checkpoints import load
from analysis.tables import Column, Row
from analysis.zero_shot.answers import FINER
from analysis.zero_shot.scores import Score, score_tables
from analysis.zero_shot.tasks import find, stock_file
from experiments.report.captions import caption_of, measured_systems, of_all
from experiments.runner.measurements import Measurement, Subject
from experiments.runner.page import Page, Section, unique
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.systems import System

CSV_COLUMNS = tuple(
    Column(key, key) for key in ("label", "task", "measure", "seeds", "value", "std", "stderr_over_items")
)


@dataclass(frozen=True, kw_only=True)
class ScoredRow:
    """A row: the system, and the paper's scores in the order of the page's, then their mean."""

    system: System
    paper_scores: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class ScoreTable(Page):
    """Zero-shot scores of systems, from the first of `measurements`."""

    rows: Sequence[ScoredRow]
    scores: Sequence[Score]

    def all_systems(self) -> list[System]:
        return unique([row.system for row in self.rows])

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        paragraphs, rows = scores_of(self, self.rows, self.scores, scale, records)
        return Section("\n\n".join(paragraphs), CSV_COLUMNS, rows) if rows else None


def scores_of(
    page: Page, rows: Sequence[ScoredRow], scores: Sequence[Score], scale: Scale, records: Records
) -> tuple[list[str], list[Row]]:
    """Caption and tables as paragraphs, and every number as a row; nothing where no model was scored."""
    found, runs = measured_systems(page, {row.system.label: row.system for row in rows}, scale, records)
    if not found:
        return [], []
    lines = caption_of(runs, of_all(found))
    systems = {row.system.label: found.get(row.system.label, {}) for row in rows}
    tables, csv_rows = score_tables(scores, systems, {row.system.label: row.paper_scores for row in rows})
    lines.append(_how([result for seeds in found.values() for result in seeds.values()]))
    return [*lines, tables], csv_rows


def _how(results: Sequence[Mapping[str, Any]]) -> str:
    """How the scores were made, from the scores themselves."""

    def each(of: str) -> str:
        return ", ".join(sorted({str(result["settings"][of]) for result in results}))

    cut = max(task["cut"] for result in results for task in result["tasks"].values())
    windowed = max(task["windowed"] for result in results for task in result["tasks"].values())
    limit = "" if each("limit") == "None" else f" The first {each('limit')} items of each task alone."
    return (
        f"lm-eval {each('lm_eval')}, no examples in the prompt, {each('max_length')} tokens of context: what is longer "
        f"is cut from the left (up to {cut:.0%} of a task's requests), and answers longer than that are scored in "
        f"windows (up to {windowed:.1%}).{limit}"
    )


# ---- what is measured -----------------------------------------------------------------------


def files_of_tasks(settings: Mapping[str, Any]) -> list[str]:
    """Also sees that the tasks are known to lm-eval, and lm-eval is there."""
    tasks = find(settings["tasks"])
    for task in tasks:
        stock_file(task)
    return list(dict.fromkeys(task.file for task in tasks))


def _zero_shot(subject: Subject, settings: Mapping[str, Any]) -> dict[str, Any]:
    from analysis.zero_shot.scoring import evaluate  # slow to import, with transformers' and torch's side of it

    model, tokenizer = load(str(subject.model), device="cpu")
    return evaluate(model, tokenizer, settings["tasks"], subject.data.path, limit=settings["limit"])


def _of_tasks(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What scoring these tasks alone would have given, but for its costs."""
    return {
        "tasks": {name: values["tasks"][name] for name in names},
        "data": {**values["data"], "tasks": {name: values["data"]["tasks"][name] for name in names}},
        "settings": values["settings"],
    }


def _scored(name: str, tasks: Sequence[str], within: Measurement | None = None) -> Measurement:
    """Scores of all items of some tasks, or groups of tasks."""
    return Measurement(
        name=name,
        settings={"tasks": [*tasks], "limit": None, "finer": FINER},
        smoke={"limit": 20},
        measure=_zero_shot,
        files=files_of_tasks,
        within=within,
        narrow=_of_tasks,
    )


ZERO_SHOT_ENGLISH = _scored("zero_shot_english", ["english"])  # v1 Table 2
ZERO_SHOT_MLP_LAYERS = _scored("zero_shot_mlp_layers", ["rte", "piqa", "winogrande"], ZERO_SHOT_ENGLISH)  # v1 Table 7
ZERO_SHOT_HELLASWAG = _scored("zero_shot_hellaswag", ["hellaswag"], ZERO_SHOT_ENGLISH)  # where many are compared
ZERO_SHOT_XNLI = _scored("zero_shot_xnli", ["xnli"])  # v1 Table 3
