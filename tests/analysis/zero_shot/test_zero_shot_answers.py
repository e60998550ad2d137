"""What log-likelihoods of answers say: chance, the finer measures, values of items in a file."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.zero_shot.answers import Item, Packed, pack, summarise, unpack
from mhmoe.from_json import from_json

LN2 = math.log(2)


def item(number: int, bits: list[float], sizes: list[int], right: list[int], **options: Any) -> Item:
    lls = tuple(-b * LN2 for b in bits)
    best = max(range(len(lls)), key=lls.__getitem__)
    made = Item(
        key=f"item {number}",
        log_likelihood=lls,
        bytes=tuple(sizes),
        choices=tuple(f"{number}/{i}" for i in range(len(lls))),
        right=tuple(i in right for i in range(len(lls))),
        scores={"acc": float(best in right)},
    )
    return dataclasses.replace(made, **options)


def test_the_finer_measures_are_those_of_a_hand_count() -> None:
    one = item(0, bits=[12.0, 10.0, 30.0], sizes=[4, 5, 10], right=[0])
    assert one.of_right() == pytest.approx(12 / 4)
    assert one.margin() == pytest.approx(10 / 5 - 12 / 4)
    assert one.advantage() == pytest.approx((10 / 5 + 30 / 10) / 2 - 12 / 4)


def test_of_several_right_answers_the_best_counts() -> None:
    several = item(0, bits=[12.0, 10.0, 30.0], sizes=[4, 5, 10], right=[0, 1])
    assert several.of_right() == pytest.approx(10 / 5)
    assert several.margin() == pytest.approx(30 / 10 - 10 / 5)
    assert several.advantage() == pytest.approx(30 / 10 - (12 / 4 + 10 / 5) / 2)


def test_without_knowledge_the_advantage_is_zero_and_the_margin_below() -> None:
    rng = np.random.default_rng(0)
    items = [item(i, rng.normal(8, 2, 4).clip(1).tolist(), [4] * 4, [int(rng.integers(4))]) for i in range(4000)]
    summary = summarise(items)
    advantage, margin = summary.finer["advantage"], summary.finer["margin"]
    assert advantage.low is not None and advantage.high is not None and advantage.low < 0 < advantage.high
    assert margin.high is not None and margin.high < -0.3


@pytest.mark.parametrize("bits", [[1.0, 3.0], [3.0, 1.0]])
def test_liking_one_of_two_classes_is_no_advantage_however_unequal_they_are(bits: list[float]) -> None:
    items = [item(i, bits, [1, 1], [int(i % 4 == 0)], choices=(" no", " yes")) for i in range(100)]
    assert summarise(items).finer["advantage"].value == pytest.approx(0, abs=1e-12)
    told = [item(i, bits if i % 4 else bits[::-1], [1, 1], [int(i % 4 == 0)], choices=("a", "b")) for i in range(8)]
    assert summarise(told).finer["advantage"].value == pytest.approx(bits[1] - bits[0])


def test_the_error_of_classes_is_that_of_samples_drawn_class_by_class() -> None:
    rng = np.random.default_rng(0)
    right = [int(i % 4 == 0) for i in range(400)]  # a model with a strong taste for one of the words
    bits = [[1.0 + rng.normal(0, 0.05), 3.0 + rng.normal(0, 0.05)] for _ in right]
    items = [item(i, b, [1, 1], [r], choices=(" no", " yes")) for i, (b, r) in enumerate(zip(bits, right, strict=True))]
    classes = [np.array([i.advantage() for i in items if i.right[r]]) for r in (0, 1)]
    drawn = [np.mean([rng.choice(c, len(c)).mean() for c in classes]) for _ in range(4000)]
    found = summarise(items)
    assert found.finer["advantage"].stderr == pytest.approx(np.std(drawn), rel=0.05)
    values = unpack(found.items.values["advantage"])
    assert values.mean() == pytest.approx(found.finer["advantage"].value, abs=1e-4)


def test_items_without_a_wrong_answer_have_no_margin_and_no_advantage() -> None:
    items = [item(i, [8.0 + i, 16.0], [8, 8], [0]) for i in range(20)]
    summary = summarise([*items, item(20, [8.0, 9.0], [8, 8], [0, 1])])
    for name in ("margin", "advantage"):
        assert summary.finer[name].value == pytest.approx(np.mean([getattr(one, name)() for one in items]))
    assert np.isnan(unpack(summary.items.values["advantage"])[20])


def test_chance_is_the_mean_share_of_right_choices() -> None:
    items = [item(0, [1.0] * 4, [1] * 4, [0]), item(1, [1.0] * 5, [1] * 5, [1, 2])]
    assert summarise(items).chance == pytest.approx((1 / 4 + 2 / 5) / 2)


def test_a_majority_class_exists_only_where_all_items_have_the_same_choices() -> None:
    different = [item(i, [1.0, 2.0], [1, 1], [int(i < 1)]) for i in range(4)]
    same = [dataclasses.replace(one, choices=(" no", " yes")) for one in different]
    assert summarise(different).majority is None
    assert summarise(same).majority == 0.75


def test_always_saying_the_frequent_answer_differs_from_chance_but_not_from_the_majority() -> None:
    items = [item(i, [1.0, 2.0], [1, 1], [int(i % 4 == 0)], choices=(" no", " yes")) for i in range(100)]
    acc = summarise(items).accuracies["acc"]
    assert acc.value == 0.75
    assert acc.p_chance is not None and acc.p_chance < 1e-6
    assert acc.p_majority == 1.0
    assert summarise(items).best_guess("acc") == (0.75, 1.0)


def test_an_accuracy_is_tested_exactly_and_has_the_standard_error_of_its_mean() -> None:
    right = [i % 3 == 0 for i in range(20)]
    items = [item(i, [1.0, 2.0], [1, 1], [0 if flag else 1]) for i, flag in enumerate(right)]
    acc = summarise(items).accuracies["acc"]
    assert acc.value == np.mean(right)
    assert acc.stderr == pytest.approx(np.std(right, ddof=1) / math.sqrt(20))
    assert acc.p_chance == stats.binomtest(sum(right), 20, 0.5).pvalue
    assert acc.low is not None and acc.high is not None and acc.low < acc.value < acc.high


def test_a_share_of_probability_is_tested_by_its_mean() -> None:
    items = [item(i, [1.0, 2.0], [1, 1], [0], scores={"acc": 0.5 + 0.01 * (i % 5)}) for i in range(50)]
    acc = summarise(items).accuracies["acc"]
    assert acc.stderr is not None and acc.high is not None
    assert acc.p_chance == pytest.approx(2 * stats.norm.sf((acc.value - 0.5) / acc.stderr))
    assert acc.high - acc.value == pytest.approx(stats.norm.ppf(0.975) * acc.stderr)


def test_a_single_item_has_no_standard_error() -> None:
    summary = summarise([item(0, [1.0, 2.0], [1, 1], [0])])
    assert summary.finer["margin"].stderr is None
    assert summary.accuracies["acc"].stderr is None
    json.dumps(dataclasses.asdict(summary), allow_nan=False)


def test_one_item_of_each_class_has_no_standard_error_of_the_advantage() -> None:
    items = [item(i, [1.0, 2.5 - i], [1, 1], [i % 2], choices=(" no", " yes")) for i in range(3)]
    assert summarise(items[:2]).finer["advantage"].stderr is None
    error = summarise(items).finer["advantage"].stderr
    assert error is not None and error > 0


def test_nothing_cannot_be_summarised() -> None:
    with pytest.raises(ValueError, match="no items"):
        summarise([])


def test_packed_values_come_back_to_three_digits_and_flags_exactly() -> None:
    values = np.random.default_rng(0).normal(2.5, 1.5, 1001)
    assert np.allclose(unpack(pack(values)), values, rtol=2**-11, atol=1e-7)
    flags = (values > 2).astype(float)
    assert np.array_equal(unpack(pack(flags)), flags)
    gap = unpack(pack([0.5, math.nan]))
    assert gap[0] == 0.5 and math.isnan(gap[1])


def test_all_english_items_fit_into_80_kilobytes() -> None:
    values = np.random.default_rng(0).normal(2.5, 1.5, 22_376)
    packed = [dataclasses.asdict(pack(column)) for column in (values, values > 2, values > 3)]
    assert len(json.dumps(packed)) < 80_000


def test_values_packed_otherwise_are_refused() -> None:
    packed = pack([1.5, 2.5])
    with pytest.raises(ValueError, match="2 items are packed where n=7"):
        unpack(dataclasses.replace(packed, n=7))
    with pytest.raises(ValueError, match=r"^type='<f4' is not allowed; it must be one of bits, <f2$"):
        from_json(Packed, {**dataclasses.asdict(packed), "type": "<f4"})
