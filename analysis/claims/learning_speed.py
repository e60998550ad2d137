"""What one system spends until its validation loss is as low as another's final one.

Read off the curves in the records, linear between two evaluations. A cost is counted in tokens, in
training FLOPs (three times the forward pass) and in seconds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mhmoe.io import UserError
from mhmoe.training.record import Record

COSTS = ("tokens", "flops", "seconds")


@dataclass(frozen=True)
class Spent:
    """What training had cost up to some point; or, of two such, the ratio."""

    tokens: float
    flops: float
    seconds: float


def reaches(curve: Sequence[Mapping[str, Any]], loss: float, flops_per_token: float) -> Spent | None:
    """Tokens, training FLOPs and seconds until the curve's validation nll is first at or below `loss`.

    Linear between evaluations; None if it never is. flops_per_token: of the forward pass.
    """
    points = _evaluated(curve)
    if points and points[0]["valid_nll"] <= loss:  # an upper bound: nothing was measured before
        return _spent(points[0]["tokens"], points[0]["seconds"], flops_per_token)
    for before, after in pairwise(points):
        if after["valid_nll"] <= loss:
            share = (before["valid_nll"] - loss) / (before["valid_nll"] - after["valid_nll"])
            tokens, seconds = (before[x] + share * (after[x] - before[x]) for x in ("tokens", "seconds"))
            return _spent(tokens, seconds, flops_per_token)
    return None


def final_point(record: Record) -> Mapping[str, Any]:
    """The last evaluated point of a run's curve. UserError if there is none after training began."""
    points = _evaluated(record.curve)
    if not points or points[-1]["tokens"] <= 0:
        raise UserError(f"record {record.name} has no validation loss in its curve; run it again with evaluation on")
    return points[-1]


def total(record: Record) -> Spent:
    """What a run had spent at its last evaluation."""
    last = final_point(record)
    return _spent(last["tokens"], last["seconds"], record.flops_per_token)


def cost_ratio(better: Record, worse: Record) -> Spent | None:
    """What `better` spends to reach the final loss of `worse`, over its cost; None if it never does."""
    whole = total(worse)
    spent = reaches(better.curve, final_point(worse)["valid_nll"], better.flops_per_token)
    if spent is None:
        return None
    return Spent(*(getattr(spent, cost) / getattr(whole, cost) for cost in COSTS))


def log_costs(costs: Mapping[int, Spent | None], metric: str) -> dict[int, float]:
    """Log of the cost ratio for the seeds that got there."""
    ratios = {seed: getattr(spent, metric) for seed, spent in costs.items() if spent is not None}
    return {seed: math.log(ratio) if ratio > 0 else -math.inf for seed, ratio in ratios.items()}


def _evaluated(curve: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [point for point in curve if point.get("valid_nll") is not None]


def _spent(tokens: float, seconds: float, flops_per_token: float) -> Spent:
    return Spent(tokens, 3 * flops_per_token * tokens, seconds)
