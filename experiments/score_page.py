"""A score table's section at a scale."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.render import Column, caption, table_csv
from analysis.scores import score_tables
from experiments.finals import READINGS, current_runs, measured_values, sources
from experiments.recipes import paper_number
from experiments.runs import Records, systems_of
from experiments.schema import Row, Scale, ScoreTable

CSV = ("scale", "label", "task", "measure", "seeds", "value", "std", "stderr_over_items")


def score_section(page: ScoreTable, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
    (name,) = page.measurements
    current = current_runs(systems_of(page), scale, records, page.task)
    values = measured_values([name], current, records.results)
    if not any(values.values()):
        return "", ""
    systems = {row.system.label: values[name, row.system.name] for row in page.rows}
    runs = [r for row in page.rows for r in current[row.system.name] if r.seed in systems[row.system.label]]
    tables, rows = score_tables(page.scores, systems, {row.system.label: _printed(row) for row in page.rows})
    lines = caption(runs, reading=READINGS, sources=sources(runs))
    lines.append(_how([result for seeds in systems.values() for result in seeds.values()]))
    csv_rows = [{"scale": scale.name, **row} for row in rows]
    return "\n\n".join([*lines, tables]), table_csv([Column(key, key) for key in CSV], csv_rows)


def _printed(row: Row) -> list[float]:
    """The paper's values of a row; where it prints two accuracies of a task, one after the other."""
    values = paper_number(row.paper) if row.paper else []
    return [number for value in values for number in (value if isinstance(value, list) else [value])]


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
