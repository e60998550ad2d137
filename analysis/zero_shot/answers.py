"""What a model's log-likelihoods of the answers to multiple-choice questions say.

Accuracy is lm-eval's. It moves in steps of one item and says little while a model is near chance, so beside it

    bits per byte of the right answer    -log2 p(answer | question) / bytes                    lower is better
    margin                               best wrong answer's bits per byte - right one's       higher is better
    advantage                            mean wrong answer's bits per byte - mean right one's  higher is better

averaged over items. Bytes are the UTF-8 bytes of what is scored: the answer with the space before it, which for
XNLI is the whole text. Bits per byte follow how well a model knows the language, whatever it knows of the answer; a
margin is below zero for a model that knows nothing, the lower the more its answers differ. The advantage of such a
model is zero but for what right and wrong answers have in their form (length, words): so it is the one to judge of two
models, and no measure of knowledge by itself. Where several answers are right (TruthfulQA mc2), the best of them counts
for the first two.

Where the choices are the same words in every item (RTE, BoolQ), answers are classes: each class then has the same
weight in the advantage, so that liking one of the words is worth nothing, in the mean and in its error:

    a_i' = w_c (a_i - m_c) + mean of all m_c        w_c = n / (classes * n_c), m_c the mean advantage of class c

has the mean of the m_c, and the variance of the items within their classes (stratified sampling).

A model that guesses has accuracy 1 / choices, and where answers are classes it can also always say the more frequent
one. Both are tested, two-sided: exactly (binomial) where an item is right or wrong, by the normal interval of the
mean where it is a share (mc2). A model that knows nothing need not guess evenly: accuracy that is not normalised
prefers short answers, which are right less often than others in some of the tasks.
"""

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.statistics import CONFIDENCE

ACCURACIES = ("acc", "acc_norm")
FINER = ("bits_per_byte", "margin", "advantage")
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question: its key, each choice's log-likelihood in nats and bytes, which are right, lm-eval's scores."""

    key: str
    log_likelihood: tuple[float, ...]
    bytes: tuple[int, ...]
    choices: tuple[str, ...]
    right: tuple[bool, ...]
    scores: Mapping[str, float]

    def bits_per_byte(self) -> Values:
        return -np.array(self.log_likelihood) / math.log(2) / np.array(self.bytes)

    def of_right(self) -> float:
        """Bits per byte of the right answer, the best of several."""
        return float(self.bits_per_byte()[list(self.right)].min())

    def margin(self) -> float:
        """nan where no answer is wrong."""
        wrong = self.bits_per_byte()[[not right for right in self.right]]
        return float(wrong.min()) - self.of_right() if wrong.size else math.nan

    def advantage(self) -> float:
        """nan where no answer is wrong."""
        bits, right = self.bits_per_byte(), np.array(self.right)
        return math.nan if right.all() else float(bits[~right].mean() - bits[right].mean())

    def chance(self) -> float:
        return sum(self.right) / len(self.right)


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Over items, with its standard error and 95% interval; None where it cannot be known."""

    value: float | None
    stderr: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Accuracy(Mean):
    """With the p-values of its being at chance and at the majority."""

    value: float
    p_chance: float | None
    p_majority: float | None


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One value an item as base64: bits (numpy.packbits) if all are 0 or 1, else float16, little-endian.

    float16 has three to four digits; a task's 10,042 items take 27 kB.
    """

    n: int
    type: Literal["bits", "<f2"]
    base64: str


@dataclass(frozen=True, kw_only=True)
class ItemValues:
    """The items' own values of what is compared between models, by measure. sha256: of the items' keys."""

    sha256: str
    values: dict[str, Packed]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A task's numbers. majority: None unless answers are classes. accuracies, finer: by their names in ACCURACIES,
    those that the task has, and FINER."""

    n: int
    chance: float
    majority: float | None
    accuracies: dict[str, Accuracy]
    finer: dict[str, Mean]
    items: ItemValues

    def measure(self, name: str) -> Mean:
        return self.accuracies[name] if name in self.accuracies else self.finer[name]

    def best_guess(self, measure: str) -> tuple[float, float | None]:
        """The most that a model without knowledge reaches by guessing, and the p-value of being there."""
        accuracy = self.accuracies[measure]
        if self.majority is not None and self.majority > self.chance:
            return self.majority, accuracy.p_majority
        return self.chance, accuracy.p_chance


