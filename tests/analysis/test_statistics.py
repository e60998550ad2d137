"""Intervals and p-values are what they say they are."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import (
    Documents,
    document_bootstrap,
    effect_found,
    holm,
    over_common_seeds,
    paired_difference,
    summarise,
)

VALUES = st.floats(-50, 50).map(lambda x: round(x, 3))
PAIRS = st.dictionaries(st.integers(0, 99), st.tuples(VALUES, VALUES), min_size=3, max_size=12)
P_VALUES = st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=10)


def split(pairs):
    return {s: a for s, (a, _) in pairs.items()}, {s: b for s, (_, b) in pairs.items()}


def documents(rng, count=60, shift=0.0, noise=0.02):
    """Two systems on the same documents, which differ in length and in difficulty."""
    size = rng.integers(20, 400, count).astype(float)
    hardness = rng.normal(4.0, 0.5, count)
    return tuple(Documents(size * (hardness + d + rng.normal(0, noise, count)), size) for d in (shift, 0.0))


@given(PAIRS)
def test_the_interval_and_p_value_are_those_of_the_paired_t_test(pairs):
    a, b = split(pairs)
    found = paired_difference(a, b)
    if math.isnan(found.p_value) or found.p_value == 1.0:
        return  # no spread: tested by name below
    expected = stats.ttest_rel([a[s] for s in sorted(a)], [b[s] for s in sorted(a)])
    bounds = expected.confidence_interval(0.95)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high), rel=1e-6, abs=1e-9)


@given(PAIRS)
def test_swapping_the_systems_mirrors_the_interval(pairs):
    a, b = split(pairs)
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert backward.mean == pytest.approx(-forward.mean, abs=1e-12)
    assert (backward.low, backward.high) == pytest.approx((-forward.high, -forward.low), abs=1e-9, nan_ok=True)


@given(PAIRS)
def test_the_interval_excludes_zero_exactly_when_p_is_below_five_percent(pairs):
    found = paired_difference(*split(pairs))
    if not math.isnan(found.p_value) and abs(found.p_value - 0.05) > 1e-9:
        assert (found.low > 0 or found.high < 0) == (found.p_value < 0.05)


def test_only_seeds_that_both_systems_have_are_compared():
    found = paired_difference({0: 1.0, 1: 2.5, 2: 3.0, 8: 99.0}, {2: 1.0, 1: 1.0, 0: 0.0, 9: -99.0})
    assert (found.n, found.mean) == (3, 1.5)


@pytest.mark.parametrize("values", [{}, {0: 1.0}], ids=["no seed", "one seed"])
def test_fewer_than_two_seeds_give_no_interval(values):
    found = paired_difference(values, dict.fromkeys(values, 0.0))
    assert found.n == len(values)
    assert all(math.isnan(x) for x in (found.low, found.high, found.p_value))


def test_identical_results_are_no_difference():
    found = paired_difference({0: 1.5, 1: 2.5}, {0: 1.5, 1: 2.5})
    assert (found.mean, found.low, found.high, found.n, found.p_value) == (0.0, 0.0, 0.0, 2, 1.0)


def test_differences_that_are_all_the_same_are_not_taken_for_certainty():
    found = paired_difference({0: 0.1 + 0.2, 1: 0.3, 2: 0.7 - 0.4}, {0: 0.1, 1: 0.1, 2: 0.1})
    assert found.mean == pytest.approx(0.2)
    assert all(math.isnan(x) for x in (found.low, found.high, found.p_value))


def test_a_value_that_is_not_finite_gives_no_interval():
    for bad in (math.nan, math.inf):
        assert math.isnan(paired_difference({0: 1.0, 1: bad, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0}).p_value)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_covers_the_truth_in_95_of_100_experiments(seeds):
    rng, truth, runs = np.random.default_rng(3), 0.3, 2000
    found = [
        paired_difference(dict(enumerate(rng.normal(truth, 1, seeds))), dict.fromkeys(range(seeds), 0.0))
        for _ in range(runs)
    ]
    covered = sum(x.low <= truth <= x.high for x in found) / runs
    # Three standard errors of a share of 2,000; 1.96 in place of the t quantile covers 0.70, 0.81 and 0.88.
    assert covered == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / runs))


def test_the_document_interval_covers_the_truth_in_about_95_of_100_texts():
    rng, runs = np.random.default_rng(5), 300
    found = []
    for _ in range(runs):
        a, b = documents(rng, shift=0.1, noise=0.1)
        found.append(document_bootstrap({0: a}, {0: b}, samples=1000))
    covered = sum(x.low <= 0.1 <= x.high for x in found) / runs
    assert covered == pytest.approx(0.94, abs=0.04)


def test_the_document_interval_is_that_of_documents_drawn_one_by_one():
    a, b = documents(np.random.default_rng(0))
    a = Documents(a.nll + 0.001 * a.size**2, a.size)  # long documents weigh more, and differ more
    rng, draws = np.random.default_rng(1), []
    for _ in range(4000):
        chosen = rng.choice(60, 60)
        draws.append((a.nll[chosen].sum() - b.nll[chosen].sum()) / a.size[chosen].sum())
    found = document_bootstrap({0: a}, {0: b})
    width = np.ptp(np.quantile(draws, [0.025, 0.975]))
    assert found.mean == pytest.approx((a.nll.sum() - b.nll.sum()) / a.size.sum())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.06 * width)
    assert found.n == 60


def test_hard_documents_do_not_widen_the_document_interval_because_both_systems_read_them():
    rng = np.random.default_rng(2)
    size, hardness = np.full(50, 100.0), rng.normal(0, 5, 50)
    even = Documents(size * 4.0, size), Documents(size * (4.0 + rng.normal(0, 0.01, 50)), size)
    hard = tuple(Documents(x.nll + size * hardness, size) for x in even)
    first, second = (document_bootstrap({0: a}, {0: b}, samples=500) for a, b in (even, hard))
    assert (first.low, first.high) == pytest.approx((second.low, second.high), abs=1e-9)


def test_the_same_models_under_more_seeds_are_no_more_documents():
    a, b = documents(np.random.default_rng(0))
    once, thrice = (
        document_bootstrap({0: a}, {0: b}),
        document_bootstrap(dict.fromkeys(range(3), a), dict.fromkeys(range(3), b)),
    )
    assert (once.low, once.high) == pytest.approx((thrice.low, thrice.high))


def test_a_constant_gap_moves_the_document_interval_by_that_gap_and_p_follows():
    a, b = documents(np.random.default_rng(4))
    moved = Documents(a.nll + 0.5 * a.size, a.size)
    before, after = document_bootstrap({0: a}, {0: b}), document_bootstrap({0: moved}, {0: b})
    assert (after.low - before.low, after.high - before.high) == pytest.approx((0.5, 0.5))
    assert after.p_value == pytest.approx(2 / 10_001)
    assert document_bootstrap({0: a}, {0: a}).p_value == 1.0


def test_the_document_interval_is_the_same_every_time_and_large_texts_fit():
    a, b = documents(np.random.default_rng(6), count=7_000)
    first, second = (document_bootstrap({0: a}, {0: b}, samples=1_000) for _ in range(2))
    assert first == second


def test_one_document_gives_no_document_interval():
    one = Documents([3.0], [1.0])
    assert math.isnan(document_bootstrap({0: one}, {0: one}).low)
    assert document_bootstrap({0: one}, {1: one}).n == 0


def test_systems_evaluated_on_different_documents_are_refused():
    with pytest.raises(ValueError, match="different documents"):
        document_bootstrap({0: Documents([1.0, 2.0], [1, 2])}, {0: Documents([1.0, 2.0], [2, 1])})


def test_holm_on_an_example_worked_by_hand():
    # 4 x 0.005 = 0.02; 3 x 0.011 = 0.033; 2 x 0.02 = 0.04; 1 x 0.03 = 0.03, raised to 0.04.
    assert holm([0.02, 0.005, 0.03, 0.011]) == pytest.approx([0.04, 0.02, 0.04, 0.033])


def test_holm_leaves_unknown_p_values_unknown_and_does_not_count_them():
    adjusted = holm([0.01, math.nan, 0.04])
    assert (adjusted[0], adjusted[2]) == pytest.approx((0.02, 0.04))
    assert math.isnan(adjusted[1])


@given(P_VALUES)
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    known = sorted((p, q) for p, q in zip(p_values, adjusted, strict=True) if not math.isnan(p))
    assert all(p <= q <= 1 for p, q in known)
    assert [q for _, q in known] == sorted(q for _, q in known)
    if known:
        assert known[0][1] == pytest.approx(min(1.0, len(known) * known[0][0]))  # the smallest pays Bonferroni


@given(st.lists(VALUES, min_size=2, max_size=10))
def test_a_summary_is_the_sample_mean_and_standard_deviation(values):
    n, mean, std = summarise(values)
    assert n == len(values)
    assert (mean, std) == pytest.approx((np.mean(values), np.std(values, ddof=1)))


def test_one_value_has_no_standard_deviation():
    assert summarise([2.0])[:2] == (1, 2.0)
    assert math.isnan(summarise([2.0]).std)
    assert summarise([]).n == 0


@pytest.mark.parametrize(("n", "claims"), [(2, 1), (3, 4), (5, 1), (5, 12), (20, 3)])
def test_an_effect_of_the_size_that_is_named_is_found_four_times_in_five(n: int, claims: int):
    rng = np.random.default_rng(n)
    sample = paired_difference(dict(enumerate(rng.normal(0.1, 0.02, n))), dict.fromkeys(range(n), 0.0))
    effect = effect_found(sample, claims, 0.05)
    spread = (sample.high - sample.mean) / stats.t.ppf(0.975, n - 1) * np.sqrt(n)
    draws = effect + spread * rng.standard_normal((40_000, n))
    statistic = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / np.sqrt(n))
    found = statistic > stats.t.ppf(1 - 0.05 / (2 * claims), n - 1)
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_without_a_spread_no_effect_is_named():
    assert np.isnan(effect_found(paired_difference({1: 2.0}, {1: 1.0}), 1, 0.05))
    assert np.isnan(effect_found(paired_difference({1: 2.0, 2: 2.0}, {1: 2.0, 2: 2.0}), 1, 0.05))
    with pytest.raises(ValueError, match="claims=0"):
        effect_found(paired_difference({1: 2.0, 2: 2.5}, {1: 2.0, 2: 2.0}), 0, 0.05)


def test_means_of_systems_are_over_the_seeds_that_all_have() -> None:
    found = {"a": {1: 1.0, 2: 2.0, 3: 9.0}, "b": {2: 3.0, 1: 4.0}, "none": dict[int, float]()}
    assert over_common_seeds(found) == {"a": {1: 1.0, 2: 2.0}, "b": {2: 3.0, 1: 4.0}, "none": {}}
    one = {**found, "one": {3: 5.0}}  # a point of one seed leaves the others theirs
    assert over_common_seeds(one) == {**over_common_seeds(found), "one": {3: 5.0}}
    apart = {"a": {1: 1.0, 2: 2.0}, "b": {2: 3.0}}  # one common seed tells less than what there is
    assert over_common_seeds(apart) == apart
