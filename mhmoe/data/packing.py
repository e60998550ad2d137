"""Packing: text becomes a folder that needs no corpus any more.

It holds the tokenizer, the train split as one flat array in which the end of text stands before each
document, and the valid and test splits document by document; `pack.json` has the hash of every file, and its own.
How it is read is in `batches`.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np
import tokenizers
from tokenizers import Tokenizer

from mhmoe.data.batches import EvaluationSet, Tokens
from mhmoe.data.corpora import Corpus, Document
from mhmoe.data.tokenizer import (
    END_OF_TEXT_ID,
    GivenTokenizer,
    as_text_only,
    check_vocab_size,
    train_tokenizer,
    vocabulary_size,
)
from mhmoe.display import display
from mhmoe.fields import Count, Range, check_fields
from mhmoe.io import (
    UserError,
    check_sealed_folder,
    new_folder,
    parse_json,
    remove_leftovers,
    seal_folder,
    sha256_of,
    write_atomically,
)

FORMAT = 2
LISTING = "pack.json"
_BATCH_CHARACTERS = 500_000  # encoded at once: enough for all cores, little to hold

# ---- what a packed folder holds -------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedDataset:
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

    @property
    def end_of_text(self) -> int:
        return self.valid.end_of_text


@dataclass(frozen=True, kw_only=True)
class PackingConfig:
    """How much text is packed, and with which vocabulary.

    tokenizer_characters: the tokenizer learns from so many characters at the start of train.
    max_train_tokens: train is cut there, ends of text counted.
    max_valid_tokens, max_test_tokens: whole documents up to so many tokens; None takes all.
    """

    vocab_size: Annotated[int, Range(most=2**32)]
    max_train_tokens: Count
    tokenizer_characters: Count = 8_000_000
    max_valid_tokens: Count | None = None
    max_test_tokens: Count | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_vocab_size(self.vocab_size)

    @property
    def dtype(self) -> Literal["<u2", "<u4"]:
        return "<u2" if self.vocab_size <= 65_535 else "<u4"


# ---- writing it -----------------------------------------------------------------------------


def pack(corpus: Corpus, config: PackingConfig, cache: Path, tokenizer: GivenTokenizer | None = None) -> PackedDataset:
    """Pack a corpus, or open the folder of `cache` where the same was packed before.

    tokenizer: instead of one that is trained on the corpus. Several processes may call it at once: each packs, the
    first to finish is kept. Raises UserError if a split is empty, nothing can be written, the tokenizer has another
    size than the config says, or the cached folder is damaged or of other text.
    """
    origin: dict[str, Any] = {"corpus": corpus.fingerprint(), "packing": dataclasses.asdict(config)}
    if tokenizer is not None:
        if tokenizer.size != config.vocab_size:
            raise UserError(
                f"vocab_size={config.vocab_size} is not that of the given tokenizer, {tokenizer.size}; leave it out"
            )
        origin |= {"end_of_text": tokenizer.end_of_text, "tokenizer": sha256_of(tokenizer.tokenizer.to_str().encode())}
    # The library's version is in the key alone: equal bytes from another version are the same data.
    identity = json.dumps(origin | {"format": FORMAT, "tokenizers": tokenizers.__version__}, sort_keys=True)
    folder = cache / hashlib.sha256(identity.encode()).hexdigest()[:16]
    if not folder.exists():
        remove_leftovers(cache)
        with new_folder(folder) as new:
            _write(new, corpus, config, origin, tokenizer)
    packed = load_packed(folder)
    if {name: packed.fingerprint[name] for name in origin} != json.loads(json.dumps(origin)):
        raise UserError(f"{folder} holds other text than was asked for; remove the folder and pack again")
    return packed


def _write(
    folder: Path, corpus: Corpus, config: PackingConfig, origin: dict[str, Any], given: GivenTokenizer | None
) -> None:
    if given is None:
        texts = _first_characters(corpus, config.tokenizer_characters)
        own = {name: found for name in ("word_pattern", "symbols") if (found := getattr(corpus, name, None))}
        tokenizer = train_tokenizer(texts, config.vocab_size, **own)
    else:
        tokenizer = given.tokenizer
    write_atomically(folder / "tokenizer.json", tokenizer.to_str())
    sizes = {"train": _write_train(folder / "train.bin", corpus, config, tokenizer, _end_of_text(origin))}
    for split, limit in (("valid", config.max_valid_tokens), ("test", config.max_test_tokens)):
        sizes[split] = _write_evaluation(folder, split, corpus, config, tokenizer, limit)
    fingerprint = origin | {
        "dtype": config.dtype,
        "tokenizer_sha256": sha256_of(folder / "tokenizer.json"),
        "splits": {split: size | {"sha256": sha256_of(folder / f"{split}.bin")} for split, size in sizes.items()},
    }
    seal_folder(folder, LISTING, {"format": FORMAT, "fingerprint": fingerprint})


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


def _end_of_text(fingerprint: dict[str, Any]) -> int:
    """Of a given tokenizer it may be any token."""
    return fingerprint.get("end_of_text", END_OF_TEXT_ID)


def _write_train(
    path: Path, corpus: Corpus, config: PackingConfig, tokenizer: Tokenizer, end_of_text: int
) -> dict[str, int]:
    tokens = 0
    with path.open("wb") as file, display("packing train", config.max_train_tokens, brief=True) as bar:
        for _, ids in _encoded(tokenizer, corpus.documents("train")):
            piece = np.array([end_of_text, *ids][: config.max_train_tokens - tokens], config.dtype)
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
    tokens, documents, seen = 0, list[dict[str, Any]](), set[str]()
    with (folder / f"{split}.bin").open("wb") as file, display(f"packing {split}", limit, brief=True) as bar:
        for document, ids in _encoded(tokenizer, corpus.documents(split)):
            if not ids:
                continue  # nothing to predict
            if documents and limit is not None and tokens + len(ids) > limit:
                break
            file.write(np.array(ids, config.dtype).tobytes())
            size = len(document.text.encode())
            name = document.id if document.id not in seen else f"{document.source}/{document.id}"
            if name in seen:
                raise UserError(f"the {split} split has two documents with id {document.id!r} of {document.source!r}")
            seen.add(name)
            documents.append({"id": name, "source": document.source, "tokens": len(ids), "bytes": size})
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


def export(packed: PackedDataset, folder: Path) -> None:
    """Copy a packed folder to where `load_packed` opens it, with no corpus at hand.

    Raises UserError if `folder` exists or cannot be written.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already; remove it or name another folder")
    with new_folder(folder) as new:
        for path in packed.folder.iterdir():
            with path.open("rb") as source, (new / path.name).open("wb") as target:
                shutil.copyfileobj(source, target)
                _flush(target)


