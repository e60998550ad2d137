"""A table of perplexity on several texts, as v2's tables are: those of the training corpora, and one that is none.

At the paper scale the rows are others: systems as the paper prints them, with its own way to train.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.claims.measured import MeasuredClaim
from analysis.claims.rules import Claim, percent_of_perplexity
from analysis.perplexity import LOSS_COLUMNS, change_over_common_seeds, percent_change
from analysis.routing.text import load_checkpoint
from analysis.statistics import paired_difference, summarise
from analysis.tables import NOT_RUN, STALE, Column, table_markdown
from analysis.tables import Row as Cells
from analysis.texts import TextLosses, measure_texts
from experiments.paper import paper_number
from experiments.report.captions import caption_of, final_records, measured_values, of_all
from experiments.runner.measurements import Measurement, Subject
from experiments.runner.page import Page, Section, unique
from experiments.runner.store import Records
from experiments.scales import PAPER, Scale
from experiments.system import System
from mhmoe.training.record import Record

NOT_MEASURED = "not measured"
SIZES = (
    Column("label", "system"),
    Column("parameters", "parameters (M)", ",.2f", 1e-6),
    Column("active_parameters", "active (M)", ",.2f", 1e-6),
    Column("flops_per_token", "MFLOPs a token", ",.3f", 1e-6),
    Column("perplexity", "test perplexity", ".2f"),
    Column("std", "std", ".2f"),
    Column("seeds", "seeds"),
    Column("change", "to reference", "+.1f", suffix="%"),
    Column("low", "low", "+.1f", suffix="%"),
    Column("high", "high", "+.1f", suffix="%"),
)


@dataclass(frozen=True, kw_only=True)
class TextRow:
    """paper: where the paper prints its perplexities, a path in paper.json for each text, in their order."""

    system: System
    paper: Sequence[tuple[str | int, ...]] = ()


@dataclass(frozen=True, kw_only=True)
class TextsTable(Page):
    """texts: name in the results of the first of `measurements` -> the paper's text beside it. rows, and in their place
    at the paper scale as_printed. reference: number of the row, in both, that changes are relative to."""

    measurements: Sequence[Measurement[TextLosses]] = ()
    texts: Mapping[str, str]
    rows: Sequence[TextRow]
    as_printed: Sequence[TextRow] = ()
    reference: int = 0

    def rows_at(self, scale: Scale) -> Sequence[TextRow]:
        return self.as_printed if self.as_printed and scale.name == PAPER.name else self.rows

    def all_systems(self) -> list[System]:
        return unique([row.system for row in (*self.rows, *self.as_printed)])

    def systems_at(self, scale: Scale) -> list[System]:
        return unique([row.system for row in self.rows_at(scale)])

    def claims_at(self, scale: Scale) -> Sequence[Claim | MeasuredClaim]:
        here = {system.name for system in self.systems_at(scale)}
        return [claim for claim in self.claims if claim.systems <= here]

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        systems = self.systems_at(scale)
        current, stale = final_records(systems, scale, records, self.task)
        if not any((*current.values(), *stale.values())):
            return None
        measurement = self.measurements[0]
        values = measured_values([measurement], current, records.results)
        found = {system.name: values[measurement.name, system.name] for system in systems}
        rows: list[Cells] = []
        parts: list[str] = []
        reference = self.rows_at(scale)[self.reference].system.name
        for place, (text, theirs) in enumerate(self.texts.items()):
            of_text = [self._cells(row, place, text, found) for row in self.rows_at(scale)]
            for cells in of_text:
                if "perplexity" not in cells:
                    states = (current, NOT_MEASURED), (stale, STALE)
                    cells["perplexity"] = next((said for of, said in states if of[cells["system"]]), NOT_RUN)
            anchor = of_text[self.reference]
            by_seed = {name: {seed: v.texts[text].perplexity for seed, v in of.items()} for name, of in found.items()}
            for cells in of_text:
                changes = change_over_common_seeds(by_seed[cells["system"]], by_seed[reference])
                cells["change"] = None if cells is anchor else changes
                cells["paper_change"] = (
                    None if cells is anchor else percent_change(cells.get("paper"), anchor.get("paper"))
                )
            parts.append(f"### {text} (the paper's: {theirs})\n\n{table_markdown(LOSS_COLUMNS, of_text)}")
            rows += of_text
        runs = [record for of_system in current.values() for record in of_system]
        lines = caption_of(runs, of_all(found))
        lines.append(
            "Perplexity on each text, mean and standard deviation over seeds. The paper's are of larger models on "
            "other texts: compare the changes relative to the reference, over the seeds that both have, not the values."
        )
        sizes = [_of_test(s, current[s.name], current[reference]) for s in systems if current[s.name]]
        page = "\n\n".join(lines) + "\n\n" + "\n".join(parts) + f"\n{_TEST}\n\n{table_markdown(SIZES, sizes)}"
        return Section(page, (Column("text", "text"), *LOSS_COLUMNS), rows)

    def _cells(
        self,
        row: TextRow,
        place: int,
        text: str,
        found: Mapping[str, Mapping[int, TextLosses]],
    ) -> Cells:
        """Without a perplexity where nothing was measured."""
        system = row.system
        cells: Cells = {"system": system.name, "label": system.label, "text": text}
        if row.paper:
            cells["paper"] = float(paper_number(row.paper[place]))
        losses = [losses.texts[text] for losses in found[system.name].values()]
        if not losses:
            return cells
        perplexity = summarise(loss.perplexity for loss in losses)
        return cells | {
            "perplexity": perplexity.mean,
            "std": perplexity.std,
            "seeds": len(losses),
            "bits_per_byte": summarise(loss.bits_per_byte for loss in losses).mean,
        }


_TEST = """### Sizes, and `test` of the training text

