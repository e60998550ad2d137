"""Trees of rows that begin alike, against a loop; and what a model makes of them, against its rows one by one."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis.zero_shot.prefix_trees import Row, grow, layout
from tests import tiny

rows_strategy = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple), min_size=1, max_size=20, unique=True
)


@given(rows_strategy, st.integers(0, 30))
def test_every_row_is_on_one_path_and_what_is_shared_is_there_once(rows: list[Row], most: int) -> None:
    trees = list(grow(rows, most))
    assert sorted(branch.row for tree in trees for branch in tree.branches) == sorted(rows)
    for tree in trees:
        assert len(tree.branches) == 1 or tree.size <= most
        tokens = dict[int, Row]()  # of each place, the row up to it
        for row, path, own in tree.branches:
            assert own == len(set(map(int, path)) - set(tokens))
            for end, place in enumerate(map(int, path), 1):
                assert tokens.setdefault(place, row[:end]) == row[:end]
        assert sorted(tokens) == list(range(tree.size))
        assert len(set(tokens.values())) == tree.size


@given(rows_strategy)
def test_positions_and_mask_against_a_loop(rows: list[Row]) -> None:
    trees = list(grow(rows, 30))
    tokens, positions, mask = layout(trees)
    length = max(tree.size for tree in trees)
    for number, tree in enumerate(trees):
        before = length - tree.size
        expected = np.eye(length, dtype=bool)
        for row, path, _ in tree.branches:
            for depth, place in enumerate(path):
                assert tokens[number, before + place] == row[depth]
                assert positions[number, before + place] == depth
                for ancestor in path[:depth]:
                    expected[before + place, before + ancestor] = True
        assert np.array_equal(mask[number], expected)
        assert not tokens[number, :before].any() and not positions[number, :before].any()


def test_rows_that_share_little_stay_apart() -> None:
    stem = (1,) * 3
    assert len(list(grow([(*stem, *[2] * 9), (*stem, *[3] * 9)], 100))) == 1
    assert len(list(grow([(*stem, *[2] * 10), (*stem, *[3] * 10)], 100))) == 2


@pytest.mark.parametrize("system", ["dense", "xmoe", "mhmoe_compute"])
def test_a_model_gives_a_tree_the_logits_of_its_rows(system: str) -> None:
    model: Any = tiny.model(system).eval()
    draw, vocabulary = np.random.RandomState(0), model.config.vocab_size
    stems = [tuple(draw.randint(1, vocabulary, 12)) for _ in range(3)]
    rows = [(*stem, *draw.randint(1, vocabulary, 4 + i)) for i, stem in enumerate(stems) for _ in range(2 + i)]
    rows += [(*rows[0], 1, 2), (*rows[0], 1, 3)]  # a row that others go on with
    trees = list(grow([tuple(map(int, row)) for row in rows], 100))
    assert len({tree.size for tree in trees}) == 3  # two of them are filled up
    tokens, positions, mask = map(torch.from_numpy, layout(trees))
    with torch.no_grad():
        logits = model(tokens, position_ids=positions, attention_mask=mask.unsqueeze(1), use_cache=False).logits
        for number, tree in enumerate(trees):
            for row, path, _ in tree.branches:
                alone = model(torch.tensor([row])).logits[0]
                assert torch.allclose(logits[number, tokens.shape[1] - tree.size + path], alone, atol=1e-5)
