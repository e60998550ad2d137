"""Languages come in smoothed proportions, in one order, and every document says which one it is in."""

import gzip
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhmoe.data.corpora import SPLITS, Corpus, Document
from mhmoe.data.multilingual import XNLI_LANGUAGES, MultilingualCorpus, language_of, smoothed
from mhmoe.data.packing import pack
from mhmoe.io import UserError
from mhmoe.training.evaluation import by_group, evaluate
from tests import tiny
from tests.mhmoe.data.test_corpora import write_file

DOCUMENTS = {"de": 120, "el": 25, "zh": 8}  # of "wiki" in train
LONGEST = 400


def _records(language: str, split: str) -> list[dict[str, Any]]:
    """Two documents of "wiki" to one of "courses"; elsewhere than in train a tenth of the documents."""
    draw = np.random.RandomState([*language.encode(), *split.encode()])
    count = DOCUMENTS[language] if split == "train" else 5
    letters = {"de": "aä ", "el": "αβ ", "zh": "中文"}[language]
    found = []
    for i in range(count * 3 // 2):
        text = "".join(draw.choice([*letters], draw.randint(50, LONGEST))) + f"{i}"
        found.append({"text": text, "source": "wiki" if i % 3 else "courses", "lang": language, "id": i})
    return found


def _write(folder: Path, language: str, split: str, records: Iterable[dict[str, Any]]) -> None:
    lines = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    write_file(folder, f"multilingual/{language}-{split}.jsonl.gz", lines)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for language in DOCUMENTS:
        for split in SPLITS:
            _write(tmp_path / "data", language, split, _records(language, split))
    return tmp_path / "data"


def _corpus(folder: Path, **changes: Any) -> MultilingualCorpus:
    arguments = {"path": folder, "languages": tuple(DOCUMENTS), "excluded_sources": ("courses",)}
    return MultilingualCorpus(**arguments | changes)


def _running(documents: Iterable[Document]) -> dict[str, np.ndarray]:
    """Characters of each language after each document."""
    found = {language: [0] for language in DOCUMENTS}
    for document in documents:
        for language, counts in found.items():
            counts.append(counts[-1] + len(document.text) * (language_of(document.id) == language))
    return {language: np.array(counts[1:]) for language, counts in found.items()}


# ---- proportions ----------------------------------------------------------------------------


def test_smoothing_is_that_of_xlm():
    assert smoothed({"en": 900, "sw": 100}, alpha=0.5) == pytest.approx({"en": 3 / 4, "sw": 1 / 4})
    assert smoothed({"en": 900, "sw": 100}, alpha=1.0) == pytest.approx({"en": 0.9, "sw": 0.1})
    assert smoothed({"en": 900, "sw": 100}, alpha=0.0) == pytest.approx({"en": 0.5, "sw": 0.5})


@given(st.dictionaries(st.text(), st.integers(1, 10**9), min_size=1), st.floats(0, 1))
def test_smoothed_shares_sum_to_one_and_depend_on_proportions_alone(sizes: dict[str, int], alpha: float):
    shares = smoothed(sizes, alpha)
    assert sum(shares.values()) == pytest.approx(1)
    assert smoothed({name: 7 * size for name, size in sizes.items()}, alpha) == pytest.approx(shares)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 1.0])
def test_every_beginning_of_train_has_the_smoothed_proportions(folder: Path, alpha: float):
    corpus = _corpus(folder, alpha=alpha)
    counts = {name: sum(len(d["text"]) for d in _records(name, "train") if d["source"] == "wiki") for name in DOCUMENTS}
    shares = smoothed(counts, alpha)
    running = _running(corpus.documents("train"))
    total = np.sum(list(running.values()), axis=0)
    for language, characters in running.items():
        deviation = np.abs(characters - shares[language] * total)
        assert deviation.max() <= (LONGEST + 3) * max(1, len(DOCUMENTS) * shares[language])
        assert characters[-1] / total[-1] == pytest.approx(shares[language], abs=0.03)


def test_train_ends_when_every_document_was_given_and_repeats_small_languages_alone(folder: Path):
    corpus = _corpus(folder)
    documents = list(corpus.documents("train"))
    times = Counter(d.id for d in documents)
    assert set(times) == {
        f"{name}/wiki/{d['id']}" for name in DOCUMENTS for d in _records(name, "train") if d["id"] % 3
    }
    assert {times[id_] for id_ in times if language_of(id_) == "de"} == {1}
    length = sum(len(d.text) for d in documents)
    for language, statistics in corpus.statistics().items():
        of_language = [n for id_, n in times.items() if language_of(id_) == language]
        assert max(of_language) - min(of_language) <= 1
        assert np.mean(of_language) == pytest.approx(statistics.passes(length), rel=0.2)
    assert min(n for id_, n in times.items() if language_of(id_) == "zh") > 1


