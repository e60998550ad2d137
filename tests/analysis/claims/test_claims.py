"""A verdict follows from the records by the rule, and from nothing else."""

import csv
import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import pytest
from scipy import stats

from analysis.claims import judge as judging
from analysis.claims.learning_speed import reaches
from analysis.claims.ledger import ledger_csv, ledger_markdown
from analysis.claims.rules import LEVEL, Claim, Verdict
from analysis.statistics import effect_found, paired_difference
from mhmoe.io import UserError
from tests.fake_records import TOKENS, record

SEEDS = range(5)
LOWER = Claim(slug="table1", statement="A beats B", source="v1 Table 1", better="a", worse="b", paper=(12.0, 15.0))
FASTER = Claim(slug="figure4", statement="A learns faster", source="v1", better="a", worse="b", metric="tokens")


def runs(system, nll=4.5, seeds: Iterable[int] = SEEDS, **more):
    return [record(system, seed, nll, **more) for seed in seeds]


def around(system, *gaps):
    """One run a seed, each away from 4.5 by its own gap."""
    return [record(system, seed, 4.5 + gap) for seed, gap in enumerate(gaps)]


def curves(system, *finals, start=6.0, **more):
    """One run a seed: from `start` to its own final loss in ten even steps."""
    return [
        record(system, seed, curve=[start + (final - start) * i / 10 for i in range(1, 11)], **more)
        for seed, final in enumerate(finals)
    ]


def judge(claims, records, scale="cpu"):
    return judging.judge(claims, records, scale)


def only(verdicts):
    assert len(verdicts) == 1
    return verdicts[0]


@pytest.mark.parametrize(("gap", "verdict"), [(-0.05, "holds"), (0.05, "not reproduced")], ids=str)
def test_the_verdict_is_the_side_of_zero_on_which_the_interval_lies(gap, verdict):
    found = only(judge([LOWER], runs("a", 4.5 + gap) + runs("b")))
    assert found.verdict == verdict
    assert found.difference.mean == pytest.approx(gap, abs=0.01)
    assert found.percent[0] == pytest.approx(100 * math.expm1(found.difference.mean))
    assert found.n == 5


def test_the_difference_is_of_the_named_split():
    better = runs("a", 4.3)
    swapped = [
        dataclasses.replace(r, metrics=r.metrics | {"valid": record("a", r.seed, 4.9).metrics["valid"]}) for r in better
    ]
    assert only(judge([LOWER], swapped + runs("b"))).verdict == "holds"
    assert only(judge([dataclasses.replace(LOWER, split="valid")], swapped + runs("b"))).verdict == "not reproduced"


@pytest.mark.parametrize(
    "records",
    [[], runs("a"), runs("a", seeds=[0, 1]) + runs("b", seeds=[1, 2])],
    ids=["none", "one side", "one seed"],
)
def test_fewer_than_two_common_seeds_are_not_run(records):
    found = only(judge([LOWER], records))
    assert found.verdict == "not run"
    assert math.isnan(found.adjusted_p)


@pytest.mark.parametrize("gaps", [(-0.1, 0.1, -0.05, 0.06, 0.02), (-0.1, -0.01)], ids=["to and fro", "two seeds"])
def test_an_interval_around_zero_cannot_tell(gaps):
    assert only(judge([LOWER], around("a", *gaps) + runs("b"))).verdict == "cannot tell"


def test_changing_one_record_changes_the_verdict():
    records = runs("a", 4.45) + runs("b")
    assert only(judge([LOWER], records)).verdict == "holds"
    records[3] = record("a", 3, 4.75)
    assert only(judge([LOWER], records)).verdict == "cannot tell"


