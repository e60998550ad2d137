"""Packing: text becomes a folder that needs no corpus any more.

It holds the tokenizer, the train split as one flat array in which <|endoftext|> stands before each
document, and the valid and test splits document by document; `pack.json` has the hash of every file.
How it is read is in `batches`.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import tokenizers
from tokenizers import Tokenizer
from tqdm import tqdm

from mhmoe.batches import EvaluationSet, Tokens
from mhmoe.corpora import Corpus, Document
from mhmoe.records import UserError, sha256_of, write_atomically
from mhmoe.tokenization import END_OF_TEXT_ID, as_text_only, check_vocab_size, train_tokenizer

FORMAT = 1
_BATCH_CHARACTERS = 500_000  # encoded at once: enough for all cores, little to hold

# ---- what a packed folder holds -------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedText:
    """A packed folder, opened. `fingerprint` belongs into the record of every run that reads it.

    train [tokens]: memory map, uint16, or uint32 where the vocabulary needs it.
    fingerprint: corpus, packing, dtype, hash of the tokenizer; sizes and hash of each split.
    """

    folder: Path
    train: Tokens
    valid: EvaluationSet
    test: EvaluationSet
    tokenizer: Tokenizer
    fingerprint: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PackingConfig:
    """How much text is packed, and with which vocabulary.

    tokenizer_characters: the tokenizer learns from so many characters at the start of train.
    max_train_tokens: train is cut there, <|endoftext|> counted.
    max_valid_tokens, max_test_tokens: whole documents up to so many tokens; None takes all.
    """

    vocab_size: int
    max_train_tokens: int
    tokenizer_characters: int = 8_000_000
    max_valid_tokens: int | None = None
    max_test_tokens: int | None = None

    def __post_init__(self) -> None:
        check_vocab_size(self.vocab_size)
        for name in ("max_train_tokens", "tokenizer_characters", "max_valid_tokens", "max_test_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not allowed; it must be at least 1")

    @property
    def dtype(self) -> Literal["<u2", "<u4"]:
        return "<u2" if self.vocab_size <= 65_535 else "<u4"


# ---- writing it -----------------------------------------------------------------------------


def pack(corpus: Corpus, config: PackingConfig, cache: Path) -> PackedText:
    """Pack a corpus, or open the folder of `cache` where the same was packed before.

    Several processes may call it at once: each packs, the first to finish is kept.
    Raises UserError if a split is empty, nothing can be written or the cached folder is damaged.
    """
    origin = {"corpus": corpus.fingerprint(), "packing": dataclasses.asdict(config)}
    # The library's version is in the key alone: equal bytes from another version are the same data.
    identity = json.dumps(origin | {"format": FORMAT, "tokenizers": tokenizers.__version__}, sort_keys=True)
    folder = cache / hashlib.sha256(identity.encode()).hexdigest()[:16]
    if not folder.exists():
        with _new_folder(folder) as new:
            _write(new, corpus, config, origin)
    return load_packed(folder)


def _write(folder: Path, corpus: Corpus, config: PackingConfig, origin: dict[str, Any]) -> None:
    texts = _first_characters(corpus, config.tokenizer_characters)
    tokenizer = train_tokenizer(texts, config.vocab_size, getattr(corpus, "word_pattern", None))
    write_atomically(folder / "tokenizer.json", tokenizer.to_str())
    sizes = {"train": _write_train(folder / "train.bin", corpus, config, tokenizer)}
    for split, limit in (("valid", config.max_valid_tokens), ("test", config.max_test_tokens)):
        sizes[split] = _write_evaluation(folder, split, corpus, config, tokenizer, limit)
    files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in sorted(folder.iterdir())}
    fingerprint = origin | {
        "dtype": config.dtype,
        "tokenizer_sha256": files["tokenizer.json"]["sha256"],
        "splits": {split: size | {"sha256": files[f"{split}.bin"]["sha256"]} for split, size in sizes.items()},
    }
    listing = {"format": FORMAT, "fingerprint": fingerprint, "files": files}
    write_atomically(folder / "pack.json", json.dumps(listing, indent=1, sort_keys=True) + "\n")


def _first_characters(corpus: Corpus, characters: int) -> Iterator[str]:
    for document in corpus.documents("train"):
        yield document.text[:characters]
        characters -= len(document.text)
        if characters <= 0:
            return


def _encoded(tokenizer: Tokenizer, documents: Iterable[Document]) -> Iterator[tuple[Document, list[int]]]:
    """Each document with its tokens, encoded many at a time."""
    batch: list[Document] = []
    characters = 0
    for document in chain(documents, [None]):
        if document is not None:
            batch.append(document)
            characters += len(document.text)
        if batch and (document is None or characters >= _BATCH_CHARACTERS):
            encodings = tokenizer.encode_batch_fast([d.text for d in batch], add_special_tokens=False)
            yield from ((d, encoding.ids) for d, encoding in zip(batch, encodings, strict=True))
            batch, characters = [], 0


def _progress(split: str, total: int | None) -> "tqdm[Any]":
    return tqdm(total=total, desc=f"packing {split}", unit="tokens", unit_scale=True, disable=None)


def _write_train(path: Path, corpus: Corpus, config: PackingConfig, tokenizer: Tokenizer) -> dict[str, int]:
    tokens = 0
    with path.open("wb") as file, _progress("train", config.max_train_tokens) as bar:
        for _, ids in _encoded(tokenizer, corpus.documents("train")):
            piece = np.array([END_OF_TEXT_ID, *ids][: config.max_train_tokens - tokens], config.dtype)
            file.write(piece.tobytes())
            tokens += len(piece)
            bar.update(len(piece))
            if tokens == config.max_train_tokens:
                break
        _flush(file)
    if not tokens:
        raise UserError("the train split of the corpus has no documents; choose another corpus")
    return {"tokens": tokens}


def _write_evaluation(
    folder: Path, split: str, corpus: Corpus, config: PackingConfig, tokenizer: Tokenizer, limit: int | None
) -> dict[str, int]:
    tokens, documents = 0, list[dict[str, Any]]()
    with (folder / f"{split}.bin").open("wb") as file, _progress(split, limit) as bar:
        for document, ids in _encoded(tokenizer, corpus.documents(split)):
            if not ids:
                continue  # nothing to predict
            if documents and limit is not None and tokens + len(ids) > limit:
                break
            file.write(np.array(ids, config.dtype).tobytes())
            size = len(document.text.encode())
            documents.append({"id": document.id, "source": document.source, "tokens": len(ids), "bytes": size})
            tokens += len(ids)
            bar.update(len(ids))
        _flush(file)
    if not documents:
        raise UserError(f"the {split} split of the corpus has no documents; choose another corpus")
    write_atomically(folder / f"{split}.json", json.dumps(documents, separators=(",", ":")) + "\n")
    return {"documents": len(documents), "tokens": tokens, "bytes": sum(d["bytes"] for d in documents)}


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _new_folder(folder: Path) -> Generator[Path]:
    """A temporary folder that becomes `folder` in one step when all went well, else vanishes."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had our number
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not (folder / "pack.json").exists():  # else another process was faster with the same
            raise UserError(
                f"cannot write {folder}: {error.strerror or error}; nothing of it was left behind"
            ) from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def export(packed: PackedText, folder: Path) -> None:
    """Copy a packed folder to where `load_packed` opens it, with no corpus at hand.

    Raises UserError if `folder` exists or cannot be written.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already; remove it or name another folder")
    with _new_folder(folder) as new:
        for path in packed.folder.iterdir():
            with path.open("rb") as source, (new / path.name).open("wb") as target:
                shutil.copyfileobj(source, target)
                _flush(target)


# ---- reading it -----------------------------------------------------------------------------


def load_packed(folder: Path) -> PackedText:
    """Open what `pack` or `export` wrote, after checking the hash of every file.

    Raises UserError if the folder or a file is missing, cut short or changed.
    """
    try:
        listing = json.loads((folder / "pack.json").read_bytes())
        version, fingerprint, files = (listing[name] for name in ("format", "fingerprint", "files"))
    except FileNotFoundError:
        raise UserError(f"{folder} is not a packed folder: it has no pack.json; pack the corpus again") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'pack.json'} is damaged ({error!r}); remove the folder and pack again") from None
    if version != FORMAT:
        raise UserError(f"{folder} has format {version}, this version reads {FORMAT}; remove it and pack again")
    for name, expected in files.items():
        _check_file(folder / name, expected["bytes"], expected["sha256"])

    def tokens(split: str) -> Tokens:
        return np.memmap(folder / f"{split}.bin", dtype=fingerprint["dtype"], mode="r")

    def evaluation(split: str) -> EvaluationSet:
        documents = json.loads((folder / f"{split}.json").read_bytes())
        return EvaluationSet(
            tokens=tokens(split),
            offsets=np.cumsum([0, *(d["tokens"] for d in documents)]),
            num_bytes=np.array([d["bytes"] for d in documents]),
            ids=tuple(d["id"] for d in documents),
            sources=tuple(d["source"] for d in documents),
        )

    return PackedText(
        folder=folder,
        train=tokens("train"),
        valid=evaluation("valid"),
        test=evaluation("test"),
        tokenizer=as_text_only(Tokenizer.from_file(str(folder / "tokenizer.json"))),
        fingerprint=fingerprint,
    )


def _check_file(path: Path, size: int, sha256: str) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing; remove the folder and pack again")
    if (actual := path.stat().st_size) != size:
        raise UserError(f"{path} has {actual} bytes instead of {size}; remove the folder and pack again")
    if sha256_of(path) != sha256:
        raise UserError(f"{path} was changed, its sha256 is not the recorded one; remove the folder and pack again")