# ---- reading it -----------------------------------------------------------------------------


def load_packed(folder: Path) -> PackedDataset:
    """Open what `pack` or `export` wrote, after checking the hash of every file.

    Raises UserError if the folder or a file is missing, cut short or changed, or its files do not fit together.
    """
    advice = "remove the folder and pack again"
    if not (folder / LISTING).is_file():
        raise UserError(f"{folder} is not a packed folder: it has no {LISTING}; pack the corpus again")
    listing = check_sealed_folder(folder, LISTING, advice, format=FORMAT)
    try:
        packed = _open(folder, listing["fingerprint"])
        _check_consistent(packed)
    except Exception as error:  # the tokenizers library has exceptions of its own
        raise UserError(f"{folder} is damaged ({' '.join(str(error).split()) or repr(error)}); {advice}") from None
    return packed


def _open(folder: Path, fingerprint: dict[str, Any]) -> PackedDataset:
    def tokens(split: str) -> Tokens:
        return np.memmap(folder / f"{split}.bin", dtype=fingerprint["dtype"], mode="r")

    def evaluation(split: str) -> EvaluationSet:
        documents = parse_json((folder / f"{split}.json").read_bytes())
        return EvaluationSet(
            tokens=tokens(split),
            offsets=np.cumsum([0, *(d["tokens"] for d in documents)]),
            num_bytes=np.array([d["bytes"] for d in documents]),
            ids=tuple(d["id"] for d in documents),
            sources=tuple(d["source"] for d in documents),
            end_of_text=_end_of_text(fingerprint),
        )

    return PackedDataset(
        folder=folder,
        train=tokens("train"),
        valid=evaluation("valid"),
        test=evaluation("test"),
        tokenizer=as_text_only(Tokenizer.from_file(str(folder / "tokenizer.json"))),
        fingerprint=fingerprint,
    )


def _check_consistent(packed: PackedDataset) -> None:
    """Raises ValueError where files that are each what was written do not belong together."""
    splits = packed.fingerprint["splits"]
    for name, text in (("valid", packed.valid), ("test", packed.test)):
        found = {"documents": len(text), "tokens": len(text.tokens), "bytes": int(text.num_bytes.sum())}
        if any(splits[name][key] != value for key, value in found.items()) or text.offsets[-1] != len(text.tokens):
            raise ValueError(f"the documents of {name} do not add up to its text")
        if np.diff(text.offsets).min() < 1 or text.num_bytes.min() < 1 or len(set(text.ids)) < len(text):
            raise ValueError(f"a document of {name} is empty, or two have one id")
    if splits["train"]["tokens"] != len(packed.train):
        raise ValueError("train has another number of tokens than it should")
    size = vocabulary_size(packed.tokenizer)
    if max(int(tokens.max()) for tokens in (packed.train, packed.valid.tokens, packed.test.tokens)) >= size:
        raise ValueError(f"a token is not one of the tokenizer's {size}")
