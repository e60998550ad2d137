"""Natural images, and images with text, of a folder of corpora: CIFAR-10, easy-VQA and COCO captions."""

import io
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from mhmoe.data.corpora import check_split, order_key
from mhmoe.data.images import Pixels
from mhmoe.data.manifest import DataFolder
from mhmoe.fields import Count, check_fields
from mhmoe.io import UserError, parse_json

_IMAGES = {"train": "images/cifar10-train.parquet", "valid": "images/cifar10-test.parquet"}
_QUESTIONS = {"train": "images/easyvqa-train", "valid": "images/easyvqa-test"}  # -images.parquet, -questions.jsonl.gz
_PARTS = ("images.parquet", "questions.jsonl.gz")
_CAPTIONS = "images/coco_mini_captions.parquet"
FILES = sorted([*_IMAGES.values(), *(f"{name}-{part}" for name in _QUESTIONS.values() for part in _PARTS), _CAPTIONS])
"""All that is read of the folder."""


class Question(NamedTuple):
    """A question about an image, and its answer, of one word."""

    image: Pixels
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class LocalImages:
    """Files of a `DataFolder`, scaled to `side` pixels a side, in the order of a hash.

    images    CIFAR-10. Its test images are divided into valid and test.
    pairs     easy-VQA, each question with its answer, likewise; and COCO's captions, of which a tenth of the images are
              valid and a tenth test.

    path: the folder; None means the environment variable MHMOE_DATA. Needs pandas, pyarrow and Pillow.
    """

    kind: ClassVar[str] = "local"
    path: Path | None = None
    side: Count = 32
    order_seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def images(self, split: str) -> Iterator[tuple[str, Pixels]]:
        """Id and pixels. Raises UserError on a file that is missing or changed."""
        name = self._file(_IMAGES, split)
        packed = _column(DataFolder.at(self.path), name, "image")
        numbers = [number for number in range(len(packed)) if self._has(split, f"{name}:{number}")]
        for number in sorted(numbers, key=lambda n: self._order(f"{name}:{n}")):
            yield f"cifar10/{number}", self._pixels(packed[number])

    def pairs(self, split: str) -> Iterator[tuple[str, Pixels, str]]:
        """Id, pixels and text: "is there a red shape? no", or a caption. Raises UserError likewise."""
        folder = DataFolder.at(self.path)
        found: list[tuple[str, bytes, str]] = []
        for id_, packed, question, answer in self._questions(folder, split):
            found.append((id_, packed, f"{question} {answer}"))
        captions = _column(folder, _CAPTIONS, "captions")
        for number, packed in enumerate(_column(folder, _CAPTIONS, "image")):
            tenth = order_key(f"{_CAPTIONS}:{number}")[-1] % 10
            if {0: "valid", 1: "test"}.get(tenth, "train") == split:
                found += [(f"coco/{number}/{i}", packed, str(text)) for i, text in enumerate(captions[number])]
        decoded = dict[bytes, Pixels]()
        for id_, packed, text in sorted(found, key=lambda entry: self._order(entry[0])):
            if packed not in decoded:
                decoded[packed] = self._pixels(packed)
            yield id_, decoded[packed], text

    def questions(self, split: str) -> Iterator[Question]:
        """easy-VQA alone, in the order of its file. Raises UserError likewise."""
        for _, packed, question, answer in self._questions(DataFolder.at(self.path), split):
            yield Question(self._pixels(packed), question, answer)

    def fingerprint(self) -> dict[str, Any]:
        """The files with their hashes, checked, and what is made of them."""
        folder = DataFolder.at(self.path)
        files = {name: folder.hash_of(name) for name in FILES}
        return {"kind": self.kind, "side": self.side, "order_seed": self.order_seed, "files": files}

    def _questions(self, folder: DataFolder, split: str) -> Iterator[tuple[str, bytes, str, str]]:
        """Id, packed image, question and answer."""
        name = self._file(_QUESTIONS, split)
        images, questions = (f"{name}-{part}" for part in _PARTS)
        packed = dict(zip(_column(folder, images, "image_id"), _column(folder, images, "image"), strict=True))
        for number, line in folder.lines(questions):
            asked = parse_json(line)
            if self._has(split, f"{images}:{asked['image_id']}"):
                yield f"easyvqa/{number}", packed[asked["image_id"]], asked["question"], asked["answer"]

    def _file(self, files: Mapping[str, str], split: str) -> str:
        check_split(split)
        return files["train" if split == "train" else "valid"]

    def _has(self, split: str, image: str) -> bool:
        """Whether an image of a file belongs to a split: half of those of test files are valid."""
        return split == "train" or (split == "valid") == (order_key(image)[-1] % 2 == 0)

    def _order(self, name: str) -> bytes:
        return order_key(f"{self.order_seed}/{name}")

    def _pixels(self, packed: bytes) -> Pixels:
        with _needed():
            from PIL import Image
        with Image.open(io.BytesIO(packed)) as image:
            small = image.convert("RGB").resize((self.side, self.side), Image.Resampling.BOX)
        return np.asarray(small)


def _column(folder: DataFolder, name: str, column: str) -> list[Any]:
    """A column of a file of tables, whose hash was checked."""
    return _read(folder.path / name, folder.hash_of(name))[column]


@lru_cache(maxsize=len(FILES))
def _read(path: Path, sha256: str) -> dict[str, list[Any]]:
    """All columns. sha256: of the file, so that another one in its place is read anew."""
    with _needed():
        import pandas

        table = pandas.read_parquet(path)
    return {str(name): list(table[name]) for name in table}


@contextmanager
def _needed() -> Generator[None]:
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"images need pandas, pyarrow and Pillow ({error}); pip install datasets pandas pillow"
        ) from None
