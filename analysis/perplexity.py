"""The rows of a table of perplexity: ours over seeds, the paper's, and changes relative to a reference.

Stale records (their fingerprint is not the declared one) never enter a number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType
from typing import Any

from analysis.statistics import summarise
from analysis.tables import NOT_RUN, STALE, Column, Row
from mhmoe.io import UserError
from mhmoe.training.record import Record, by_seed


@dataclass(frozen=True, kw_only=True)
class RowSpec:
    """A row of a perplexity table: the system in the records, its label, the paper's value if any, and the
    system that its change is relative to, if it is another one than the table's."""

    system: str
    label: str
    paper: float | None = None
    reference: str | None = None


LOSS_COLUMNS = (
    Column("label", "system"),
    Column("paper", "paper", ".2f"),
    Column("perplexity", "ours", ".2f"),
    Column("std", "std", ".2f"),
    Column("seeds", "seeds"),
    Column("bits_per_byte", "bits per byte", ".4f"),
    Column("paper_change", "paper, to reference", "+.1f", suffix="%"),
    Column("change", "ours, to reference", "+.1f", suffix="%"),
)
PERPLEXITY_COLUMNS = (
    *LOSS_COLUMNS,
    Column("paper_difference", "ours, to paper", "+.1f", suffix="%"),
    Column("parameters", "parameters (M)", ",.2f", 1e-6),
    Column("active_parameters", "active (M)", ",.2f", 1e-6),
    Column("flops_per_token", "MFLOPs a token", ",.2f", 1e-6),
    Column("learning_rate", "learning rate", "g"),
    Column("tokens_per_second", "tokens/s", ",.0f"),
)


def perplexity_table(
    rows: Sequence[RowSpec],
    records: Mapping[str, Sequence[Record]],
    stale: Mapping[str, int] = MappingProxyType({}),
    *,
    reference: str | None = None,
    split: str = "test",
) -> list[Row]:
    """One dict a row, with the keys of PERPLEXITY_COLUMNS; percentages are numbers such as -3.1.

    records: current ones of one scale and task, by system. stale: of each system, how many others are stale.
    reference: the system that changes are relative to. A row without records says "not run", or "stale" if it has
    such. Our change is over the seeds that both have. UserError if the records of a system disagree on what they are.
    """
    table = [_perplexity_row(spec, records.get(spec.system, ()), stale.get(spec.system, 0), split) for spec in rows]
    by_system = {row["system"]: row for row in table}
    for spec, row in zip(rows, table, strict=True):
        named = spec.reference or reference or ""
        anchor = by_system.get(named, {})
        ours, theirs = (_by_seed(records.get(name, ()), split) for name in (spec.system, named))
        row["change"] = change_over_common_seeds(ours, theirs) if anchor and row is not anchor else None
        row["paper_change"] = percent_change(row["paper"], anchor.get("paper")) if row is not anchor else None
    return table


def _perplexity_row(spec: RowSpec, current: Sequence[Record], stale: int, split: str) -> Row:
    row: Row = {"system": spec.system, "label": spec.label, "paper": spec.paper}
    if not current:
        return row | {"perplexity": STALE if stale else NOT_RUN}
    kinds = {
        (spec.system, current[0].scale, current[0].task),
        *((r.system, r.scale, r.task) for r in current),
    }
    if len(kinds) > 1:
        raise UserError(f"the row of {spec.system} mixes records of {sorted(kinds)}; a row has one scale and task")
    by_seed(current)  # refuses a seed that counts twice
    perplexity = summarise(r.metrics[split]["perplexity"] for r in current)
    row |= {"perplexity": perplexity.mean, "std": perplexity.std, "n": perplexity.n}
    row["seeds"] = f"{perplexity.n} ({stale} stale)" if stale else str(perplexity.n)
    row["bits_per_byte"] = summarise(r.metrics[split]["bits_per_byte"] for r in current).mean
    for name in ("parameters", "active_parameters", "flops_per_token"):
        row[name] = _shared(current, name, [getattr(r, name) for r in current])
    row["learning_rate"] = _shared(current, "learning_rate", [r.config["training"]["learning_rate"] for r in current])
    row["tokens_per_second"] = summarise(r.tokens / r.wall_seconds for r in current).mean
    row["paper_difference"] = percent_change(perplexity.mean, spec.paper)
    return row


def change_over_common_seeds(ours: Mapping[int, float], theirs: Mapping[int, float]) -> float | None:
    """By how many percent our mean is above theirs over the seeds that both have; None where there are none."""
    common = sorted(ours.keys() & theirs.keys())
    return percent_change(*(fmean(of[seed] for seed in common) for of in (ours, theirs))) if common else None


def _by_seed(records: Sequence[Record], split: str) -> dict[int, float]:
    return {seed: r.metrics[split]["perplexity"] for seed, r in by_seed(records).items()}


def _shared(records: Sequence[Record], name: str, values: Sequence[Any]) -> Any:
    if len(set(values)) > 1:
        found = ", ".join(map(str, sorted(set(values))))
        raise UserError(f"records of {records[0].system} disagree on {name}: {found}; run the odd ones again")
    return values[0]


def percent_change(value: Any, reference: Any) -> float | None:
    """By how many percent a value is above a reference; None where one of them is no number."""
    if not isinstance(value, int | float) or not isinstance(reference, int | float):
        return None
    return 100 * (value / reference - 1)
