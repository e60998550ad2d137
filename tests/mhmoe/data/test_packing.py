"""Every token is predicted exactly once, the order is a function of seed and step, half a folder is none."""

import json
import math
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mhmoe.data.batches import IGNORE, EvaluationSet, TrainingBatches
from mhmoe.data.corpora import Document
from mhmoe.data.packing import PackedDataset, PackingConfig, export, load_packed, pack
from mhmoe.data.tokenizer import END_OF_TEXT, END_OF_TEXT_ID, WORDS_WITH_MARKS, as_transformers, train_tokenizer
from mhmoe.io import UserError, seal_folder
from tests.commands import program

WORDS = ["the", "moon", "rises", "over", "a", "quiet", "sea", "and", "nobody", "counts", "waves", "ashore"]
CONFIG = PackingConfig(vocab_size=300, max_train_tokens=5000, tokenizer_characters=20_000)
ODD = f"naïve 漢字 🙂\x00\r\n\t  spaces {END_OF_TEXT} <unk>\u2028"


@dataclass(frozen=True)
class Babble:
    """A corpus of random words; its seed is its fingerprint."""

    seed: int = 0
    documents_per_split: int = 40

    def documents(self, split: str) -> Iterator[Document]:
        draw = np.random.default_rng([self.seed, len(split), ord(split[1])])
        yield Document(ODD, "odd", split)
        yield Document("", "empty", split)
        for i in range(self.documents_per_split):
            yield Document(" ".join(draw.choice(WORDS, draw.integers(1, 400))), "babble", f"{split}{i}")

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": "babble", "seed": self.seed, "documents": self.documents_per_split}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return pack(Babble(), CONFIG, tmp_path_factory.mktemp("cache"))


def _evaluation_set(counts: list[int]) -> EvaluationSet:
    """Documents of so many tokens, all tokens different."""
    return EvaluationSet(
        tokens=np.arange(1, sum(counts) + 1, dtype=np.uint16),
        offsets=np.cumsum([0, *counts]),
        num_bytes=np.array(counts),
        ids=tuple(map(str, range(len(counts)))),
        sources=("s",) * len(counts),
    )


# ---- tokenizer ------------------------------------------------------------------------------


def test_training_a_tokenizer_twice_gives_the_same_json():
    texts = [d.text for d in Babble().documents("train")]
    assert train_tokenizer(texts, 400).to_str() == train_tokenizer(texts, 400).to_str()


@given(st.text())
def test_decoding_gives_back_the_text(packed: PackedDataset, text: str):
    ids = packed.tokenizer.encode(text).ids
    assert END_OF_TEXT_ID not in ids
    assert packed.tokenizer.decode(ids, skip_special_tokens=False) == text


def test_end_of_text_is_token_0_and_never_made_from_text(packed: PackedDataset):
    assert packed.tokenizer.token_to_id(END_OF_TEXT) == END_OF_TEXT_ID == 0
    assert packed.tokenizer.get_vocab_size() == CONFIG.vocab_size
    for evaluation in (packed.valid, packed.test):
        assert "odd" in evaluation.sources
        assert END_OF_TEXT_ID not in evaluation.tokens


def test_a_vocabulary_without_room_for_all_bytes_is_refused():
    for make in (
        lambda: train_tokenizer(["a"], 256),
        lambda: PackingConfig(vocab_size=256, max_train_tokens=1),
    ):
        with pytest.raises(ValueError, match="vocab_size=256 is too small"):
            make()


def test_the_tokenizer_survives_saving_as_a_transformers_tokenizer(packed: PackedDataset, tmp_path: Path):
    from transformers import AutoTokenizer

    as_transformers(packed.tokenizer).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "the moon rises,  naïvely 漢字 .\n"
    assert loaded.encode(text, add_special_tokens=False) == packed.tokenizer.encode(text).ids
    assert loaded.decode(loaded.encode(text)) == text
    assert loaded.bos_token_id == loaded.eos_token_id == loaded.pad_token_id == END_OF_TEXT_ID


HINDI = "हिन्दी में किताबें पढ़ना अच्छा लगता है"


def test_a_pattern_with_marks_leaves_words_whole_that_gpt2s_cuts_at_their_vowels():
    whole, cut = (train_tokenizer([HINDI] * 50, 600, pattern) for pattern in (WORDS_WITH_MARKS, None))
    assert len(whole.encode(HINDI).ids) == len(HINDI.split())
    assert len(cut.encode(HINDI).ids) > 2 * len(HINDI.split())