def test_each_pass_over_a_language_has_an_order_of_its_own(folder: Path):
    given = [d.id for d in _corpus(folder, alpha=0.0).documents("train") if language_of(d.id) == "el"]
    size = len(set(given))
    passes = [given[start : start + size] for start in range(0, len(given) - size + 1, size)]
    assert len(passes) > 2
    assert all(set(order) == set(passes[0]) for order in passes)
    assert len({tuple(order) for order in passes}) == len(passes)


def test_statistics_count_what_is_read(folder: Path):
    found = _corpus(folder, excluded_sources=()).statistics()
    assert sum(s.share for s in found.values()) == pytest.approx(1) == sum(s.sampled for s in found.values())
    for language, statistics in found.items():
        records = _records(language, "train")
        assert statistics.documents == len(records)
        for source in ("wiki", "courses"):
            assert statistics.by_source[source] == sum(len(r["text"]) for r in records if r["source"] == source)
        assert statistics.characters == sum(statistics.by_source.values())
        assert statistics.passes(round(statistics.characters / statistics.sampled)) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_every_beginning_of_an_evaluation_split_has_as_much_of_each_language(folder: Path, split: str):
    documents = list(_corpus(folder, piece_characters=100).documents(split))
    assert len(documents) == len({d.id for d in documents})
    running = np.stack(list(_running(documents).values()))
    assert (running.max(axis=0) - running.min(axis=0)).max() <= 100
    wanted = {name: sum(len(r["text"]) for r in _records(name, split) if r["id"] % 3) for name in DOCUMENTS}
    assert running[:, -1].min() == min(wanted.values())


# ---- the documents --------------------------------------------------------------------------


def test_source_and_id_begin_with_the_language(folder: Path):
    for split in SPLITS:
        written = {name: _records(name, split) for name in DOCUMENTS}
        for document in _corpus(folder, excluded_sources=()).documents(split):
            language, source, number = document.id.split("/")
            assert document.source == f"{language}/{source}"
            record = written[language][int(number)]
            assert (record["text"], record["source"]) == (document.text, source)


@pytest.mark.parametrize("document_id", ["", "17", "de/17", "/wiki/17"])
def test_an_id_without_a_language_is_refused(document_id: str):
    with pytest.raises(ValueError, match=f"document id '{document_id}' names no language"):
        language_of(document_id)


@pytest.mark.parametrize("size", [1, 7, 80])
def test_the_pieces_of_a_long_document_make_up_its_text(tmp_path: Path, size: int):
    text = "Ein Satz. Noch ein Satz.\nUnd eine lange Zeile, die nicht endet.\n" + "中" * 150 + "\n\n"
    for split in SPLITS:
        _write(tmp_path, "de", split, [{"text": text, "source": "wiki", "id": "a"}])
    corpus = _corpus(tmp_path, languages=("de",), piece_characters=size)
    pieces = {int(d.id.removeprefix("de/wiki/a/")): d.text for d in corpus.documents("test")}
    assert all(len(piece) <= size for piece in pieces.values())
    found = "".join(piece for _, piece in sorted(pieces.items()))
    assert "".join(found.split()) == "".join(text.split())
    if size == 80:
        assert found == text and pieces[0].endswith("\n")
    assert [d.text for d in corpus.documents("train")] == [text]


def test_an_excluded_source_is_in_no_split(folder: Path):
    for split in SPLITS:
        everything = Counter(d.source for d in _corpus(folder, excluded_sources=()).documents(split))
        assert {"de/courses", "el/courses", "zh/courses"} <= set(everything)
        kept = {d.source for d in _corpus(folder).documents(split)}
        assert kept == {f"{language}/wiki" for language in DOCUMENTS}


def test_blank_documents_are_left_out(folder: Path):
    records = [{"text": "", "source": "wiki"}, {"text": " \n", "source": "wiki"}, *_records("zh", "train")]
    _write(folder, "zh", "train", records)
    assert all(d.text.strip() for d in _corpus(folder).documents("train"))


