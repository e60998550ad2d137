"""How often each expert is chosen: plain counts of what the routers of a model did with a text.

    n_p     selections of expert p in a layer: pairs of routed row and choice that went to p
    rows    what a layer routes: tokens, or the `rows_per_token` sub-tokens of each token
    sum_p n_p = tokens * rows_per_token * top_k

Counts are of one text, or of each group of documents (language, topic, task). Two nulls stand beside
them: the same model before training (`text.untrained`), and `uniform_null`, in which every row
chooses at random. What follows from the counts is in measures.py. (v1 Section 5.1, Figures 1a, 5.)
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.results import Result
from analysis.routing.measures import Counts, Specialisation, check_tokens, specialisation
from analysis.routing.text import Integers, Windows, distinct_experts, route
from mhmoe.model.language_model import MHMoEForCausalLM

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class DocumentCounts:
    """The counts of every document by itself.

    tokens [documents]; selections and probability (summed over rows) [documents, layers, experts];
    distinct [documents, layers, rows_per_token * top_k + 1]: tokens that reach so many different experts.
    """

    tokens: Integers
    selections: Integers
    probability: Floats
    distinct: Integers
    rows_per_token: int
    top_k: int

    def total(self, chosen: npt.NDArray[np.bool_] | None = None) -> Counts:
        """The sums over all or the chosen documents [documents]."""
        rows = slice(None) if chosen is None else chosen
        return Counts(
            tokens=int(self.tokens[rows].sum()),
            rows_per_token=self.rows_per_token,
            top_k=self.top_k,
            selections=self.selections[rows].sum(axis=0).tolist(),
            probability=self.probability[rows].sum(axis=0).round(3).tolist(),
            distinct=self.distinct[rows].sum(axis=0).tolist(),
        )


@dataclass(frozen=True, kw_only=True)
class ExpertActivation(Result):
    """The counts of a whole text."""

    counts: Counts


@dataclass(frozen=True, kw_only=True)
class Permuted:
    """bits of `Specialisation` when the documents' groups are dealt out anew, layer by layer: what documents differ
    in anyway."""

    permutations: int
    mean_bits: list[float]
    quantile_95_bits: list[float]


@dataclass(frozen=True, kw_only=True)
class GroupRouting:
    """groups: the counts of each group of documents. specialisation: numbers of groups are in that order."""

    groups: dict[str, Counts]
    specialisation: Specialisation
    permuted: Permuted


@dataclass(frozen=True, kw_only=True)
class QuestionRouting(Result):
    """Of a model, and of the one that it started from, by task."""

    trained: GroupRouting
    untrained: GroupRouting


def count_documents(model: MHMoEForCausalLM, windows: Windows, *, batch_size: int = 32) -> DocumentCounts:
    """Count what the model routes where. Raises ValueError as `text.route` does."""
    sums: dict[str, npt.NDArray[Any]] = {}
    rows = top_k = 0
    for batch in route(model, windows, batch_size=batch_size):
        document = batch.document
        tokens = batch.counted.cpu().numpy()
        layers = len(batch.routing)
        *_, rows, top_k = batch.routing[0].index.shape
        num_experts = batch.routing[0].probabilities.shape[-1]
        if not sums:
            shape = (windows.num_documents, layers)
            sums = {
                "tokens": np.zeros(windows.num_documents, dtype=np.int64),
                "selections": np.zeros((*shape, num_experts), dtype=np.int64),
                "probability": np.zeros((*shape, num_experts)),
                "distinct": np.zeros((*shape, rows * top_k + 1), dtype=np.int64),
            }
        np.add.at(sums["tokens"], document, tokens.sum(axis=1))
        for layer, routing in enumerate(batch.routing):
            counts = (routing.kept & batch.counted[..., None, None]).cpu().numpy()
            index, distinct = routing.index.cpu().numpy(), distinct_experts(routing).cpu().numpy()
            probability = (
                (routing.probabilities.double() * batch.counted[..., None, None]).sum(dim=(1, 2)).cpu().numpy()
            )
            where = np.broadcast_to(document[:, None, None, None], index.shape)
            np.add.at(sums["selections"][:, layer], (where[counts], index[counts]), 1)
            np.add.at(sums["probability"][:, layer], document, probability)
            where = np.broadcast_to(document[:, None], distinct.shape)
            np.add.at(sums["distinct"][:, layer], (where[tokens], distinct[tokens]), 1)
    return DocumentCounts(**sums, rows_per_token=rows, top_k=top_k)  # pyright: ignore[reportArgumentType]


def measure_activation(model: MHMoEForCausalLM, windows: Windows, *, batch_size: int = 32) -> Counts:
    """The counts of a whole text."""
    return count_documents(model, windows, batch_size=batch_size).total()


def measure_groups(
    model: MHMoEForCausalLM,
    windows: Windows,
    groups: Sequence[str],
    *,
    permutations: int = 200,
    seed: int = 0,
    batch_size: int = 32,
) -> GroupRouting:
    """Counts for each group of documents, and how much of the group the chosen expert tells.

    groups [documents]: the group of each document. Raises ValueError unless there are two groups or more, each with
    tokens.
    """
    names = list(dict.fromkeys(groups))
    if len(groups) != windows.num_documents:
        raise ValueError(f"{len(groups)} groups for {windows.num_documents} documents; give each document one")
    counts = count_documents(model, windows, batch_size=batch_size)
    label = np.array([names.index(name) for name in groups])
    totals = {name: counts.total(label == i) for i, name in enumerate(names)}
    check_tokens(totals)
    flat = counts.selections.reshape(len(groups), -1).astype(np.float64)
    generator = np.random.default_rng(seed)
    dealt = []
    with_text = np.flatnonzero(counts.tokens)  # an empty document has nothing to swap
    for _ in range(permutations):
        shuffled = label.copy()
        shuffled[with_text] = generator.permutation(label[with_text])
        dealt.append(specialisation(_sum_by(shuffled, flat, counts.selections.shape)).bits)
    bits = np.array(dealt)
    return GroupRouting(
        groups=totals,
        specialisation=specialisation(_sum_by(label, flat, counts.selections.shape)),
        permuted=Permuted(
            permutations=permutations,
            mean_bits=bits.mean(axis=0).tolist(),
            quantile_95_bits=np.quantile(bits, 0.95, axis=0).tolist(),
        ),
    )


def _sum_by(label: Integers, flat: Floats, shape: tuple[int, ...]) -> Floats:
    """Documents' numbers [documents, numbers] summed by label, as [groups, layers, experts]."""
    member = (np.arange(label.max() + 1)[:, None] == label).astype(np.float64)
    return (member @ flat).reshape(-1, *shape[1:])


