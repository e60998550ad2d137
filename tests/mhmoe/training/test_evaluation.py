"""Perplexity is that of a plain loop over documents: every token once, from what stands before it."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mhmoe.data.batches import EvaluationSet
from mhmoe.data.packing import PackedDataset
from mhmoe.data.tokenizer import END_OF_TEXT_ID
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training import evaluation
from mhmoe.training.evaluation import by_group, evaluate, token_nll
from mhmoe.training.record_checks import summarise_documents
from tests import tiny

LENGTH = 16


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return tiny.text(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def model() -> MHMoEForCausalLM:
    return tiny.model("mhmoe_compute")


@torch.no_grad()
def plain_nll(model: nn.Module, tokens: list[int], length: int) -> float:
    """Of one document in nats: pieces of `length` tokens one by one, position by position, in float64."""
    nll = 0.0
    seen = [END_OF_TEXT_ID, *tokens]
    for start in range(0, len(tokens), length):
        targets = tokens[start : start + length]
        logits = model(torch.tensor([seen[start : start + len(targets)]])).logits[0].double()
        for position, target in enumerate(targets):
            nll += float(logits[position].logsumexp(0) - logits[position, target])
    return nll


def test_logits_of_a_large_vocabulary_are_made_some_windows_at_a_time(
    text: PackedDataset, model: MHMoEForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    watching = model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    whole = evaluate(model, text.valid, LENGTH)
    assert rows.pop(0) == 64
    monkeypatch.setattr(evaluation, "LOGITS", 3 * LENGTH * model.config.vocab_size)
    rows.clear()
    assert evaluate(model, text.valid, LENGTH)["perplexity"] == pytest.approx(whole["perplexity"], rel=1e-6)
    assert rows[0] == 3 and max(rows) == 3
    watching.remove()


def test_perplexity_is_that_of_a_plain_loop_over_documents(text: PackedDataset, model: MHMoEForCausalLM) -> None:
    valid = text.valid.first(700)
    assert len(valid) > 3 and min(np.diff(valid.offsets)) > 2 * LENGTH
    assert all(np.diff(valid.offsets) % LENGTH)  # so that last windows are not full
    evaluation = evaluate(model, valid, LENGTH)
    nll = []
    for i in range(len(valid)):
        tokens = valid.tokens[valid.offsets[i] : valid.offsets[i + 1]].tolist()
        nll.append(plain_nll(model, tokens, LENGTH))
        document = evaluation["documents"][i]
        assert document["id"] == valid.ids[i]
        assert document["nll"] == pytest.approx(nll[i], rel=1e-5)
        assert document["tokens"] == len(tokens)
        assert document["bytes"] == valid.num_bytes[i]
    count, size = int(valid.offsets[-1]), int(valid.num_bytes.sum())
    assert evaluation["perplexity"] == pytest.approx(math.exp(sum(nll) / count), rel=1e-5)
    assert evaluation["nll_per_token"] == pytest.approx(sum(nll) / count, rel=1e-5)
    assert evaluation["bits_per_byte"] == pytest.approx(sum(nll) / math.log(2) / size, rel=1e-5)
    assert (evaluation["tokens"], evaluation["bytes"]) == (count, size)


def test_the_batch_size_changes_nothing(text: PackedDataset, model: MHMoEForCausalLM) -> None:
    few = text.test.first(400)
    reference = evaluate(model, few, LENGTH, batch_size=10_000)
    for batch_size in (1, 7):
        other = evaluate(model, few, LENGTH, batch_size=batch_size)
        for ours, expected in zip(other["documents"], reference["documents"], strict=True):
            assert ours == expected | {"nll": pytest.approx(expected["nll"], rel=1e-5)}


class Oracle(nn.Module):
    """Knows the bits that a token costs: `bits[token]`, wherever it stands."""

    def __init__(self, bits: torch.Tensor) -> None:
        super().__init__()
        assert abs(float((0.5**bits).sum()) - 1) < 1e-6
        self.logits = nn.Parameter(-bits * math.log(2))

    def forward(self, inputs: torch.Tensor) -> Any:
        return type("Output", (), {"logits": self.logits.expand(*inputs.shape, -1)})


def test_bits_per_byte_counts_the_bytes_of_the_text_and_not_its_tokens() -> None:
    text = EvaluationSet(
        tokens=np.array([1, 2, 3, 3, 1], dtype=np.uint16),
        offsets=np.array([0, 3, 3, 5]),  # the second document is empty
        num_bytes=np.array([10, 0, 3]),
        ids=("a", "empty", "b"),
        sources=("s",) * 3,
    )
    evaluation = evaluate(Oracle(torch.tensor([1.0, 2.0, 3.0, 3.0])), text, length=2)
    assert evaluation["bits_per_byte"] == pytest.approx((2 + 3 + 3 + 3 + 2) / 13)
    assert evaluation["perplexity"] == pytest.approx(2 ** (13 / 5))
    bits = {d["id"]: (d["nll"] / math.log(2), d["tokens"], d["bytes"]) for d in evaluation["documents"]}
    assert bits == {"a": (pytest.approx(8), 3, 10), "b": (pytest.approx(5), 2, 3)}
    unknown = evaluate(Oracle(torch.tensor([1.0, 2.0, 3.0, 3.0])), EvaluationSet.of([[1, 2, 3], [3, 1]]), length=2)
    assert math.isnan(unknown["bits_per_byte"]) and unknown["perplexity"] == evaluation["perplexity"]


def test_a_sample_of_windows_is_spread_over_the_text(text: PackedDataset, model: MHMoEForCausalLM) -> None:
    windows = len(text.valid.windows(LENGTH)[0])
    everything = evaluate(model, text.valid, LENGTH)
    sample = evaluate(model, text.valid, LENGTH, max_windows=windows // 4)
    assert 0.15 < sample["tokens"] / everything["tokens"] < 0.35
    assert sample["bytes"] / sample["tokens"] == pytest.approx(everything["bytes"] / everything["tokens"], rel=0.05)
    assert sample["nll_per_token"] == pytest.approx(everything["nll_per_token"], rel=0.05)
    place = [text.valid.ids.index(d["id"]) for d in sample["documents"]]
    assert place[0] == 0 and place[-1] == len(text.valid) - 1 and len(place) > len(text.valid) / 2
    whole = {d["id"]: d for d in everything["documents"]}
    for document in sample["documents"]:
        of_whole = whole[document["id"]]
        assert document["nll"] <= of_whole["nll"] * (1 + 1e-5) and document["tokens"] <= of_whole["tokens"]
        if document["tokens"] == of_whole["tokens"]:
            assert document["bytes"] == of_whole["bytes"]
            assert document["nll"] == pytest.approx(of_whole["nll"], rel=1e-5)


@pytest.mark.parametrize("excess", [0, 1, 1000])
def test_a_sample_of_all_windows_is_everything(text: PackedDataset, model: MHMoEForCausalLM, excess: int) -> None:
    few = text.valid.first(400)
    windows = len(few.windows(LENGTH)[0])
    assert evaluate(model, few, LENGTH, max_windows=windows + excess) == evaluate(model, few, LENGTH)
    assert evaluate(model, few, LENGTH, max_windows=windows - 1)["tokens"] < few.offsets[-1]


def test_one_window_is_a_sample_too(text: PackedDataset, model: MHMoEForCausalLM) -> None:
    sample = evaluate(model, text.valid, LENGTH, max_windows=1)
    assert [d["id"] for d in sample["documents"]] == [text.valid.ids[0]] and 1 <= sample["tokens"] <= LENGTH


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_model_as_it_was_and_makes_no_gradients(text: PackedDataset, training: bool) -> None:
    model = tiny.model("xmoe").train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = []
    handle = model.register_forward_pre_hook(lambda module, _: modes.append((module.training, torch.is_grad_enabled())))
    evaluate(model, text.valid.first(100), LENGTH)
    handle.remove()
    assert set(modes) == {(False, False)}
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not tiny.gradients(model)


def test_token_nll_is_in_float32_and_0_where_nothing_is_predicted() -> None:
    logits = torch.randn(2, 3, 50)
    targets = torch.tensor([[4, -100, 7], [-100, -100, 0]])
    nll = token_nll(logits.bfloat16(), targets)
    assert nll.dtype == torch.float32
    expected = -logits.bfloat16().double().log_softmax(-1)
    for row, column in ((0, 0), (0, 2), (1, 2)):
        assert float(nll[row, column]) == pytest.approx(float(expected[row, column, targets[row, column]]), rel=1e-6)
    assert nll[targets == -100].tolist() == [0.0] * 3


def test_groups_are_summarised_as_if_evaluated_alone(text: PackedDataset, model: MHMoEForCausalLM) -> None:
    documents = evaluate(model, text.valid.first(700), LENGTH)["documents"]
    odd = {d["id"]: str(int(d["id"].rpartition("-")[2]) % 2) for d in documents}
    groups = by_group(documents, odd.__getitem__)
    assert list(groups) == ["0", "1"]
    for name, figures in groups.items():
        rows = [d for d in documents if odd[d["id"]] == name]
        assert figures == {**summarise_documents(rows), "documents": len(rows)}


def test_documents_without_a_language_in_their_id_are_refused() -> None:
    with pytest.raises(ValueError, match="document id 'valid-7' names no language"):
        by_group([{"id": "valid-7", "nll": 1.0, "tokens": 1, "bytes": 1}])
