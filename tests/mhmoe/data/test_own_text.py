"""Text of one's own: every document is in one split, which its words alone decide, and what is no text is named."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mhmoe.data.corpora import SPLITS
from mhmoe.data.named import text_named
from mhmoe.data.own_text import LONGEST, OwnText
from mhmoe.data.packing import PackingConfig, load_packed, pack
from mhmoe.data.tokenizer import as_transformers, given_tokenizer, losses, train_tokenizer
from mhmoe.io import UserError
from tests.hub import COMMIT, hub

TEXTS = [f"Text {n} has {n * n} words, or {n % 7}." for n in range(60)]


def documents(text: OwnText) -> dict[str, list[str]]:
    return {split: [document.text for document in text.documents(split)] for split in SPLITS}


def write_lines(path: Path, texts: list[str]) -> Path:
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_every_document_is_in_one_split_and_equal_ones_are_in_the_same(tmp_path: Path) -> None:
    found = documents(OwnText.of(write_lines(tmp_path / "a.jsonl", TEXTS * 3)))
    assert sorted(text for part in found.values() for text in part) == sorted(TEXTS * 3)
    assert all(part.count(text) == 3 for part in found.values() for text in part)
    assert 3 <= len(set(found["valid"])) <= 6 and 3 <= len(set(found["test"])) <= 6


def test_the_share_of_test_that_was_read_in_training_is_counted_by_paragraphs(tmp_path: Path) -> None:
    own = [f"{n} " * 150 for n in range(300)]
    for texts, read in ((own, False), ([*own, *reversed(own)], True)):
        (tmp_path / "text.txt").write_text("\n\n".join(texts))
        assert (OwnText.of(tmp_path / "text.txt").repeated() > 0.8) is read
    assert OwnText.of(write_lines(tmp_path / "again.jsonl", own * 2)).repeated() == 0


def test_the_words_alone_decide_the_split(tmp_path: Path) -> None:
    first = OwnText.of(write_lines(tmp_path / "a.jsonl", TEXTS))
    second = OwnText.of(write_lines(tmp_path / "b.jsonl.gz", TEXTS[::-1]))
    assert documents(first) == documents(second)
    assert first.fingerprint() != second.fingerprint()
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "picture.png").write_bytes(b"\x89PNG")
    write_lines(tmp_path / "folder" / "deep" / "a.jsonl", TEXTS[:40])
    for n, text in enumerate(TEXTS[40:]):
        (tmp_path / "folder" / f"{n}.txt").write_text(text)
    assert documents(OwnText.of(tmp_path / "folder")) == documents(first)


@pytest.mark.parametrize("between", ["\n\n", "\n", " ", "x"])
def test_a_long_text_is_cut_where_it_has_a_break_and_nothing_is_lost(tmp_path: Path, between: str) -> None:
    sentences = [f"s{n}" + f"{between if between == 'x' else ' '}w" * 30 for n in range(1000)]
    (tmp_path / "book.txt").write_text(between.join(sentences))
    text = OwnText.of(tmp_path / "book.txt")
    pieces = sorted((d for split in SPLITS for d in text.documents(split)), key=lambda d: int(d.id.split(":")[1]))
    assert max(len(piece.text) for piece in pieces) <= LONGEST and len(pieces) < 40
    assert "".join("".join(p.text.split()) for p in pieces) == "".join(between.join(sentences).split())
    if between != "x":
        assert all(piece.text.split()[0].startswith("s") or between == " " for piece in pieces)


def test_a_saved_data_set_keeps_its_splits_or_gets_ours(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": TEXTS})
    rows.save_to_disk(str(tmp_path / "rows"))
    assert documents(OwnText.of(tmp_path / "rows")) == documents(OwnText.of(write_lines(tmp_path / "a.jsonl", TEXTS)))
    parts: Any = {"train": rows.select(range(50)), "validation": rows.select([50]), "test": rows.select(range(51, 60))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "parts"))
    assert documents(OwnText.of(tmp_path / "parts")) == {
        "train": TEXTS[:50],
        "valid": TEXTS[50:51],
        "test": TEXTS[51:],
    }
    rows.rename_column("text", "content").save_to_disk(str(tmp_path / "other"))
    with pytest.raises(UserError, match="has no column text in train; it has content"):
        OwnText.of(tmp_path / "other")


def test_a_data_set_with_a_test_split_alone_keeps_it_and_valid_is_of_its_train(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": TEXTS})
    for theirs, ours in (("test", "test"), ("validation", "valid")):
        parts: Any = {"train": rows.select(range(40)), theirs: rows.select(range(40, 60))}
        datasets.DatasetDict(parts).save_to_disk(str(tmp_path / theirs))
        found = OwnText.of(tmp_path / theirs)
        (cut,) = {"valid", "test"} - {ours}
        assert documents(found)[ours] == TEXTS[40:] and found.fingerprint()["kept"] == [ours]
        assert len(documents(found)[cut]) in (2, 3)
        assert sorted(documents(found)["train"] + documents(found)[cut]) == sorted(TEXTS[:40])
    datasets.Dataset.from_dict({"text": [1, 2, 3]}).save_to_disk(str(tmp_path / "numbers"))
    with pytest.raises(UserError, match="has no text in row 1 of train: its column text has other values"):
        OwnText.of(tmp_path / "numbers")


def test_one_document_that_is_most_of_the_text_is_trained_on(tmp_path: Path) -> None:
    longest = "long " * 5000
    found = documents(OwnText.of(write_lines(tmp_path / "a.jsonl", [*TEXTS[:30], longest])))
    assert longest in found["train"] and len(found["valid"]) == len(found["test"]) == 2
    assert sorted(text for part in found.values() for text in part) == sorted([*TEXTS[:30], longest])
    three = documents(OwnText.of(write_lines(tmp_path / "b.jsonl", ["a", longest, "bb"])))
    assert three["train"] == [longest] and len(three["valid"]) == len(three["test"]) == 1


def test_a_document_of_half_the_text_is_trained_on_wherever_its_hash_stands(tmp_path: Path) -> None:
    texts = [f"document {number} of many" for number in range(300)]
    for number in range(5):
        longest = f"{number} " * 4000
        (tmp_path / "my.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, longest]))
        splits = OwnText.of(tmp_path / "my.jsonl").splits
        assert longest in [document.text for document in splits["train"]]
        held_out = [sum(len(document.text) for document in splits[split]) for split in ("valid", "test")]
        assert all(0 < size <= 0.1 * (len("".join(texts)) + len(longest)) for size in held_out)


def test_a_text_that_is_wanted_whole_is_not_divided(tmp_path: Path) -> None:
    whole = OwnText.of(write_lines(tmp_path / "a.jsonl", ["one", "two", "one"]), whole=True)
    assert documents(whole) == {"train": [], "valid": [], "test": ["one", "two", "one"]}


def test_names_of_files_may_be_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write_lines(tmp_path / "folder" / "A.JSONL", TEXTS[:40])
    (tmp_path / "folder" / "B.TXT").write_text(TEXTS[40])
    assert sorted(t for part in documents(OwnText.of(tmp_path / "folder")).values() for t in part) == sorted(TEXTS[:41])


def test_a_name_of_a_file_may_be_of_any_bytes(tmp_path: Path) -> None:
    try:
        write_lines(tmp_path / "caf\udce9.jsonl", TEXTS)
    except OSError:
        pytest.skip("this file system has names in UTF-8 alone")
    text = OwnText.of(tmp_path)
    assert list(text.files) == ["caf\\udce9.jsonl"]
    json.dumps([text.fingerprint(), [d.id for d in text.documents("train")]], ensure_ascii=False).encode()


def test_linked_folders_are_read_once_and_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for place in (folder, elsewhere / "deep"):
        place.mkdir(parents=True)
    write_lines(folder / "a.jsonl", TEXTS[:40])
    write_lines(elsewhere / "deep" / "b.jsonl", TEXTS[40:])
    for link, target in {
        "linked": elsewhere,
        "linked-again": elsewhere / "deep",
        "loop": folder,
        ".x": tmp_path,
    }.items():
        (folder / link).symlink_to(target)
    (elsewhere / "deep" / "up").symlink_to(elsewhere)
    found = OwnText.of(folder)
    assert list(found.files) == ["a.jsonl", "linked/deep/b.jsonl"]
    assert documents(found) == documents(OwnText.of(write_lines(tmp_path / "all.jsonl", TEXTS)))
    (folder / "picture.png").symlink_to("gone")
    assert OwnText.of(folder).files == found.files
    (folder / "gone.txt").symlink_to("gone")
    with pytest.raises(UserError, match=r"folder/gone\.txt is a link that leads nowhere; mend it, or remove it"):
        OwnText.of(folder)


def test_two_documents_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 2 different documents, and train, valid and test need one each"):
        OwnText.of(write_lines(tmp_path / "a.jsonl", ["one", "two", "one"]))


def test_a_data_set_of_the_hub_must_be_pinned() -> None:
    found = text_named(f"owner/name:part@{'0' * 40}").fingerprint
    assert callable(found) and found() | {"dataset": "owner/name", "name": "part", "revision": "0" * 40} == found()
    with pytest.raises(UserError, match="if it is a data set of the hub, pin it: owner/name@REVISION"):
        text_named("owner/name")
    with pytest.raises(ValueError, match="revision='main' does not pin owner/name"):
        text_named("owner/name@main")


def test_a_data_set_of_the_hub_is_streamed_at_its_commit(tmp_path: Path) -> None:
    rows = {split: [{"text": f"{split} one"}, {"text": " "}] for split in ("train", "validation", "test")}
    code = "import sys; from mhmoe.data.named import text_named as of\n"  # one process: the hub is read at its import
    code += "for name in sys.argv[1:]: print([*of(name).documents('valid')], flush=True)"
    with hub({"owner/texts": {"part": rows}}) as found:
        ended = subprocess.run(
            [sys.executable, "-c", code, *(f"owner/texts:part@{commit}" for commit in (COMMIT, "0" * 40))],
            env={**os.environ, **found, "HF_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert ended.stdout == "[Document(text='validation one', source='owner/texts', id='validation/0')]\n"
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("mhmoe.io.UserError: cannot read owner/texts, split validation: ")


# ---- a given tokenizer ------------------------------------------------------------------------


def test_a_tokenizer_that_loses_some_of_a_text_is_told_of() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "word": 1, "<unk>": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    assert losses(words, ["a word", " a word\n"]) == ""
    assert losses(words, ["a word", "a  word", "a\nword"]).startswith(
        "the tokenizer does not give back 2 of 3 documents"
    )
    assert losses(words, ["a word", "another word", "a Word"]).startswith("the tokenizer does not give back 2 of 3 doc")
    assert losses(train_tokenizer(TEXTS, 300), ["Ein Satz,  with \u0e2a\u0e27\u0e31 and \U0001f600\n"]) == ""


def test_a_text_in_given_symbols_has_their_end_of_text_and_no_other_sign(tmp_path: Path) -> None:
    learned = train_tokenizer(TEXTS, 300)
    learned.add_special_tokens(["<end>", "<begin>"])
    theirs = PreTrainedTokenizerFast(tokenizer_object=learned, eos_token="<end>", bos_token="<begin>")
    theirs.save_pretrained(tmp_path / "theirs")
    given = given_tokenizer(str(tmp_path / "theirs"))
    end = learned.token_to_id("<end>") or 0
    assert given.end_of_text == end and given.size == learned.get_vocab_size() > end > 0

    corpus = OwnText.of(write_lines(tmp_path / "a.jsonl", [*TEXTS, "a <end> in words"]))
    config = PackingConfig(vocab_size=given.size, max_train_tokens=10**6)
    packed = load_packed(pack(corpus, config, tmp_path / "packed", given).folder)
    train = list(corpus.documents("train"))
    assert (packed.train == end).sum() == len(train) and packed.train[0] == end == packed.end_of_text
    pieces = np.split(packed.train, np.flatnonzero(packed.train == end))[1:]
    assert [packed.tokenizer.decode(piece[1:].tolist()) for piece in pieces] == [d.text for d in train]
    assert set(packed.test.windows(16)[0][:, 0].tolist()) >= {end}
    assert pack(corpus, PackingConfig(vocab_size=given.size, max_train_tokens=10**6), tmp_path / "packed").folder != (
        packed.folder
    )

    as_transformers(packed.tokenizer, end).save_pretrained(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved.eos_token_id == saved.bos_token_id == end
    assert saved("Text 1").input_ids == learned.encode("Text 1", add_special_tokens=False).ids


def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path) -> None:
    as_transformers(train_tokenizer(TEXTS, 300)).save_pretrained(tmp_path / "theirs")
    given = given_tokenizer(str(tmp_path / "theirs"))
    corpus = OwnText.of(write_lines(tmp_path / "a.jsonl", TEXTS))
    with pytest.raises(UserError, match=rf"^vocab_size=512 is not that of the given tokenizer, {given.size}; leave"):
        pack(corpus, PackingConfig(vocab_size=512, max_train_tokens=100), tmp_path / "packed", given)
