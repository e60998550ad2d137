"""Tokenizer, packing, the one data order.

Text becomes a folder that needs no corpus any more: the tokenizer, the train split as one flat
array in which <|endoftext|> stands before each document, and the valid and test splits document
by document. Every system reads the same windows of it in the same order, which a seed and a
step determine and nothing else. `pack.json` in the folder has the hash of every file.
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
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from mhmoe.corpora import Corpus, Document
from mhmoe.records import UserError, sha256_of, write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
IGNORE = -100  # the target that torch's cross entropy leaves out
FORMAT = 1
_BATCH_CHARACTERS = 500_000  # encoded at once: enough for all cores, little to hold

Tokens: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
Integers: TypeAlias = npt.NDArray[np.int64]


# ---- tokenizer ------------------------------------------------------------------------------


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE; <|endoftext|> is token 0. The same texts give the same tokenizer.

    Raises ValueError if vocab_size has no room for the 256 bytes and <|endoftext|>.
    """
    _check_vocab_size(vocab_size)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _as_text_only(tokenizer)


def _check_vocab_size(vocab_size: int) -> None:
    if vocab_size < 257:
        raise ValueError(f"vocab_size={vocab_size} is too small; 256 bytes and {END_OF_TEXT} need at least 257")


def _as_text_only(tokenizer: Tokenizer) -> Tokenizer:
    """Let "<|endoftext|>" written in a document be text: only packing may end a document."""
    tokenizer.encode_special_tokens = True
    return tokenizer


def as_transformers(tokenizer: Tokenizer) -> "PreTrainedTokenizerFast":
    """The tokenizer for `save_pretrained` beside a checkpoint; begins, ends and pads with <|endoftext|>."""
    from transformers import PreTrainedTokenizerFast  # slow to import, and packing does not need it

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


# ---- what a packed folder holds -------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSet:
    """The documents of a split, one after the other, without <|endoftext|>.

    tokens [all tokens]; offsets [documents + 1] into it; num_bytes [documents], UTF-8;
    ids and sources, one for each document.
    """

    tokens: Tokens
    offsets: Integers
    num_bytes: Integers
    ids: tuple[str, ...]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def windows(self, length: int) -> tuple[Integers, Integers, Integers]:
        """Cut each document into windows in which every token of it is predicted exactly once.

        The first token is predicted from <|endoftext|>, the first of a later window from the one
        before it. No window crosses documents; the rest of a document's last window has target -100.
        Returns inputs [windows, length], targets [windows, length], index of the document [windows].
        """
        if length < 1:
            raise ValueError(f"length={length} is not allowed; it must be at least 1")
        counts = np.diff(self.offsets)
        windows = -(-counts // length)
        inputs = np.full((int(windows.sum()), length), END_OF_TEXT_ID, dtype=np.int64)
        targets = np.full_like(inputs, IGNORE)
        first = 0
        for document, count in enumerate(counts):
            begin, rows = self.offsets[document], slice(first, first + int(windows[document]))
            tokens = self.tokens[begin : begin + count]
            targets[rows].reshape(-1)[:count] = tokens
            inputs[rows].reshape(-1)[1:count] = tokens[:-1]
            first = rows.stop
        return inputs, targets, np.repeat(np.arange(len(self)), windows)

    def first(self, max_tokens: int) -> "EvaluationSet":
        """The first whole documents with together at most `max_tokens` tokens, but at least one."""
        documents = max(1, int(np.searchsorted(self.offsets, max_tokens, side="right")) - 1)
        return EvaluationSet(
            tokens=self.tokens[: self.offsets[documents]],
            offsets=self.offsets[: documents + 1],
            num_bytes=self.num_bytes[:documents],
            ids=self.ids[:documents],
            sources=self.sources[:documents],
        )


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
        _check_vocab_size(self.vocab_size)
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
    tokenizer = train_tokenizer(_first_characters(corpus, config.tokenizer_characters), config.vocab_size)
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
        tokenizer=_as_text_only(Tokenizer.from_file(str(folder / "tokenizer.json"))),
        fingerprint=fingerprint,
    )


def _check_file(path: Path, size: int, sha256: str) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing; remove the folder and pack again")
    if (actual := path.stat().st_size) != size:
        raise UserError(f"{path} has {actual} bytes instead of {size}; remove the folder and pack again")
    if sha256_of(path) != sha256:
        raise UserError(f"{path} was changed, its sha256 is not the recorded one; remove the folder and pack again")


# ---- the one data order ---------------------------------------------------------------------


class TrainingBatches:
    """Which tokens a step sees: a pure function of seed and step, the same for every system.

    Sequence w is train[w * length : (w + 1) * length + 1], inputs and targets shifted by one, so
    every token but the first is predicted once an epoch. Each epoch is a permutation of its own,
    the next begins where the last one ends, within a batch if need be: sequence number i of the
    run does not depend on the batch size.

    Raises ValueError if the text is shorter than one batch.
    """

    def __init__(self, train: Tokens, length: int, batch_sequences: int, seed: int) -> None:
        for name, value in (("length", length), ("batch_sequences", batch_sequences)):
            if value < 1:
                raise ValueError(f"{name}={value} is not allowed; it must be at least 1")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed={seed} is not allowed; it must be from 0 to 4294967295")
        self.train, self.length, self.batch_sequences, self.seed = train, length, batch_sequences, seed
        self.num_sequences = (len(train) - 1) // length  # of one epoch
        if self.num_sequences < batch_sequences:
            raise ValueError(
                f"batch_sequences={batch_sequences} of length={length} need {batch_sequences * length + 1} "
                f"tokens, the train split has {len(train)}; pack more text or take smaller batches"
            )
        self._permutations: dict[int, Integers] = {}

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Integers:
        """Tokens [batch_sequences / world_size, length + 1]: this rank's part of the step's global batch."""
        if self.batch_sequences % world_size or not 0 <= rank < world_size:
            raise ValueError(
                f"batch_sequences={self.batch_sequences} cannot be shared out to rank={rank} of "
                f"world_size={world_size}; world_size must divide it and rank must be below"
            )
        share = self.batch_sequences // world_size
        number = np.arange(share) + step * self.batch_sequences + rank * share
        epochs = number // self.num_sequences
        window = np.concatenate(
            [self._permutation(int(e))[number[epochs == e] % self.num_sequences] for e in np.unique(epochs)]
        )
        return self.train[window[:, None] * self.length + np.arange(self.length + 1)].astype(np.int64)

    def _permutation(self, epoch: int) -> Integers:
        if epoch not in self._permutations:
            self._permutations = {e: p for e, p in self._permutations.items() if e == epoch - 1}
            # RandomState and not Generator: numpy promises the numbers of the former for all versions.
            generator = np.random.RandomState([self.seed, epoch])
            self._permutations[epoch] = generator.permutation(self.num_sequences)
        return self._permutations[epoch]
