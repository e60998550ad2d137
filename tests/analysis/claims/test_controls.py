"""A claim is judged only where the scale can show its kind of effect, and no side of it is worth nothing."""

import dataclasses
import math
from collections.abc import Hashable

import pytest

from analysis.claims.controls import Controls, against_null, together
from analysis.claims.judge import judge
from analysis.claims.ledger import HEADINGS, ledger_markdown, ledger_tables
from analysis.claims.rules import Claim, Verdict, measure
from mhmoe.training.record import Record
from tests.fake_records import record

CLAIM = Claim(slug="table1", statement="A lies below B", source="v1 Table 1", better="a", worse="b")
EFFECT = dataclasses.replace(CLAIM, slug="testbed", statement="X lies below D", better="x", worse="d", control="")
CONTROLS = Controls(effects={("published", "mixture"): EFFECT}, nulls={"published": "null"})


def runs(**levels: float) -> list[Record]:
    """Five seeds of every system around its nats a token, with a little of their own."""
    return [
        record(name, seed, level + 0.002 * ((seed * (7 + place)) % 5))
        for place, (name, level) in enumerate(levels.items())
        for seed in range(5)
    ]


def verdict(records: list[Record], controls: Controls | None = CONTROLS, claim: Claim = CLAIM) -> Verdict:
    (found,) = judge([claim], records, "cpu", controls=controls)
    return found


def test_a_claim_is_judged_where_the_control_is_seen_and_both_sides_beat_the_null() -> None:
    found = verdict(runs(a=4.4, b=4.5, x=4.4, d=4.6, null=4.8))
    assert found.verdict == "holds" and found.objection == ""
    assert verdict(runs(a=4.5, b=4.4, x=4.4, d=4.6, null=4.8)).verdict == "not reproduced"


def test_a_null_that_wins_makes_the_claim_untestable_here() -> None:
    found = verdict(runs(a=4.4, b=4.5, x=4.4, d=4.6, null=4.3))
    assert found.verdict == "not testable here" and found.objection.startswith("a does not beat the null (+")
    one_side = verdict(runs(a=4.4, b=4.5, x=4.4, d=4.6, null=4.45))
    assert one_side.verdict == "not testable here" and one_side.objection.startswith("b does not beat the null")


@pytest.mark.parametrize("x", [4.6, 4.6001, 4.9])
def test_a_known_effect_that_is_not_seen_makes_the_claim_untestable_with_its_figure(x: float) -> None:
    found = verdict(runs(a=4.4, b=4.5, x=x, d=4.6, null=4.8))
    assert found.verdict == "not testable here" and found.objection.startswith("control not seen: X lies below D (")
    assert "%" in found.objection and "n = 5" in found.objection


def test_without_runs_of_the_control_nothing_is_testable() -> None:
    found = verdict(runs(a=4.4, b=4.5, null=4.8))
    assert found.verdict == "not testable here"
    assert found.objection == "control not run: X lies below D (fewer than two seeds)"
    assert verdict(runs(a=4.4, b=4.5, x=4.4, d=4.6)).objection == "a does not beat the null (fewer than two seeds)"
    tuned = dataclasses.replace(CLAIM, arm="tuned")
    assert (
        "no control of the kind 'mixture'" in verdict(runs(a=4.4, b=4.5, x=4.4, d=4.6, null=4.8), claim=tuned).objection
    )


def test_a_claim_that_rests_on_no_control_is_judged_anyway() -> None:
    assert verdict(runs(a=4.4, b=4.5), claim=dataclasses.replace(CLAIM, control="")).verdict == "holds"
    assert verdict(runs(a=4.4, b=4.5), controls=None).verdict == "holds"