def test_the_order_is_always_the_same_and_knows_no_global_seed(folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    for split in SPLITS:
        order = list(_corpus(folder).documents(split))
        random.seed(1)
        assert list(_corpus(tmp_path / "elsewhere", languages=("zh", "de", "el")).documents(split)) == order
        assert list(_corpus(folder, order_seed=1).documents(split)) != order


def test_the_languages_are_those_of_xnli_without_arabic(folder: Path):
    assert len(set(XNLI_LANGUAGES)) == 14 and "ar" not in XNLI_LANGUAGES
    with pytest.raises(UserError, match=r"bg-train.jsonl.gz is missing"):
        next(MultilingualCorpus(path=folder).documents("train"))


# ---- packed and evaluated -------------------------------------------------------------------


def test_figures_of_each_language_follow_from_the_documents_of_an_evaluation(folder: Path, tmp_path: Path):
    text = pack(_corpus(folder), tiny.PACKING, tmp_path / "cache")
    assert text.fingerprint["corpus"] == _corpus(folder).fingerprint()
    assert [language_of(id_) for id_ in text.test.ids] == [source[:2] for source in text.test.sources]
    evaluation = evaluate(tiny.model("dense"), text.test, 16)
    languages = by_group(evaluation["documents"])
    assert list(languages) == sorted(DOCUMENTS)
    for language, figures in languages.items():
        rows = [d for d in evaluation["documents"] if d["id"].startswith(f"{language}/")]
        nll, tokens, size = (sum(row[name] for row in rows) for name in ("nll", "tokens", "bytes"))
        assert figures["perplexity"] == pytest.approx(np.exp(nll / tokens))
        assert figures["bits_per_byte"] == pytest.approx(nll / np.log(2) / size)
        assert figures["documents"] == len(rows) > 1
    whole = {**evaluation, "documents": len(evaluation["documents"])}
    for name in ("tokens", "bytes", "documents"):
        assert sum(figures[name] for figures in languages.values()) == whole[name]


# ---- fingerprint ----------------------------------------------------------------------------


def test_the_fingerprint_knows_what_is_read_and_not_where_it_lies(folder: Path, tmp_path: Path):
    before = _corpus(folder).fingerprint()
    assert before == json.loads(json.dumps(before))
    assert before["excluded_sources"] == ["courses"] and before["alpha"] == 0.7
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert _corpus(tmp_path / "elsewhere", languages=("zh", "el", "de")).fingerprint() == before
    _write(folder, "el", "test", _records("el", "valid"))
    assert _corpus(folder).fingerprint() != before


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0.5},
        {"excluded_sources": ()},
        {"languages": ("de", "el")},
        {"order_seed": 1},
        {"piece_characters": 1000},
        {"word_pattern": r"\S+|\s+"},
    ],
    ids=str,
)
def test_whatever_changes_the_text_changes_the_fingerprint(folder: Path, change: dict[str, Any]):
    assert _corpus(folder, **change).fingerprint() != _corpus(folder).fingerprint()


# ---- what is refused ------------------------------------------------------------------------


def _uses(folder: Path) -> list[Any]:
    corpus: Corpus = _corpus(folder)
    return [corpus.fingerprint, lambda: list(corpus.documents("train"))]


def test_a_missing_language_is_named(folder: Path):
    (folder / "multilingual/el-train.jsonl.gz").unlink()
    for use in _uses(folder):
        with pytest.raises(UserError, match=r"multilingual/el-train\.jsonl\.gz is missing; fetch it again") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_corrupt_line_is_named(folder: Path):
    good = json.dumps(_records("de", "train")[0]).encode()
    (folder / "multilingual/de-train.jsonl.gz").write_bytes(gzip.compress(good + b"\n{\n"))
    for use in _uses(folder):
        with pytest.raises(UserError, match=r"de-train\.jsonl\.gz, line 2, .*fetch the file again") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_changed_file_is_refused(folder: Path):
    shutil.copy(folder / "multilingual/zh-test.jsonl.gz", folder / "multilingual/zh-train.jsonl.gz")
    for use in _uses(folder):
        with pytest.raises(UserError, match=r"zh-train.* sha256 is not the one in manifest"):
            use()


def test_a_language_of_which_nothing_is_left_is_named(folder: Path):
    with pytest.raises(UserError, match=r"de-train\.jsonl\.gz has no text outside excluded_sources="):
        next(_corpus(folder, excluded_sources=("wiki", "courses")).documents("train"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("languages", ()),
        ("languages", ("de", "de")),
        ("excluded_sources", ("a", "a")),
        ("alpha", -0.1),
        ("alpha", 1.5),
        ("alpha", float("nan")),
        ("piece_characters", 0),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any):
    with pytest.raises(ValueError, match=rf"^(multilingual\.)?{name}="):
        MultilingualCorpus(**{name: value})
