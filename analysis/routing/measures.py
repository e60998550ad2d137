"""What follows from the counts of activation.py; pure functions, nothing is measured here.

    activation ratio a(t)        share of the (layer, expert) cells with n_p / tokens > t          (v1 Section 5.1)
    effective experts            exp(- sum_p f_p log f_p), f_p = n_p / sum_q n_q, per layer: between 1 and N
    distinct share               different experts that a token reaches / N, mean over tokens
    specialisation               I(group; expert) in bits, every group weighted equally
    collapse                     share of the experts below a tenth of the uniform share, f_p < 0.1 / N

The paper does not print its threshold t, so a(t) is a curve. Per token, a layer with h sub-tokens of k
choices makes h k selections where X-MoE top-1 makes one; per row it makes k. Both are given.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Per = Literal["token", "row"]
COLLAPSED = 0.1  # of the uniform share


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What the MoE layers did with a text, or with a group of its documents.

    rows_per_token: routed rows of a token, its sub-tokens, or 1. selections [layers, experts]; probability [layers,
    experts]: the sum of the router's softmax over all rows; distinct [layers, rows_per_token * top_k + 1]: how many
    tokens reach 0, 1, 2, ... different experts.
    """

    tokens: int
    rows_per_token: int
    top_k: int
    selections: list[list[int]]
    probability: list[list[float]]
    distinct: list[list[int]]

    @property
    def num_experts(self) -> int:
        return len(self.selections[0])


@dataclass(frozen=True, kw_only=True)
class Specialisation:
    """How much an expert's number tells of the group, layer by layer.

    bits: mutual information of group and expert. normalised: over the most that is possible, log2 min(groups,
    experts). dominant [layers, experts]: the group with the largest share of the expert, None where nobody chose it.
    dominant_share [layers, experts]: that share, 1/groups if it takes no sides, 1 if it serves one.
    """

    bits: list[float]
    normalised: list[float]
    dominant: list[list[int | None]]
    dominant_share: list[list[float]]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One number a measure, mean over layers: what a table has beside each system and each null."""

    effective_experts: float
    effective_share: float
    distinct_experts: float
    distinct_share: float
    collapsed_share: float
    largest_load: float


def frequencies(counts: Counts, per: Per = "token") -> npt.NDArray[np.float64]:
    """Selections of each expert per token or per routed row [layers, experts]. ValueError without tokens."""
    check_tokens({"the text": counts})
    if per not in ("token", "row"):
        raise ValueError(f"per={per!r} is not known; choose token or row")
    rows = 1 if per == "token" else counts.rows_per_token
    return np.asarray(counts.selections, dtype=np.float64) / (counts.tokens * rows)


def load(counts: Counts) -> npt.NDArray[np.float64]:
    """Each expert's share of its layer's selections [layers, experts]."""
    frequency = frequencies(counts)
    return frequency / frequency.sum(axis=-1, keepdims=True)


def activation_curve(counts: Counts, thresholds: Sequence[float], per: Per = "token") -> list[float]:
    """a(t) for every threshold t: the share of (layer, expert) cells that are chosen more often than t."""
    frequency = frequencies(counts, per)
    return [float((frequency > threshold).mean()) for threshold in thresholds]


def effective_experts(counts: Counts) -> list[float]:
    """exp of the entropy of the load, for each layer."""
    return np.exp(_entropy(load(counts))).tolist()


def mean_distinct(counts: Counts) -> list[float]:
    """Different experts that a token reaches, mean over tokens, for each layer."""
    histogram = np.asarray(counts.distinct, dtype=np.float64)
    return (histogram @ np.arange(histogram.shape[1]) / histogram.sum(axis=1)).tolist()


def collapse(counts: Counts, below: float = COLLAPSED) -> list[float]:
    """Share of a layer's experts that get less than `below` times the uniform share, for each layer."""
    share = load(counts)
    return (share * share.shape[1] < below).mean(axis=1).tolist()


def specialisation(selections: npt.ArrayLike) -> Specialisation:
    """selections: [groups, layers, experts]. Groups count equally, however much text each has.

    Raises ValueError unless there are two groups or more and each has selections in each layer.
    """
    counts = np.asarray(selections, dtype=np.float64)
    if counts.ndim != 3 or counts.shape[0] < 2:
        raise ValueError(f"selections {counts.shape} must be [groups, layers, experts] with two groups or more")
    total = counts.sum(axis=-1, keepdims=True)
    if not (total > 0).all():
        raise ValueError(f"group {int(np.argwhere(total[..., 0] == 0)[0, 0])} has no selections; leave it out")
    given_group = counts / total
    overall = given_group.mean(axis=0)
    bits = (_entropy(overall) - _entropy(given_group).mean(axis=0)).clip(min=0) / math.log(2)
    most = math.log2(max(2, min(counts.shape[0], counts.shape[2])))
    share = given_group / np.where(overall > 0, overall * counts.shape[0], np.inf)
    best = share.argmax(axis=0)
    dominant = [
        [int(group) if chosen else None for group, chosen in zip(line, used, strict=True)]
        for line, used in zip(best, overall, strict=True)
    ]
    return Specialisation(
        bits=bits.tolist(),
        normalised=(bits / most).tolist(),
        dominant=dominant,
        dominant_share=share.max(axis=0).round(4).tolist(),
    )


def total(groups: Mapping[str, Counts]) -> Counts:
    """The counts of all groups together. ValueError if there is none, or if they route differently."""
    several = list(groups.values())
    if len({(counts.rows_per_token, counts.top_k) for counts in several}) != 1:
        raise ValueError("groups must be of one model, and there must be one at least")
    return dataclasses.replace(
        several[0],
        tokens=sum(counts.tokens for counts in several),
        selections=np.sum([counts.selections for counts in several], axis=0).tolist(),
        probability=np.sum([counts.probability for counts in several], axis=0).tolist(),
        distinct=np.sum([counts.distinct for counts in several], axis=0).tolist(),
    )


def summary(counts: Counts) -> Summary:
    effective, distinct = float(np.mean(effective_experts(counts))), float(np.mean(mean_distinct(counts)))
    return Summary(
        effective_experts=effective,
        effective_share=effective / counts.num_experts,
        distinct_experts=distinct,
        distinct_share=distinct / counts.num_experts,
        collapsed_share=float(np.mean(collapse(counts))),
        largest_load=float(load(counts).max(axis=1).mean()),
    )


def check_tokens(groups: Mapping[str, Counts]) -> None:
    """Raises ValueError, naming the group, where nothing was counted."""
    if empty := [name for name, counts in groups.items() if not counts.tokens]:
        raise ValueError(f"{empty[0]} has no tokens, so nothing was routed; leave it out")


def _entropy(share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """In nats, over the last axis; 0 log 0 = 0."""
    return -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=-1)
