"""A table of perplexity with what was measured on its models beside it, and a ranking with what each system costs.

    largest load        the busiest expert's share of its layer's selections, in even shares: 1 where all have as much
    in use              exp of the entropy of the load, of all experts of a layer
    collapsed           experts with less than a tenth of the even share
    dropped             selections that do not count in training, and tokens of which none does (dropped.py)
    alike               mean cosine of what two experts of a layer make of the same rows (mhmoe/model/alike.py)
    tokens/s            training and generation, and how many times as fast as dense models of the same size (speed.py)

All but the tokens/s are means over MoE layers; all are means over seeds. A hierarchical mixture has the load of its
leaves; a densely gated one has none, as every expert sees every token.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from analysis.experts_alike import ExpertsAlike, measure_alike
from analysis.ranking import ranking_figure
from analysis.routing.dropped import Dropped, measure_dropped
from analysis.routing.measures import summary
from analysis.routing.text import load_checkpoint
from analysis.speed import Speed, measure_speed
from analysis.tables import Column, table_markdown
from analysis.tables import Row as Cells
from experiments.kinds.routing import EXPERT_ACTIVATION
from experiments.kinds.table import Table
from experiments.report.captions import current_runs, measured_values, setting_of
from experiments.runner.measurements import Measurement, Subject
from experiments.runner.page import Section
from experiments.runner.store import Records
from experiments.scales import Scale
from mhmoe.data.batches import TrainingBatches
from mhmoe.training.record import Record


class Measure(NamedTuple):
    """A column and where it comes from: the measurement, and a number of its result, None where it has none."""

    column: Column
    measurement: Measurement[Any]
    of: Callable[[Any], float | None]


@dataclass(frozen=True, kw_only=True)
class Comparison(Table):
    """measures: the columns of the second table. stressed: systems that the figure shows in colour."""

    measures: Sequence[Measure] = ()
    stressed: Sequence[str] = ()

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        found = super().section(scale, records, folder)
        if found is None:
            return None
        current = current_runs(self.all_systems(), scale, records, self.task)
        values = measured_values(self.measurements, current, records.results)
        columns = [MEASURED, *(measure.column for measure in self.measures)]
        rows = [{**row, **self._cells(row["system"], values)} for row in found.rows]
        page = found.markdown
        picture = f"{self.slug}_{scale.name}.png"
        if runs := [record for of_system in current.values() for record in of_system]:
            labels = {row.system.name: row.system.label for row in self.rows}
            ranking_figure(
                {
                    labels[system]: {r.seed: r.metrics["test"]["perplexity"] for r in of_system}
                    for system, of_system in current.items()
                    if of_system
                },
                self._costs(current, values),
                folder / picture,
                title=self.title,
                measure="test perplexity",
                note=f"{setting_of(runs)}. A mark is a seed, a point the mean over the seeds that all have.",
                stressed=[label for name, label in labels.items() if name in self.stressed],
            )
            page += f"\n![{self.title}]({picture})\n"
        shown = [row for row in rows if any(row.get(column.key) is not None for column in columns)]
        if shown:
            page += "\n### Measured on the finished models\n\n"
            page += table_markdown((Column("label", "system"), *columns), shown, caption=[_EXPLAINED])
        return Section(page, (*found.columns, *columns), rows)

    def _cells(self, system: str, values: Mapping[tuple[str, str], Mapping[int, Any]]) -> Cells:
        cells: Cells = {}
        seeds: set[int] = set()
        for column, measurement, of in self.measures:
            numbers = [n for v in values.get((measurement.name, system), {}).values() if (n := of(v)) is not None]
            cells[column.key] = fmean(numbers) if numbers else None
            seeds |= {len(numbers)} - {0}
        return cells | {MEASURED.key: " or ".join(map(str, sorted(seeds))) or None}

    def _costs(
        self, current: Mapping[str, Sequence[Record]], values: Mapping[tuple[str, str], Mapping[int, Any]]
    ) -> dict[str, dict[str, float]]:
        """FLOPs, parameters and time, of the systems that have them. Seconds of two models on a busy machine do not
        compare; those of a model and of the dense one beside it do."""

        def time(record: Record) -> float | None:
            speed = values.get((SPEED.name, record.system), {}).get(record.seed)
            return None if speed is None else 1 / speed.training.times_as_fast_as("same_flops")

        costs: dict[str, Callable[[Record], float | None]] = {
            "training FLOPs (T)": lambda r: 3e-12 * r.flops_per_token * r.tokens,
            "parameters (M)": lambda r: 1e-6 * r.parameters,
            "time, in that of Dense of its FLOPs": time,
        }
        labels = {row.system.name: row.system.label for row in self.rows}
        found = {
            name: {
                labels[system]: fmean(known)
                for system, runs in current.items()
                if (known := [x for r in runs if (x := cost(r)) is not None])
            }
            for name, cost in costs.items()
        }
        return {name: of_systems for name, of_systems in found.items() if of_systems}


# ---- what is measured ------------------------------------------------------------------------


def _alike(subject: Subject, settings: Mapping[str, Any]) -> ExpertsAlike | None:
    model, windows = subject.read(settings["split"])
    if model.config.moe is None:
        return None
    return measure_alike(model, windows.full.spaced(settings["windows"]), subject.seed)


def _dropped(subject: Subject, settings: Mapping[str, Any]) -> Dropped | None:
    model, windows = subject.read(settings["split"])
    if model.config.moe is None:
        return None
    batch, batches = settings["batch_sequences"], settings["batches"]
    return measure_dropped(model, windows.full.spaced(batch * batches), batch_size=batch)


def _speed(subject: Subject, settings: Mapping[str, Any]) -> Speed:
    model, _ = load_checkpoint(subject.model)
    length = model.config.max_position_embeddings
    batch = TrainingBatches(subject.text.train, length, settings["batch_sequences"], seed=0).batch(0)
    how = {name: value for name, value in settings.items() if name != "batch_sequences"}
    return measure_speed(model, torch.from_numpy(batch), **how)


EXPERTS_ALIKE = Measurement(
    name="experts_alike",  # what two experts make of the same rows
    settings={"split": "test", "windows": 16},
    result=ExpertsAlike,
    measure=_alike,
)
DROPPED = Measurement(
    name="dropped",  # what a capacity drops in training
    settings={"split": "test", "batch_sequences": 16, "batches": 16},
    smoke={"batches": 2},
    result=Dropped,
    measure=_dropped,
)
SPEED = Measurement(
    name="speed",  # of training and generation, beside dense models
    settings={
        "batch_sequences": 16,
        "precision": "bfloat16",
        "rounds": 9,
        "texts": 8,
        "prompt": 32,
        "new_tokens": 32,
    },
    smoke={"precision": "float32", "rounds": 3, "texts": 4, "new_tokens": 8},
    result=Speed,
    measure=_speed,
)

# ---- columns ---------------------------------------------------------------------------------

MEASURED = Column("measured_seeds", "seeds measured")


def _times(kind: str, other: str) -> Callable[[Speed], float]:
    return lambda found: getattr(found, kind).times_as_fast_as(other)


_ACTIVATION = (
    Measure(
        Column("largest_load", "largest load", ".2f"),
        EXPERT_ACTIVATION,
        lambda found: found.counts.num_experts * summary(found.counts).largest_load,
    ),
    *(
        Measure(
            Column(key, heading, ".1f", 100, "%"),
            EXPERT_ACTIVATION,
            lambda found, name=name: getattr(summary(found.counts), name),
        )
        for key, heading, name in (
            ("effective_share", "in use", "effective_share"),
            ("collapsed_share", "collapsed", "collapsed_share"),
            ("reached_share", "a token reaches", "distinct_share"),
        )
    ),
)
_QUALITY = (
    Measure(
        Column("dropped_selections", "dropped selections", ".1f", 100, "%"),
        DROPPED,
        lambda found: fmean(found.selections_share),
    ),
    Measure(
        Column("dropped_tokens", "dropped tokens", ".1f", 100, "%"), DROPPED, lambda found: fmean(found.tokens_share)
    ),
    Measure(Column("alike", "alike", "+.3f"), EXPERTS_ALIKE, lambda found: fmean(found.trained)),
    Measure(Column("alike_before", "alike before training", "+.3f"), EXPERTS_ALIKE, lambda f: fmean(f.untrained)),
)
_SPEED = tuple(
    measure
    for kind in ("training", "generation")
    for measure in (
        Measure(
            Column(f"{kind}_speed", f"{kind}, tokens/s", ",.0f"),
            SPEED,
            lambda found, kind=kind: getattr(found, kind).tokens_per_second,
        ),
        Measure(
            Column(f"{kind}_to_parameters", "x Dense of its parameters", ".2f"), SPEED, _times(kind, "same_parameters")
        ),
        Measure(Column(f"{kind}_to_flops", "x Dense of its FLOPs", ".2f"), SPEED, _times(kind, "same_flops")),
    )
)
MEASURES = (*_ACTIVATION, *_QUALITY, *_SPEED)
_EXPLAINED = (
    "Means over MoE layers and seeds. Largest load: selections of the busiest expert, in even shares. In use: exp of "
    "the entropy of the load, of all experts. Collapsed: experts with less than a tenth of the even share. A token "
    "reaches: different experts, of all. Dropped, in training alone: selections beyond a capacity or not drawn, and "
    "tokens of which no selection counts. Alike: mean cosine of what two experts of a layer make of the same rows of "
    "test text, before their gates; 1 if they are one function. tokens/s: whole training steps, and greedy generation "
    "with a cache; beside them how many times as fast as dense models with as many parameters, and as many FLOPs a "
    "token, measured in turns with them."
)
