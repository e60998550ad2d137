"""A page of zero-shot scores, a row a score and a column a system; and the measurements behind them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.tables import Column, Row
from analysis.zero_shot.answers import FINER
from analysis.zero_shot.results import Settings, ZeroShotScores
from analysis.zero_shot.scores import Score, score_tables
from analysis.zero_shot.tasks import find, stock_file
from experiments.report.captions import caption_of, measured_systems, of_all
from experiments.runner.measurements import Measurement, Subject
from experiments.runner.page import Page, Section, unique
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.system import System
from mhmoe.model.checkpoints import load

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
    measurement: Measurement[ZeroShotScores] = page.measurements[0]
    named = {row.system.label: row.system for row in rows}
    found, runs = measured_systems(measurement, named, scale, records, page.task)
    if not found:
        return [], []
    paragraphs, csv_rows = [*caption_of(runs, of_all(found)), _how(of_all(found))], list[Row]()
    for arm in dict.fromkeys(row.system.arm for row in rows):
        of_arm = [row for row in rows if row.system.arm == arm]
        systems = {row.system.label: found.get(row.system.label, {}) for row in of_arm}
        if any(systems.values()):
            tables, more = score_tables(scores, systems, {row.system.label: row.paper_scores for row in of_arm})
            paragraphs += [f"The {arm} arm.", tables] if arm != "published" else [tables]
            csv_rows += more
    return paragraphs, csv_rows


def _how(results: Sequence[ZeroShotScores]) -> str:
    """How the scores were made, from the scores themselves."""

    def each(of: Callable[[Settings], object]) -> str:
        return ", ".join(sorted({str(of(result.settings)) for result in results}))

    cut = max(task.cut for result in results for task in result.tasks.values())
    windowed = max(task.windowed for result in results for task in result.tasks.values())
    limit, version, length = each(lambda s: s.limit), each(lambda s: s.lm_eval), each(lambda s: s.max_length)
    limit = "" if limit == "None" else f" The first {limit} items of each task alone."
    return (
        f"lm-eval {version}, no examples in the prompt, {length} tokens of context: what is longer is cut from the "
        f"left (up to {cut:.0%} of a task's requests), and answers longer than that are scored in windows (up to "
        f"{windowed:.1%}).{limit}"
    )


# ---- what is measured -----------------------------------------------------------------------


def files_of_tasks(settings: Mapping[str, Any]) -> list[str]:
    """Also sees that the tasks are known to lm-eval, and lm-eval is there."""
    tasks = find(settings["tasks"])
    for task in tasks:
        stock_file(task)
    return list(dict.fromkeys(task.file for task in tasks))


def _zero_shot(subject: Subject, settings: Mapping[str, Any]) -> ZeroShotScores:
    from analysis.zero_shot.scoring import evaluate  # slow to import, with transformers' and torch's side of it

    model, tokenizer = load(str(subject.model), device="cpu")
    return evaluate(model, tokenizer, settings["tasks"], subject.data.path, limit=settings["limit"])


def _scored(
    name: str, tasks: Sequence[str], within: Measurement[ZeroShotScores] | None = None
) -> Measurement[ZeroShotScores]:
    """Scores of all items of some tasks, or groups of tasks."""
    return Measurement(
        name=name,
        settings={"tasks": [*tasks], "limit": None, "finer": FINER},
        smoke={"limit": 20},
        result=ZeroShotScores,
        measure=_zero_shot,
        files=files_of_tasks,
        within=within,
        narrow=ZeroShotScores.of_tasks,
    )


ZERO_SHOT_ENGLISH = _scored("zero_shot_english", ["english"])  # v1 Table 2
ZERO_SHOT_MLP_LAYERS = _scored("zero_shot_mlp_layers", ["rte", "piqa", "winogrande"], ZERO_SHOT_ENGLISH)  # v1 Table 7
ZERO_SHOT_HELLASWAG = _scored("zero_shot_hellaswag", ["hellaswag"], ZERO_SHOT_ENGLISH)  # where many are compared
ZERO_SHOT_XNLI = _scored("zero_shot_xnli", ["xnli"])  # v1 Table 3
