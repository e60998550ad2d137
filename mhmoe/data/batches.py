"""What a model is shown of packed text: windows of it, in the one order that all systems share.

Training reads sequences of one long array of tokens in an order that a seed and a step determine and nothing
else; evaluation reads every document on its own, so that each token is predicted once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mhmoe.data.tokenizer import END_OF_TEXT_ID
from mhmoe.fields import Count, Range, check_value

Seed = Annotated[int, Range(least=0, below=2**32)]  # what numpy's generator takes
IGNORE = -100  # the target that torch's cross entropy leaves out

Tokens: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
Integers: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSet:
    """The documents of a split, one after the other, without <|endoftext|>.

    tokens [all tokens]; offsets [documents + 1] into it; num_bytes [documents], UTF-8;
    ids and sources, one for each document; end_of_text, the token that a document is read after.
    """

    tokens: Tokens
    offsets: Integers
    num_bytes: Integers
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    end_of_text: int = END_OF_TEXT_ID

    @classmethod
    def of(
        cls,
        documents: Sequence[Sequence[int]],
        *,
        num_bytes: Sequence[int] | None = None,
        ids: Sequence[str] | None = None,
        sources: Sequence[str] | None = None,
        end_of_text: int = END_OF_TEXT_ID,
    ) -> "EvaluationSet":
        """Of the tokens of each document. Without ids they are numbered; without num_bytes, which are then 0, there are
        no bits per byte."""
        count = len(documents)
        return cls(
            tokens=np.array([token for document in documents for token in document], dtype=np.uint32),
            offsets=np.cumsum([0, *map(len, documents)]),
            num_bytes=np.array([0] * count if num_bytes is None else num_bytes, dtype=np.int64),
            ids=tuple(map(str, range(count)) if ids is None else ids),
            sources=("",) * count if sources is None else tuple(sources),
            end_of_text=end_of_text,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def windows(self, length: int) -> tuple[Integers, Integers, Integers]:
        """Cut each document into windows in which every token of it is predicted exactly once.

        The first token is predicted from <|endoftext|>, the first of a later window from the one
        before it. No window crosses documents; the rest of a document's last window has target -100.
        Returns inputs [windows, length], targets [windows, length], index of the document [windows].
        """
        if length < 1:
            raise ValueError(f"length={length} is not allowed; it must be at least 1")
        counts = np.diff(self.offsets)
        windows = -(-counts // length)
        inputs = np.full((int(windows.sum()), length), self.end_of_text, dtype=np.int64)
        targets = np.full_like(inputs, IGNORE)
        first = 0
        for document, count in enumerate(counts):
            begin, rows = self.offsets[document], slice(first, first + int(windows[document]))
            tokens = self.tokens[begin : begin + count]
            targets[rows].reshape(-1)[:count] = tokens
            inputs[rows].reshape(-1)[1:count] = tokens[:-1]
            first = rows.stop
        return inputs, targets, np.repeat(np.arange(len(self)), windows)

    def first(self, max_tokens: int) -> "EvaluationSet":
        """The first whole documents with together at most `max_tokens` tokens, but at least one."""
        documents = max(1, int(np.searchsorted(self.offsets, max_tokens, side="right")) - 1)
        return EvaluationSet(
            tokens=self.tokens[: self.offsets[documents]],
            offsets=self.offsets[: documents + 1],
            num_bytes=self.num_bytes[:documents],
            ids=self.ids[:documents],
            sources=self.sources[:documents],
            end_of_text=self.end_of_text,
        )


class TrainingBatches:
    """Which tokens a step sees: a pure function of seed and step, the same for every system.

    Sequence w is train[w * length : (w + 1) * length + 1], inputs and targets shifted by one, so
    every token but the first is predicted once an epoch. Each epoch is a permutation of its own,
    the next begins where the last one ends, within a batch if need be: sequence number i of the
    run does not depend on the batch size.

    Raises ValueError if the text is shorter than one batch.
    """

    def __init__(self, train: Tokens, length: int, batch_sequences: int, seed: int) -> None:
        check_value("length", length, Count)
        check_value("batch_sequences", batch_sequences, Count)
        check_value("seed", seed, Seed)
        self.train, self.length, self.batch_sequences, self.seed = train, length, batch_sequences, seed
        self.num_sequences = (len(train) - 1) // length  # of one epoch
        if self.num_sequences < batch_sequences:
            raise ValueError(
                f"batch_sequences={batch_sequences} of length={length} need {batch_sequences * length + 1} "
                f"tokens, the train split has {len(train)}; pack more text or take smaller batches"
            )
        self._permutations: dict[int, Integers] = {}

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Integers:
        """Tokens [batch_sequences / world_size, length + 1]: this rank's part of the step's global batch."""
        if self.batch_sequences % world_size or not 0 <= rank < world_size:
            raise ValueError(
                f"batch_sequences={self.batch_sequences} cannot be shared out to rank={rank} of "
                f"world_size={world_size}; world_size must divide it and rank must be below"
            )
        share = self.batch_sequences // world_size
        number = np.arange(share) + step * self.batch_sequences + rank * share
        epochs = number // self.num_sequences
        window = np.concatenate(
            [self._permutation(int(e))[number[epochs == e] % self.num_sequences] for e in np.unique(epochs)]
        )
        return self.train[window[:, None] * self.length + np.arange(self.length + 1)].astype(np.int64)

    def _permutation(self, epoch: int) -> Integers:
        if epoch not in self._permutations:
            self._permutations = {e: p for e, p in self._permutations.items() if e == epoch - 1}
            # RandomState and not Generator: numpy promises the numbers of the former for all versions.
            generator = np.random.RandomState([self.seed, epoch])
            self._permutations[epoch] = generator.permutation(self.num_sequences)
        return self._permutations[epoch]
