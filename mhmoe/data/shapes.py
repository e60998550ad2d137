"""Drawn images whose truth is known, and questions about them, for where no images are at hand: as easy-VQA's."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from mhmoe.data.corpora import check_split
from mhmoe.data.images import Pixels
from mhmoe.data.local_images import Question
from mhmoe.fields import Count, Range, check_fields

_FORMAT = 1  # of the generator: part of the fingerprint, so that another rule is another corpus
COLOURS = {
    "red": (200, 30, 40),
    "green": (30, 160, 60),
    "blue": (40, 60, 200),
    "yellow": (220, 200, 40),
    "black": (20, 20, 20),
}
SHAPES = ("square", "circle", "triangle")


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """A shape of one colour before a lighter ground with some noise, drawn from a seed; numpy promises the numbers of
    RandomState for all versions.

    images_per_split: without text, and as many questions, each of an image of its own; train has `train_factor` times
    as many.
    """

    kind: ClassVar[str] = "shapes"
    side: Annotated[int, Range(least=8)] = 16
    images_per_split: Count = 200
    train_factor: Count = 8
    seed: Annotated[int, Range(least=0, below=2**32)] = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def images(self, split: str) -> Iterator[tuple[str, Pixels]]:
        """Id and pixels. Raises ValueError on an unknown split."""
        draw = self._drawing(split, "images")
        for number in range(self._count(split)):
            yield f"shapes/{split}-{number}", self._drawn(draw)[0]

    def pairs(self, split: str) -> Iterator[tuple[str, Pixels, str]]:
        """Id, pixels and text: a question with its answer. Raises ValueError likewise."""
        for number, asked in enumerate(self.questions(split)):
            yield f"shapes/{split}-{number}", asked.image, f"{asked.question} {asked.answer}"

    def questions(self, split: str) -> Iterator[Question]:
        """Raises ValueError likewise."""
        draw = self._drawing(split, "pairs")
        for _ in range(self._count(split)):
            image, colour, shape = self._drawn(draw)
            asked = draw.randint(4)
            if asked == 0:
                yield Question(image, "what is the shape?", shape)
            elif asked == 1:
                yield Question(image, "what color is the shape?", colour)
            else:
                named, truth = ([*COLOURS], colour) if asked == 2 else ([*SHAPES], shape)
                name = truth if draw.randint(2) else named[draw.randint(len(named))]
                noun = f"{name} shape" if asked == 2 else name
                yield Question(image, f"is there a {noun}?", "yes" if name == truth else "no")

    def fingerprint(self) -> dict[str, Any]:
        """Its fields, which determine every pixel."""
        return {
            "kind": self.kind,
            "format": _FORMAT,
            "side": self.side,
            "images_per_split": self.images_per_split,
            "train_factor": self.train_factor,
            "seed": self.seed,
        }

    def _count(self, split: str) -> int:
        return self.images_per_split * (self.train_factor if split == "train" else 1)

    def _drawing(self, split: str, part: str) -> np.random.RandomState:
        check_split(split)
        return np.random.RandomState([self.seed, *split.encode(), *part.encode()])

    def _drawn(self, draw: np.random.RandomState) -> tuple[Pixels, str, str]:
        """The image, its colour and its shape."""
        colour, shape = [*COLOURS][draw.randint(len(COLOURS))], SHAPES[draw.randint(len(SHAPES))]
        ground = draw.randint(200, 256, size=3) + draw.randint(-8, 9, size=(self.side, self.side, 1))
        radius = draw.randint(self.side // 6, self.side // 4 + 1)
        row, column = (draw.randint(radius, self.side - radius, size=2)).tolist()
        down, right = np.mgrid[: self.side, : self.side] - np.array([row, column])[:, None, None]
        inside = {
            "square": np.maximum(abs(down), abs(right)) <= radius,
            "circle": down**2 + right**2 <= radius**2,
            "triangle": (abs(down) <= radius) & (2 * abs(right) <= down + radius),
        }[shape]
        image = np.where(inside[:, :, None], np.array(COLOURS[colour]), ground)
        return image.clip(0, 255).astype(np.uint8), colour, shape
