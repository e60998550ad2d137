"""Two groups of words compared: raw, as the paper does, and in pairs that match in all else we know.

A unit is a word, not an occurrence: a frequent word counts once, and is drawn once by the bootstrap.

    difference      mean(first) - mean(second)
    Cohen's d       difference / sqrt((var(first) + var(second)) / 2)
    Cliff's delta   P(a > b) - P(a < b) for a of the first and b of the second group
    interval        95%, percentile bootstrap over words (or over pairs)
    p               permutation test, two-sided: labels dealt out anew, in pairs the two swapped
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import regex
from scipy import stats

from analysis.statistics import CONFIDENCE

_BATCH = 200  # resamples held at once
_LETTER = regex.compile(r"\X")  # as a reader counts them: a letter with its marks is one
Floats = npt.NDArray[np.float64]


class WordValue(NamedTuple):
    """A word of a text: occurrences, BPE tokens (mean), and what was measured (mean over occurrences)."""

    count: int
    tokens: float
    value: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The figures above, of the first group and the second; None where there are fewer than two words in one, or no
    spread. low, high: of the difference; d_low, d_high: of Cohen's d."""

    n: tuple[int, int]
    paired: bool
    resamples: int
    mean: tuple[float, float] | None = None
    median: tuple[float, float] | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    cohens_d: float | None = None
    d_low: float | None = None
    d_high: float | None = None
    cliffs_delta: float | None = None
    p_value: float | None = None


def compare(
    first: Sequence[float], second: Sequence[float], *, paired: bool = False, resamples: int = 2000, seed: int = 0
) -> Comparison:
    """The first group against the second.

    paired: first[i] and second[i] belong together. Raises ValueError if pairs are not of equal number.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if paired and len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values are no pairs; give equally many, or paired=False")
    unknown = Comparison(n=(len(a), len(b)), paired=paired, resamples=resamples)
    if len(a) < 2 or len(b) < 2:
        return unknown
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():  # of a resample without spread, which leaves the interval open
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        resampled: Any = stats.bootstrap(
            (a, b), _differences, paired=paired, vectorized=True, n_resamples=resamples, batch=_BATCH,
            confidence_level=CONFIDENCE, method="percentile", rng=rng,
        )  # fmt: skip
    kind = "samples" if paired else "independent"
    test: Any = stats.permutation_test(
        (a, b), _difference, permutation_type=kind, vectorized=True, n_resamples=resamples, batch=_BATCH, rng=rng
    )
    interval, (difference, d) = resampled.confidence_interval, _differences(a, b)
    ranks = stats.rankdata(np.concatenate([a, b]))[: len(a)].sum()
    above = (ranks - len(a) * (len(a) + 1) / 2) / (len(a) * len(b))  # P(a > b) + P(a = b) / 2
    return dataclasses.replace(
        unknown,
        mean=(float(a.mean()), float(b.mean())),
        median=(float(np.median(a)), float(np.median(b))),
        difference=_finite(difference),
        low=_finite(interval.low[0]),
        high=_finite(interval.high[0]),
        cohens_d=_finite(d),
        d_low=_finite(interval.low[1]),
        d_high=_finite(interval.high[1]),
        cliffs_delta=_finite(2 * above - 1),
        p_value=_finite(test.pvalue),
    )


def adjusted_difference(
    values: Sequence[float], first: Sequence[bool], controls: Floats, *, resamples: int = 2000, seed: int = 0
) -> Comparison:
    """`compare` with all else equal: the coefficient of the label in a least-squares fit of the values on label and
    controls [items, controls], which must not determine the label.

    mean: of the groups at the controls' means. Cohen's d: over the fit's residual standard deviation. interval:
    items drawn anew and fitted anew. p: residuals of the fit on the controls alone dealt out anew (Freedman and
    Lane 1983). None where fewer than two items are in a group, or the fit leaves nothing of the label.
    """
    y, label = np.asarray(values, dtype=np.float64), np.asarray(first, dtype=np.float64)
    unknown = Comparison(n=(int(label.sum()), int((1 - label).sum())), paired=False, resamples=resamples)
    if min(unknown.n) < 2:
        return unknown
    design = np.column_stack([np.ones(len(y)), controls])

    def fitted(rows: npt.NDArray[np.int64]) -> tuple[float, float]:
        """Coefficient of the label, and the same over the residuals' standard deviation."""
        full = np.column_stack([label[rows], design[rows]])
        coefficients = np.linalg.lstsq(full, y[rows], rcond=None)[0]
        spread = float(np.std(y[rows] - full @ coefficients, ddof=full.shape[1]))
        return float(coefficients[0]), float(coefficients[0]) / spread if spread > 0 else math.nan

    def left_of(column: Floats) -> Floats:
        return column - design @ np.linalg.lstsq(design, column, rcond=None)[0]

    of_label, of_values = left_of(label), left_of(y)
    if (size := float(of_label @ of_label)) < 1e-9 * len(y):
        return unknown
    rng = np.random.default_rng(seed)
    difference, d = fitted(np.arange(len(y)))
    drawn = np.array([fitted(rng.integers(len(y), size=len(y))) for _ in range(resamples)])
    # As `of_label` is free of the controls, its product with the dealt-out residuals is the coefficient.
    dealt = np.array([of_label @ rng.permutation(of_values) for _ in range(resamples)]) / size
    tail = (1 - CONFIDENCE) / 2
    (low, d_low), (high, d_high) = np.nanquantile(drawn, tail, axis=0), np.nanquantile(drawn, 1 - tail, axis=0)
    share = float(label.mean())
    return dataclasses.replace(
        unknown,
        mean=(float(y.mean()) + difference * (1 - share), float(y.mean()) - difference * share),
        difference=difference,
        low=float(low),
        high=float(high),
        cohens_d=_finite(d),
        d_low=_finite(d_low),
        d_high=_finite(d_high),
        p_value=float((1 + (np.abs(dealt) >= abs(difference)).sum()) / (1 + resamples)),
    )


