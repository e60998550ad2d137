"""Zero-shot scores at a scale: a page of their own, or below a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.render import Column, Row, table_csv
from analysis.scores import score_tables
from experiments.finals import caption_of, measured_systems, of_all
from experiments.runs import Records
from experiments.schema import Scale, ScoreTable, Table

CSV = ("scale", "label", "task", "measure", "seeds", "value", "std", "stderr_over_items")


def score_section(page: ScoreTable, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
    paragraphs, rows = scores_of(page, scale, records)
    csv_rows = [{"scale": scale.name, **row} for row in rows]
    return "\n\n".join(paragraphs), table_csv([Column(key, key) for key in CSV], csv_rows) if rows else ""


def scores_of(page: ScoreTable | Table, scale: Scale, records: Records) -> tuple[list[str], list[Row]]:
    """Caption and tables as paragraphs, and every number as a row; nothing where no model was scored."""
    found, runs = measured_systems(page, {row.system.label: row.system for row in page.rows}, scale, records)
    if not found:
        return [], []
    lines = caption_of(runs, of_all(found))
    systems = {row.system.label: found.get(row.system.label, {}) for row in page.rows}
    tables, rows = score_tables(page.scores, systems, {row.system.label: row.paper_scores for row in page.rows})
    lines.append(_how([result for seeds in found.values() for result in seeds.values()]))
    return [*lines, tables], rows


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
