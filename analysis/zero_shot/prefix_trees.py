"""Rows of tokens that begin alike, as trees: a transformer then reads what they share once.

    question ─┬─ first answer     is read as one row: question, first answer, second answer, ...
              └─ second answer    at a token's position in its own row, attending to its ancestors and itself

With those positions and that mask, attention gives every token what it would have had in its own row.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

Row = tuple[int, ...]


class Branch(NamedTuple):
    """A row of a tree: `path` holds the place of each of its tokens, the last `own` of which no row before it has."""

    row: Row
    path: Int[ndarray, "tokens"]
    own: int


class Tree(NamedTuple):
    """Rows that begin alike, each token behind those before it; `size` counts the different tokens."""

    branches: list[Branch]
    size: int


def grow(rows: Iterable[Row], most: int) -> Iterator[Tree]:
    """Trees of `most` tokens at the most, a longer row being a tree by itself; in the order of the rows' tokens.

    rows: different ones, of one token at least.
    Rows stay apart if less than a quarter of the second is shared: attention reads the whole tree for every token.
    """
    branches, size = list[Branch](), 0
    for row in sorted(rows):
        stem = np.arange(0)
        if branches:
            before = branches[-1]  # among all rows before it, this one shares the most
            shared = _shared(before.row, row)
            if 4 * shared >= len(row) and size + len(row) - shared <= most:
                stem = before.path[:shared]
            else:
                yield Tree(branches, size)
                branches, size = [], 0
        own = len(row) - len(stem)
        branches.append(Branch(row, np.concatenate([stem, np.arange(size, size + own)]), own))
        size += own
    if branches:
        yield Tree(branches, size)


def _shared(first: Row, second: Row) -> int:
    """How many tokens two rows have in common at their beginnings."""
    length = min(len(first), len(second))
    return next((place for place in range(length) if first[place] != second[place]), length)


def layout(
    trees: Sequence[Tree],
) -> tuple[Int[ndarray, "trees length"], Int[ndarray, "trees length"], Bool[ndarray, "trees length length"]]:
    """Tokens, positions and what each token attends to; the end of every tree is at the end of its row.

    What fills the beginnings is token 0 at position 0, which attends to itself.
    """
    length = max(tree.size for tree in trees)
    tokens, positions = (np.zeros((len(trees), length), dtype=np.int64) for _ in range(2))
    mask = np.zeros((len(trees), length, length), dtype=bool)
    mask[:, np.arange(length), np.arange(length)] = True
    for number, tree in enumerate(trees):
        filled = length - tree.size
        for row, path, own in tree.branches:
            places = filled + path
            tokens[number, places] = row
            positions[number, places] = np.arange(len(row))
            start, stop = places[-own], places[-1] + 1
            mask[number][start:stop, places[:-own]] = True
            mask[number][start:stop, start:stop] = np.tri(own, dtype=bool)
    return tokens, positions, mask
