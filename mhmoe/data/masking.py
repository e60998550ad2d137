"""Which tokens of images and text are masked, to be predicted from the rest.

As BEiT-3 (Wang et al. 2022, section 3.2), which v1 follows: 15% of the tokens of text, 50% of those of text that
belongs to an image, and 40% of the visual tokens, these in blocks (Bao et al. 2021, arXiv 2106.08254, algorithm 1).
What is masked is written as its complement, -1 - token: a sequence then holds both what is read and what is predicted.

Departures: every masked token is read as MASK, and none as itself or as another one, of which BEiT-3 says nothing;
blocks are drawn of at least 4 tokens and not 16, as images have 64 and not 196, and the last of an image of what is
missing; rounded sides make some of them smaller.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mhmoe.data.batches import IGNORE, EvaluationSet, Integers, TrainingBatches
from mhmoe.data.images import MASK
from mhmoe.data.packing import PackedDataset
from mhmoe.io import UserError

Kind: TypeAlias = Literal["text", "paired_text", "image"]
Chosen: TypeAlias = npt.NDArray[np.bool_]
BEIT3: Mapping[Kind, float] = {"text": 0.15, "paired_text": 0.5, "image": 0.4}
_SMALLEST_BLOCK, _FLATTEST = 4, 0.3


@dataclass(frozen=True, kw_only=True)
class Masking:
    """shares: of each kind of token, how many are masked. mask: the number of MASK, after which come those of visual
    tokens. grid: of an image, in tokens a side. end_of_text: stands before every document, and is never masked."""

    shares: Mapping[Kind, float]
    mask: int
    grid: int
    end_of_text: int

    @classmethod
    def of(cls, text: PackedDataset, shares: Mapping[Kind, float]) -> "Masking":
        """Of a packed corpus. Raises UserError if it has no images, whose symbols its tokenizer would know."""
        mask, grid = text.tokenizer.token_to_id(MASK), text.fingerprint["corpus"].get("grid")
        if mask is None or grid is None:
            raise UserError(
                "what is masked are tokens of images and text, and this text has no images; pack one that has"
            )
        return cls(shares=shares, mask=mask, grid=grid, end_of_text=text.end_of_text)

    def kinds(self, row: Integers) -> dict[Kind, Chosen]:
        """Which tokens of a sequence are of each kind. Text is an image's if one stands before it in its document."""
        end = row == self.end_of_text
        image = (row > self.mask) & ~end
        place = np.arange(len(row))
        begin = np.maximum.accumulate(np.where(end, place, 0))
        paired = np.maximum.accumulate(np.where(image, place, -1)) >= begin
        return {"text": ~image & ~end & ~paired, "paired_text": ~image & ~end & paired, "image": image}

    def masked(self, row: Integers, draw: np.random.RandomState) -> Integers:
        """A sequence [length] with its masked tokens as their complements."""
        chosen = np.zeros(len(row), dtype=np.bool_)
        for kind, of_kind in self.kinds(row).items():
            if kind == "image":
                for begin, end, first in self._images(of_kind):
                    block = self._blocks(draw).reshape(-1)
                    chosen[begin:end] = block[first : first + end - begin]
            else:
                places = np.flatnonzero(of_kind)
                count = int(len(places) * self.shares[kind] + draw.random_sample())  # the share, in the mean
                chosen[draw.permutation(places)[:count]] = True
        return np.where(chosen, ~row, row)

    def in_turn(self, row: Integers, draw: np.random.RandomState) -> Iterator[Integers]:
        """A sequence as often as it takes to mask each of its tokens once, about as many of a kind at a time as in
        training; visual tokens in squares of four."""
        passes = {kind: max(round(1 / share), 1) for kind, share in self.shares.items()}
        turn = np.full(len(row), -1)
        for kind, of_kind in self.kinds(row).items():
            places = np.flatnonzero(of_kind)
            turn[draw.permutation(places)] = np.arange(len(places)) % passes[kind]
            if kind == "image":
                side = math.ceil(self.grid / 2)
                for begin, end, first in self._images(of_kind):
                    squares = draw.permutation(side**2).reshape(side, side) % passes[kind]
                    whole = squares.repeat(2, axis=0).repeat(2, axis=1)[: self.grid, : self.grid].reshape(-1)
                    turn[begin:end] = whole[first : first + end - begin]
        for number in np.unique(turn[turn >= 0]):
            yield np.where(turn == number, ~row, row)

    def _images(self, image: Chosen) -> Iterator[tuple[int, int, int]]:
        """Where each image begins and ends in a sequence, and which of its tokens is the first there: one that the
        beginning of the sequence has cut lacks its first ones."""
        size = self.grid**2
        edges = np.flatnonzero(np.diff(np.concatenate([[0], image.astype(np.int8), [0]])))
        for run_begin, run_end in edges.reshape(-1, 2).tolist():
            cut = -(run_end - run_begin) % size if run_begin == 0 and run_end < len(image) else 0
            begin = run_begin
            while begin < run_end:
                end = min(begin + size - cut, run_end)
                yield begin, end, cut
                begin, cut = end, 0

    def _blocks(self, draw: np.random.RandomState) -> Chosen:
        """[grid, grid], masked block by block until the share is reached."""
        chosen = np.zeros((self.grid, self.grid), dtype=np.bool_)
        wanted = self.shares["image"] * chosen.size
        while (missing := wanted - chosen.sum()) >= 1:
            size = draw.uniform(min(_SMALLEST_BLOCK, missing), missing)
            shape = math.exp(draw.uniform(math.log(_FLATTEST), -math.log(_FLATTEST)))
            sides = math.sqrt(size * shape), math.sqrt(size / shape)
            height, width = (min(max(round(side), 1), self.grid) for side in sides)
            top, left = draw.randint(self.grid - height + 1), draw.randint(self.grid - width + 1)
            chosen[top : top + height, left : left + width] = True
        return chosen


