"""Text of one's own as a corpus: a file, a folder of files, JSON lines, or a saved data set.

    my.txt, or any other name   UTF-8 text, cut into documents of at most `LONGEST` characters: after blank lines,
                                else after ends of lines, else after blanks
    my.jsonl                    a document a line, its field `text`
    my.txt.gz, my.jsonl.gz      the same, packed
    a folder                    all such files in it and in its sub-folders (`SUFFIXES`), linked ones too
    a saved data set            a folder that `datasets` wrote with save_to_disk; its column `text`

Documents stand in the order of the hashes of their texts: the first 5% of the characters are `valid`, the next 5%
`test`, all others `train`. So the text alone decides, and equal documents are in one split; but pieces of one book are
in all three. Where one document is so long that a split would stay empty, or have twice its share, the splits are of
5% of the documents, and the longest is in `train`. A saved data set that has the splits train and test, or validation,
keeps them.
"""

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mhmoe.data.corpora import Document, check_split, order_key
from mhmoe.io import UserError, sha256_of

LONGEST = 4000
HELD_OUT = 0.05  # of the characters, for valid and for test
SUFFIXES = tuple(f".{kind}{packed}" for kind in ("txt", "text", "md", "rst", "jsonl") for packed in ("", ".gz"))
_FORMAT = 2  # of the rules above: part of the fingerprint
_HELD_OUT = ("valid", "test")
_OURS = {"validation": "valid", "test": "test"}  # by the names of data sets


@dataclass(frozen=True, kw_only=True)
class OwnText:
    """A `Corpus`, held in memory. Make it with `OwnText.of`. files: their sha256 by name. kept: which of two splits a
    data set has; the third is cut from its train."""

    kind: ClassVar[str] = "own"
    files: Mapping[str, str]
    kept: tuple[str, ...] = ()
    splits: Mapping[str, tuple[Document, ...]] = field(repr=False)

    @classmethod
    def of(cls, path: Path | str, *, whole: bool = False) -> "OwnText":
        """Read everything at `path`; `whole` is not divided, and all of it is `test`. Raises UserError, naming file and
        line, on what is missing, empty, no text, or fewer than three different documents to be divided."""
        path = Path(path)
        try:
            if not path.exists():
                raise UserError(f"{path} is not there; name a file or a folder of text")
            if path.is_dir() and any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
                return _of_data_set(path, whole)
            names = _files(path)
            contents = {
                name.encode(errors="backslashreplace").decode(): (path / name if path.is_dir() else path).read_bytes()
                for name in names  # of any bytes, where JSON and UTF-8 have no place for some
            }
        except OSError as error:
            raise UserError(f"{error.filename or path} cannot be read: {error.strerror}; name another text") from None
        documents = [document for name, content in contents.items() for document in _documents(path, name, content)]
        splits = _undivided(documents) if whole else _divided(path, documents, _HELD_OUT)
        return cls(files={n: sha256_of(c) for n, c in contents.items()}, splits=splits)

    def documents(self, split: str) -> Iterator[Document]:
        """Raises ValueError on an unknown split."""
        check_split(split)
        yield from self.splits[split]

    def repeated(self) -> float:
        """The share of the characters of `test` in paragraphs that `train` has too, in documents that are not equal."""
        read = {paragraph for document in self.splits["train"] for paragraph in _paragraphs(document)}
        held_out = [paragraph for document in self.splits["test"] for paragraph in _paragraphs(document)]
        return sum(len(p) for p in held_out if p in read) / max(sum(map(len, held_out)), 1)

    def fingerprint(self) -> dict[str, Any]:
        kept = {"kept": list(self.kept)} if self.kept else {}
        return {"kind": self.kind, "format": _FORMAT, **kept, "files": dict(self.files)}


def _files(path: Path) -> list[str]:
    """Names of the files of text, from `path`."""
    if not path.is_dir():
        if path.name.lower().removesuffix(".gz").endswith((".json", ".ndjson")):
            raise UserError(
                f"{path} is JSON, of which names and brackets would be read as text; name it .jsonl, a document "
                'a line, {"text": "..."}'
            )
        return [path.name]
    if not (names := sorted(_below(path))):
        raise UserError(f"{path} has no text; put files into it whose names end in {', '.join(SUFFIXES[::2])}, or .gz")
    return names


def _below(path: Path) -> Iterator[str]:
    """In a folder and its sub-folders, linked ones too, each once however many links lead to it."""
    seen: set[str] = set()
    for place, folders, files in os.walk(path, followlinks=True):
        again = (real := os.path.realpath(place)) in seen
        seen.add(real)
        folders[:] = [] if again else sorted(name for name in folders if not name.startswith("."))
        for file in (Path(place, name) for name in files if not again and not name.startswith(".")):
            if file.name.lower().endswith(SUFFIXES):
                if not file.exists():
                    raise UserError(f"{file} is a link that leads nowhere; mend it, or remove it")
                if file.is_file():
                    yield file.relative_to(path).as_posix()


def _documents(path: Path, name: str, content: bytes) -> Iterator[Document]:
    where = path / name if path.is_dir() else path
    if name.lower().endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{where} is damaged: it is not packed by gzip ({error}); pack it again") from None
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is no text in UTF-8: byte {error.start + 1:,} is {content[error.start]:#04x}; "
            "save it as UTF-8, or name another file"
        ) from None
    if "\0" in text:
        raise UserError(f"{where} is no text: character {text.index(chr(0)) + 1:,} is a NUL; name a file of text")
    if not text.strip():
        raise UserError(f"{where} is empty; remove it, or name a file that has text")
    pieces = _texts_of_lines(text, where) if name.lower().removesuffix(".gz").endswith(".jsonl") else _cut(text)
    for number, piece in pieces:
        if piece.strip():
            yield Document(piece, name, f"{name}:{number}")


