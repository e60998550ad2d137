"""A page of how sparse the inner activations of trained dense networks are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.routing.text import untrained
from analysis.sparsity import ActivationSparsity, Sparsity, measure_sparsity
from analysis.tables import Column, Row, table_markdown
from experiments.report.captions import caption_of, measured_systems, of_all
from experiments.runner.measurements import Measurement, Subject
from experiments.runner.page import Page, Section, unique
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.system import System
from mhmoe.layers.experts import FeedForwardConfig

COLUMNS = (
    Column("label", "system"),
    Column("weights", "weights"),
    Column("seeds", "seeds"),
    Column("zero", "exactly 0", ".1f", 100, "%"),
    Column("small", "below a tenth of their rms", ".1f", 100, "%"),
    Column("holding_90", "hold 90% of the squares", ".1f", 100, "%"),
    Column("by_block", "exactly 0, by block"),
)


@dataclass(frozen=True, kw_only=True)
class SparsityPage(Page):
    """The first of `measurements`, for each of the systems."""

    measurements: Sequence[Measurement[ActivationSparsity]] = ()
    systems: Sequence[System]

    def all_systems(self) -> list[System]:
        return unique(self.systems)

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        labels = {system.label: system for system in self.systems}
        found, runs = measured_systems(self.measurements[0], labels, scale, records, self.task)
        if not found:
            return None
        rows = [row for label, seeds in found.items() for row in _rows(label, [*seeds.values()])]
        tokens = of_all(found)[0].tokens
        lines = caption_of(runs)
        lines.append(
            f"Inner numbers of the dense networks, behind the activation: means over {tokens:,} tokens of the test "
            "text, blocks and seeds. Untrained: the same seed before training."
        )
        return Section(table_markdown(COLUMNS, rows, caption=lines), COLUMNS, rows)


def _rows(label: str, seeds: Sequence[ActivationSparsity]) -> list[Row]:
    return [
        {"label": label, "weights": name, "seeds": len(seeds), **_means(several)}
        for name, several in (
            ("trained", [one.trained for one in seeds]),
            ("untrained", [one.untrained for one in seeds]),
        )
    ]


def _means(seeds: Sequence[Sparsity]) -> Row:
    by_block = np.mean([one.zero for one in seeds], axis=0)
    return {
        **{name: float(np.mean([getattr(one, name) for one in seeds])) for name in ("zero", "small", "holding_90")},
        "by_block": ", ".join(f"{100 * share:.0f}%" for share in by_block),
    }


def _sparsity(subject: Subject, settings: Mapping[str, Any]) -> ActivationSparsity | None:
    model, windows = subject.read(settings["split"])
    if not any(isinstance(model.config.layer(n), FeedForwardConfig) for n in range(model.config.num_hidden_layers)):
        return None
    windows = windows.spaced(settings["max_windows"])
    tokens, trained = measure_sparsity(model, windows)
    _, start = measure_sparsity(untrained(model, subject.seed), windows)
    return ActivationSparsity(tokens=tokens, trained=trained, untrained=start)


ACTIVATION_SPARSITY = Measurement(
    name="activation_sparsity",
    settings={"split": "test", "max_windows": 256},
    smoke={"max_windows": 32},
    result=ActivationSparsity,
    measure=_sparsity,
)
