"""A table's section at a scale: perplexity, the figure of a trend, and the languages of a multilingual one."""

from collections.abc import Sequence
from pathlib import Path

from analysis.claims import divide
from analysis.languages import language_figure, language_markdown
from analysis.render import (
    PERPLEXITY_COLUMNS,
    Column,
    RowSpec,
    perplexity_table,
    table_csv,
    table_markdown,
)
from experiments import trends
from experiments.finals import all_runs, caption_of, current_runs, declared_marks, setting_of
from experiments.looks import each_role_once, looks
from experiments.recipes import paper_number
from experiments.runs import Records, systems_of
from experiments.schema import Scale, Table
from experiments.score_page import scores_of


def table_section(table: Table, scale: Scale, records: Records, folder: Path) -> tuple[str, str]:
    systems = systems_of(table)
    of_systems = all_runs(systems, scale, records, table.task)
    found = [record for several in of_systems.values() for record in several]
    if not found:
        return "", ""
    declared = declared_marks(systems, scale, records, table.task)
    specs = [
        RowSpec(system=row.system.name, label=row.system.label, paper=_printed(row.paper), reference=row.reference)
        for row in table.rows
    ]
    rows = perplexity_table(specs, of_systems, reference=table.reference, split=table.split, declared=declared)
    current, _ = divide(found, declared)
    lines = caption_of(current)
    lines.append(
        f"Perplexity on `{table.split}`; ours: mean and standard deviation over seeds. The paper's values "
        "are of models of 162M parameters and more, on other text: compare the changes relative to the "
        "reference, not the values. tokens/s are those of the runs, whatever else the machine did; "
        "benchmarks/ compares speeds."
    )
    columns = (Column("scale", "scale"), *PERPLEXITY_COLUMNS)
    page = table_markdown(PERPLEXITY_COLUMNS, rows, caption=lines)
    if table.trend is not None:
        name = f"{table.stem}_{scale.name}.png"
        if trends.draw(table, table.trend, scale, records, folder / name, setting_of(current)):
            page += f"\n![{table.title}]({name})\n"
    if table.scores and (scores := scores_of(table, scale, records)[0]):
        page += "\n\n".join(["\n## Zero-shot scores", *(text for text in scores if text not in lines)])
    if table.task == "multilingual" and table.reference is not None:
        page += _languages(table, table.reference, scale, records, folder, lines[0])
    return page, table_csv(columns, [{"scale": scale.name, **row} for row in rows])


def _languages(table: Table, reference: str, scale: Scale, records: Records, folder: Path, note: str) -> str:
    """Tables and figure language by language."""
    current = current_runs(systems_of(table), scale, records, table.task)
    systems = {row.system.label: row.system for row in table.rows}
    by_label = {label: found for label, system in systems.items() if (found := current[system.name])}
    if not current[reference]:
        return ""
    name = f"{table.stem}_{scale.name}_languages.png"
    parts = each_role_once([*systems.values()])  # X-MoE and MH-MoE of each number of experts
    language_figure(
        [[system.label for system in part if system.label in by_label] for part in parts],
        by_label,
        next(label for label, system in systems.items() if system.name == reference),
        folder / name,
        title="Perplexity by language",
        note=f"{note} Bars: 95% interval of the difference paired by seed.",
        looks={label: look for part in parts for label, look in looks({s.label: s for s in part}).items()},
    )
    return f"\n![Perplexity by language]({name})\n\n" + language_markdown(by_label)


def _printed(path: Sequence[str | int]) -> float | None:
    """The paper's number for a row, if it has one."""
    return float(paper_number(path)) if path else None