def test_what_is_not_testable_stays_in_the_family_and_is_not_decided() -> None:
    records = runs(a=4.49, b=4.5, x=4.4, d=4.6, null=4.8, c=5.0)
    other = dataclasses.replace(CLAIM, worse="c", statement="A lies below C")
    alone = judge([CLAIM], records, "cpu", controls=CONTROLS)[0]
    among = judge([CLAIM, other], records, "cpu", controls=CONTROLS)
    assert among[1].verdict == "not testable here" and math.isnan(among[1].adjusted_p)
    assert among[1].tested.p_value < alone.tested.p_value, "it comes first in Holm's order"
    assert among[0].adjusted_p == alone.adjusted_p, "of what comes last there"
    weaker = dataclasses.replace(other, better="c", worse="null", statement="C lies below the null")
    first = judge([CLAIM, weaker], runs(a=4.49, b=4.5, x=4.4, d=4.6, null=4.8, c=4.797), "cpu", controls=CONTROLS)
    assert first[1].verdict == "not testable here" and first[1].tested.p_value > first[0].tested.p_value
    assert first[0].adjusted_p == pytest.approx(2 * alone.adjusted_p)


@pytest.mark.parametrize("seeds", [(), (1,)], ids=["none", "one"])
def test_what_is_not_run_counts_in_the_family_and_is_not_decided(seeds: tuple[int, ...]) -> None:
    records = runs(a=4.49, b=4.5, x=4.4, d=4.6, null=4.8)
    seen = [*records, *[record for record in runs(c=5.0) if record.seed in seeds]]
    other = dataclasses.replace(CLAIM, worse="c", statement="A lies below C")
    alone = judge([CLAIM], records, "cpu", controls=CONTROLS)[0]
    among = judge([CLAIM, other], seen, "cpu", controls=CONTROLS)
    assert among[0].adjusted_p == pytest.approx(2 * alone.adjusted_p)
    assert (among[1].verdict, among[1].n) == ("not run", len(seeds)) and math.isnan(among[1].adjusted_p)


def test_where_seeds_were_added_after_a_look_p_counts_twice() -> None:
    records = runs(a=4.49, b=4.5, x=4.4, d=4.6, null=4.8)
    looked, elsewhere = (dataclasses.replace(CLAIM, raised_at=(scale,)) for scale in ("cpu", "long"))
    once, twice, not_here = (judge([c], records, "cpu", controls=CONTROLS)[0] for c in (CLAIM, looked, elsewhere))
    assert once.verdict == "holds" and twice.verdict == "cannot tell" and not_here.adjusted_p == once.adjusted_p
    assert twice.adjusted_p == pytest.approx(2 * once.tested.p_value)


def test_p_of_the_null_counts_twice_where_that_of_the_claim_does() -> None:
    records = runs(a=4.49, b=4.3, x=4.2, d=4.6, null=4.4984)
    assert 0.025 < measure(against_null("a", "null", CLAIM), records, "cpu").p_value < 0.05
    assert CONTROLS.objection(CLAIM, records, "cpu") == ""
    raised = dataclasses.replace(CLAIM, raised_at=("cpu",))
    assert CONTROLS.objection(raised, records, "cpu").startswith("a does not beat the null")
    assert CONTROLS.objection(raised, records, "long") == ""


def test_the_null_is_asked_where_the_claim_is_judged() -> None:
    """On `valid` A lies below the null, on `test` it does not."""
    records = runs(a=4.9, b=5.0, x=4.4, d=4.6, null=4.8)
    on_valid = runs(a=4.49, b=4.5, x=4.4, d=4.6, null=4.8)
    mixed = [
        dataclasses.replace(r, metrics=r.metrics | {"valid": v.metrics["test"]})
        for r, v in zip(records, on_valid, strict=True)
    ]
    (on_test,) = judge([CLAIM], mixed, "cpu", controls=CONTROLS)
    (there,) = judge([dataclasses.replace(CLAIM, split="valid")], mixed, "cpu", controls=CONTROLS)
    assert (on_test.verdict, there.verdict) == ("not testable here", "holds")


