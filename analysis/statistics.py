"""Paired comparisons of two systems, and how sure one can be of them.

Two sources of chance, two intervals. Over seeds: systems that share a seed share their data
order and their common initial values, so their results are differences of pairs,

    d_s = a_s - b_s,   mean(d) +- t_{0.975, n-1} std(d) / sqrt(n).

Over documents: the test text is itself a sample, so its documents are drawn again with
replacement (Efron and Tibshirani 1993, chapter 13), the same documents for both systems.
Many comparisons at once are corrected after Holm 1979.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

CONFIDENCE = 0.95
Value = TypeVar("Value")
_CHUNK = 2_000_000  # resampled document indices held at once


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval and the two-sided p-value of "the mean is zero"; nan = cannot be known."""

    mean: float
    low: float
    high: float
    n: int
    p_value: float


class Summary(NamedTuple):
    n: int
    mean: float
    std: float


@dataclass(frozen=True, eq=False)
class Documents:
    """One model's evaluation: for each document the summed nll (nats) and its size (tokens or bytes)."""

    nll: NDArray[np.float64]
    size: NDArray[np.float64]

    def __init__(self, nll: ArrayLike, size: ArrayLike) -> None:
        object.__setattr__(self, "nll", np.asarray(nll, dtype=np.float64))
        object.__setattr__(self, "size", np.asarray(size, dtype=np.float64))
        if self.nll.ndim != 1 or self.nll.shape != self.size.shape:
            raise ValueError(f"nll {self.nll.shape} and size {self.size.shape} must be one number per document")
        if not (self.size > 0).all():
            raise ValueError("every document must have a size above zero; leave out the empty ones")


def summarise(values: Iterable[float]) -> Summary:
    """Count, mean and sample standard deviation (ddof=1; nan for fewer than two values)."""
    array = np.asarray(list(values), dtype=np.float64)
    mean = float(array.mean()) if array.size else math.nan
    return Summary(array.size, mean, float(array.std(ddof=1)) if array.size > 1 else math.nan)


def over_common_seeds(found: Mapping[str, Mapping[int, Value]]) -> dict[str, dict[int, Value]]:
    """Each over the seeds of all: a seed may be a hard one, and means over others then do not compare. What has one
    seed stays as it is, and so does all where fewer than two are common."""
    several = {name: set(values) for name, values in found.items() if len(values) > 1}
    common = set.intersection(*several.values()) if several else set[int]()
    if len(common) < 2:
        several = {}
    return {
        name: {seed: v for seed, v in values.items() if seed in common} if name in several else dict(values)
        for name, values in found.items()
    }


def paired_difference(a: Mapping[int, float], b: Mapping[int, float]) -> Interval:
    """Mean of a - b over the seeds that both have, with the t interval and the paired t-test's p-value.

    Nothing is claimed where nothing can be known: with fewer than two common seeds, or a value
    that is not finite, bounds and p-value are nan. Differences that are all equal (to rounding)
    show no spread to judge by: all zero gives [0, 0] with p = 1; all the same other number gives
    nan, because seeds that change nothing are one observation, however often it is repeated.
    """
    seeds = sorted(a.keys() & b.keys())
    left, right = (np.array([values[seed] for seed in seeds], dtype=np.float64) for values in (a, b))
    n = len(seeds)
    if n == 0 or not (np.isfinite(left).all() and np.isfinite(right).all()):
        return Interval(math.nan, math.nan, math.nan, n, math.nan)
    difference = left - right
    mean = float(difference.mean())
    if n < 2:
        return Interval(mean, math.nan, math.nan, n, math.nan)
    if not difference.any():
        return Interval(0.0, 0.0, 0.0, n, 1.0)
    error = float(difference.std(ddof=1)) / math.sqrt(n)
    if error <= 1e-13 * max(np.abs(left).max(), np.abs(right).max()):
        return Interval(mean, math.nan, math.nan, n, math.nan)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    p_value = 2 * float(stats.t.sf(abs(mean) / error, n - 1))
    return Interval(mean, mean - reach, mean + reach, n, p_value)


def covered(first: Mapping[int, float], found: Mapping[int, float], goal: Mapping[int, float]) -> dict[int, float]:
    """How many percent of the way down from the first to the goal are covered, by the seeds that all have.

    None where the seeds do not tell the goal from the first: a share of a way that may be 0 says nothing.
    """
    if paired_difference(goal, first).high >= 0:  # of one seed it is nan
        return {}
    seeds = sorted(first.keys() & found.keys() & goal.keys())
    return {s: 100 * (first[s] - found[s]) / (first[s] - goal[s]) for s in seeds if first[s] != goal[s]}


def effect_found(interval: Interval, claims: int, level: float, chance: float = 0.8) -> float:
    """How far from zero a true mean difference must be, for the paired t-test to find it with this chance.

    Found is p below `level` after Holm's correction, as the clearest of so many claims; the spread over seeds is that
    of the interval. In the interval's unit; nan where it has no spread. ValueError for no claim.
    """
    if claims < 1:
        raise ValueError(f"claims={claims}: one claim is the least that can be judged")
    n, freedom = interval.n, interval.n - 1
    error = (interval.high - interval.mean) / float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) if n > 1 else math.nan
    if not error > 0:
        return math.nan
    critical = float(stats.t.ppf(1 - level / (2 * claims), freedom))

    def missing(distance: float) -> float:
        """Of the chance, at a true mean so many standard errors away. The other tail adds nothing to speak of."""
        return chance - float(stats.nct.sf(critical, freedom, distance))

    return error * float(optimize.root_scalar(missing, bracket=(0.0, 10 * critical + 10)).root)


def document_bootstrap(
    a: Mapping[int, Documents], b: Mapping[int, Documents], samples: int = 10_000, seed: int = 0
) -> Interval:
    """Difference a - b of nll per token (or byte), mean of the common seeds, when documents are drawn anew.

    Percentile interval; n counts documents; p is twice the smaller share of draws on one side of
    zero. It says what other text from the same source would give with these very models: it does
    not cover the chance in training, which `paired_difference` does. nan for fewer than two
    documents or no common seed. ValueError if the systems were not evaluated on the same documents.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return Interval(math.nan, math.nan, math.nan, 0, math.nan)
    size = a[seeds[0]].size
    if not all(np.array_equal(side[s].size, size) for side in (a, b) for s in seeds):
        raise ValueError("the two systems were evaluated on different documents: their sizes differ")
    # Sizes are shared, so the mean over seeds can be taken before the resampling.
    difference = np.mean([a[s].nll - b[s].nll for s in seeds], axis=0)
    n, mean = size.size, float(difference.sum() / size.sum())
    if n < 2 or not np.isfinite(difference).all():
        return Interval(mean, math.nan, math.nan, n, math.nan)
    rng = np.random.default_rng(seed)
    draws = np.empty(samples)
    step = max(1, _CHUNK // n)
    for start in range(0, samples, step):
        index = rng.integers(n, size=(min(step, samples - start), n), dtype=np.int32)
        draws[start : start + step] = difference[index].sum(axis=1) / size[index].sum(axis=1)
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    rarer = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return Interval(mean, float(low), float(high), n, min(1.0, 2 * (rarer + 1) / (samples + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order; nan stays nan and does not count as a test."""
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[i] = highest
    return adjusted
