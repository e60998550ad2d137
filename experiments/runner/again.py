"""Runs done once more, beside the records that they repeat."""

from collections.abc import Sequence

import torch

from analysis.tables import Column, Row, table_markdown
from experiments.runner.runs import Run
from experiments.runner.store import RESULTS, Records
from mhmoe.io import sha256_of
from mhmoe.training.record import Record

SAME = 0.01  # relatively; other machines and kernels round otherwise, and training amplifies that
COLUMNS = (
    Column("name", "run"),
    Column("theirs", "record", ".3f"),
    Column("ours", "again", ".3f"),
    Column("difference", "difference", "+.2f", suffix="%"),
    Column("where", "device and versions"),
    Column("verdict", "verdict"),
)
CAPTION = (
    f"Perplexity on `test` (`valid` where a run only chooses a learning rate). Within {SAME:.0%} counts as the same: "
    "the arithmetic of another processor, or of other versions, rounds otherwise, and training amplifies that."
)


def code_here() -> str:
    """Stands for the code and its torch, so that after a change nothing that was done before it is compared."""
    folders = ("mhmoe", "baselines", "experiments")
    files = sorted(path for folder in folders for path in (RESULTS.parent / folder).rglob("*.py"))
    return sha256_of(torch.__version__.encode() + b"".join(path.read_bytes() for path in files))[:8]


def deviation(ours: Record, theirs: Record) -> float:
    """By how much the perplexity of a run done again differs, relatively."""
    return _perplexity(ours) / _perplexity(theirs) - 1


def comparison(runs: Sequence[Run], ours: Records, theirs: Records) -> tuple[str, bool]:
    """A table, a row a run, and whether every one is the same."""
    rows = [_row(ours.by_name[run.name], theirs.by_name[run.name]) for run in runs]
    differing = sum(row["verdict"] != "same" for row in rows)
    summary = f"{len(rows) - differing} of {len(rows)} runs are the same as their records."
    return table_markdown(COLUMNS, rows, caption=[CAPTION]) + f"\n{summary}\n", not differing


def _row(ours: Record, theirs: Record) -> Row:
    difference = deviation(ours, theirs)
    return {
        "name": ours.name,
        "theirs": _perplexity(theirs),
        "ours": _perplexity(ours),
        "difference": 100 * difference,
        "where": _changes(ours, theirs),
        "verdict": "same" if abs(difference) <= SAME else "differs",
    }


def _perplexity(record: Record) -> float:
    return record.metrics.get("test", record.metrics["valid"])["perplexity"]


def _changes(ours: Record, theirs: Record) -> str:
    """What differs in where they ran, as far as the records say: a processor's kind they do not."""
    there, here = ({"device": r.provenance.get("device"), **r.provenance.get("versions", {})} for r in (theirs, ours))
    changed = [
        f"{name} {there.get(name, 'none')}, now {here.get(name, 'none')}"
        for name in dict.fromkeys([*there, *here])
        if there.get(name) != here.get(name)
    ]
    return "; ".join(changed) or f"the same ({here['device']})"