@pytest.mark.parametrize(("sign", "verdict"), [(-1, "holds"), (1, "not reproduced")], ids=str)
def test_more_claims_in_a_table_ask_more_of_each(sign, verdict):
    records = around("a", *(sign * gap for gap in (0.02, 0.05, 0.09, 0.03, 0.02))) + runs("b")
    records += [r for i in range(20) for r in around(f"c{i}", -0.1, 0.1, -0.05, 0.06, 0.02)]
    alone = only(judge([LOWER], records))
    crowd = [dataclasses.replace(LOWER, better=f"c{i}") for i in range(20)]
    among = judge([LOWER, *crowd], records)[0]
    elsewhere = judge([LOWER, *(dataclasses.replace(c, slug="table2") for c in crowd)], records)[0]
    assert (alone.verdict, among.verdict, elsewhere.verdict) == (verdict, "cannot tell", verdict)
    assert among.adjusted_p == pytest.approx(min(1, 21 * alone.tested.p_value))


GAIN = dataclasses.replace(LOWER, statement="A gains more over C than B over D", over=("c", "d"))


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ({"a": 4.4, "c": 4.6, "b": 4.3, "d": 4.4}, "holds"),  # -0.2 against -0.1, although a ends above b
        ({"a": 4.2, "c": 4.25, "b": 4.3, "d": 4.4}, "not reproduced"),
        ({"a": 4.2, "c": 4.3, "b": 4.4, "d": 4.5}, "cannot tell"),
    ],
    ids=["holds", "not reproduced", "cannot tell"],
)
def test_a_gain_is_judged_beside_the_others_gain_and_not_by_who_ends_lower(levels, verdict):
    noise = np.random.default_rng(3).normal(0, 0.01, (4, 5))
    records = [
        r for (name, nll), gaps in zip(levels.items(), noise, strict=True) for r in around(name, *nll + gaps - 4.5)
    ]
    found = only(judge([GAIN], records))
    nll = {(r.system, r.seed): r.metrics["test"]["nll_per_token"] for r in records}
    gaps = [(nll["a", s] - nll["c", s]) - (nll["b", s] - nll["d", s]) for s in SEEDS]
    low, high = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    assert found.verdict == verdict
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high))
    assert found.documents.mean == pytest.approx(np.mean(gaps))
    assert found.documents.low < found.documents.mean < found.documents.high


def test_a_gain_needs_seeds_and_data_that_all_four_share():
    records = [r for name in "abc" for r in runs(name)]
    assert only(judge([GAIN], records + runs("d", seeds=[0, 1]))).n == 2
    assert only(judge([GAIN], records + runs("d", seeds=[9]))).verdict == "not run"
    with pytest.raises(UserError, match="different data"):
        judge([GAIN], records + runs("d", data="other"))


def test_scales_are_judged_apart():
    records = runs("a", 4.4) + runs("b") + runs("a", 4.6, scale="gpu") + runs("b", scale="gpu")
    assert only(judge([LOWER], records, "cpu")).verdict == "holds"
    assert only(judge([LOWER], records, "gpu")).verdict == "not reproduced"


def test_runs_on_different_data_are_not_compared():
    with pytest.raises(UserError, match=r"records a_0 and b_0 were trained on different data"):
        judge([LOWER], runs("a", data="other") + runs("b"))
    with pytest.raises(UserError, match="different documents of test"):
        judge([LOWER], runs("a", documents=29) + runs("b"))


def test_two_records_for_one_seed_are_refused():
    twin = dataclasses.replace(record("a", 0), name="a_0_again")
    with pytest.raises(UserError, match="a_0 and a_0_again both are a, seed 0"):
        judge([LOWER], [*runs("a"), twin, *runs("b")])


def test_a_claim_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="metric='accuracy' is unknown; choose perplexity, tokens"):
        dataclasses.replace(LOWER, metric="accuracy")
    with pytest.raises(ValueError, match="both 'a'"):
        dataclasses.replace(LOWER, worse="a")
    with pytest.raises(ValueError, match="gains are of perplexity alone"):
        dataclasses.replace(FASTER, over=("c", "d"))
    with pytest.raises(ValueError, match="of two pairs, so of four systems"):
        dataclasses.replace(LOWER, over=("a", "d"))