The training text's own `test`, of all finished runs; changes paired by seed, with 95% intervals."""


def _of_test(system: System, runs: Sequence[Record], reference: Sequence[Record]) -> Cells:
    """Sizes, and perplexity on the `test` split."""
    sizes = {column.key: getattr(runs[0], column.key) for column in SIZES[1:4]}
    ours, theirs = ({r.seed: r.metrics["test"]["nll_per_token"] for r in each} for each in (runs, reference))
    ours = {seed: ours[seed] for seed in ours.keys() & theirs.keys()} or ours
    perplexity = summarise([math.exp(nll) for nll in ours.values()])
    cells: Cells = {"label": system.label, **sizes, "perplexity": perplexity.mean, "std": perplexity.std}
    cells["seeds"] = len(ours)
    if ours != theirs and ours.keys() & theirs.keys():
        mean, low, high = percent_of_perplexity(paired_difference(ours, theirs))
        cells |= {"change": mean, "low": low, "high": high}
    return cells


# ---- what is measured ------------------------------------------------------------------------

WEB = [f"english/ewt_web-{split}.jsonl.gz" for split in ("train", "valid", "test")]


def _texts(subject: Subject, settings: Mapping[str, Any]) -> TextLosses:
    model, tokenizer = load_checkpoint(subject.model)
    return measure_texts(model, tokenizer, subject.data, settings["texts"], max_windows=settings["max_windows"])


TEXT_LOSSES = Measurement(
    name="text_losses",  # perplexity on books and Wikipedia, whose other parts were trained on, and on text of the web
    settings={
        "texts": {
            "books": ["english/books-test.jsonl.gz"],
            "Wikipedia": ["english/wikipedia-test.jsonl.gz"],
            "web": WEB,
        },
        "max_windows": 1024,
    },
    smoke={
        "texts": {
            name: [f"multilingual/{language}-test.jsonl.gz"]
            for name, language in (("books", "en"), ("Wikipedia", "fr"), ("web", "de"))
        },
        "max_windows": 64,
    },
    result=TextLosses,
    measure=_texts,
    files=lambda settings: [file for files in settings["texts"].values() for file in files],
)
