"""Claims about what was measured on finished models (scores, routing), judged by the ledger's rule.

A claim says that one side is higher than the other. A side is a system and a quantity, so that it can compare
two systems, or two groups of words in one. Values are compared seed by seed; where a quantity is a mean over
items that both sides share, such as questions, the interval over items with these very models stands beside.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.claims import Statement, Verdict
from analysis.statistics import CONFIDENCE, Interval, paired_difference
from mhmoe.records import UserError

Values = Mapping[str, Any]
Measurements = Mapping[tuple[str, str], Mapping[int, Values]]
"""What was measured: (measurement, system) -> seed -> values."""
_UNKNOWN = Interval(math.nan, math.nan, math.nan, 0, math.nan)


@dataclass(frozen=True)
class Items:
    """The values of a group of items, such as a task's questions. key: equal for the same items in the same order.

    cluster: groups of one cluster are the same items once more (another score, another language), in one order.
    """

    key: str
    values: NDArray[np.float64]
    cluster: str


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number of a measurement's values; None where there is none.

    items: the groups whose means' mean it is, where it is one.
    """

    name: str
    unit: str
    of: Callable[[Values], float | None] = field(repr=False, compare=False)
    items: Callable[[Values], Sequence[Items]] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Side:
    system: str
    quantity: Quantity


@dataclass(frozen=True, kw_only=True)
class MeasuredClaim(Statement):
    """That `higher` is above `lower`, both in the values of `measurement`."""

    measurement: str
    higher: Side
    lower: Side

    def __post_init__(self) -> None:
        if self.higher == self.lower:
            raise ValueError(f"higher and lower are both {self.higher}; a claim compares two sides")
        if self.higher.quantity.unit != self.lower.quantity.unit:
            units = f"{self.higher.quantity.unit} and {self.lower.quantity.unit}"
            raise ValueError(f"the sides are in {units}; a claim compares what has one unit")

    @property
    def unit(self) -> str:
        return self.higher.quantity.unit


def measure_values(claim: MeasuredClaim, measurements: Measurements, scale: str) -> Verdict:
    """Everything but the decision, as `claims.measure`; `tested` is below zero where the claim is right.

    UserError if the two sides were measured on different data or items, or by different settings.
    """
    sides: list[dict[int, float]] = []
    for side in (claim.higher, claim.lower):
        values = measurements.get((claim.measurement, side.system), {})
        found = {seed: side.quantity.of(of_seed) for seed, of_seed in values.items()}
        sides.append({seed: value for seed, value in found.items() if value is not None})
    seeds = sorted(sides[0].keys() & sides[1].keys())
    if len(seeds) < 2:
        nothing = dataclasses.replace(_UNKNOWN, n=len(seeds))
        return Verdict(claim=claim, scale=scale, verdict="not run", difference=nothing, tested=nothing)
    for what in ("data", "settings"):
        if len({json.dumps(v.get(what), sort_keys=True) for v in _both(claim, measurements, seeds)}) > 1:
            raise UserError(
                f"{claim.measurement}: {claim.higher.system} and {claim.lower.system} were measured on different "
                f"{what}; remove the older files and measure again"
            )
    difference = paired_difference(*sides)
    return Verdict(
        claim=claim,
        scale=scale,
        verdict="cannot tell",
        difference=difference,
        tested=dataclasses.replace(difference, mean=-difference.mean, low=-difference.high, high=-difference.low),
        documents=_over_items(claim, measurements, seeds),
    )


def _both(claim: MeasuredClaim, measurements: Measurements, seeds: Sequence[int]) -> list[Values]:
    """What was measured of both sides, for these seeds."""
    systems = (claim.higher.system, claim.lower.system)
    return [measurements[claim.measurement, system][seed] for system in systems for seed in seeds]


def _over_items(claim: MeasuredClaim, measurements: Measurements, seeds: Sequence[int]) -> Interval:
    """The mean over groups of the items' mean difference, averaged over seeds, with its normal interval.

    Clusters are independent, the groups of a cluster are not: their differences are added item by item.
    """
    higher, lower = claim.higher.quantity.items, claim.lower.quantity.items
    if higher is None or lower is None:
        return _UNKNOWN
    pairs = [
        (
            higher(measurements[claim.measurement, claim.higher.system][seed]),
            lower(measurements[claim.measurement, claim.lower.system][seed]),
        )
        for seed in seeds
    ]
    keys = {tuple(items.key for items in side) for pair in pairs for side in pair}
    if len(keys) > 1:
        raise UserError(
            f"{claim.measurement}: {claim.higher.system} and {claim.lower.system} were measured on different items; "
            "remove the older files and measure again"
        )
    groups = len(keys.pop())
    clusters: dict[str, NDArray[np.float64]] = {}
    for group in range(groups):
        gaps = np.mean([above[group].values - below[group].values for above, below in pairs], axis=0)
        cluster = pairs[0][0][group].cluster
        clusters[cluster] = clusters[cluster] + gaps if cluster in clusters else gaps
    if any(gaps.size < 2 or not np.isfinite(gaps).all() for gaps in clusters.values()):
        return _UNKNOWN
    mean = sum(float(gaps.mean()) for gaps in clusters.values()) / groups
    error = math.sqrt(sum(float(gaps.var(ddof=1)) / gaps.size for gaps in clusters.values())) / groups
    reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * error
    p_value = float(2 * stats.norm.sf(abs(mean) / error)) if error else math.nan
    return Interval(mean, mean - reach, mean + reach, sum(gaps.size for gaps in clusters.values()), p_value)
