"""What log-likelihoods of answers say: chance, the finer measure, values of items in a file, two systems."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.answers import Item, compare, pack, summarise, unpack
from analysis.statistics import paired_difference

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


def test_bits_per_byte_and_margin_are_those_of_a_hand_count() -> None:
    one = item(0, bits=[12.0, 10.0, 30.0], sizes=[4, 5, 10], right=[0])
    assert one.of_right() == pytest.approx(12 / 4)
    assert one.margin() == pytest.approx(10 / 5 - 12 / 4)


def test_of_several_right_answers_the_best_counts() -> None:
    several = item(0, bits=[12.0, 10.0, 30.0], sizes=[4, 5, 10], right=[0, 1])
    assert several.of_right() == pytest.approx(10 / 5)
    assert several.margin() == pytest.approx(30 / 10 - 10 / 5)


def test_chance_is_the_mean_share_of_right_choices() -> None:
    items = [item(0, [1.0] * 4, [1] * 4, [0]), item(1, [1.0] * 5, [1] * 5, [1, 2])]
    assert summarise(items)["chance"] == pytest.approx((1 / 4 + 2 / 5) / 2)


def test_a_majority_class_exists_only_where_all_items_have_the_same_choices() -> None:
    different = [item(i, [1.0, 2.0], [1, 1], [int(i < 1)]) for i in range(4)]
    same = [dataclasses.replace(one, choices=(" no", " yes")) for one in different]
    assert summarise(different)["majority"] is None
    assert summarise(same)["majority"] == 0.75


def test_always_saying_the_frequent_answer_differs_from_chance_but_not_from_the_majority() -> None:
    items = [item(i, [1.0, 2.0], [1, 1], [int(i % 4 == 0)], choices=(" no", " yes")) for i in range(100)]
    acc = summarise(items)["acc"]
    assert acc["value"] == 0.75
    assert acc["p_chance"] < 1e-6
    assert acc["p_majority"] == 1.0


def test_an_accuracy_is_tested_exactly_and_has_the_standard_error_of_its_mean() -> None:
    right = [i % 3 == 0 for i in range(20)]
    items = [item(i, [1.0, 2.0], [1, 1], [0 if flag else 1]) for i, flag in enumerate(right)]
    acc = summarise(items)["acc"]
    assert acc["value"] == np.mean(right)
    assert acc["stderr"] == pytest.approx(np.std(right, ddof=1) / math.sqrt(20))
    assert acc["p_chance"] == stats.binomtest(sum(right), 20, 0.5).pvalue
    assert acc["low"] < acc["value"] < acc["high"]


def test_a_share_of_probability_is_tested_by_its_mean() -> None:
    items = [item(i, [1.0, 2.0], [1, 1], [0], scores={"acc": 0.5 + 0.01 * (i % 5)}) for i in range(50)]
    acc = summarise(items)["acc"]
    assert acc["p_chance"] == pytest.approx(2 * stats.norm.sf((acc["value"] - 0.5) / acc["stderr"]))
    assert acc["high"] - acc["value"] == pytest.approx(stats.norm.ppf(0.975) * acc["stderr"])


def test_a_single_item_has_no_standard_error() -> None:
    summary = summarise([item(0, [1.0, 2.0], [1, 1], [0])])
    assert summary["margin"]["stderr"] is None
    assert summary["acc"]["stderr"] is None
    json.dumps(summary, allow_nan=False)


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


def test_all_english_items_fit_into_150_kilobytes() -> None:
    values = np.random.default_rng(0).normal(2.5, 1.5, 22_376)
    columns = [values, values, values > 2, values > 3]
    assert len(json.dumps([pack(column) for column in columns])) < 150_000


@pytest.mark.parametrize("change", [{"type": "<f4"}, {"n": 7}])
def test_values_packed_otherwise_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="packed"):
        unpack({**pack([1.5, 2.5]), **change})


def two_systems(n: int = 300) -> tuple[dict[int, dict], dict[int, dict]]:
    """The first one's right answers cost half a bit per byte less, give or take."""
    rng = np.random.default_rng(0)
    easy = rng.normal(3, 1, n).clip(1)

    def system(shift: float, seed: int) -> dict:
        draw = np.random.default_rng([seed, int(10 * shift)])
        bits = easy + shift + draw.normal(0, 0.3, n) + 0.02 * draw.normal()
        return summarise([item(i, [8 * bits[i], 32.0], [8, 8], [0]) for i in range(n)])

    return {s: system(0.0, s) for s in (1, 2, 3)}, {s: system(0.5, s) for s in (1, 2, 3, 4)}


def test_two_systems_are_compared_over_their_common_seeds_and_the_same_items() -> None:
    better, worse = two_systems()
    result = compare(better, worse, "bits_per_byte", samples=2000)
    assert result.over_items.n == 300 and result.over_seeds.n == 3
    assert -0.6 < result.over_items.low < result.over_items.high < -0.4
    assert result.over_items.mean == pytest.approx(result.over_seeds.mean, abs=1e-3)
    means = [{s: system[s]["bits_per_byte"]["value"] for s in (1, 2, 3)} for system in (better, worse)]
    assert result.over_seeds == paired_difference(*means)
    assert compare(better, worse, "margin", samples=500).over_items.low > 0


def test_items_without_a_margin_are_left_out_of_its_comparison() -> None:
    items = [item(i, [8.0 + i, 16.0], [8, 8], [0]) for i in range(20)]
    open_question = item(20, [8.0, 9.0], [8, 8], [0, 1])
    summary = summarise([*items, open_question])
    result = compare({1: summary}, {1: summary}, "margin", samples=100)
    assert result.over_items.n == 20
    assert summary["margin"]["value"] == pytest.approx(np.mean([one.margin() for one in items]))


def test_other_items_or_an_unknown_measure_are_refused() -> None:
    better, worse = two_systems(20)
    with pytest.raises(ValueError, match="different items"):
        compare(better, two_systems(21)[1], "margin")
    with pytest.raises(ValueError, match="acc_norm"):
        compare(better, worse, "acc_norm")
