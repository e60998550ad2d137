"""The bounds that the layer has to keep, each met or not met by what was measured.

    MH-MoE / dense FFN of equal FLOPs     float32, at most 1.15, 1.3, 1.8 at 8, 64, 256 experts
    our SparseMoE / Mixtral's block       never more than 1: same rows, experts, routing, function

Values are ratios of median times. Beside the first stands, without a bound, the ratio to the dense FFN by
the oneDNN products that our experts use: torch's own take another library in float32. A bound without a
measurement is "not run", never "met".
"""

from collections.abc import Mapping
from statistics import median
from typing import Any

from analysis.tables import NOT_RUN

Data = Mapping[str, Any]
MET, NOT_MET = "met", "not met"
TO_DENSE = {8: 1.15, 64: 1.3, 256: 1.8}
TO_MIXTRAL = 1.0
THREADS = (1, 2)


def verdicts(data: Data) -> list[dict[str, Any]]:
    """One dict for every bound, with the setting, value, bound, n, verdict and to_onednn."""
    found = [
        _verdict(data, "mhmoe", "dense", threads, "float32", num_experts, bound)
        for threads in THREADS
        for num_experts, bound in TO_DENSE.items()
    ]
    rivals = [row for row in data["rows"] if row["contender"].startswith("mixtral")]
    return found + [
        _verdict(data, "sparse", r["contender"], r["threads"], r["precision"], r["num_experts"], TO_MIXTRAL)
        for r in sorted(rivals, key=lambda r: (r["precision"] != "float32", r["threads"]))
    ]


def summary(found: list[dict[str, Any]]) -> str:
    count = {verdict: sum(row["verdict"] == verdict for row in found) for verdict in (MET, NOT_MET, NOT_RUN)}
    return f"{count[MET]} of {len(found)} bounds met, {count[NOT_MET]} not met, {count[NOT_RUN]} not run."


def seconds(data: Data, contender: str, threads: int, precision: str, num_experts: int) -> list[float]:
    """Of every timed step; empty if there is none."""
    wanted = (contender, threads, precision, num_experts)
    for row in data["rows"]:
        if (row["contender"], row["threads"], row["precision"], row["num_experts"]) == wanted:
            return row["seconds"]
    return []


def time_per_flop(data: Data, row: Data, reference: str = "dense") -> float | None:
    """Time per FLOP of a row over that of a dense FFN in the same setting; None if that was not run."""
    base = seconds(data, reference, row["threads"], row["precision"], row["num_experts"])
    if not base:
        return None
    flops = next(
        r["flops"] for r in data["rows"] if r["contender"] == reference and r["num_experts"] == row["num_experts"]
    )
    return (median(row["seconds"]) / row["flops"]) / (median(base) / flops)


def settings_of(data: Data) -> list[tuple[int, str]]:
    """(threads, precision) of the rows, float32 and few threads first."""
    found = {(row["threads"], row["precision"]) for row in data["rows"]}
    return sorted(found, key=lambda setting: (setting[1] != "float32", setting[0]))


def _verdict(
    data: Data, ours: str, other: str, threads: int, precision: str, num_experts: int, bound: float
) -> dict[str, Any]:
    row = {
        "ours": ours,
        "other": other,
        "threads": threads,
        "precision": precision,
        "num_experts": num_experts,
        "bound": bound,
    }
    a, b = (seconds(data, name, threads, precision, num_experts) for name in (ours, other))
    if not a or not b or data["quick"]:  # tiny sizes say nothing about the bounds
        return row | {"verdict": NOT_RUN}
    value = median(a) / median(b)
    if onednn := seconds(data, "dense_onednn", threads, precision, num_experts) if other == "dense" else []:
        row["to_onednn"] = median(a) / median(onednn)
    return row | {"value": value, "n": min(len(a), len(b)), "verdict": MET if value <= bound else NOT_MET}