@dataclass(frozen=True, kw_only=True)
class MaskedBatches:
    """The sequences of `batches`, masked: a pure function of the seed and of the number of a sequence in the run."""

    batches: TrainingBatches
    masking: Masking

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Integers:
        """Tokens [batch_sequences / world_size, length], the masked ones as their complements."""
        rows = self.batches.batch(step, rank, world_size)[:, :-1]
        first = step * self.batches.batch_sequences + rank * len(rows)
        draws = (np.random.RandomState([self.batches.seed, first + number]) for number in range(len(rows)))
        return np.stack([self.masking.masked(row, draw) for row, draw in zip(rows, draws, strict=True)])


def masked_windows(
    text: EvaluationSet, length: int, masking: Masking, most: int | None = None
) -> tuple[Integers, Integers]:
    """The documents of a split one after the other, as training reads them, so often that each token is masked once.

    Returns tokens [windows, length], the masked ones as their complements, and the document of each [windows, length].
    most: of so many sequences, evenly spaced.
    """
    sizes = np.diff(text.offsets)
    stream = np.insert(text.tokens.astype(np.int64), text.offsets[:-1], text.end_of_text)
    owner = np.repeat(np.arange(len(text)), sizes + 1)
    filler = -len(stream) % length
    rows = np.pad(stream, (0, filler), constant_values=text.end_of_text).reshape(-1, length)
    owners = np.pad(owner, (0, filler), mode="edge").reshape(-1, length)
    chosen = range(len(rows)) if most is None else np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))
    found = [
        (window, owners[number])
        for number in chosen
        for window in masking.in_turn(rows[number], np.random.RandomState([0, number]))
    ]
    return np.stack([window for window, _ in found]), np.stack([of for _, of in found])


def read_and_predicted(masked: Any, mask: int) -> tuple[Any, Any]:
    """What a model reads, and the target of each token: -100 where it is not masked. Of arrays or tensors alike."""
    hidden = masked < 0
    return masked * ~hidden + mask * hidden, ~masked * hidden + IGNORE * ~hidden
