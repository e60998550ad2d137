"""What a model's log-likelihoods of the answers to multiple-choice questions say.

Accuracy is lm-eval's. It moves in steps of one item and says little while a model is near chance, so beside it

    bits per byte of the right answer    -log2 p(answer | question) / bytes                    lower is better
    margin                               best wrong answer's bits per byte - right one's       higher is better
    advantage                            mean wrong answer's bits per byte - mean right one's  higher is better

averaged over items. Bytes are the UTF-8 bytes of what is scored: the answer with the space before it, which for
XNLI is the whole text. Bits per byte follow how well a model knows the language, whatever it knows of the answer; a
margin is below zero for a model that knows nothing, the lower the more its answers differ. The advantage of such a
model is zero but for what right and wrong answers have in their form (length), and that is why it is the one to
judge. Where several answers are right (TruthfulQA mc2), the best of them counts for the first two.

Where the choices are the same words in every item (RTE, BoolQ), answers are classes: each class then has the same
weight in the advantage, so that liking one of the words is worth nothing.

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
from typing import Any

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


def summarise(items: Sequence[Item]) -> dict[str, Any]:
    """A task's numbers, ready for JSON: n, chance, majority (None unless answers are classes), per measure its value,
    standard error, 95% interval and p-values, and the items' own values of what is compared between models, packed.

    ValueError without items.
    """
    if not items:
        raise ValueError("no items to summarise")
    chance = float(np.mean([item.chance() for item in items]))
    majority = _majority(items)
    columns: dict[str, Values] = {
        name: np.array([item.scores[name] for item in items]) for name in ACCURACIES if name in items[0].scores
    }
    measures = {name: _accuracy(values, chance, majority) for name, values in columns.items()}
    columns["advantage"] = _class_weights(items) * np.array([item.advantage() for item in items])
    measures["bits_per_byte"] = _mean(np.array([item.of_right() for item in items]))
    measures["margin"] = _mean(np.array([item.margin() for item in items]))
    measures["advantage"] = _mean(columns["advantage"])
    return {
        "n": len(items),
        "chance": chance,
        "majority": majority,
        **measures,
        "items": {
            "sha256": hashlib.sha256(json.dumps([item.key for item in items]).encode()).hexdigest(),
            **{name: pack(values) for name, values in columns.items()},
        },
    }


def best_guess(task: Mapping[str, Any], measure: str) -> tuple[float, float | None]:
    """Of a task's summary: the most that a model without knowledge reaches by guessing, and the p-value of being
    there."""
    if task["majority"] is not None and task["majority"] > task["chance"]:
        return task["majority"], task[measure]["p_majority"]
    return task["chance"], task[measure]["p_chance"]


def _classes(items: Sequence[Item]) -> Counter[tuple[bool, ...]]:
    """How often each answer is right where answers are classes, the same choices everywhere; else empty."""
    same = len({item.choices for item in items}) == 1
    return Counter(item.right for item in items if same)


def _majority(items: Sequence[Item]) -> float | None:
    classes = _classes(items)
    return max(classes.values()) / len(items) if classes else None


def _class_weights(items: Sequence[Item]) -> Values:
    """Of mean 1, and of equal sum for each class."""
    classes = _classes(items)
    weights = {right: len(items) / (len(classes) * count) for right, count in classes.items()}
    return np.array([weights.get(item.right, 1.0) for item in items])


def _mean(values: Values) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    if not known.size:
        return dict.fromkeys(("value", "stderr", "low", "high"))
    mean, error = float(known.mean()), _standard_error(known)
    reach = None if error is None else float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * error
    return {
        "value": mean,
        "stderr": error,
        "low": None if reach is None else mean - reach,
        "high": None if reach is None else mean + reach,
    }


def _standard_error(values: Values) -> float | None:
    """As lm-eval's: sample standard deviation / sqrt(n)."""
    return float(values.std(ddof=1)) / math.sqrt(values.size) if values.size > 1 else None


def _accuracy(values: Values, chance: float, majority: float | None) -> dict[str, Any]:
    summary = _mean(values)
    if np.isin(values, (0.0, 1.0)).all():
        right = int(values.sum())
        interval = stats.binomtest(right, values.size).proportion_ci(CONFIDENCE, method="exact")
        summary |= {"low": float(interval.low), "high": float(interval.high)}

        def p_value(of: float) -> float | None:
            return float(stats.binomtest(right, values.size, of).pvalue)
    else:

        def p_value(of: float) -> float | None:
            distance = abs(summary["value"] - of)
            return float(2 * stats.norm.sf(distance / summary["stderr"])) if summary["stderr"] else None

    summary["p_chance"] = p_value(chance)
    summary["p_majority"] = None if majority is None else p_value(majority)
    return summary


# ---- values of items in a file ---------------------------------------------------------------


def pack(values: ArrayLike) -> dict[str, Any]:
    """One value an item as base64: bits (numpy.packbits) if all are 0 or 1, else float16, little-endian.

    float16 has three to four digits; a task's 10,042 items take 27 kB.
    """
    array = np.asarray(values, dtype=np.float64)
    bits = bool(np.isin(array, (0.0, 1.0)).all())
    raw = np.packbits(array.astype(bool)) if bits else array.astype("<f2")
    return {"n": array.size, "type": "bits" if bits else "<f2", "base64": base64.b64encode(raw.tobytes()).decode()}


def unpack(packed: Mapping[str, Any]) -> Values:
    """What `pack` packed. ValueError if it is of another type or length."""
    raw, kind, n = base64.b64decode(packed["base64"]), packed["type"], packed["n"]
    if kind not in ("bits", "<f2"):
        raise ValueError(f"items are packed as {kind!r}; this version reads bits and <f2")
    values = np.unpackbits(np.frombuffer(raw, np.uint8))[:n] if kind == "bits" else np.frombuffer(raw, "<f2")
    if values.size != n:
        raise ValueError(f"{values.size} items are packed where n={n}")
    return values.astype(np.float64)
