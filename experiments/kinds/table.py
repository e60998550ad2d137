"""A table of test perplexity, with the figure of its trend, its zero-shot scores, and its languages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.languages import language_figure, language_markdown
from analysis.perplexity import PERPLEXITY_COLUMNS, RowSpec, perplexity_table
from analysis.tables import filled, table_markdown
from analysis.zero_shot.scores import Score
from experiments.kinds.score_table import ScoredRow, scores_of
from experiments.kinds.trend import Trend, draw
from experiments.paper import paper_number
from experiments.report.captions import caption_of, final_records, setting_of
from experiments.report.looks import each_role_once, looks
from experiments.runner.page import Page, Section, unique, unknown_name
from experiments.runner.store import Records
from experiments.scales import MULTIMODAL, Scale
from experiments.system import System
from mhmoe.io import UserError
from mhmoe.training.record import Record

_GROUPS = {"multilingual": "language", MULTIMODAL: "kind"}
"""What the ids of a task's documents begin with."""


@dataclass(frozen=True, kw_only=True)
class Row(ScoredRow):
    """paper: where the paper prints its perplexity, a path in paper.json. reference: the system that its change is
    relative to, if it is another one than the table's."""

    paper: tuple[str | int, ...] = ()
    reference: str | None = None


@dataclass(frozen=True, kw_only=True)
class Table(Page):
    """Rows of perplexity; changes are relative to the system `reference`.

    scores: zero-shot scores that stand below, from the first of `measurements`.
    """

    rows: Sequence[Row]
    scores: Sequence[Score] = ()
    reference: str | None = None
    split: str = "test"
    trend: Trend | None = None

    def all_systems(self) -> list[System]:
        return unique([row.system for row in self.rows])

    def check_names(self) -> None:
        super().check_names()
        names = {system.name for system in self.all_systems()}
        for name in (self.reference, *(row.reference for row in self.rows)):
            if name is not None and name not in names:
                raise UserError(unknown_name("reference", name, names))

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        of_systems, stale = final_records(self.all_systems(), scale, records, self.task)
        if not any((*of_systems.values(), *stale.values())):
            return None
        specs = [
            RowSpec(system=row.system.name, label=row.system.label, paper=_printed(row.paper), reference=row.reference)
            for row in self.rows
        ]
        counts = {system: len(several) for system, several in stale.items()}
        rows = perplexity_table(specs, of_systems, counts, reference=self.reference, split=self.split)
        current = [record for several in of_systems.values() for record in several]
        lines = caption_of(current)
        lines.append(
            f"Perplexity on `{self.split}`; ours: mean and standard deviation over seeds. The paper's values "
            "are of models of 162M parameters and more, on other text: compare the changes relative to the "
            "reference, over the seeds that both have, and not the values; that of tuned systems is a tuned one. "
            "tokens/s are those of the runs, on a CPU or a card and whatever else the machine did; benchmarks/ "
            "compares speeds."
        )
        if self.task == MULTIMODAL:  # an image has no bytes of text
            rows = [row | {"bits_per_byte": None} for row in rows]
        page = table_markdown(filled(PERPLEXITY_COLUMNS, rows), rows, caption=lines)
        if self.trend is not None:
            name = f"{self.slug}_{scale.name}.png"
            if draw(self, self.trend, scale, records, folder / name, setting_of(current)):
                page += f"\n![{self.title}]({name})\n"
        if self.scores and (scores := scores_of(self, self.rows, self.scores, scale, records)[0]):
            page += "\n\n".join(["\n## Zero-shot scores", *(text for text in scores if text not in lines)])
        if (noun := _GROUPS.get(self.task)) and self.reference is not None:
            page += _by_group(self, noun, self.reference, of_systems, scale, folder, lines[0])
        return Section(page, PERPLEXITY_COLUMNS, rows)


def _by_group(
    table: Table,
    noun: str,
    reference: str,
    current: Mapping[str, Sequence[Record]],
    scale: Scale,
    folder: Path,
    note: str,
) -> str:
    """Tables and figure language by language, or kind by kind."""
    systems = {row.system.label: row.system for row in table.rows}
    by_label = {label: found for label, system in systems.items() if (found := current[system.name])}
    if not current[reference]:
        return ""
    name = f"{table.slug}_{scale.name}_{noun}s.png"
    shown = [system for label, system in systems.items() if label in by_label]
    parts = each_role_once(shown)  # X-MoE and MH-MoE of each number of experts
    language_figure(
        [[system.label for system in part] for part in parts],
        by_label,
        next(label for label, system in systems.items() if system.name == reference),
        folder / name,
        title=f"Perplexity by {noun}",
        noun=noun,
        note=f"{note} Bars: 95% interval of the difference paired by seed.",
        looks={label: look for part in parts for label, look in looks({s.label: s for s in part}).items()},
    )
    return f"\n![Perplexity by {noun}]({name})\n\n" + language_markdown(by_label, noun)


def _printed(path: Sequence[str | int]) -> float | None:
    """The paper's number for a row, if it has one."""
    return float(paper_number(path)) if path else None