def _texts_of_lines(text: str, where: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
                if isinstance(row, dict) and "text" not in row:
                    raise TypeError(f"it has no field text, but {', '.join(row) or 'none'}")
                if isinstance(row, dict) and not isinstance(row["text"], str):
                    raise TypeError(f"its field text is {json.dumps(row['text'])[:40]}")
                found = row["text"]
                found.encode()
            except (ValueError, TypeError, RecursionError) as error:
                raise UserError(
                    f'{where}, line {number}, is not a JSON object with a text ({error}); write {{"text": "..."}}'
                ) from None
            yield number, found


def _cut(text: str, longest: int = LONGEST) -> Iterator[tuple[int, str]]:
    """Pieces of at most so many characters, numbered from 1, without blanks at their ends."""
    start, number = 0, 0
    while start < len(text):
        end = start + longest
        if end < len(text):
            ends = (text.rfind(sign, start + longest // 4, end) for sign in ("\n\n", "\n", " "))
            end = next((place for place in ends if place > 0), end)
        if piece := text[start:end].strip():
            number += 1
            yield number, piece
        start = end


def _paragraphs(document: Document) -> Iterator[str]:
    return (paragraph.strip() for paragraph in document.text.split("\n\n"))


def _undivided(documents: Iterable[Document]) -> dict[str, tuple[Document, ...]]:
    return {"train": (), "valid": (), "test": tuple(documents)}


def _divided(path: Path, documents: Iterable[Document], held_out: Sequence[str]) -> dict[str, tuple[Document, ...]]:
    """`train` and the splits that are held out of it. Raises UserError where one would have no document."""
    alike: dict[bytes, list[Document]] = {}  # equal documents stay together
    for document in documents:
        alike.setdefault(order_key(document.text), []).append(document)
    groups = [sorted(alike[key], key=lambda document: document.id) for key in sorted(alike)]
    if len(groups) < len(held_out) + 1:
        raise UserError(
            f"{path} has {len(groups)} different documents, and {', '.join(('train', *held_out[:-1]))} and "
            f"{held_out[-1]} need one each; give more text (it is cut into documents of up to {LONGEST:,} characters)"
        )
    sizes = [sum(len(d.text) for d in group) for group in groups]
    splits = _filled(groups, sizes, held_out)
    most = max(sum(len(d.text) for d in splits[split]) for split in held_out)
    if not all(splits.values()) or most > 2 * HELD_OUT * sum(sizes):
        longest = max(groups, key=lambda group: len(group[0].text))
        others = [group for group in groups if group is not longest]
        splits = _filled([*others, longest], [1] * len(groups), held_out)
    return {split: tuple(splits[split]) for split in splits}


def _filled(
    groups: Sequence[Sequence[Document]], sizes: Sequence[int], held_out: Sequence[str]
) -> dict[str, list[Document]]:
    """Groups in their order, into each split until it has its share of all that counts, the rest into train."""
    splits: dict[str, list[Document]] = {split: [] for split in (*held_out, "train")}
    names = iter(splits)
    name, seen, full = next(names), 0, 0.0
    for group, size in zip(groups, sizes, strict=True):
        if name != "train" and splits[name] and seen >= full + HELD_OUT * sum(sizes):
            name, full = next(names), seen
        splits[name].extend(group)
        seen += size
    return splits


def _of_data_set(path: Path, whole: bool) -> OwnText:
    try:
        import datasets
    except ImportError:
        raise UserError(f"{path} is a saved data set; to read it, run: pip install datasets") from None
    try:
        loaded: Any = datasets.load_from_disk(os.fspath(path))
    except Exception as error:  # whatever datasets and pyarrow raise
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} is no data set that can be read ({reason}); save it again") from None
    parts: dict[str, Any] = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    found: dict[str, list[Document]] = {}
    for part, rows in parts.items():
        if "text" not in rows.column_names:
            raise UserError(f"{path} has no column text in {part}; it has {', '.join(rows.column_names)}: rename one")
        texts = list(enumerate(rows["text"], 1))
        if wrong := [i for i, text in texts if not isinstance(text, str | None)]:
            raise UserError(f"{path} has no text in row {wrong[0]} of {part}: its column text has other values")
        found[part] = [Document(text, part, f"{part}:{i}") for i, text in texts if text and text.strip()]
    files = {p.relative_to(path).as_posix(): sha256_of(p) for p in sorted(path.rglob("*")) if p.is_file()}
    if whole:
        return OwnText(files=files, splits=_undivided(d for rows in found.values() for d in rows))
    kept = {ours: tuple(found[part]) for part, ours in _OURS.items() if found.get("train") and found.get(part)}
    if len(kept) == 2:
        return OwnText(files=files, splits={"train": tuple(found["train"]), **kept})
    rest = [d for part, rows in found.items() if _OURS.get(part) not in kept for d in rows]
    missing = [split for split in _HELD_OUT if split not in kept]
    return OwnText(files=files, kept=tuple(kept), splits=_divided(path, rest, missing) | kept)
