"""Images, text, and images with text, as one corpus: what v1's masked multi-modal models are trained on.

An image is a text of visual tokens (images.py), so that all three are documents, and what packs and reads text does so
with them. v1's Table 8 has 21M pairs, 14M images and 160 GB of text; which share of a batch each has is not printed:
here each gives about as many tokens.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

from mhmoe.data.corpora import Document, LocalCorpus
from mhmoe.data.images import MASK, VisualTokenizer, symbols
from mhmoe.data.local_images import LocalImages
from mhmoe.data.multilingual import cut, in_turn
from mhmoe.data.shapes import Shapes
from mhmoe.data.synthetic import GeneratedCorpus
from mhmoe.fields import Count, check_fields
from mhmoe.io import UserError

_CHARACTERS = 3  # of text, about, in a token


@dataclass(frozen=True, kw_only=True)
class MultimodalCorpus:
    """Documents by turns, until one of the three has no more:

        "images/..."    the visual tokens of an image
        "pairs/..."     those of an image, and the text that belongs to it
        "texts/..."     text, in pieces of at most `piece_characters`

    patch, codes: of the visual tokenizer, which learns from the first `learned_from` images of either kind.
    """

    kind: ClassVar[str] = "multimodal"
    images: LocalImages | Shapes = field(default_factory=LocalImages)
    text: LocalCorpus | GeneratedCorpus = field(default_factory=LocalCorpus)
    patch: Count = 4
    codes: Count = 512
    learned_from: Count = 1000
    piece_characters: Count = 2000

    def __post_init__(self) -> None:
        check_fields(self)
        if self.images.side % self.patch or self.grid < 2:
            raise ValueError(
                f"patch={self.patch} does not cut images of {self.images.side} pixels a side into tokens; "
                "choose one that divides them into at least two"
            )

    def at(self, path: Path | None) -> "MultimodalCorpus":
        """Of the files in another folder, if it reads any."""
        moved = {
            name: dataclasses.replace(part, path=path)
            for name in ("images", "text")
            if isinstance(part := getattr(self, name), LocalImages | LocalCorpus)
        }
        return dataclasses.replace(self, **moved)

    @classmethod
    def of_images(cls, fingerprint: Mapping[str, Any], path: Path | None) -> "MultimodalCorpus":
        """With the images and the visual tokenizer of a corpus of this fingerprint; their files are at `path`.

        Raises UserError if the images are not the same.
        """
        found: Mapping[str, Any] = fingerprint["images"]
        kind = {kind.kind: kind for kind in (LocalImages, Shapes)}[found["kind"]]
        named = {field.name: found[field.name] for field in fields(kind) if field.name in found}
        own = {name: fingerprint[name] for name in ("patch", "codes", "learned_from")}
        made = cls(images=kind(**named), **own).at(path)
        if json.loads(json.dumps(made.images.fingerprint())) != json.loads(json.dumps(found)):
            raise UserError("the images are others than those that were packed; give the folder that they came from")
        return made

    @property
    def reads_files(self) -> bool:
        return isinstance(self.images, LocalImages)

    @property
    def path(self) -> Path | None:
        """The folder, if one is named."""
        return self.images.path if isinstance(self.images, LocalImages) else None

    @property
    def symbols(self) -> str:
        """The characters that are tokens of their own."""
        return symbols(self.codes)

    @property
    def grid(self) -> int:
        """Visual tokens of an image in a row, and in a column."""
        return self.images.side // self.patch

    def documents(self, split: str) -> Iterator[Document]:
        """Raises UserError, naming the file, on what is missing, changed or corrupt."""
        tokenizer, no_symbols = self.visual_tokenizer(), dict.fromkeys(map(ord, self.symbols))
        alone = ((id_, tokenizer.encode(image)) for id_, image in self.images.images(split))
        pairs = (
            (id_, tokenizer.encode(image) + text.translate(no_symbols)) for id_, image, text in self.images.pairs(split)
        )
        texts = (
            (f"{document.source}/{document.id}/{number}", piece)
            for document in self.text.documents(split)
            for number, piece in enumerate(cut(document.text.translate(no_symbols), self.piece_characters))
            if piece.strip()
        )
        kinds = {"images": alone, "pairs": pairs, "texts": texts}
        yield from in_turn({kind: _documents(kind, found) for kind, found in kinds.items()}, size=_tokens)

    def visual_tokenizer(self) -> VisualTokenizer:
        """Learned once from the images of train."""
        return _learned(self, json.dumps(self.images.fingerprint(), sort_keys=True))

    def fingerprint(self) -> dict[str, Any]:
        """What its images and its text say of themselves, and what is made of them."""
        own = ("patch", "codes", "learned_from", "piece_characters")
        parts = {"images": self.images.fingerprint(), "text": self.text.fingerprint(), "grid": self.grid}
        return {"kind": self.kind, **{name: getattr(self, name) for name in own}, **parts}


def _documents(kind: str, found: Iterable[tuple[str, str]]) -> Iterator[Document]:
    for id_, text in found:
        yield Document(text, f"{kind}/{id_.partition('/')[0]}", f"{kind}/{id_}")


def _tokens(document: Document) -> float:
    """About how many a document has."""
    return sum(1.0 if character > MASK else 1 / _CHARACTERS for character in document.text)


@lru_cache(maxsize=8)
def _learned(corpus: MultimodalCorpus, images: str) -> VisualTokenizer:
    """images: their fingerprint, so that other ones in the same place are learned from anew."""
    alone = (image for _, image in islice(corpus.images.images("train"), corpus.learned_from))
    paired = (image for _, image, _ in islice(corpus.images.pairs("train"), corpus.learned_from))
    return VisualTokenizer.learn(chain(alone, paired), corpus.codes, corpus.patch)
