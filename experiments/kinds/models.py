"""A page of small models that anybody can train again, with the hashes of their weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.routing.text import load_checkpoint
from analysis.tables import Column, table_markdown
from analysis.weights import Weights, measure_weights
from experiments.report.captions import caption_of, current_runs, measured_values
from experiments.runner.measurements import Measurement
from experiments.runner.page import Page, Section
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.system import System

COLUMNS = (
    Column("label", "model"),
    Column("name", "folder"),
    Column("parameters", "parameters"),
    Column("perplexity", "test perplexity", ".3f"),
    Column("norm", "norm of all weights", ".4f"),
    Column("sha256", "sha256 of all weights"),
)


@dataclass(frozen=True, kw_only=True)
class Models(Page):
    """The first of `measurements`, for each of the systems."""

    systems: Sequence[System]
    measurements: Sequence[Measurement[Weights]] = ()

    def all_systems(self) -> list[System]:
        return list(self.systems)

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        current = current_runs(self.systems, scale, records, self.task)
        found = measured_values(self.measurements, current, records.results)
        shown = [(system, record) for system in self.systems for record in current[system.name]]
        rows = [
            {
                "label": system.label,
                "name": record.name,
                "parameters": f"{record.parameters:,}",
                "perplexity": record.metrics["test"]["perplexity"],
                "norm": weights.norm if weights else None,
                "sha256": weights.sha256 if weights else None,
            }
            for system, record in shown
            for weights in [found[self.measurements[0].name, system.name].get(record.seed)]
        ]
        if not rows:
            return None
        lines = caption_of([record for _, record in shown])[:1]
        lines.append(
            "Equal hashes are equal to the bit; processors and versions of torch that round otherwise give other "
            "hashes and nearly the same perplexity and norm. In the norm embeddings count twice, as "
            "they are the output layer too."
        )
        return Section(table_markdown(COLUMNS, rows, caption=lines), COLUMNS, rows)


WEIGHTS = Measurement(
    name="weights",
    settings={},
    result=Weights,
    measure=lambda subject, settings: measure_weights(load_checkpoint(subject.model)[0]),
)
