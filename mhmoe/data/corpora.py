"""Where text comes from: one interface, and two of its sources. embedded.py, multilingual.py, synthetic.py have others.

`local` is a folder with a manifest of hashes. `hub` is a Hugging Face data set at a pinned revision. Each states in
`fingerprint()` everything that determines its bytes; the order of its documents never depends on a training seed.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from mhmoe.data.manifest import DataFolder
from mhmoe.fields import check_fields
from mhmoe.io import UserError

SPLITS = ("train", "valid", "test")
SLIMPAJAMA = "DKYoon/SlimPajama-6B"  # the cleaned RedPajama; RedPajama's own sets no longer load


@dataclass(frozen=True)
class Document:
    """One text. `id` is unique within its `source`."""

    text: str
    source: str
    id: str


@runtime_checkable
class Corpus(Protocol):
    """What packing asks of a source of text.

    A corpus may also have a `word_pattern` and `symbols`, for `tokenizer.train_tokenizer`.
    """

    def documents(self, split: str) -> Iterator[Document]:
        """The documents of "train", "valid" or "test", in an order that is always the same."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """JSON that determines every byte `documents` gives."""
        ...


def check_split(split: str) -> None:
    """Raises ValueError if there is no such split."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is not known; choose one of {', '.join(SPLITS)}")


def order_key(name: str) -> bytes:
    """What to sort names by where their order shall mean nothing: their hash."""
    return hashlib.sha256(name.encode()).digest()


# ---- local ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LocalCorpus:
    """Files `<subfolder>/<set>-<split>.jsonl.gz` of a `DataFolder`.

    A line has a `text` and, if it wants, `source` and `id`. All documents of a split are shuffled
    together by the hash of `order_seed`, file and line, so that the first tokens are a mixture of
    the sets in proportion to their sizes.

    path: the folder; None means the environment variable MHMOE_DATA.
    """

    kind: ClassVar[str] = "local"
    path: Path | None = None
    subfolder: str = "english"
    sets: tuple[str, ...] = ("wikipedia", "books")
    order_seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.sets or len(set(self.sets)) != len(self.sets):
            raise ValueError(f"sets={self.sets} is not allowed; name at least one set, each once")

    def documents(self, split: str) -> Iterator[Document]:
        """Raises UserError, naming file and line, on what is missing, changed or corrupt."""
        check_split(split)
        folder = DataFolder.at(self.path)
        lines: list[tuple[bytes, str, int, bytes]] = []
        for name in self._files(split):
            for number, line in folder.lines(name):
                lines.append((order_key(f"{self.order_seed}/{name}:{number}"), name, number, line))
        lines.sort(key=lambda entry: entry[0])
        for _, name, number, line in lines:
            record = folder.parse(line, name, number)
            of_set = Path(name).name.rpartition("-")[0]
            yield Document(record["text"], str(record.get("source", of_set)), str(record.get("id", number)))

    def fingerprint(self) -> dict[str, Any]:
        """The files with their hashes, checked; the place of the folder is not part of it."""
        names = [name for split in SPLITS for name in self._files(split)]
        files = DataFolder.at(self.path).checked(names)
        return {"kind": self.kind, "order_seed": self.order_seed, "files": files}

    def _files(self, split: str) -> list[str]:
        return [f"{self.subfolder}/{name}-{split}.jsonl.gz" for name in self.sets]


# ---- hub ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class HubCorpus:
    """A text data set of the Hugging Face hub, streamed. Needs the package `datasets`.

    revision: the commit of the data set (40 hex digits); a branch name may change and is refused.
    name: the configuration, where the data set has several. Rows of white space are left out.
    """

    kind: ClassVar[str] = "hub"
    dataset: str = SLIMPAJAMA
    name: str | None = None
    revision: str = ""
    text_column: str = "text"
    train: str = "train"
    valid: str = "validation"
    test: str = "test"

    def __post_init__(self) -> None:
        check_fields(self)
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(
                f"revision={self.revision!r} does not pin {self.dataset}; "
                "give the 40 hex digits of a commit, as listed in the history of the data set"
            )

    def documents(self, split: str) -> Iterator[Document]:
        """Raises UserError if `datasets` is not installed, the hub does not answer, or a row has no text."""
        check_split(split)
        theirs = str(getattr(self, split))
        try:
            import datasets
        except ImportError:
            raise UserError("text from the hub needs the package datasets; run: pip install datasets") from None
        try:
            rows: Any = datasets.load_dataset(  # pyright: ignore[reportUnknownMemberType]
                self.dataset, self.name, split=theirs, revision=self.revision, streaming=True
            )
            for number, row in enumerate(rows):
                text = row.get(self.text_column)
                if not isinstance(text, str):
                    raise UserError(f"{self.dataset} has no text in column {self.text_column!r}; it has {list(row)}")
                if text.strip():
                    yield Document(text, self.dataset, f"{theirs}/{number}")
        except UserError:
            raise
        except Exception as error:  # whatever the network, the hub and the file formats raise
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"cannot read {self.dataset}, split {theirs}: {type(error).__name__}: {reason}") from error

    def fingerprint(self) -> dict[str, Any]:
        """The pinned revision and what is read of it."""
        return {
            "kind": self.kind,
            "dataset": self.dataset,
            "name": self.name,
            "revision": self.revision,
            "text_column": self.text_column,
            "splits": {split: getattr(self, split) for split in SPLITS},
        }