@given(st.text())
def test_a_pattern_with_marks_gives_back_the_text_too(text: str):
    ids = _MARKS.encode(text).ids
    assert END_OF_TEXT_ID not in ids
    assert _MARKS.decode(ids, skip_special_tokens=False) == text


_MARKS = train_tokenizer([HINDI, ODD], 400, WORDS_WITH_MARKS)


def test_a_tokenizer_with_a_pattern_survives_saving_too(tmp_path: Path):
    from transformers import AutoTokenizer

    as_transformers(_MARKS).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.encode(HINDI, add_special_tokens=False) == _MARKS.encode(HINDI).ids
    assert loaded.decode(loaded.encode(HINDI)) == HINDI


def test_packing_learns_the_words_of_the_corpus_own_pattern(packed: PackedDataset, tmp_path: Path):
    @dataclass(frozen=True)
    class Letters(Babble):
        word_pattern: str = "."

    letters = pack(Letters(seed=2), CONFIG, tmp_path)
    assert len(letters.tokenizer.encode("the moon").ids) == len("the moon")
    assert len(packed.tokenizer.encode("the moon").ids) == 2


# ---- packing --------------------------------------------------------------------------------


def test_end_of_text_stands_before_every_training_document(packed: PackedDataset):
    assert packed.train[0] == END_OF_TEXT_ID
    pieces = np.split(packed.train, np.flatnonzero(packed.train == END_OF_TEXT_ID))[1:]
    texts = [packed.tokenizer.decode(piece[1:].tolist()) for piece in pieces]
    expected = [d.text for d, _ in zip(Babble().documents("train"), texts, strict=False)]
    assert texts[:-1] == expected[:-1]
    assert expected[-1].startswith(texts[-1].rstrip("\ufffd"))  # the last document is cut


def test_train_stops_at_its_limit_and_is_uint16(packed: PackedDataset):
    assert len(packed.train) == CONFIG.max_train_tokens == packed.fingerprint["splits"]["train"]["tokens"]
    assert packed.train.dtype == np.uint16


def test_a_vocabulary_beyond_16_bits_is_packed_in_32():
    assert PackingConfig(vocab_size=65_535, max_train_tokens=1).dtype == "<u2"
    assert PackingConfig(vocab_size=100_277, max_train_tokens=1).dtype == "<u4"


def test_the_bytes_of_a_document_are_those_of_its_text(packed: PackedDataset):
    documents = [d for d in Babble().documents("valid") if d.text]
    assert packed.valid.ids == tuple(d.id for d in documents)
    assert packed.valid.sources == tuple(d.source for d in documents)
    assert packed.valid.num_bytes.tolist() == [len(d.text.encode()) for d in documents]
    for i, document in enumerate(documents):
        tokens = packed.valid.tokens[packed.valid.offsets[i] : packed.valid.offsets[i + 1]]
        assert packed.tokenizer.decode(tokens.tolist(), skip_special_tokens=False) == document.text


def test_evaluation_is_limited_to_whole_documents(packed: PackedDataset, tmp_path: Path):
    limited = pack(Babble(), PackingConfig(**vars(CONFIG) | {"max_valid_tokens": 900}), tmp_path).valid
    first = packed.valid.first(900)
    assert 0 < limited.offsets[-1] <= 900 < packed.valid.offsets[len(limited) + 1]
    assert limited.ids == first.ids
    np.testing.assert_array_equal(limited.tokens, first.tokens)
    assert len(packed.valid.first(1)) == 1


def test_packing_again_elsewhere_gives_the_same_bytes(packed: PackedDataset, tmp_path: Path):
    again = pack(Babble(), CONFIG, tmp_path)
    assert again.folder.name == packed.folder.name
    for path in packed.folder.iterdir():
        assert path.read_bytes() == (again.folder / path.name).read_bytes()


def test_whatever_determines_the_bytes_makes_another_folder(packed: PackedDataset):
    cache = packed.folder.parent
    other_text = pack(Babble(seed=1), CONFIG, cache)
    other_size = pack(Babble(), PackingConfig(**vars(CONFIG) | {"max_train_tokens": 4000}), cache)
    assert len({packed.folder, other_text.folder, other_size.folder}) == 3
    assert packed.fingerprint != other_text.fingerprint