def _difference(a: Floats, b: Floats, axis: int = -1) -> Floats:
    return a.mean(axis=axis) - b.mean(axis=axis)


def _differences(a: Floats, b: Floats, axis: int = -1) -> Floats:
    """Difference of the means and Cohen's d, along a new first axis; d is nan without spread."""
    difference = _difference(a, b, axis)
    spread = np.sqrt((a.var(axis=axis, ddof=1) + b.var(axis=axis, ddof=1)) / 2)
    return np.stack([difference, np.divide(difference, spread, out=np.full_like(difference, np.nan), where=spread > 0)])


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def matching_key(word: str, measured: WordValue, part: str) -> tuple[int, int, int, str]:
    """What two matched words share: floor(log2 occurrences), BPE tokens (rounded), letters, part of speech."""
    return int(math.log2(measured.count)), round(measured.tokens), len(_LETTER.findall(word)), part


def matched_pairs(
    words: Mapping[str, WordValue], groups: Mapping[str, bool], parts: Mapping[str, str], *, seed: int = 0
) -> list[tuple[str, str]]:
    """Pairs (word of the first group, word of the second) with the same `matching_key`; no word stands in two.

    groups: word -> whether it is in the first group; words not in it are left out. parts: the part of speech,
    "" where unknown. Who is paired with whom among equals is drawn from the seed, never from the values.
    """
    cells: dict[tuple[int, int, int, str], tuple[list[str], list[str]]] = {}
    for word in sorted(groups.keys() & words.keys()):
        key = matching_key(word, words[word], parts.get(word, ""))
        cells.setdefault(key, ([], []))[0 if groups[word] else 1].append(word)
    generator = np.random.default_rng(seed)
    pairs: list[tuple[str, str]] = []
    for key in sorted(cells):
        first, second = (generator.permutation(np.array(side, dtype=object)).tolist() for side in cells[key])
        pairs += zip(first, second, strict=False)
    return pairs


def compare_words(
    words: Mapping[str, WordValue],
    groups: Mapping[str, bool],
    parts: Mapping[str, str],
    *,
    null: Mapping[str, WordValue] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Raw and matched comparison of the first group of words with the second, by view: "raw" and "matched".

    null: the same words measured on an untrained model. Adds the same two comparisons of it
    (`null_raw`, `null_matched`) and of what training changed, trained - untrained word by word
    (`change_raw`, `change_matched`). Pairs are the same in all.
    """
    shared = words.keys() & groups.keys()
    if null is not None:
        shared &= null.keys()
    pairs = matched_pairs({word: words[word] for word in shared}, groups, parts, seed=seed)
    values = {"": {word: words[word].value for word in shared}}
    if null is not None:
        values["null_"] = {word: null[word].value for word in shared}
        values["change_"] = {word: words[word].value - null[word].value for word in shared}
    result: dict[str, Comparison] = {}
    for name, value in values.items():
        first, second = ([value[word] for word in sorted(shared) if groups[word] is side] for side in (True, False))
        result[f"{name}raw"] = compare(first, second, resamples=resamples, seed=seed)
        first, second = ([value[pair[side]] for pair in pairs] for side in (0, 1))
        result[f"{name}matched"] = compare(first, second, paired=True, resamples=resamples, seed=seed)
    return result