def _null_of_heads_apart(counts: Counts, seed: int) -> Counts:
    heads, layers = counts.rows_per_token, len(counts.selections)
    own = [each[: counts.num_experts // heads] for each in counts.selections]
    one = dataclasses.replace(counts, rows_per_token=1, selections=own)
    nulls = [uniform_null(one, heads * seed + head) for head in range(heads)]
    return dataclasses.replace(
        counts,
        selections=[[n for null in nulls for n in null.selections[layer]] for layer in range(layers)],
        probability=[[p for null in nulls for p in null.probability[layer]] for layer in range(layers)],
        distinct=[[0] * (heads * counts.top_k) + [counts.tokens]] * layers,
    )


def uniform_null(counts: Counts, seed: int, *, heads_apart: bool = False) -> Counts:
    """Counts of the same tokens and choices if the experts' labels were shuffled anew for every row.

    Every row then chooses a random set of top_k experts, whatever the router says. The selections are drawn
    without drawing the rows: expert by expert, a row with j choices left takes the next of the m experts
    left with probability j/m (selection sampling, Knuth, Algorithm S). `distinct` is multinomial with the
    exact probabilities, which follow from adding one random set after the other.

    heads_apart: every head has a router and as many experts of its own, of which its rows then choose; a token reaches
    as many experts as its heads choose, whatever the routers say.
    """
    if heads_apart:
        return _null_of_heads_apart(counts, seed)
    generator = np.random.default_rng(seed)
    tokens, rows, top_k = counts.tokens, counts.rows_per_token, counts.top_k
    layers, num_experts = len(counts.selections), counts.num_experts
    selections = np.zeros((layers, num_experts), dtype=np.int64)
    for layer in range(layers):
        left = np.zeros(top_k + 1, dtype=np.int64)  # rows that still have so many choices to make
        left[top_k] = tokens * rows
        for expert in range(num_experts):
            share = np.minimum(np.arange(top_k + 1) / (num_experts - expert), 1.0)
            taken = generator.binomial(left, share)
            selections[layer, expert] = taken.sum()
            left = left - taken
            left[:-1] += taken[1:]
    reached = np.zeros(rows * top_k + 1)  # the distribution of the number of experts that a token reaches
    reached[0] = 1.0
    for _ in range(rows):
        after = np.zeros_like(reached)
        for have in np.flatnonzero(reached):
            for again in range(min(int(have), top_k) + 1):
                chance = float(stats.hypergeom.pmf(again, num_experts, have, top_k))
                if chance > 0:
                    after[have + top_k - again] += reached[have] * chance
        reached = after
    return dataclasses.replace(
        counts,
        selections=selections.tolist(),
        probability=np.full((layers, num_experts), tokens * rows / num_experts).tolist(),
        distinct=generator.multinomial(tokens, reached / reached.sum(), size=layers).tolist(),
    )
