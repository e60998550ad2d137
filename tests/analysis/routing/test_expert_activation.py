"""Counts are what a loop over tokens, sub-tokens and choices counts; padding is in none of them."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.routing.activation import (
    count_documents,
    measure_activation,
    measure_groups,
    uniform_null,
)
from analysis.routing.activation_figure import activation_curves
from analysis.routing.heatmaps import activation_heatmaps, group_heatmaps
from analysis.routing.measures import (
    Counts,
    activation_curve,
    collapse,
    effective_experts,
    frequencies,
    mean_distinct,
    specialisation,
    summary,
)
from analysis.routing.text import Windows, untrained, windows_of, windows_of_ids, windows_of_texts
from analysis.routing.words.comparison import Comparison
from analysis.routing.words.figure import TwoGroups, two_group_figure
from mhmoe.data.packing import PackedDataset
from mhmoe.layers.expert_choice import ExpertChoiceConfig
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.routers import XMoERouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.model.masked import MHMoEForMaskedLM
from tests import tiny

LENGTH = 16
# Rows a token, choices a row, experts.
SHAPES = {"xmoe": (1, 1, 4), "xmoe_top2": (1, 2, 4), "mhmoe_parameters": (2, 1, 4)}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return tiny.text(tmp_path_factory.mktemp("packed"))


def _model(system: str, **options: Any) -> MHMoEForCausalLM:
    if system == "xmoe_top2":
        one = tiny.MOE["xmoe"]
        assert isinstance(one, SparseMoEConfig) and isinstance(one.router, XMoERouterConfig)
        options["moe"] = one.replace(router=one.router.replace(top_k=2)).to_dict()
        system = "xmoe"
    return tiny.model(system, **{"num_hidden_layers": 4} | options).eval()


def _loop(model: MHMoEForCausalLM, documents: list[list[int]], length: int) -> dict[str, Any]:
    """The same counts, one document, token, row and choice at a time, with no padding at all."""
    selections = np.zeros((2, 4), dtype=int)
    probability = np.zeros((2, 4))
    distinct: list[list[int]] = [[], []]
    for document in documents:
        stream = [0, *document]
        for start in range(0, len(stream), length):
            piece = torch.tensor([stream[start : start + length]])
            with torch.no_grad():
                routing = model(piece, output_routing=True).routing
            for layer, found in enumerate(routing):
                for position in range(piece.shape[1]):
                    if start + position == 0:
                        continue  # <|endoftext|>
                    reached: set[int] = set()
                    index = found.index[0, position].reshape(-1, found.index.shape[-1])
                    probabilities = found.probabilities[0, position].reshape(-1, 4)
                    for row in range(index.shape[0]):
                        for choice in range(index.shape[1]):
                            expert = int(index[row, choice])
                            selections[layer, expert] += 1
                            reached.add(expert)
                        for expert in range(4):
                            probability[layer, expert] += float(probabilities[row, expert])
                    distinct[layer].append(len(reached))
    return {"selections": selections, "probability": probability, "distinct": distinct}


@pytest.mark.parametrize("system", SHAPES)
def test_counts_are_those_of_a_loop_without_padding(system: str) -> None:
    rows, top_k, _ = SHAPES[system]
    model = _model(system)
    draw = np.random.RandomState(0)
    documents = [draw.randint(1, 300, size).tolist() for size in (1, 15, 16, 17, 40, 3)]
    ours = measure_activation(model, windows_of_ids(documents, LENGTH), batch_size=3)
    loop = _loop(model, documents, LENGTH)
    assert ours.tokens == sum(map(len, documents)) == len(loop["distinct"][0])
    assert (ours.rows_per_token, ours.top_k) == (rows, top_k)
    assert np.array_equal(ours.selections, loop["selections"])
    assert np.allclose(ours.probability, loop["probability"], atol=2e-3)
    assert ours.distinct == [np.bincount(d, minlength=rows * top_k + 1).tolist() for d in loop["distinct"]]


@pytest.mark.parametrize("system", SHAPES)
def test_a_row_of_the_heatmap_sums_to_its_selections_per_token(system: str, text: PackedDataset) -> None:
    rows, top_k, _ = SHAPES[system]
    counts = measure_activation(_model(system), windows_of(text.valid, LENGTH))
    assert np.sum(counts.selections, axis=1).tolist() == [counts.tokens * rows * top_k] * 2
    assert frequencies(counts).sum(axis=1) == pytest.approx(rows * top_k)
    assert frequencies(counts, "row").sum(axis=1) == pytest.approx(top_k)
    assert np.sum(counts.probability, axis=1) == pytest.approx(counts.tokens * rows, rel=1e-4)


def test_every_token_of_a_text_is_counted_once_and_padding_never(text: PackedDataset) -> None:
    strings = ["bada", "", "mo li ku " * 30]
    encoded = [text.tokenizer.encode(s, add_special_tokens=False).ids for s in strings]
    windows = windows_of_texts(strings, text.tokenizer, LENGTH)
    counts = count_documents(_model("mhmoe_parameters"), windows, batch_size=2)
    assert counts.tokens.tolist() == list(map(len, encoded))
    for document, ids in enumerate(encoded):
        mine = windows.document == document
        assert windows.inputs[mine][windows.counted[mine]].tolist() == ids
        assert windows.token[mine][windows.counted[mine]].tolist() == list(range(len(ids)))


def test_a_text_stands_behind_the_end_of_text_that_is_named(text: PackedDataset) -> None:
    windows = windows_of_texts(["bada"], text.tokenizer, LENGTH, 7)
    ids = text.tokenizer.encode("bada", add_special_tokens=False).ids
    assert windows.inputs[0][windows.read[0]].tolist() == [7, *ids]


def test_longer_padding_changes_no_count() -> None:
    model = _model("mhmoe_parameters")
    documents = [[5, 6, 7], [9, 8], [4] * 10]
    short = measure_activation(model, windows_of_ids(documents, 12))
    long = measure_activation(model, windows_of_ids([*documents, [3] * 40], 64))
    alone = measure_activation(model, windows_of_ids([[3] * 40], 64))
    assert np.array_equal(np.subtract(long.selections, alone.selections), short.selections)


def test_windows_of_a_split_hold_all_tokens_but_each_documents_last(text: PackedDataset) -> None:
    windows = windows_of(text.valid, LENGTH)
    for document in range(len(text.valid)):
        mine = windows.document == document
        whole = text.valid.tokens[text.valid.offsets[document] : text.valid.offsets[document + 1]]
        assert windows.inputs[mine][windows.counted[mine]].tolist() == whole[:-1].tolist()


def test_counting_leaves_the_model_in_its_mode() -> None:
    model = _model("xmoe").train()
    measure_activation(model, windows_of_ids([[1, 2]], LENGTH))
    assert model.training


def test_groups_add_up_to_the_whole(text: PackedDataset) -> None:
    model, windows = _model("mhmoe_parameters"), windows_of(text.valid, LENGTH)
    groups = ["even" if i % 2 == 0 else "odd" for i in range(windows.num_documents)]
    whole, parts = measure_activation(model, windows), measure_groups(model, windows, groups, permutations=5)
    for name in ("tokens", "selections", "distinct"):
        parts_sum = np.sum([getattr(counts, name) for counts in parts.groups.values()], axis=0)
        assert np.array_equal(parts_sum, getattr(whole, name))
    of_groups = specialisation([counts.selections for counts in parts.groups.values()])
    assert parts.specialisation.bits == pytest.approx(of_groups.bits)


def test_groups_that_differ_tell_more_than_groups_dealt_out_anew() -> None:
    documents = [[10 + i % 2] * 12 for i in range(30)]
    groups = [("ten", "eleven")[i % 2] for i in range(30)]
    found = measure_groups(_model("mhmoe_parameters"), windows_of_ids(documents, LENGTH), groups, permutations=50)
    assert max(found.specialisation.bits) > 2 * max(found.permuted.quantile_95_bits)


def test_a_dense_model_long_windows_and_a_group_without_tokens_are_refused() -> None:
    windows = windows_of_ids([[1, 2, 3]], LENGTH)
    with pytest.raises(ValueError, match="dense"):
        measure_activation(tiny.model("dense"), windows)
    experts = ExpertsConfig(dim=tiny.DIM, num_experts=4, expert_dim=8)
    choosing = ExpertChoiceConfig(router=XMoERouterConfig(dim=tiny.DIM, num_experts=4), experts=experts).to_dict()
    with pytest.raises(ValueError, match="in expert_choice experts choose tokens"):
        measure_activation(MHMoEForMaskedLM(tiny.config("xmoe", is_causal=False, moe=choosing)), windows)
    with pytest.raises(ValueError, match="exceed the model's context"):
        measure_activation(_model("xmoe"), windows_of_ids([[1]], 4096))
    with pytest.raises(ValueError, match="empty has no tokens"):
        measure_groups(_model("xmoe"), windows_of_ids([[1, 2], []], LENGTH), ["full", "empty"])
    with pytest.raises(ValueError, match="there is no text"):
        windows_of_ids([], LENGTH)


def test_spaced_windows_are_the_whole_texts_from_first_to_last(text: PackedDataset) -> None:
    windows = windows_of(text.valid, LENGTH)
    some: Windows = windows.spaced(5)
    assert len(some.inputs) == 5
    assert np.array_equal(some.inputs[0], windows.inputs[0]) and np.array_equal(some.inputs[-1], windows.inputs[-1])


# ---- nulls ----------------------------------------------------------------------------------


def test_the_untrained_null_is_what_a_run_of_that_seed_starts_from() -> None:
    trained = tiny.model("xmoe", seed=3)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(1.0)
    fresh, expected = untrained(trained, 3).state_dict(), tiny.model("xmoe", seed=3).state_dict()
    assert all(torch.equal(fresh[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("rows", "top_k"), [(1, 1), (1, 3), (4, 1), (2, 2)])
def test_the_uniform_null_is_what_shuffled_labels_give(rows: int, top_k: int) -> None:
    tokens, experts = 4000, 6
    null = uniform_null(_nothing_chosen(tokens, rows, top_k, (3, experts)), 0)
    draw = np.random.RandomState(1)
    index = draw.rand(tokens, rows, experts).argsort(axis=-1)[..., :top_k].reshape(tokens, -1)
    reached = np.bincount([len(set(token)) for token in index.tolist()], minlength=rows * top_k + 1)
    assert np.sum(null.selections, axis=1).tolist() == [tokens * rows * top_k] * 3
    share = top_k / experts
    spread = math.sqrt(tokens * rows * share * (1 - share))
    assert np.abs(np.array(null.selections) - tokens * rows * share).max() < 5 * spread
    assert np.abs(np.array(null.distinct) - reached).max() < 5 * math.sqrt(2 * tokens / 4)
    assert np.sum(null.distinct, axis=1).tolist() == [tokens] * 3


def test_no_row_of_the_uniform_null_takes_an_expert_twice() -> None:
    null = uniform_null(_nothing_chosen(50, 1, 3, (2, 3)), 0)
    assert null.selections == [[50, 50, 50]] * 2
    assert null.distinct == [[0, 0, 0, 50]] * 2


def test_heads_with_experts_of_their_own_reach_as_many_as_they_choose() -> None:
    null = uniform_null(_nothing_chosen(1000, 3, 2, (2, 12)), 0, heads_apart=True)
    assert null.distinct == [[0] * 6 + [1000]] * 2
    for layer in null.selections:
        assert [sum(layer[at : at + 4]) for at in (0, 4, 8)] == [2000] * 3  # a token's two of each head's four
        assert max(abs(n - 500) for n in layer) < 5 * math.sqrt(1000 * 0.25) and len(set(layer)) > 3


def _nothing_chosen(tokens: int, rows: int, top_k: int, shape: tuple[int, int]) -> Counts:
    zeros = np.zeros(shape, dtype=int).tolist()
    return Counts(
        tokens=tokens, rows_per_token=rows, top_k=top_k, selections=zeros, probability=zeros, distinct=[[0]] * shape[0]
    )


# ---- measures -------------------------------------------------------------------------------


def _counts(selections: list[list[int]], rows: int = 1) -> Counts:
    tokens = sum(selections[0]) // rows
    return Counts(
        tokens=tokens, rows_per_token=rows, top_k=1, selections=selections, probability=[], distinct=[[0, tokens]]
    )


def test_effective_experts_are_all_when_even_and_one_when_collapsed() -> None:
    assert effective_experts(_counts([[25, 25, 25, 25], [100, 0, 0, 0]])) == pytest.approx([4.0, 1.0])


def test_the_activation_curve_counts_the_cells_above_each_threshold() -> None:
    counts = _counts([[8, 2, 0, 0], [5, 5, 0, 0]], rows=2)
    assert activation_curve(counts, (0.0, 0.5, 1.2)) == [0.5, 3 / 8, 1 / 8]
    assert activation_curve(counts, (0.0, 0.5, 1.2), per="row") == [0.5, 1 / 8, 0.0]


def test_an_expert_below_a_tenth_of_the_uniform_share_has_collapsed() -> None:
    assert collapse(_counts([[248, 249, 479, 24], [300, 300, 374, 26]])) == [0.25, 0.0]


def test_the_distinct_share_is_per_expert_of_a_layer() -> None:
    counts = dataclasses.replace(_counts([[5, 5, 0, 0]], rows=2), distinct=[[0, 1, 4]])
    assert mean_distinct(counts) == [1.8]
    assert summary(counts).distinct_share == pytest.approx(0.45)


def test_experts_of_their_own_for_each_group_tell_everything_and_shared_ones_nothing() -> None:
    own = specialisation([[[10, 0, 0, 0]], [[0, 99, 0, 0]], [[0, 0, 5, 0]], [[0, 0, 0, 1]]])
    assert own.bits == pytest.approx([2.0]) and own.normalised == pytest.approx([1.0])
    assert own.dominant == [[0, 1, 2, 3]] and own.dominant_share == [[1.0] * 4]
    shared = specialisation([[[6, 2]], [[30, 10]]])
    assert shared.bits == pytest.approx([0.0]) and shared.dominant_share == [[0.5, 0.5]]


def test_specialisation_is_the_mutual_information_of_equally_weighted_groups() -> None:
    selections = np.array([[[3, 1, 4]], [[10, 20, 0]]])
    joint = selections[:, 0] / selections[:, 0].sum(axis=1, keepdims=True) / 2
    expected = sum(
        joint[g, e] * math.log2(joint[g, e] / joint[:, e].sum() / joint[g].sum())
        for g in range(2)
        for e in range(3)
        if joint[g, e]
    )
    assert specialisation(selections).bits == pytest.approx([expected])


def test_an_expert_that_nobody_chose_has_no_dominant_group() -> None:
    assert specialisation([[[1, 0]], [[1, 0]]]).dominant == [[0, None]]


# ---- figures --------------------------------------------------------------------------------


def test_figures_are_pictures_with_their_numbers_beside_them(tmp_path: Path) -> None:
    few, many = _counts([[25, 25, 25, 25], [90, 10, 0, 0]]), _counts([[2] * 50, [1, 3] * 25])
    texts = {"harness": {"one": few, "two": few}, "xnli": {"one": few}}
    activation_heatmaps(texts, tmp_path / "heat.png", title="Heat")
    group_heatmaps({"one": {"en": few, "de": few}, "two": {"en": many}}, tmp_path / "group.png", title="Group")
    curves = {"one": [few, few], "two": [many]}
    activation_curves(
        curves,
        tmp_path / "curve.png",
        title="Curve",
        thresholds=(0.1, 0.5, 1.0),
        paper={"paper": 0.9},
        nulls={"random": {"one": [_counts([[50, 50, 0, 0], [100, 0, 0, 0]])]}},
    )
    nothing = Comparison(n=(3, 2), paired=False, resamples=0)
    two_group_figure({"one": TwoGroups([1, 2, 3], [1.5, 2.5], nothing)}, tmp_path / "two.png", title="Two")
    for name in ("heat", "group", "curve", "two"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    heat = (tmp_path / "heat.csv").read_text().splitlines()
    assert heat[0] == "text,system,moe_layer,expert,selections_per_token"
    assert len(heat) == 1 + 3 * 8 and "harness,one,2,0,0.9" in heat
    curve = (tmp_path / "curve.csv").read_text().splitlines()
    assert len(curve) == 1 + (2 + 1) * 2 * 3 and "one,,token,0.1,0.625,0.625,0.625,2" in curve
    assert "one,random,token,0.1,0.375,0.375,0.375,1" in curve
