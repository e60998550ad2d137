"""Claims about what was measured on finished models (scores, routing), judged by the ledger's rule.

A claim says that one side is higher than the other. A side is a system and a quantity, so that it can compare
two systems, or two groups of words in one, or what two systems gain. Values are compared seed by seed; where a
quantity is a mean over items that both sides share, such as questions, the interval over items with these very
models stands beside.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.claims.rules import UNKNOWN, Statement, Verdict, not_run
from analysis.results import Result
from analysis.statistics import CONFIDENCE, Interval, paired_difference
from mhmoe.io import UserError

Measurements = Mapping[tuple[str, str], Mapping[int, Result]]
"""What was measured: (measurement, system) -> seed -> result."""
SomeResult = TypeVar("SomeResult", bound=Result)


@dataclass(frozen=True)
class Items:
    """The values of a group of items, such as a task's questions. key: equal for the same items in the same order.

    cluster: groups of one cluster are the same items once more (another score, another language), in one order.
    """

    key: str
    values: NDArray[np.float64]
    cluster: str


@dataclass(frozen=True, kw_only=True)
class Quantity(Generic[SomeResult]):
    """A number of a measurement's result; None where there is none.

    items: the groups whose means' mean it is, where it is one.
    """

    name: str
    unit: str
    of: Callable[[SomeResult], float | None] = field(repr=False, compare=False)
    items: Callable[[SomeResult], Sequence[Items]] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Side:
    system: str
    quantity: Quantity[Any]


@dataclass(frozen=True, kw_only=True)
class MeasuredClaim(Statement):
    """That `higher` is above `lower`, both in the results of `measurement`.

    over: if given, the systems that they are counted from: that `higher` gains more over over[0] than `lower` over
    over[1].
    """

    measurement: str
    higher: Side
    lower: Side
    over: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.higher == self.lower:
            raise ValueError(f"higher and lower are both {self.higher}; a claim compares two sides")
        if self.higher.quantity.unit != self.lower.quantity.unit:
            units = f"{self.higher.quantity.unit} and {self.lower.quantity.unit}"
            raise ValueError(f"the sides are in {units}; a claim compares what has one unit")
        if self.over and len(self.systems) < 4:
            raise ValueError(f"over={self.over}: gains are compared of two pairs, so of four systems")

    @property
    def difference(self) -> Hashable:
        sides = [(side.system, side.quantity.name) for side in (self.higher, self.lower)]
        return self.task, self.measurement, *sides, self.over

    @property
    def unit(self) -> str:
        return self.higher.quantity.unit

    @property
    def sides(self) -> tuple[tuple[Side, ...], tuple[Side, ...]]:
        """What is added on either side: h - oh > l - ol is h + ol > l + oh."""
        if self.over is None:
            return (self.higher,), (self.lower,)
        over_higher = dataclasses.replace(self.higher, system=self.over[0])
        over_lower = dataclasses.replace(self.lower, system=self.over[1])
        return (self.higher, over_lower), (self.lower, over_higher)

    @property
    def systems(self) -> set[str]:
        return {side.system for sides in self.sides for side in sides}


def measure_values(claim: MeasuredClaim, measurements: Measurements, scale: str) -> Verdict:
    """Everything but the decision, as `rules.measure`; `tested` is below zero where the claim is right.

    UserError if the two sides were measured on different data or items, or by different settings.
    """
    of_system = {system: measurements.get((claim.measurement, system), {}) for system in claim.systems}
    found = [[_by_seed(side, of_system) for side in sides] for sides in claim.sides]
    seeds = sorted(set.intersection(*(set(values) for sides in found for values in sides)))
    if len(seeds) < 2:
        return not_run(claim, scale, len(seeds))
    first, *others = (of_system[name][s].conditions() for name in sorted(claim.systems) for s in seeds)
    for what, value in first.items():
        if any(other[what] != value for other in others):
            raise _measured_on_different(what, claim)
    difference = paired_difference(*({s: sum(values[s] for values in sides) for s in seeds} for sides in found))
    return Verdict(
        claim=claim,
        scale=scale,
        verdict="cannot tell",
        difference=difference,
        tested=dataclasses.replace(difference, mean=-difference.mean, low=-difference.high, high=-difference.low),
        documents=_over_items(claim, of_system, seeds),
    )


def _by_seed(side: Side, of_system: Mapping[str, Mapping[int, Result]]) -> dict[int, float]:
    found = {seed: side.quantity.of(result) for seed, result in of_system[side.system].items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _measured_on_different(what: str, claim: MeasuredClaim) -> UserError:
    names = " and ".join(sorted(claim.systems))
    return UserError(
        f"{claim.measurement}: {names} were measured on different {what}; remove the older files and measure again"
    )


def _over_items(claim: MeasuredClaim, of_system: Mapping[str, Mapping[int, Result]], seeds: Sequence[int]) -> Interval:
    """The mean over groups of the items' mean difference, averaged over seeds, with its normal interval.

    Clusters are independent, the groups of a cluster are not: their differences are added item by item.
    """
    signed: list[tuple[int, Sequence[Items]]] = []
    for sign, sides in zip((1, -1), claim.sides, strict=True):
        for side in sides:
            if side.quantity.items is None:
                return UNKNOWN
            signed += [(sign, side.quantity.items(of_system[side.system][seed])) for seed in seeds]
    if len({tuple(group.key for group in groups) for _, groups in signed}) > 1:
        raise _measured_on_different("items", claim)
    _, first = signed[0]
    clusters: dict[str, NDArray[np.float64]] = {}
    for i, group in enumerate(first):
        gaps = np.sum([sign * groups[i].values for sign, groups in signed], axis=0) / len(seeds)
        clusters[group.cluster] = clusters.get(group.cluster, 0) + gaps
    if any(gaps.size < 2 or not np.isfinite(gaps).all() for gaps in clusters.values()):
        return UNKNOWN
    mean = sum(float(gaps.mean()) for gaps in clusters.values()) / len(first)
    error = math.sqrt(sum(float(gaps.var(ddof=1)) / gaps.size for gaps in clusters.values())) / len(first)
    reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * error
    p_value = float(2 * stats.norm.sf(abs(mean) / error)) if error else math.nan
    return Interval(mean, mean - reach, mean + reach, sum(gaps.size for gaps in clusters.values()), p_value)