def test_a_loss_is_reached_between_two_evaluations_in_proportion():
    curve = [
        {"tokens": 100, "seconds": 10.0, "valid_nll": 5.0},
        {"tokens": 150, "seconds": 14.0, "valid_nll": None},
        {"tokens": 200, "seconds": 30.0, "valid_nll": 4.0},
    ]
    spent = reaches(curve, 4.75, flops_per_token=7)
    assert spent is not None
    assert dataclasses.astuple(spent) == pytest.approx((125, 3 * 7 * 125, 15))
    assert reaches(curve, 3.99, flops_per_token=7) is None
    assert reaches([], 3.99, flops_per_token=7) is None


def test_a_loss_met_exactly_is_reached():
    curve = record("a", 0, curve=[6.0, 5.0, 4.6]).curve
    assert [reaches(curve, loss, 1).tokens for loss in (6.0, 4.6)] == [TOKENS // 3, TOKENS]  # type: ignore[union-attr]


def test_a_system_that_needs_half_the_tokens_learns_faster():
    records = curves("a", 2.0, 2.2, 1.9, flops=300, seconds=50.0) + curves("b", 4.0, 4.2, 3.9)
    found = only(judge([FASTER], records))
    assert found.verdict == "holds"
    assert math.exp(found.tested.mean) == pytest.approx(0.495, abs=0.01)
    for costs in found.costs.values():
        assert costs is not None
        assert costs.flops == pytest.approx(3 * costs.tokens)  # three times the FLOPs a token
        assert costs.seconds == pytest.approx(costs.tokens / 2)  # twice the speed


def test_the_same_curves_can_be_faster_in_tokens_and_slower_in_flops():
    records = curves("a", 2.0, 2.2, 1.9, flops=300) + curves("b", 4.0, 4.2, 3.9)
    in_flops = dataclasses.replace(FASTER, metric="flops", slug="flops")
    assert [v.verdict for v in judge([FASTER, in_flops], records)] == ["holds", "not reproduced"]


def test_a_loss_that_no_seed_reaches_contradicts_if_the_final_losses_differ_for_sure():
    worse = curves("b", 4.0, 4.2, 3.9)
    surely = only(judge([FASTER], curves("a", 4.5, 4.71, 4.39) + worse))
    perhaps = only(judge([FASTER], curves("a", 4.01, 4.9, 3.92) + worse))
    assert (surely.verdict, perhaps.verdict) == ("not reproduced", "cannot tell")
    assert set(surely.costs.values()) == {None}
    assert surely.tested == surely.difference


def test_a_loss_that_some_seeds_reach_cannot_tell():
    better, worse = curves("a", 2.0, 2.2, 1.9, 2.1, 4.4), curves("b", 4.0, 4.2, 3.9, 4.1, 4.0)
    assert only(judge([FASTER], better[:4] + worse)).verdict == "holds"
    found = only(judge([FASTER], better + worse))
    assert found.verdict == "cannot tell"
    assert sum(spent is None for spent in found.costs.values()) == 1


def test_a_run_that_stopped_before_it_spent_as_much_contradicts_nothing():
    better = [dataclasses.replace(r, curve=r.curve[:5]) for r in curves("a", 4.5, 4.71, 4.39)]
    assert only(judge([FASTER], better + curves("b", 4.0, 4.2, 3.9))).verdict == "cannot tell"


def test_a_run_without_validation_in_its_curve_is_refused_by_name():
    with pytest.raises(UserError, match="record b_0 has no validation loss"):
        judge(
            [FASTER],
            curves("a", 2.0, 2.1) + [dataclasses.replace(r, curve=[]) for r in curves("b", 4.0, 4.1)],
        )


def test_the_ledger_shows_every_verdict_with_its_numbers():
    records = runs("a", 4.45) + runs("b")
    absent = dataclasses.replace(LOWER, statement="A beats D", worse="d", paper=None)
    page = ledger_markdown(judge([LOWER, absent], records), {"table1": "Table 1: perplexity"})
    assert "The rule is of 22 November 2026, before the first runs" in page
    assert "## Table 1: perplexity, scale cpu" in page
    assert "**2 claims: 1 holds, 0 not reproduced at this scale, 0 cannot tell," in page
    assert " 0 not testable here, 1 not run.**" in page
    judged, line = (line for line in page.splitlines() if "A beats B" in line)
    assert judged == f"{line} Table 1 | cpu |"
    assert "12 against 15 (-20.0%)" in line
    assert line.startswith("| **holds** | A beats B |")
    verdict = judge([LOWER], records)[0]
    assert f"| 5 | < 0.001 | {-100 * math.expm1(-effect_found(verdict.tested, 2, LEVEL)):.2f}% |" in line
    assert f"{verdict.percent[0]:+.2f}% [{verdict.percent[1]:+.2f}%, {verdict.percent[2]:+.2f}%]" in line
    (line,) = (line for line in page.splitlines() if "A beats D" in line)
    assert line.startswith("| not run | A beats D | not run | 0 | - | - | - | - |")


def test_the_ledger_for_programs_has_a_row_a_claim_in_the_unit_that_was_judged():
    absent = dataclasses.replace(LOWER, statement="A beats D", worse="d", paper=None)
    (judged,) = judge([LOWER], runs("a", 4.45) + runs("b"))
    worse = curves("b", 4.0, 4.2, 3.9)
    reached, never = (judge([FASTER], curves("a", *ends) + worse)[0] for ends in ((2.0, 2.2, 1.9), (4.5, 4.71, 4.39)))
    found = [judged, *judge([absent], runs("a", 4.45)), reached, never]
    rows = list(csv.DictReader(ledger_csv(found).splitlines()))
    assert [row["verdict"] for row in rows] == ["holds", "not run", "holds", "not reproduced"]
    assert [(row["first"], row["second"], row["paper_first"]) for row in rows[:2]] == [("a", "b", "12"), ("a", "d", "")]
    assert [row["quantity"] for row in rows] == [*["test perplexity"] * 2, *["tokens to the other's loss"] * 2]
    assert [row["unit"] for row in rows] == [*["% of perplexity"] * 2, "x tokens", "% of perplexity"]
    assert [float(rows[0][name]) for name in ("mean", "low", "high")] == pytest.approx(judged.percent, rel=1e-5)
    assert [rows[1][name] for name in ("mean", "p", "n")] == ["", "", "0"]
    assert [f"{float(rows[2][name]):.2f}" for name in ("mean", "low", "high")] == ["0.50", "0.45", "0.55"]
    assert float(rows[3]["low"]) > 0


def test_what_could_be_found_of_a_reduction_is_told_as_one():
    """The loss of 60 pairs of two seeds far apart would have to fall by so much that nothing of it is left."""
    apart = paired_difference({0: 4.5, 1: 7.0}, {0: 4.5, 1: 4.5})
    family = [
        Verdict(
            claim=dataclasses.replace(LOWER, worse=f"b{i}"),
            scale="cpu",
            verdict="cannot tell",
            difference=apart,
            tested=apart,
            adjusted_p=1.0,
        )
        for i in range(60)
    ]
    assert ledger_markdown(family).count("| 2 | 1.000 | 100.00% |") == 2 * 60  # a page's table, and that of all


def test_of_a_page_without_a_run_the_ledger_tells_how_many_claims_wait():
    absent = dataclasses.replace(LOWER, statement="A beats D", worse="d", slug="table9")
    page = ledger_markdown(judge([LOWER, absent], runs("a", 4.45) + runs("b")), {"table9": "Table 9"})
    assert page.endswith("## Pages of which no claim can be judged yet\n\n- Table 9, scale cpu: 1 claim\n")
    assert "A beats D" not in page and "1 not run.**" in page


def test_the_ledger_of_learning_speed_says_how_much_or_never():
    worse = curves("b", 4.0, 4.2, 3.9)
    pages = [
        ledger_markdown(judge([FASTER], better + worse))
        for better in (curves("a", 2.0, 2.2, 1.9), curves("a", 4.5, 4.71, 4.39), curves("a", 3.0, 3.1, 4.4))
    ]
    assert "0.50 x tokens [0.45, 0.55]; 0.50 x flops, 0.50 x seconds" in pages[0]
    assert "never (0 of 3 seeds); final perplexity +" in pages[1]
    assert "in 2 of 3 seeds, never in the others" in pages[2]
