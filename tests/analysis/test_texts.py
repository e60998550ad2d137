"""Perplexity on a text of a data folder is that of the same text as a split."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from analysis.texts import measure_texts
from mhmoe.data.batches import EvaluationSet
from mhmoe.data.manifest import DataFolder
from mhmoe.data.packing import PackedDataset
from mhmoe.io import UserError
from mhmoe.training.evaluation import evaluate
from tests import tiny


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return tiny.text(tmp_path_factory.mktemp("packed"))


def folder(place: Path, **files: list[str]) -> DataFolder:
    listed: list[dict[str, str]] = []
    for name, documents in files.items():
        content = gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in documents).encode(), mtime=0)
        (place / f"{name}.jsonl.gz").write_bytes(content)
        listed.append({"file": f"{name}.jsonl.gz", "sha256": hashlib.sha256(content).hexdigest()})
    (place / "manifest.json").write_text(json.dumps({"files": listed}))
    return DataFolder.at(place)


def test_the_loss_is_that_of_the_split_with_the_same_documents(text: PackedDataset, tmp_path: Path) -> None:
    documents = [document.text for document in tiny.ZipfText().documents("test")]
    data = folder(tmp_path, first=documents[:25], second=documents[25:])
    model = tiny.model("xmoe", max_position_embeddings=16)
    both = ["first.jsonl.gz", "second.jsonl.gz"]
    found = measure_texts(model, text.tokenizer, data, {"all": both, "one": both[:1]}, max_windows=10**6)
    split = evaluate(model, text.test, 16)
    assert found.texts["all"].nll_per_token == pytest.approx(split["nll_per_token"])
    assert found.texts["all"].bits_per_byte == pytest.approx(split["bits_per_byte"])
    assert found.texts["all"].perplexity == pytest.approx(split["perplexity"])
    assert (found.texts["all"].tokens, found.texts["all"].documents) == (split["tokens"], len(documents))
    assert found.texts["one"].documents == 25 and found.texts["one"].tokens < split["tokens"]
    assert found.data is not None and found.data.files == dict(data.sha256)


def test_a_text_is_read_behind_the_models_own_end_of_text(text: PackedDataset, tmp_path: Path) -> None:
    documents = [document.text for document in tiny.ZipfText().documents("test")]
    data = folder(tmp_path, all=documents)
    model = tiny.model("xmoe", max_position_embeddings=16, eos_token_id=5)
    ids = [text.tokenizer.encode(document, add_special_tokens=False).ids for document in documents]
    losses = {end: evaluate(model, EvaluationSet.of(ids, end_of_text=end), 16)["nll_per_token"] for end in (0, 5)}
    found = measure_texts(model, text.tokenizer, data, {"all": ["all.jsonl.gz"]}, max_windows=10**6).texts["all"]
    assert found.nll_per_token == pytest.approx(losses[5]) != pytest.approx(losses[0])


def test_of_a_long_text_windows_from_all_over_it_are_read(text: PackedDataset, tmp_path: Path) -> None:
    data = folder(tmp_path, long=[document.text for document in tiny.ZipfText().documents("test")])
    model = tiny.model("xmoe", max_position_embeddings=16)
    found = measure_texts(model, text.tokenizer, data, {"long": ["long.jsonl.gz"]}, max_windows=5).texts["long"]
    assert 5 < found.tokens <= 5 * 16 and found.documents == 5


def test_a_text_without_documents_is_refused_by_name(text: PackedDataset, tmp_path: Path) -> None:
    data = folder(tmp_path, empty=[""])
    with pytest.raises(UserError, match=r"the text nothing has no documents in empty\.jsonl\.gz"):
        measure_texts(tiny.model("dense"), text.tokenizer, data, {"nothing": ["empty.jsonl.gz"]}, max_windows=5)
