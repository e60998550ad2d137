"""Images as a text: every patch is one of a few visual tokens, each written as a character of its own.

BEiT-3 (Wang et al. 2022, arXiv 2208.10442), whose pre-training v1 follows, treats "image as a foreign language": the
patches that are masked are predicted as visual tokens. Departures: its tokens are those of BEiT v2, learned by a
network; here a token is the nearest of `codes` patches that k-means has found. And BEiT-3 reads the pixels of what is
not masked, where our models read visual tokens, so that what is read and what is predicted have one vocabulary.

All is computed in whole numbers below 2^24, which float32 holds exactly in whatever order they are added up: the same
images give the same tokens on every machine, where scipy's or scikit-learn's k-means would not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]

MASK = "\U000f0000"
"""What stands where a token is to be predicted; the first character of Unicode's supplementary private use area."""
_FIRST = ord(MASK) + 1
ROUNDS = 12


def symbols(codes: int) -> str:
    """The characters that are no text: MASK, then one for each visual token."""
    return MASK + "".join(chr(_FIRST + code) for code in range(codes))


@dataclass(frozen=True, eq=False)
class VisualTokenizer:
    """codebook [codes, patch * patch * 3]: the patches that tokens stand for, in RGB. patch: pixels a side."""

    codebook: Pixels
    patch: int

    @classmethod
    def learn(cls, images: Iterable[Pixels], codes: int, patch: int, seed: int = 0) -> "VisualTokenizer":
        """By k-means from patches of these images [side, side, 3], beginning with `codes` different ones.

        Raises ValueError if a patch is too large for whole numbers in float32, or there are fewer different patches.
        """
        if 6 * patch**2 * 255**2 >= 2**24:
            raise ValueError(f"patch={patch} is too large for exact distances; take at most 6")
        patches = np.concatenate([_patches(image, patch) for image in images])
        different = np.unique(patches, axis=0)
        if len(different) < codes:
            raise ValueError(f"codes={codes} are more than the {len(different)} different patches; take fewer")
        # RandomState and not Generator: numpy promises the numbers of the former for all versions.
        chosen = np.random.RandomState(seed).choice(len(different), codes, replace=False)
        codebook = different[np.sort(chosen)]
        for _ in range(ROUNDS):
            nearest = _nearest(patches, codebook)
            sizes = np.bincount(nearest, minlength=codes)
            sums = np.stack([np.bincount(nearest, column, codes) for column in patches.T], axis=1)  # exact in float64
            means = (2 * sums + sizes[:, None]) // np.maximum(2 * sizes, 1)[:, None]
            codebook = np.where(sizes[:, None] > 0, means, codebook).astype(np.uint8)
        return cls(codebook, patch)

    def encode(self, image: Pixels) -> str:
        """The characters of an image [side, side, 3], row by row."""
        return "".join(chr(_FIRST + code) for code in _nearest(_patches(image, self.patch), self.codebook))

    def decode(self, text: str) -> Pixels:
        """The image that so many characters stand for, as its tokenizer sees it. Raises ValueError if it is not square,
        or has other characters."""
        codes = [ord(character) - _FIRST for character in text]
        rows = round(len(codes) ** 0.5)
        if rows**2 != len(codes) or not all(0 <= code < len(self.codebook) for code in codes):
            raise ValueError(f"{len(codes)} characters are no square image of this tokenizer's")
        tiles = self.codebook[codes].reshape(rows, rows, self.patch, self.patch, 3)
        return tiles.transpose(0, 2, 1, 3, 4).reshape(rows * self.patch, rows * self.patch, 3)


def _patches(image: Pixels, patch: int) -> Pixels:
    """[patches, patch * patch * 3], row by row. Raises ValueError if they do not fill the image."""
    height, width, _ = image.shape
    if height % patch or width % patch:
        raise ValueError(f"patch={patch} does not divide an image of {height} by {width}; choose one that does")
    tiles = image.reshape(height // patch, patch, width // patch, patch, 3)
    return tiles.transpose(0, 2, 1, 3, 4).reshape(-1, patch * patch * 3)


def _nearest(patches: Pixels, codebook: Pixels) -> Sequence[int] | npt.NDArray[np.int64]:
    """Number of the nearest code of each patch; of several as near the first."""
    codes = codebook.astype(np.float32)
    lengths = (codes**2).sum(axis=1)
    parts = (patches[begin : begin + 8192].astype(np.float32) for begin in range(0, len(patches), 8192))
    return np.concatenate([(lengths - 2 * part @ codes.T).argmin(axis=1) for part in parts])