def test_packing_again_opens_the_folder_and_writes_nothing(packed: PackedDataset):
    before = {path: path.stat().st_mtime_ns for path in packed.folder.iterdir()}
    assert pack(Babble(), CONFIG, packed.folder.parent).fingerprint == packed.fingerprint
    assert before == {path: path.stat().st_mtime_ns for path in packed.folder.iterdir()}


def test_an_exported_folder_opens_without_the_corpus(packed: PackedDataset, tmp_path: Path):
    export(packed, tmp_path / "carried")
    opened = load_packed(tmp_path / "carried")
    assert opened.fingerprint == packed.fingerprint
    np.testing.assert_array_equal(opened.train, packed.train)
    np.testing.assert_array_equal(opened.valid.tokens, packed.valid.tokens)
    assert opened.tokenizer.to_str() == packed.tokenizer.to_str()
    with pytest.raises(UserError, match="carried exists already"):
        export(packed, tmp_path / "carried")


@pytest.mark.parametrize("name", ["train.bin", "valid.bin", "test.json", "tokenizer.json", "pack.json"])
def test_a_packed_file_cut_short_is_one_clear_line(packed: PackedDataset, tmp_path: Path, name: str):
    export(packed, tmp_path / "carried")
    path = tmp_path / "carried" / name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=f"{name} .*pack again") as caught:
        load_packed(tmp_path / "carried")
    assert "\n" not in str(caught.value)


def test_a_packed_file_changed_or_missing_is_one_clear_line(packed: PackedDataset, tmp_path: Path):
    export(packed, tmp_path / "carried")
    path = tmp_path / "carried" / "train.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(UserError, match=r"train.bin was changed"):
        load_packed(tmp_path / "carried")
    path.unlink()
    with pytest.raises(UserError, match=r"train.bin is missing"):
        load_packed(tmp_path / "carried")
    with pytest.raises(UserError, match=r"is not a packed folder"):
        load_packed(tmp_path)


