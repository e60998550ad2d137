"""The measurements of a card as a page: every layer by every path, and whether the goals are met."""

import math
import statistics
from dataclasses import dataclass, field

from benchmarks.measured_page import QUICK_RUN
from benchmarks.roofline import weight_traffic

TOKENS, DIM = 32_768, 768
QUICK_ROWS, QUICK_DIM = 64, 64
GOALS = {"MH-MoE at equal FLOPs, 8": 4.0, "MH-MoE at equal FLOPs, 64": 6.0, "X-MoE, 8": 3.5}
"""Milliseconds on an H100, by the quickest path."""
GOAL_BYTES = 10**9
"""By the path that takes the least."""


@dataclass(frozen=True)
class Peaks:
    """FLOP/s of a product of large matrices, bytes/s of a copy, read and write counted."""

    flops: float
    bandwidth: float


@dataclass
class Row:
    """One layer by one path. `seconds` is empty, and `note` says why, where it did not run."""

    layer: str
    path: str
    flops: int
    parameters: int
    seconds: list[float] = field(default_factory=list)
    memory: int | None = None
    note: str = ""


def share_of_peak(row: Row, best: Peaks) -> float:
    least = max(row.flops / best.flops, weight_traffic(row.parameters, 2) / best.bandwidth)
    return least / statistics.median(row.seconds)


def table(rows: list[Row], best: Peaks, source: str, of: int = 0, quick: bool = False) -> str:
    """The measurements, and whether the goals are met, as Markdown. source: which card, with which software and by
    which command. of: how many rows there would be, if they were not all measured."""
    tokens, dim = (QUICK_ROWS, QUICK_DIM) if quick else (TOKENS, DIM)
    lines = [
        "# The layer on a graphics card",
        "",
        *([QUICK_RUN, ""] if quick else []),
        f"{source}. Measured peaks: {best.flops / 1e12:,.0f} TFLOP/s, copy {best.bandwidth / 1e9:,.0f} GB/s.",
        "",
        f"Forward and backward of {tokens:,} tokens of width {dim}, in bfloat16; medians. What `kernels` are, "
        "docs/how/layer.md says; memory is what a step takes at most on top of weights and input. Of the peak: of "
        "products, or of the copy where weights and their gradients take longer to move, as with 256 experts. Goals "
        "are for an H100." + (f" Measured are {len(rows)} of {of} rows." if of > len(rows) else ""),
        "",
        "| layer | path | ms | lowest | TFLOP/s | of the peak | memory on top GB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if not row.seconds:
            lines.append(f"| {row.layer} | {row.path} | {row.note} | - | - | - | - |")
            continue
        median, memory = statistics.median(row.seconds), "-" if row.memory is None else f"{row.memory / 1e9:.2f}"
        numbers = f"{median * 1e3:.2f} | {min(row.seconds) * 1e3:.2f} | {row.flops / median / 1e12:.0f}"
        lines.append(f"| {row.layer} | {row.path} | {numbers} | {share_of_peak(row, best):.0%} | {memory} |")
    return "\n".join([*lines, "", *verdicts(rows)]) + "\n"


def verdicts(rows: list[Row]) -> list[str]:
    """A line a layer with goals: its quickest path, and the one that takes the least memory."""
    lines: list[str] = []
    for name, goal in GOALS.items():
        found = [row for row in rows if row.layer == name and row.seconds]
        if not found:
            lines.append(f"- {name}: not run")
            continue
        seconds, by = min((statistics.median(row.seconds), row.path) for row in found)
        memory, least_by = min((math.inf if row.memory is None else row.memory, row.path) for row in found)
        lines.append(
            f"- {name}: {seconds * 1e3:.2f} ms by {by}, goal {goal} {_met(seconds * 1e3 <= goal)}; "
            f"{memory / 1e9:.2f} GB on top by {least_by}, goal 1 {_met(memory <= GOAL_BYTES)}"
        )
    return lines


def _met(met: bool) -> str:
    return "met" if met else "not met"
