"""Text comes in the same order each time, splits share nothing, and damage is named."""

import ast
import gzip
import hashlib
import importlib.util
import json
import shutil
import sysconfig
from pathlib import Path

import pytest

from mhmoe.data.corpora import SPLITS, Corpus, Document, HubCorpus, LocalCorpus
from mhmoe.data.embedded import EmbeddedCorpus
from mhmoe.data.partly_synthetic import PartlyGeneratedCorpus
from mhmoe.data.synthetic import GeneratedCorpus
from mhmoe.io import UserError

SETS = {"letters": 12, "numbers": 30}


def write_file(folder: Path, name: str, raw: bytes) -> None:
    """A packed file, and its hash in the manifest."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw, mtime=0))
    manifest = folder / "manifest.json"
    files = json.loads(manifest.read_text())["files"] if manifest.exists() else []
    files = [entry for entry in files if entry["file"] != name]
    files.append({"file": name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    manifest.write_text(json.dumps({"files": files}))


def _lines(name: str, split: str, count: int) -> bytes:
    records = [{"text": f"{name} {split} text {i}\nä", "source": name, "id": f"{split}{i}"} for i in range(count)]
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, count in SETS.items():
        for split in SPLITS:
            write_file(tmp_path, f"english/{name}-{split}.jsonl.gz", _lines(name, split, count))
    return tmp_path


def _local(folder: Path, **changes: object) -> LocalCorpus:
    return LocalCorpus(**{"path": folder, "sets": tuple(SETS)} | changes)  # pyright: ignore[reportArgumentType]


# ---- embedded -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded() -> EmbeddedCorpus:
    return EmbeddedCorpus(max_characters=1_000_000)


def test_embedded_splits_share_no_module_and_no_docstring(embedded: EmbeddedCorpus):
    modules = {split: {d.id for d in embedded.documents(split)} for split in SPLITS}
    assert all(modules.values())
    assert sum(map(len, modules.values())) == len(set.union(*modules.values()))
    texts = [d.text for split in SPLITS for d in embedded.documents(split)]
    assert len(texts) == len(set(texts))


def test_embedded_text_stands_in_the_source_files_as_documentation(embedded: EmbeddedCorpus):
    document = next(d for d in embedded.documents("train") if d.source == "python")
    path = Path(sysconfig.get_paths()["stdlib"], document.id.removeprefix("python/"))
    strings = [
        ast.get_docstring(node) or ""
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    for paragraph in document.text.split("\n\n"):
        assert any(paragraph in string for string in strings)
        assert not paragraph.lstrip().startswith(">>>")


def test_embedded_text_stops_after_the_module_that_reaches_the_limit(embedded: EmbeddedCorpus):
    lengths = [len(d.text) for split in SPLITS for d in embedded.documents(split)]
    assert 1_000_000 <= sum(lengths) < 1_000_000 + max(lengths)


def test_less_embedded_text_is_the_beginning_of_more(embedded: EmbeddedCorpus):
    more = EmbeddedCorpus(max_characters=1_200_000)
    for split in SPLITS:
        few, many = list(embedded.documents(split)), list(more.documents(split))
        assert many[: len(few)] == few
    assert more.fingerprint()["sha256"] != embedded.fingerprint()["sha256"]


def test_embedded_modules_are_nine_tenths_train(embedded: EmbeddedCorpus):
    counts = [len(list(embedded.documents(split))) for split in SPLITS]
    assert 0.8 < counts[0] / sum(counts) < 0.97


def test_too_little_embedded_text_for_three_splits_is_refused():
    with pytest.raises(UserError, match=r"max_characters=1000 leaves the .* split empty"):
        EmbeddedCorpus(max_characters=1000).fingerprint()


def test_prose_and_generated_text_have_equal_parts(embedded: EmbeddedCorpus):
    generated = GeneratedCorpus(languages=2, documents_per_split=40, train_factor=2)
    corpus = PartlyGeneratedCorpus(embedded=embedded, generated=generated)
    of_prose, of_made = ([d for d in c.documents("train") if d.source != "language1"] for c in (embedded, generated))
    documents = list(corpus.documents("train"))
    made = [d for d in documents if d.source == "language0"]
    prose = [d for d in documents if d.source != "language0"]
    assert made == of_made[: len(made)] and prose == of_prose[: len(prose)] and (len(made), len(prose)) > (9, 9)
    characters = [sum(len(d.text) for d in part) for part in (made, prose)]
    assert abs(characters[0] - characters[1]) <= max(len(d.text) for d in documents)
    assert corpus.fingerprint()["generated"] == generated.fingerprint()


# ---- local ----------------------------------------------------------------------------------


def test_local_documents_are_those_of_the_files(folder: Path):
    for split in SPLITS:
        documents = list(_local(folder).documents(split))
        assert len(documents) == len(set(documents)) == sum(SETS.values())
        assert Document(f"numbers {split} text 7\nä", "numbers", f"{split}7") in documents


def test_local_sets_are_mixed_and_always_in_the_same_order(folder: Path):
    corpus = _local(folder)
    order = list(corpus.documents("train"))
    assert order == list(corpus.documents("train"))
    assert order == list(_local(folder, sets=tuple(reversed(SETS))).documents("train"))
    assert order != list(_local(folder, order_seed=1).documents("train"))
    assert {d.source for d in order[:14]} == set(SETS)
    assert {d.source for d in order[-14:]} == set(SETS)


def test_local_fingerprint_knows_the_bytes_and_not_the_place(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    before = _local(folder).fingerprint()
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "data"
    shutil.copytree(folder, elsewhere)
    assert _local(elsewhere).fingerprint() == before == json.loads(json.dumps(before))
    assert _local(folder, order_seed=1).fingerprint() != before
    write_file(folder, "english/letters-test.jsonl.gz", _lines("letters", "other", 3))
    assert _local(folder).fingerprint() != before


def test_the_environment_variable_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MHMOE_DATA", str(folder))
    corpus = LocalCorpus(sets=("letters",))
    assert len(list(corpus.documents("valid"))) == SETS["letters"]


def test_source_and_id_default_to_set_and_line(tmp_path: Path):
    write_file(tmp_path, "many/de-train.jsonl.gz", b'{"text": "eins"}\n\n{"text": "drei"}\n')
    corpus = LocalCorpus(path=tmp_path, subfolder="many", sets=("de",))
    documents = sorted(corpus.documents("train"), key=lambda d: d.id)
    assert documents == [Document("eins", "de", "1"), Document("drei", "de", "3")]


def test_no_data_folder_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("MHMOE_DATA", raising=False)
    with pytest.raises(UserError, match="set MHMOE_DATA"):
        next(LocalCorpus().documents("train"))
    with pytest.raises(UserError, match=r"absent has no manifest.json"):
        next(LocalCorpus(path=tmp_path / "absent").documents("train"))


def test_a_missing_set_is_named(folder: Path):
    with pytest.raises(UserError, match=r"english/poems-train\.jsonl\.gz is missing"):
        next(_local(folder, sets=("poems",)).documents("train"))


def test_a_file_that_the_manifest_does_not_list_is_refused(folder: Path):
    shutil.copy(folder / "english/letters-train.jsonl.gz", folder / "english/new-train.jsonl.gz")
    with pytest.raises(UserError, match=r"new-train.* is not listed"):
        next(_local(folder, sets=("new",)).documents("train"))


@pytest.mark.parametrize(
    "line", [b"{", b'{"text": 3}', b'{"txt": "a"}', b"[]", b'{"text": "\xff"}', b'{"text": "\\ud800"}']
)
@pytest.mark.parametrize("listed", [True, False], ids=["hash right", "hash wrong"])
def test_a_corrupt_line_is_named_by_file_and_number(folder: Path, line: bytes, listed: bool):
    name = "english/letters-valid.jsonl.gz"
    good = _lines("letters", "valid", 2)
    if listed:
        write_file(folder, name, good + line + b"\n" + good)
    else:
        (folder / name).write_bytes(gzip.compress(good + line + b"\n" + good))
    with pytest.raises(UserError, match=r"letters-valid\.jsonl\.gz, line 3, .*fetch") as caught:
        list(_local(folder).documents("valid"))
    assert "\n" not in str(caught.value)


def test_a_changed_file_is_refused(folder: Path):
    (folder / "english/letters-test.jsonl.gz").write_bytes(gzip.compress(_lines("letters", "other", 5)))
    for use in (_local(folder).fingerprint, lambda: list(_local(folder).documents("test"))):
        with pytest.raises(UserError, match=r"letters-test.* sha256 is not the one in manifest"):
            use()


def test_a_file_cut_short_is_refused(folder: Path):
    path = folder / "english/numbers-train.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    for use in (_local(folder).fingerprint, lambda: list(_local(folder).documents("train"))):
        with pytest.raises(UserError, match=r"numbers-train.* is damaged") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_broken_manifest_is_one_clear_line(folder: Path):
    for broken in ("{", "[]", '{"files": [{"file": "a"}]}'):
        (folder / "manifest.json").write_text(broken)
        with pytest.raises(UserError, match=r"manifest.json is not a manifest"):
            _local(folder).fingerprint()


@pytest.mark.parametrize("sets", [(), ("a", "a")])
def test_sets_are_named_once_each(sets: tuple[str, ...]):
    with pytest.raises(ValueError, match="sets="):
        LocalCorpus(sets=sets)


# ---- hub ------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("revision", ["", "main", COMMIT[:8]])
def test_a_hub_corpus_without_a_pinned_commit_is_refused(revision: str):
    with pytest.raises(ValueError, match=r"does not pin DKYoon/SlimPajama-6B; give the 40 hex digits"):
        HubCorpus(revision=revision)


needs_datasets = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="datasets is not installed")


@needs_datasets
@pytest.mark.filterwarnings("ignore")  # of datasets and what it imports
def test_a_hub_corpus_reads_the_rows_that_have_text(tmp_path: Path):
    for name in ("train", "validation", "test"):
        rows = [{"content": f"{name} one"}, {"content": " \n"}, {"content": f"{name} two"}]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = HubCorpus(dataset=str(tmp_path), revision=COMMIT, text_column="content")
    assert [(d.text, d.id) for d in corpus.documents("valid")] == [
        ("validation one", "validation/0"),
        ("validation two", "validation/2"),
    ]
    with pytest.raises(UserError, match=r"no text in column 'text'; it has \['content'\]"):
        next(HubCorpus(dataset=str(tmp_path), revision=COMMIT).documents("train"))


@needs_datasets
@pytest.mark.filterwarnings("ignore")
def test_a_hub_data_set_that_cannot_be_read_is_one_clear_line(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot read .*absent, split train: ") as caught:
        next(HubCorpus(dataset=str(tmp_path / "absent"), revision=COMMIT).documents("train"))
    assert "\n" not in str(caught.value)


def test_a_hub_fingerprint_has_the_revision():
    assert HubCorpus(revision=COMMIT).fingerprint()["revision"] == COMMIT


# ---- all ------------------------------------------------------------------------------------


@pytest.mark.parametrize("corpus", [EmbeddedCorpus(), LocalCorpus(), HubCorpus(revision=COMMIT)], ids=lambda c: c.kind)
def test_an_unknown_split_is_refused_by_name(corpus: Corpus):
    with pytest.raises(ValueError, match="split='validation' is not known; choose one of train, valid, test"):
        next(corpus.documents("validation"))