def relisted(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The folder after a change of its listing, with hashes that are right."""
    listing = json.loads((folder / "pack.json").read_bytes())
    change(listing)
    (folder / "pack.json").unlink()
    seal_folder(folder, "pack.json", {name: listing[name] for name in ("format", "fingerprint")})


def test_a_changed_listing_is_one_clear_line(packed: PackedDataset, tmp_path: Path):
    export(packed, tmp_path / "carried")
    path = tmp_path / "carried" / "pack.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(UserError, match=r"pack.json was changed, its sha256 is not its own; remove the folder"):
        load_packed(tmp_path / "carried")
    relisted(tmp_path / "carried", lambda listing: listing["fingerprint"]["corpus"].update(seed=0))
    assert load_packed(tmp_path / "carried").fingerprint == packed.fingerprint
    (tmp_path / "carried" / "added").touch()
    with pytest.raises(UserError, match=r"added does not belong there; remove the folder"):
        load_packed(tmp_path / "carried")
    relisted(tmp_path / "carried", lambda listing: listing.update(format=1))
    with pytest.raises(UserError, match=r"carried has format 1, not 2; remove the folder and pack again"):
        load_packed(tmp_path / "carried")


def test_a_folder_of_other_text_is_not_taken_for_what_was_asked_for(tmp_path: Path):
    ours, other = (pack(Babble(seed=seed), CONFIG, tmp_path).folder for seed in (0, 1))
    shutil.rmtree(ours)
    other.rename(ours)
    with pytest.raises(UserError, match=r"holds other text than was asked for; remove the folder"):
        pack(Babble(seed=0), CONFIG, tmp_path)


@pytest.mark.parametrize(
    ("split", "key", "message"),
    [
        ("train", "tokens", "train has another number of tokens"),
        ("valid", "tokens", "the documents of valid do not add up"),
        ("test", "documents", "the documents of test do not add up"),
        ("test", "bytes", "the documents of test do not add up"),
    ],
)
def test_sizes_that_are_not_those_of_the_files_are_refused(
    packed: PackedDataset, tmp_path: Path, split: str, key: str, message: str
):
    export(packed, tmp_path / "carried")

    def change(listing: dict[str, Any]) -> None:
        listing["fingerprint"]["splits"][split][key] += 1

    relisted(tmp_path / "carried", change)
    with pytest.raises(UserError, match=rf"carried is damaged \({message}.*\); remove") as caught:
        load_packed(tmp_path / "carried")
    assert "\n" not in str(caught.value)


def test_documents_of_two_sources_may_have_one_id_and_get_two(tmp_path: Path):
    class Twins(Babble):
        def documents(self, split: str) -> Iterator[Document]:
            for source in ("one", "two"):
                yield from (Document(d.text, source, d.id) for d in super().documents(split))

    ids = pack(Twins(), CONFIG, tmp_path).test.ids
    assert len(set(ids)) == len(ids) and "test3" in ids and "two/test3" in ids


def test_a_killed_packing_leaves_nothing_after_the_next(tmp_path: Path):
    code = (
        "import os, signal, sys; from pathlib import Path; from mhmoe.data.packing import pack;"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL);"
        "from tests.mhmoe.data.test_packing import CONFIG, Babble;"
        "pack(Babble(), CONFIG, Path(sys.argv[1]))"
    )
    assert program(code, tmp_path).wait().code == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
    folder = pack(Babble(seed=1), CONFIG, tmp_path).folder
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    "field", ["vocab_size", "max_train_tokens", "tokenizer_characters", "max_valid_tokens", "max_test_tokens"]
)
@pytest.mark.parametrize("value", [0, -1, 2.5, math.nan, True, "300", 10**400])
def test_a_packing_that_cannot_be_is_refused_by_name(field: str, value: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the type checks
    if value == 10**400 and field != "vocab_size":
        return
    with pytest.raises(ValueError, match=rf"^{field}=") as caught:
        PackingConfig(**vars(CONFIG) | {field: value})
    assert "\n" not in str(caught.value)


def test_an_empty_split_is_refused_and_leaves_nothing(tmp_path: Path):
    class NoTest(Babble):
        def documents(self, split: str) -> Iterator[Document]:
            yield from super().documents(split) if split != "test" else ()

    with pytest.raises(UserError, match="the test split of the corpus has no documents"):
        pack(NoTest(), CONFIG, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_that_breaks_off_leaves_nothing(tmp_path: Path):
    class Broken(Babble):
        def documents(self, split: str) -> Iterator[Document]:
            yield from super().documents(split)
            if split == "valid":
                raise UserError("line 3")

    with pytest.raises(UserError, match="line 3"):
        pack(Broken(), CONFIG, tmp_path)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from mhmoe.data.packing import pack
from mhmoe.io import UserError
from tests.commands import program
from tests.mhmoe.data.test_packing import CONFIG, Babble
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.RLIM_INFINITY))
try:
    pack(Babble(), CONFIG, Path(sys.argv[1]))
except UserError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_is_one_clear_line_and_leaves_nothing(tmp_path: Path):
    """A limit on the size of files stands in for the full disk: the system refuses the write."""
    done = program(FULL_DISK, tmp_path).wait()
    assert done.out.startswith("cannot write ") and len(done.out.splitlines()) == 1, done.err
    assert list(tmp_path.iterdir()) == []


def test_two_packings_at_once_leave_one_folder(tmp_path: Path):
    """One process finishes while the other still packs."""

    class Overtaken(Babble):
        def documents(self, split: str) -> Iterator[Document]:
            yield from super().documents(split)
            if split == "test" and not any(tmp_path.glob("[!.]*")):
                code = (
                    "import sys; from pathlib import Path; from mhmoe.data.packing import pack;"
                    "from tests.mhmoe.data.test_packing import CONFIG, Babble;"
                    "pack(Babble(), CONFIG, Path(sys.argv[1]))"
                )
                assert program(code, tmp_path).wait().code == 0

    pack(Overtaken(), CONFIG, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [pack(Babble(), CONFIG, tmp_path).folder.name]


# ---- evaluation windows ---------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 17))
def test_every_token_is_predicted_exactly_once_from_the_one_before_it(counts: list[int], length: int):
    evaluation = _evaluation_set(counts)
    inputs, targets, document = evaluation.windows(length)
    predicted = targets != IGNORE
    np.testing.assert_array_equal(targets[predicted], evaluation.tokens)  # all different, so each once
    np.testing.assert_array_equal(np.bincount(document, predicted.sum(1), len(counts)), counts)
    before = np.where(np.isin(targets - 1, evaluation.offsets), END_OF_TEXT_ID, targets - 1)
    np.testing.assert_array_equal(inputs[predicted], before[predicted])
    np.testing.assert_array_equal(inputs[~predicted], END_OF_TEXT_ID)


def test_windows_of_packed_text_predict_every_token_of_every_document(packed: PackedDataset):
    _, targets, document = packed.test.windows(32)
    for i in range(len(packed.test)):
        of_document = targets[document == i]
        tokens = of_document[of_document != IGNORE]
        text = packed.tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
        assert len(text.encode()) == packed.test.num_bytes[i]


# ---- the one data order ---------------------------------------------------------------------

TRAIN = np.arange(1001, dtype=np.uint16)  # 100 sequences of 10; a token tells its place


def test_an_epoch_sees_every_sequence_once_and_the_next_in_another_order():
    batches = TrainingBatches(TRAIN, length=10, batch_sequences=20, seed=0)
    first, second = (np.concatenate([batches.batch(s) for s in steps]) for steps in (range(5), range(5, 10)))
    for epoch in (first, second):
        np.testing.assert_array_equal(np.sort(epoch[:, 1:], axis=None), np.arange(1, 1001))
    assert not np.array_equal(first, second)


def test_a_sequence_is_a_window_of_the_text():
    sequences = TrainingBatches(TRAIN, length=10, batch_sequences=20, seed=0).batch(3)
    assert sequences.shape == (20, 11)
    assert sequences.dtype == np.int64
    np.testing.assert_array_equal(sequences - sequences[:, :1], np.tile(np.arange(11), (20, 1)))
    assert (sequences[:, 0] % 10 == 0).all()


@given(st.integers(1, 100), st.integers(1, 100))
def test_the_order_does_not_depend_on_the_batch_size(one: int, other: int):
    def sequences(size: int) -> NDArray[np.int64]:
        batches = TrainingBatches(TRAIN, length=10, batch_sequences=size, seed=7)
        return np.concatenate([batches.batch(step) for step in range(-(-250 // size))])[:250]

    np.testing.assert_array_equal(sequences(one), sequences(other))


def test_a_batch_is_a_function_of_seed_and_step():
    used = TrainingBatches(TRAIN, length=10, batch_sequences=30, seed=3)
    steps = [0, 9, 3, 4, 100, 3]
    for step in steps:
        fresh = TrainingBatches(TRAIN, length=10, batch_sequences=30, seed=3)
        np.testing.assert_array_equal(used.batch(step), fresh.batch(step))
    assert not np.array_equal(used.batch(0), TrainingBatches(TRAIN, 10, 30, seed=4).batch(0))


def test_the_order_of_seed_0_is_the_published_one():
    """Numbers that must not change with numpy or with us: records would no longer be comparable."""
    starts = TrainingBatches(TRAIN, length=10, batch_sequences=8, seed=0).batch(0)[:, 0]
    assert (starts // 10).tolist() == [13, 97, 16, 37, 21, 35, 55, 86]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_global_batch_in_order(world_size: int):
    batches = TrainingBatches(TRAIN, length=10, batch_sequences=60, seed=0)
    for step in (0, 1):  # the second straddles two epochs
        shares = [batches.batch(step, rank, world_size) for rank in range(world_size)]
        np.testing.assert_array_equal(np.concatenate(shares), batches.batch(step))


def test_a_batch_that_ranks_cannot_share_is_refused():
    batches = TrainingBatches(TRAIN, length=10, batch_sequences=20, seed=0)
    with pytest.raises(ValueError, match=r"batch_sequences=20 cannot be shared out .* world_size=3"):
        batches.batch(0, rank=0, world_size=3)


def test_text_shorter_than_one_batch_is_refused():
    with pytest.raises(ValueError, match=r"need 1011 tokens, the train split has 1001; pack more text"):
        TrainingBatches(TRAIN, length=10, batch_sequences=101, seed=0)
    TrainingBatches(TRAIN, length=10, batch_sequences=100, seed=0)


@pytest.mark.parametrize("field", ["length", "batch_sequences", "seed"])
def test_a_size_out_of_range_is_refused_by_name(field: str):
    with pytest.raises(ValueError, match=f"{field}=-1 is not allowed"):
        TrainingBatches(TRAIN, **{"length": 10, "batch_sequences": 2, "seed": 0} | {field: -1})
