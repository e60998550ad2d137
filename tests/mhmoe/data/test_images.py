"""Visual tokens are the nearest of a few patches, the same on every machine, and stand for an image and back."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mhmoe.data.images as module
from mhmoe.data.images import MASK, Pixels, VisualTokenizer, symbols

SIDE = 12
ROUNDS = 12  # of Lloyd's


def drawn(count: int, side: int = SIDE, seed: int = 0, levels: int = 256) -> list[Pixels]:
    """Images of noise on few or many levels, so that some distances are equal."""
    draw = np.random.RandomState(seed)
    return [(draw.randint(levels, size=(side, side, 3)) * (255 // (levels - 1))).astype(np.uint8) for _ in range(count)]


def patches_of(image: Pixels, patch: int) -> list[tuple[int, ...]]:
    """Row by row, written out pixel by pixel."""
    found: list[tuple[int, ...]] = []
    for top in range(0, image.shape[0], patch):
        for left in range(0, image.shape[1], patch):
            found.append(
                tuple(
                    int(image[top + row, left + column, channel])
                    for row in range(patch)
                    for column in range(patch)
                    for channel in range(3)
                )
            )
    return found


def code(character: str) -> int:
    return ord(character) - ord(MASK) - 1


# ---- encode and decode ----------------------------------------------------------------------


@pytest.mark.parametrize(("patch", "levels"), [(1, 256), (2, 2), (3, 3), (4, 256), (6, 256), (6, 2)])
def test_each_token_is_the_nearest_patch_and_of_equals_the_first(patch: int, levels: int) -> None:
    """By a brute force in float64; black and white patches have many equal distances, and the largest ones."""
    tokenizer = VisualTokenizer.learn(drawn(8, levels=levels), codes=7, patch=patch)
    codebook = tokenizer.codebook.astype(np.float64)
    for image in drawn(4, seed=1, levels=levels):
        wanted = [int(((codebook - np.array(p)) ** 2).sum(axis=1).argmin()) for p in patches_of(image, patch)]
        assert [code(character) for character in tokenizer.encode(image)] == wanted


def test_distances_are_exact_where_float32_could_lose_one() -> None:
    """All white but one step in one channel: the largest numbers that differ by the least."""
    white = np.full((1, 6 * 6 * 3), 255, dtype=np.uint8)
    codebook = np.concatenate([white] * 3)
    codebook[0, 0], codebook[1, 1], codebook[2, 0] = 253, 254, 254
    image = white.reshape(6, 6, 3)
    assert [code(character) for character in VisualTokenizer(codebook, 6).encode(image)] == [1]


@given(seed=st.integers(0, 2**32 - 1), patch=st.sampled_from([1, 2, 3, 4, 6]), rows=st.integers(1, 4))
@settings(max_examples=30)
def test_an_image_of_the_codebooks_patches_comes_back_whole(seed: int, patch: int, rows: int) -> None:
    tokenizer = _LEARNED[patch]
    tiles = np.random.RandomState(seed).randint(len(tokenizer.codebook), size=(rows, rows))
    image = np.zeros((rows * patch, rows * patch, 3), dtype=np.uint8)
    for row in range(rows):
        for column in range(rows):
            tile = tokenizer.codebook[tiles[row, column]].reshape(patch, patch, 3)
            image[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = tile
    text = tokenizer.encode(image)
    assert len(text) == rows**2 and set(text) <= set(symbols(len(tokenizer.codebook))[1:])
    assert np.array_equal(tokenizer.decode(text), image)


_LEARNED = {patch: VisualTokenizer.learn(drawn(6), codes=9, patch=patch) for patch in (1, 2, 3, 4, 6)}


def test_the_symbols_are_mask_and_one_character_for_each_code() -> None:
    found = symbols(300)
    assert found[0] == MASK and len(set(found)) == len(found) == 301
    assert [code(character) for character in found[1:]] == list(range(300))
    assert not any(character.isprintable() for character in found)  # no natural text has them


# ---- learning -------------------------------------------------------------------------------


def lloyd(images: list[Pixels], codes: int, patch: int, seed: int) -> list[list[int]]:
    """K-means in Python's own whole numbers. It begins with so many different patches, drawn by numpy's RandomState
    from the sorted ones; a mean is rounded to the nearest, halves upwards; a patch that is nobody's stays."""
    patches = [patch_ for image in images for patch_ in patches_of(image, patch)]
    different = sorted(set(patches))
    chosen = sorted(np.random.RandomState(seed).choice(len(different), codes, replace=False).tolist())
    codebook = [list(different[number]) for number in chosen]
    for _ in range(ROUNDS):
        members: list[list[tuple[int, ...]]] = [[] for _ in codebook]
        for pixels in patches:
            distances = [sum((a - b) ** 2 for a, b in zip(pixels, other, strict=True)) for other in codebook]
            members[distances.index(min(distances))].append(pixels)
        for number, of_code in enumerate(members):
            if of_code:
                sums = [sum(column) for column in zip(*of_code, strict=True)]
                codebook[number] = [(2 * total + len(of_code)) // (2 * len(of_code)) for total in sums]
    return codebook


@pytest.mark.parametrize(("patch", "levels", "codes", "seed"), [(2, 2, 5, 0), (2, 256, 6, 1), (1, 3, 20, 2)])
def test_the_codebook_is_that_of_k_means_in_whole_numbers(patch: int, levels: int, codes: int, seed: int) -> None:
    images = drawn(5, side=8, seed=3, levels=levels)
    found = VisualTokenizer.learn(images, codes, patch, seed)
    assert found.codebook.tolist() == lloyd(images, codes, patch, seed)
    assert found.codebook.tolist() != VisualTokenizer.learn(images, codes, patch, seed + 1).codebook.tolist()


def test_a_code_that_is_no_ones_nearest_keeps_its_patch() -> None:
    """As many codes as patches: each is its own mean."""
    images = drawn(2, side=4)
    different = sorted({patch for image in images for patch in patches_of(image, 2)})
    found = VisualTokenizer.learn(images, len(different), 2)
    assert [tuple(row) for row in found.codebook.tolist()] == different


def test_the_codebook_does_not_depend_on_the_order_of_the_images() -> None:
    images = drawn(12, levels=4)
    wanted = VisualTokenizer.learn(images, 10, 3).codebook
    for seed in range(3):
        random.Random(seed).shuffle(images)
        assert np.array_equal(VisualTokenizer.learn(iter(images), 10, 3).codebook, wanted)


def test_tokens_do_not_depend_on_how_many_patches_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another number of rows is another kernel and order of sums, as another number of threads is."""
    one = np.concatenate(drawn(150, side=16)).reshape(-1, 16, 3)  # a high image of 9,600 patches: two parts
    tokenizer = VisualTokenizer.learn(drawn(5, side=16), 11, 2)
    whole = tokenizer.encode(one)
    assert len(whole) == 9600
    assert whole == "".join(tokenizer.encode(one[top : top + 2]) for top in range(0, len(one), 2))
    nearest = module._nearest
    monkeypatch.setattr(module, "_nearest", lambda p, c: np.concatenate([nearest(p[i : i + 7], c) for i in _sevens(p)]))
    images = drawn(5, side=16)
    assert np.array_equal(VisualTokenizer.learn(images, 11, 2).codebook, tokenizer.codebook)


def _sevens(patches: Pixels) -> range:
    return range(0, len(patches), 7)


# ---- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: VisualTokenizer.learn(drawn(9, side=14), 4, 7), "patch=7 is too large .* take at most 6"),
        (lambda: VisualTokenizer.learn(drawn(1), 37, 2), "codes=37 are more than the 36 different patches"),
        (
            lambda: VisualTokenizer.learn([np.zeros((12, 12, 3), np.uint8)], 2, 3),
            "codes=2 are more than the 1 different patches",
        ),
        (lambda: VisualTokenizer.learn(drawn(1), 4, 5), "patch=5 does not divide an image of 12 by 12"),
        (lambda: _LEARNED[4].encode(drawn(1)[0][:, :10]), "patch=4 does not divide an image of 12 by 10"),
        (lambda: _LEARNED[4].encode(drawn(1)[0][:10]), "patch=4 does not divide an image of 10 by 12"),
        (lambda: _LEARNED[2].decode(symbols(9)[1:] + symbols(1)[1]), "10 characters are no square image"),
        (lambda: _LEARNED[2].decode(MASK), "1 characters are no square image"),
        (lambda: _LEARNED[2].decode("moon"), "4 characters are no square image"),
        (lambda: _LEARNED[2].decode(symbols(10)[-1]), "1 characters are no square image"),
    ],
)
def test_what_has_no_tokens_or_pixels_is_refused(act: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


def test_the_largest_patch_and_all_different_patches_are_not_refused() -> None:
    assert VisualTokenizer.learn(drawn(9), 36, 6).codebook.shape == (36, 108)