def summarise(items: Sequence[Item]) -> Scores:
    """ValueError without items."""
    if not items:
        raise ValueError("no items to summarise")
    chance = float(np.mean([item.chance() for item in items]))
    majority = _majority(items)
    columns: dict[str, Values] = {
        name: np.array([item.scores[name] for item in items]) for name in ACCURACIES if name in items[0].scores
    }
    accuracies = {name: _accuracy(values, chance, majority) for name, values in columns.items()}
    columns["advantage"] = _of_classes(items, np.array([item.advantage() for item in items]))
    finer = {
        "bits_per_byte": _mean(np.array([item.of_right() for item in items])),
        "margin": _mean(np.array([item.margin() for item in items])),
        "advantage": _mean(columns["advantage"], means=len(_classes(items)) or 1),
    }
    keys = json.dumps([item.key for item in items])
    return Scores(
        n=len(items),
        chance=chance,
        majority=majority,
        accuracies=accuracies,
        finer=finer,
        items=ItemValues(
            sha256=hashlib.sha256(keys.encode()).hexdigest(),
            values={name: pack(values) for name, values in columns.items()},
        ),
    )


def _classes(items: Sequence[Item]) -> Counter[tuple[bool, ...]]:
    """How often each answer is right where answers are classes, the same choices everywhere; else empty."""
    same = len({item.choices for item in items}) == 1
    return Counter(item.right for item in items if same)


def _majority(items: Sequence[Item]) -> float | None:
    classes = _classes(items)
    return max(classes.values()) / len(items) if classes else None


def _of_classes(items: Sequence[Item], values: Values) -> Values:
    """The items' values, or where answers are classes those whose mean gives each class the same weight."""
    known = np.isfinite(values)
    of_class = [known & np.array([item.right == right for item in items]) for right in _classes(items)]
    means = {place: values[here].mean() for place, here in enumerate(of_class) if here.any()}
    if not means:
        return values
    found = np.where(known, np.mean([*means.values()]), values)
    for place, mean in means.items():
        here = of_class[place]
        found[here] += (values[here] - mean) * known.sum() / (len(means) * here.sum())
    return found


def _mean(values: Values, means: int = 1) -> Mean:
    """means: how many means the values scatter about; with one value about each there is no standard error."""
    known = values[np.isfinite(values)]
    if not known.size:
        return Mean(value=None, stderr=None, low=None, high=None)
    mean = float(known.mean())
    if known.size <= means:
        return Mean(value=mean, stderr=None, low=None, high=None)
    error = float(known.std(ddof=1)) / math.sqrt(known.size)  # as lm-eval's
    reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * error
    return Mean(value=mean, stderr=error, low=mean - reach, high=mean + reach)


def _accuracy(values: Values, chance: float, majority: float | None) -> Accuracy:
    value, mean = float(values.mean()), _mean(values)
    low, high = mean.low, mean.high
    if np.isin(values, (0.0, 1.0)).all():
        right = int(values.sum())
        interval = stats.binomtest(right, values.size).proportion_ci(CONFIDENCE, method="exact")
        low, high = float(interval.low), float(interval.high)

        def p_value(of: float) -> float | None:
            return float(stats.binomtest(right, values.size, of).pvalue)
    else:

        def p_value(of: float) -> float | None:
            return float(2 * stats.norm.sf(abs(value - of) / mean.stderr)) if mean.stderr else None

    return Accuracy(
        value=value,
        stderr=mean.stderr,
        low=low,
        high=high,
        p_chance=p_value(chance),
        p_majority=None if majority is None else p_value(majority),
    )


# ---- values of items in a file ---------------------------------------------------------------


def pack(values: ArrayLike) -> Packed:
    """One value an item."""
    array = np.asarray(values, dtype=np.float64)
    bits = bool(np.isin(array, (0.0, 1.0)).all())
    raw = np.packbits(array.astype(bool)) if bits else array.astype("<f2")
    text = base64.b64encode(raw.tobytes()).decode()
    return Packed(n=array.size, type="bits" if bits else "<f2", base64=text)


def unpack(packed: Packed) -> Values:
    """What `pack` packed. ValueError if it is of another length."""
    raw = base64.b64decode(packed.base64)
    if packed.type == "bits":
        values = np.unpackbits(np.frombuffer(raw, np.uint8))[: packed.n]
    else:
        values = np.frombuffer(raw, packed.type)
    if values.size != packed.n:
        raise ValueError(f"{values.size} items are packed where n={packed.n}")
    return values.astype(np.float64)