def test_one_difference_counts_once_in_a_family_and_once_in_the_ledger() -> None:
    records = runs(a=4.49, b=4.5, x=4.4, d=4.6, null=4.8)
    twice = judge([CLAIM, dataclasses.replace(CLAIM, statement="again")], records, "cpu", controls=CONTROLS)
    alone = judge([CLAIM], records, "cpu", controls=CONTROLS)[0]
    assert twice[0].adjusted_p == twice[1].adjusted_p == alone.adjusted_p
    judged: dict[Hashable, Verdict] = {CLAIM.question: alone}
    other = dataclasses.replace(CLAIM, slug="table5", statement="once more")
    fresh = dataclasses.replace(CLAIM, slug="table5", better="b", worse="a")
    found = judge([other, fresh], records, "cpu", controls=CONTROLS, judged=judged)
    assert found[0].repeats and (found[0].verdict, found[0].adjusted_p) == (alone.verdict, alone.adjusted_p)
    assert found[1].adjusted_p == judge([fresh], records, "cpu", controls=CONTROLS)[0].adjusted_p


def test_costs_of_one_difference_are_questions_of_their_own() -> None:
    tokens, flops = (dataclasses.replace(CLAIM, metric=metric) for metric in ("tokens", "flops"))
    assert tokens.difference == flops.difference != CLAIM.difference
    assert len({tokens.question, flops.question, CLAIM.question}) == 3


def test_what_is_found_at_is_told_by_the_family_in_which_a_claim_was_judged() -> None:
    records = runs(a=4.49, b=4.5, c=4.6, x=4.4, d=4.6, null=4.8)
    more = [dataclasses.replace(CLAIM, worse=worse, statement=worse) for worse in ("c", "x")]
    first = judge([CLAIM, *more], records, "cpu", controls=CONTROLS)
    other = dataclasses.replace(CLAIM, slug="table5", statement="once more")
    judged: dict[Hashable, Verdict] = {CLAIM.question: first[0]}
    again = judge([other], records, "cpu", controls=CONTROLS, judged=judged)
    tables = ledger_tables([*first, *again])
    found = [cells[HEADINGS.index("found at")] for rows in tables.values() for _, cells in rows]
    assert found[0] == found[3] != "-"


def test_a_claim_about_the_null_itself_asks_the_null_of_the_other_side_alone() -> None:
    itself = dataclasses.replace(CLAIM, worse="null", statement="A lies below the null")
    assert verdict(runs(a=4.4, x=4.4, d=4.6, null=4.8), claim=itself).verdict == "holds"


def test_the_ledger_says_why_a_claim_is_not_testable() -> None:
    found = verdict(runs(a=4.4, b=4.5, x=4.4, d=4.6, null=4.3))
    line = next(line for line in ledger_markdown([found]).splitlines() if "A lies below B" in line)
    assert "not testable here: a does not beat the null (+" in line
    lost = verdict(runs(a=4.5, b=4.4, x=4.4, d=4.6, null=4.8))
    line = next(line for line in ledger_markdown([lost]).splitlines() if "A lies below B" in line)
    assert "**not reproduced at this scale**" in line and "contradicted" not in line


def test_testbeds_of_one_task_stand_together_each_for_its_own_arm() -> None:
    bitnet = dataclasses.replace(EFFECT, arm="bitnet", better="xb", worse="db")
    other = Controls(effects={("bitnet", "mixture"): bitnet}, nulls={"bitnet": "null_b"})
    both = together([CONTROLS, other], {"a": "A"})
    assert both is not None and together([], {}) is None
    records = runs(a=4.4, b=4.5, x=4.4, d=4.6, null=4.8, xb=4.7, db=4.6, null_b=4.9)
    assert verdict(records, both).verdict == "holds"
    in_bitnet = verdict(records, both, dataclasses.replace(CLAIM, arm="bitnet"))
    assert in_bitnet.verdict == "not testable here" and "control not seen" in in_bitnet.objection
