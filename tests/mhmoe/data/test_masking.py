"""Which tokens are masked: BEiT-3's shares, images in blocks, and in evaluation every token once."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mhmoe.data.batches import IGNORE, EvaluationSet, TrainingBatches
from mhmoe.data.masking import BEIT3, Chosen, MaskedBatches, Masking, masked_windows, read_and_predicted
from mhmoe.data.multimodal import MultimodalCorpus
from mhmoe.data.packing import PackedDataset, PackingConfig, pack
from mhmoe.data.shapes import Shapes
from mhmoe.data.synthetic import GeneratedCorpus
from mhmoe.io import UserError
from tests import tiny

END, MASK = 0, 100
GRID = 8
MASKING = Masking(shares=BEIT3, mask=MASK, grid=GRID, end_of_text=END)


def image(grid: int = GRID, first: int = 1) -> list[int]:
    """Visual tokens, of which no two are alike."""
    return list(range(MASK + first, MASK + first + grid**2))


def words(count: int) -> list[int]:
    return [1 + number % (MASK - 1) for number in range(count)]


def masking(grid: int = GRID, **shares: float) -> Masking:
    whole: Any = {**BEIT3, **shares}
    return Masking(shares=whole, mask=MASK, grid=grid, end_of_text=END)


def hidden(of: Masking, row: list[int], seed: int = 0) -> Chosen:
    """Where a row is masked; what is masked is the complement of what was there, and all else as it was."""
    found = of.masked(np.array(row), np.random.RandomState(seed))
    assert np.where(found < 0, -1 - found, found).tolist() == row
    return found < 0


# ---- kinds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "kinds"),
    [
        ([END, 5, 6, END, 7], "-tt-t"),
        ([END, 101, 102, 5, 6, END, 7], "-iipp-t"),
        ([101, 102, 5, 6, END, 7, END, 103, 8], "iipp-t-ip"),  # begins within an image
        ([5, 6, END, 101, 7], "tt-ip"),  # begins within a text, whose image nobody sees
        ([END, 5, 101, 6, END, 7, 101], "-tip-ti"),  # text before an image is not its own
        ([END, 101, END, 5], "-i-t"),  # an image alone, then a text
        ([END, 101, END, 102, 5, END, 103], "-i-ip-i"),
        ([END, END, 5, END], "--t-"),
        ([5], "t"),
        ([101], "i"),
        ([END], "-"),
    ],
)
def test_text_belongs_to_the_image_before_it_in_its_document(row: list[int], kinds: str) -> None:
    found = MASKING.kinds(np.array(row))
    letters = {"text": "t", "paired_text": "p", "image": "i"}
    named = ["".join(letters[kind] for kind, there in found.items() if there[i]) or "-" for i in range(len(row))]
    assert "".join(named) == kinds


def test_the_end_of_text_is_whatever_number_it_has() -> None:
    own = Masking(shares=BEIT3, mask=MASK, grid=2, end_of_text=7)
    found = own.kinds(np.array([7, 101, 0, 7, 0]))
    assert np.flatnonzero(found["paired_text"]).tolist() == [2]
    assert np.flatnonzero(found["text"]).tolist() == [4]


# ---- what training masks --------------------------------------------------------------------


def test_the_shares_are_those_of_beit_3() -> None:
    assert dict(BEIT3) == {"text": 0.15, "paired_text": 0.5, "image": 0.4}
    row = [END, *words(41), END, *image(), *words(23), END, *image(first=70), END, *words(9)]
    kinds = MASKING.kinds(np.array(row))
    found = np.stack([hidden(MASKING, row, seed) for seed in range(1500)])
    for kind, share in BEIT3.items():
        assert found[:, kinds[kind]].mean() == pytest.approx(share, abs=0.012), kind


@pytest.mark.parametrize("share", [0.15, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_short_texts_too_have_the_share_in_the_mean(count: int, share: float) -> None:
    row, of = [END, *words(count)], masking(text=share)
    found = [hidden(of, row, seed).sum() for seed in range(800)]
    assert np.mean(found) == pytest.approx(share * count, abs=0.1)
    assert max(found) - min(found) <= 1


def test_text_is_masked_at_every_place_alike() -> None:
    row = [END, *words(30), END, *image(), *words(30)]
    kinds = MASKING.kinds(np.array(row))
    found = np.stack([hidden(MASKING, row, seed) for seed in range(1500)]).mean(axis=0)
    for kind in ("text", "paired_text"):
        assert found[kinds[kind]].std() < 0.025, kind


@given(st.data(), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_the_end_of_text_is_never_masked(data: st.DataObject, seed: int) -> None:
    row = data.draw(st.lists(st.sampled_from([END, 1, 2, MASK + 1, MASK + 2]), min_size=1, max_size=60))
    of = masking(grid=2, text=1.0, paired_text=1.0, image=1.0)
    there = np.array(row) == END
    assert np.array_equal(hidden(of, row, seed), ~there)  # with shares of 1 all else is
    assert not hidden(MASKING, row, seed)[there].any()


def neighbours(squares: Chosen) -> float:
    """Of pairs of tokens beside or below each other, how many are masked both, on the mean."""
    across = squares[:, :, :-1] & squares[:, :, 1:]
    down = squares[:, :-1] & squares[:, 1:]
    return float((across.mean() + down.mean()) / 2)


def test_visual_tokens_are_masked_in_blocks() -> None:
    row = [END, *image()]
    found = np.stack([hidden(MASKING, row, seed)[1:].reshape(GRID, GRID) for seed in range(300)])
    draw = np.random.RandomState(0)
    shuffled = np.stack([draw.permutation(square.reshape(-1)).reshape(GRID, GRID) for square in found])
    one_by_one = neighbours(shuffled.astype(np.bool_))
    assert one_by_one == pytest.approx(found.mean() ** 2, abs=0.02)
    assert neighbours(found) > 1.4 * one_by_one
    assert len(np.unique(found, axis=0)) > 250  # another each time


def test_blocks_are_of_any_shape_but_flatter_than_a_third() -> None:
    """Of masks that are one block; sides are rounded, so that 4 by 1 is one of them."""
    of, found = masking(image=0.125), Counter[tuple[int, int]]()
    for seed in range(400):
        square = hidden(of, [END, *image()], seed)[1:].reshape(GRID, GRID)
        rows, columns = np.flatnonzero(square.any(axis=1)), np.flatnonzero(square.any(axis=0))
        sides = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
        if square.sum() == sides[0] * sides[1]:
            found[sides] += 1
    assert len(found) >= 5
    assert all(0.2 < height / width < 5 for height, width in found)
    assert any(height > width for height, width in found) and any(height < width for height, width in found)


@pytest.mark.parametrize("lost", [1, 5, GRID, 3 * GRID + 2, GRID**2 - 1])
def test_an_image_that_the_row_cuts_at_its_beginning_keeps_its_grid(lost: int) -> None:
    """As the same draws mask the whole image: what is left of its mask is what is masked."""
    row = [*image(), END, *words(4)]
    for seed in range(20):
        assert np.array_equal(hidden(MASKING, row[lost:], seed), hidden(MASKING, row, seed)[lost:])


@pytest.mark.parametrize("kept", [1, 5, 3 * GRID + 2])
def test_an_image_that_the_row_cuts_at_its_end_keeps_its_grid(kept: int) -> None:
    for seed in range(20):
        whole = hidden(MASKING, [END, *image()], seed)
        assert np.array_equal(hidden(MASKING, [END, *image()[:kept]], seed), whole[: 1 + kept])


# ---- every token once -----------------------------------------------------------------------


def documents(draw: np.random.RandomState, count: int, grid: int) -> list[list[int]]:
    """Images, texts, and texts with an image, of random lengths."""
    made: list[list[int]] = []
    for _ in range(count):
        kind = draw.randint(3)
        found = (image(grid) if kind < 2 else []) + (words(draw.randint(1, 30)) if kind else [])
        made.append(found)
    return made


def stream(made: list[list[int]]) -> list[int]:
    return [token for document in made for token in (END, *document)]


@given(seed=st.integers(0, 2**32 - 1), grid=st.sampled_from([1, 2, 3, 4, 7]), length=st.integers(1, 70))
@settings(max_examples=60)
def test_in_turn_every_token_but_the_end_of_text_is_masked_once(seed: int, grid: int, length: int) -> None:
    draw = np.random.RandomState(seed)
    row = np.array(stream(documents(draw, 8, grid)))
    start = draw.randint(max(len(row) - length, 0) + 1)
    row = row[start : start + length]
    times = np.zeros(len(row), dtype=int)
    for turn in masking(grid).in_turn(row, draw):
        assert np.array_equal(np.where(turn < 0, -1 - turn, turn), row)
        times += turn < 0
    assert np.array_equal(times, (row != END).astype(int))


def test_in_turn_about_as_many_are_masked_at_a_time_as_in_training() -> None:
    row = np.array([END, *words(70), END, *image(), *words(40)])
    kinds = MASKING.kinds(row)
    turns = [turn < 0 for turn in MASKING.in_turn(row, np.random.RandomState(0))]
    assert [turn[kinds["text"]].sum() for turn in turns] == [10] * 7
    assert [turn[kinds["paired_text"]].sum() for turn in turns] == [20, 20] + [0] * 5
    assert [turn[kinds["image"]].sum() for turn in turns] == [32, 32] + [0] * 5


def test_in_turn_visual_tokens_are_masked_in_squares_of_four() -> None:
    """Of two images one after the other too, the first of which the beginning of the row may have cut."""
    for lost in (0, 3):
        row = np.array([*image()[lost:], *image(first=70), END])
        for turn in MASKING.in_turn(row, np.random.RandomState(0)):
            both = np.concatenate([np.zeros(lost, dtype=bool), turn[:-1] < 0]).reshape(2, GRID // 2, 2, GRID // 2, 2)
            square = both.transpose(0, 1, 3, 2, 4).reshape(-1, 4)[2:]  # but the first two, which are cut
            assert (square.min(axis=1) == square.max(axis=1)).all()


@given(seed=st.integers(0, 2**32 - 1), grid=st.sampled_from([1, 2, 3, 4]), length=st.integers(1, 50))
@settings(max_examples=60)
def test_the_windows_predict_every_token_of_every_document_once(seed: int, grid: int, length: int) -> None:
    """Each at its place in the stream, and as one of its own document."""
    made = documents(np.random.RandomState(seed), 6, grid)
    masked, owners = masked_windows(EvaluationSet.of(made), length, masking(grid))
    assert masked.shape == owners.shape and masked.shape[1] == length
    found = Counter[tuple[int, int]]()
    for window, of in zip(masked, owners, strict=True):
        for place in np.flatnonzero(window < 0):
            found[int(of[place]), -1 - int(window[place])] += 1
    wanted = Counter((number, token) for number, document in enumerate(made) for token in document)
    assert found == wanted


def test_a_window_is_the_stream_as_training_reads_it() -> None:
    made = documents(np.random.RandomState(1), 12, 3)
    masked, owners = masked_windows(EvaluationSet.of(made), 20, masking(3))
    plain = np.where(masked < 0, -1 - masked, masked)
    whole = stream(made)
    rows = [whole[begin : begin + 20] for begin in range(0, len(whole), 20)]
    rows[-1] += [END] * (20 - len(rows[-1]))
    of = [number for number, document in enumerate(made) for _ in (END, *document)]
    firsts = [int(np.flatnonzero((plain == row).all(axis=1))[0]) for row in rows]
    assert {tuple(row) for row in plain.tolist()} == set(map(tuple, rows)) and firsts == sorted(firsts)
    for begin, first in zip(range(0, len(whole), 20), firsts, strict=True):
        wanted = of[begin : begin + 20]
        assert owners[first][: len(wanted)].tolist() == wanted


@pytest.mark.parametrize("most", [1, 2, 5, 1000])
def test_of_so_many_windows_each_is_one_of_all_evenly_spaced(most: int) -> None:
    made = documents(np.random.RandomState(1), 40, 3)
    masked, owners = masked_windows(EvaluationSet.of(made), 20, masking(3))
    some, of_some = masked_windows(EvaluationSet.of(made), 20, masking(3), most)
    everything = {(*window, *of) for window, of in zip(masked.tolist(), owners.tolist(), strict=True)}
    assert {(*window, *of) for window, of in zip(some.tolist(), of_some.tolist(), strict=True)} <= everything
    rows = {(*row, *of) for row, of in zip(np.where(some < 0, -1 - some, some).tolist(), of_some.tolist(), strict=True)}
    assert len(rows) == min(most, -(-len(stream(made)) // 20))
    if most == 1000:
        assert np.array_equal(some, masked) and np.array_equal(of_some, owners)
    elif most > 1:
        assert of_some.min() == 0 and of_some.max() == len(made) - 1  # the first and the last


# ---- batches --------------------------------------------------------------------------------

TRAIN = np.array(stream(documents(np.random.RandomState(0), 120, GRID)), dtype=np.uint16)


def batches(seed: int = 0, sequences: int = 8, length: int = 40) -> MaskedBatches:
    return MaskedBatches(batches=TrainingBatches(TRAIN, length, sequences, seed), masking=MASKING)


def test_a_batch_unmasked_is_the_one_of_the_next_token() -> None:
    for step in (0, 3, 50):
        masked = batches().batch(step)
        assert masked.shape == (8, 40) and 0.1 < (masked < 0).mean() < 0.6
        plain = TrainingBatches(TRAIN, 40, 8, 0).batch(step)[:, :-1]
        assert np.array_equal(np.where(masked < 0, -1 - masked, masked), plain)


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_the_parts_of_all_processes_make_up_the_batch(world: int) -> None:
    for step in (0, 7, 50):
        parts = [batches().batch(step, rank, world) for rank in range(world)]
        assert np.array_equal(np.concatenate(parts), batches().batch(step))


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    earlier = batches()
    for step in range(6):
        earlier.batch(step)
        np.random.rand()  # noqa: NPY002  the global state is not drawn from
    assert np.array_equal(earlier.batch(6), batches().batch(6))
    assert not np.array_equal(batches(seed=1).batch(6), batches().batch(6))


def test_a_sequence_of_the_run_does_not_depend_on_the_size_of_the_batch() -> None:
    four = np.concatenate([batches(sequences=4).batch(step) for step in range(4)])
    assert np.array_equal(four, np.concatenate([batches().batch(step) for step in range(2)]))


def test_each_epoch_masks_a_sequence_anew() -> None:
    own = batches(sequences=1)
    size = own.batches.num_sequences
    first, second = ([own.batch(step + epoch * size)[0] for step in range(size)] for epoch in (0, 1))
    plain = {tuple(np.where(row < 0, -1 - row, row)): row < 0 for row in second}
    same = [np.array_equal(plain[tuple(np.where(row < 0, -1 - row, row))], row < 0) for row in first]
    assert np.mean(same) < 0.2


# ---- what a model reads, and predicts -------------------------------------------------------


@pytest.mark.parametrize("of", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_a_masked_token_is_read_as_mask_and_predicted(of: Any) -> None:
    masked = of([[0, 5, ~7, 101], [~0, ~102, 3, 4]])
    read, predicted = read_and_predicted(masked, MASK)
    assert type(read) is type(predicted) is type(masked)
    assert read.tolist() == [[0, 5, MASK, 101], [MASK, MASK, 3, 4]]
    assert predicted.tolist() == [[IGNORE, IGNORE, 7, IGNORE], [0, 102, IGNORE, IGNORE]]
    assert read.dtype == predicted.dtype == masked.dtype


# ---- of a packed corpus ---------------------------------------------------------------------


def packed(cache: Path) -> PackedDataset:
    corpus = MultimodalCorpus(
        images=Shapes(side=8, images_per_split=8), text=GeneratedCorpus(documents_per_split=4), codes=16, patch=2
    )
    return pack(corpus, PackingConfig(vocab_size=320, max_train_tokens=3000), cache)


def test_of_a_packed_corpus_the_numbers_are_its_tokenizers(tmp_path: Path) -> None:
    text = packed(tmp_path)
    found = Masking.of(text, BEIT3)
    assert (found.grid, found.end_of_text, found.mask) == (4, text.end_of_text, 320 - 17)
    of_train = found.kinds(text.train[:2000].astype(np.int64))
    assert {kind: there.any() for kind, there in of_train.items()} == dict.fromkeys(BEIT3, True)
    ends = np.flatnonzero(text.train == text.end_of_text)[:20]
    for begin, end in pairwise(ends):
        visual = text.train[begin + 1 : end] > found.mask
        assert visual.sum() in (0, 16) and not visual[16:].any()


def test_text_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this text has no images; pack one that has") as caught:
        Masking.of(tiny.text(tmp_path), BEIT3)
    assert "\n" not in str(caught.value)
