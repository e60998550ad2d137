"""Scores of several models side by side, claims about measured values, and their pages."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.claims.ledger import ledger_markdown
from analysis.claims.measured import MeasuredClaim, Quantity, Side, measure_values
from analysis.claims.rules import decide
from analysis.results import Result, Source
from analysis.zero_shot.answers import Item, summarise
from analysis.zero_shot.results import Settings, TaskScores, ZeroShotScores
from analysis.zero_shot.scores import Score, mean_accuracy, mean_advantage, score_tables
from experiments.kinds.score_table import ZERO_SHOT_ENGLISH, ZERO_SHOT_MLP_LAYERS
from experiments.report.render import render, verdicts
from experiments.runner.launch import Options
from experiments.runner.measurements import measured, path_of
from experiments.runner.store import Records
from experiments.table2_english_zero_shot import PAGE as TABLE2
from experiments.table3_xnli_zero_shot import PAGE as TABLE3
from experiments.table7_mlp_layers import PAGE as TABLE7
from mhmoe.io import UserError
from tests.finished import finish, train
from tests.mini import MINI, at_rate
from tests.questions import write_questions
from tests.tiny import ZipfText

LINES = (Score("Two", "two"), Score("Four", "four"), Score("Four, normalised", "four", "acc_norm"))


def items(n: int, choices: int, right: float, seed: int) -> list[Item]:
    """Questions of which a model of this accuracy answers about so many."""
    draw = np.random.default_rng(seed)
    made: list[Item] = []
    for i in range(n):
        likelihood = np.sort(draw.uniform(-20, -5, choices))
        best = draw.uniform() < right
        gold = choices - 1 if best else int(draw.integers(choices - 1))
        made.append(
            Item(
                key=f"item {i}",
                log_likelihood=tuple(likelihood),
                bytes=(8,) * choices,
                choices=tuple(f"{i} {c}" for c in range(choices)),
                right=tuple(c == gold for c in range(choices)),
                scores={"acc": float(best), "acc_norm": float(best)},
            )
        )
    return made


def scores_of(tasks: Mapping[str, Sequence[Item]]) -> ZeroShotScores:
    found = {
        name: TaskScores(**vars(summarise(several)), version=1.0, cut=0.25, windowed=0.0)
        for name, several in tasks.items()
    }
    settings = Settings(lm_eval="0", limit=None, max_length=64, num_fewshot=0)
    return ZeroShotScores(tasks=found, settings=settings, tokens=None, seconds=None)


def result(two: float, four: float, seed: int) -> ZeroShotScores:
    return scores_of({"two": items(200, 2, two, seed), "four": items(100, 4, four, seed + 50)})


def of_seeds(two: float, four: float, base: int = 0) -> dict[int, ZeroShotScores]:
    return {seed: result(two, four, base + seed) for seed in (1, 2, 3)}


STRONG, WEAK = of_seeds(0.9, 0.6), of_seeds(0.5, 0.25, 100)
CLAIM = MeasuredClaim(
    slug="table",
    statement="strong is better",
    source="here",
    measurement="scores",
    higher=Side(system="strong", quantity=mean_accuracy(LINES)),
    lower=Side(system="weak", quantity=mean_accuracy(LINES)),
)


def scored(strong: Any = STRONG, weak: Any = WEAK) -> dict[tuple[str, str], Mapping[int, Any]]:
    return {("scores", "strong"): strong, ("scores", "weak"): weak}


def verdict(claim: MeasuredClaim = CLAIM, **sides: Any) -> str:
    (found,) = decide([measure_values(claim, scored(**sides), "cpu")])
    return found.verdict


# ---- claims ---------------------------------------------------------------------------------


def test_what_was_measured_decides_and_the_other_way_round_it_contradicts():
    assert verdict() == "holds"
    assert verdict(strong=WEAK, weak=STRONG) == "not reproduced"
    assert verdict(weak=of_seeds(0.9, 0.6, 200)) == "cannot tell"


def test_the_difference_and_its_interval_are_those_of_a_paired_t_test():
    found = measure_values(CLAIM, scored(), "cpu")
    quantity = mean_accuracy(LINES)
    ours, others = ([quantity.of(side[seed]) for seed in (1, 2, 3)] for side in (STRONG, WEAK))
    test = stats.ttest_rel(ours, others)
    assert found.difference.p_value == pytest.approx(test.pvalue)
    low, high = test.confidence_interval(0.95)
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high))
    assert (found.tested.low, found.tested.high) == pytest.approx((-high, -low))


def test_the_interval_over_items_knows_that_two_scores_of_a_task_are_of_the_same_items():
    found = measure_values(CLAIM, scored(), "cpu").documents
    quantity = mean_accuracy(LINES)
    assert quantity.items is not None
    sides = [[[group.values for group in quantity.items(side[s])] for s in (1, 2, 3)] for side in (STRONG, WEAK)]
    gaps = [np.mean([a[g] - b[g] for a, b in zip(*sides, strict=True)], axis=0) for g in range(3)]
    assert np.array_equal(gaps[1], gaps[2])  # acc and acc_norm of one task: wholly dependent
    error = math.hypot(stats.sem(gaps[0]), 2 * stats.sem(gaps[1])) / 3
    mean = np.mean([gap.mean() for gap in gaps])
    assert found.n == 200 + 100
    assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - 1.95996 * error, mean + 1.95996 * error))
    assert found.mean == pytest.approx(measure_values(CLAIM, scored(), "cpu").difference.mean)


def test_gains_are_compared_with_their_interval_over_items():
    claim = dataclasses.replace(CLAIM, over=("its base", "the other's base"))
    sides = {"strong": STRONG, "weak": WEAK, "its base": of_seeds(0.2, 0.1, 200), "the other's base": WEAK}
    (found,) = decide([measure_values(claim, {("scores", name): side for name, side in sides.items()}, "cpu")])
    quantity = mean_accuracy(LINES)
    of = {name: np.array([quantity.of(side[s]) for s in (1, 2, 3)], dtype=float) for name, side in sides.items()}
    gaps = (of["strong"] - of["its base"]) - (of["weak"] - of["the other's base"])
    low, high = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    assert found.verdict == "holds"
    assert (found.difference.mean, found.difference.low, found.difference.high) == pytest.approx(
        (gaps.mean(), low, high)
    )
    assert found.documents.mean == pytest.approx(gaps.mean()) and found.documents.n == 300
    other = {name: WEAK if name == "its base" else side for name, side in sides.items()}
    del other["the other's base"]
    assert measure_values(claim, {("scores", name): side for name, side in other.items()}, "cpu").verdict == "not run"


def test_seeds_that_one_side_lacks_do_not_count():
    two = {seed: STRONG[seed] for seed in (1, 2)}
    assert measure_values(CLAIM, scored(strong=two), "cpu").n == 2
    assert verdict(strong={1: STRONG[1]}) == "not run"
    assert verdict(strong={}) == "not run"


def test_different_items_are_not_compared():
    fewer = {s: scores_of({"two": items(199, 2, 0.5, s)}).tasks for s in WEAK}
    other = {s: dataclasses.replace(r, tasks={**r.tasks, **fewer[s]}) for s, r in WEAK.items()}
    with pytest.raises(UserError, match="measured on different items"):
        verdict(weak=other)


def test_different_data_are_not_compared():
    source = Source(kind="local", files={"file": "another hash"})
    other = {seed: dataclasses.replace(values, data=source) for seed, values in WEAK.items()}
    with pytest.raises(UserError, match="measured on different data"):
        verdict(weak=other)


def test_what_was_measured_by_other_settings_is_not_compared():
    settings = dataclasses.replace(WEAK[1].settings, lm_eval="another")
    other = {seed: dataclasses.replace(values, settings=settings) for seed, values in WEAK.items()}
    with pytest.raises(UserError, match="measured on different settings"):
        verdict(weak=other)


def test_a_claim_that_compares_nothing_or_unlike_things_is_refused():
    with pytest.raises(ValueError, match="are both"):
        dataclasses.replace(CLAIM, lower=CLAIM.higher)
    with pytest.raises(ValueError, match="of two pairs, so of four systems"):
        dataclasses.replace(CLAIM, over=("a base", "a base"))
    with pytest.raises(ValueError, match="points and bits per byte"):
        dataclasses.replace(CLAIM, lower=Side(system="weak", quantity=mean_advantage(LINES)))


def test_languages_and_both_scores_of_truthfulqa_are_one_cluster_each():
    values = scores_of({s.task: items(10, 4, 0.5, 0) for table in (TABLE2, TABLE3) for s in table.scores})
    for table, clusters in ((TABLE2, 9), (TABLE3, 1)):
        quantity = mean_accuracy(table.scores)
        assert quantity.items is not None
        assert len({group.cluster for group in quantity.items(values)}) == clusters


def test_one_system_can_be_compared_with_itself_by_two_quantities():
    @dataclass(frozen=True, kw_only=True)
    class Groups(Result):
        many: float
        few: float

    def part(name: str) -> Quantity[Groups]:
        return Quantity(name=name, unit="experts", of=lambda values: getattr(values, name))

    claim = dataclasses.replace(
        CLAIM, higher=Side(system="a", quantity=part("many")), lower=Side(system="a", quantity=part("few"))
    )
    values = {s: Groups(many=3 + 0.1 * s, few=2 + 0.05 * s) for s in (1, 2, 3)}
    (found,) = decide([measure_values(claim, {("scores", "a"): values}, "cpu")])
    assert found.verdict == "holds" and math.isnan(found.documents.mean)


def test_the_ledger_shows_the_difference_in_its_unit():
    page = ledger_markdown(decide([measure_values(CLAIM, scored(), "cpu")]))
    line = next(line for line in page.splitlines() if "strong is better" in line)
    assert " points [+" in line and "**holds**" in line and line.count("[") == 2


# ---- tables ---------------------------------------------------------------------------------


def test_means_are_over_lines_for_accuracy_and_over_tasks_for_the_finer_measure():
    values = STRONG[1].tasks
    two, four = (100 * values[task].accuracies["acc"].value for task in ("two", "four"))
    assert mean_accuracy(LINES).of(STRONG[1]) == pytest.approx((two + four + four) / 3)
    advantages = [values[task].finer["advantage"].value or 0 for task in ("two", "four")]
    assert mean_advantage(LINES).of(STRONG[1]) == pytest.approx(sum(advantages) / 2)


def test_a_table_has_ours_the_papers_chance_and_where_ours_differs_from_it():
    page, rows = score_tables(LINES, {"strong": STRONG, "weak": WEAK, "later": {}}, {"strong": [71.5, 60.1, 2.0, 44.5]})
    accuracy = page.split("### ")[1].splitlines()
    two = next(line for line in accuracy if line.startswith("| Two"))
    found = [100 * r.tasks["two"].accuracies["acc"].value for r in STRONG.values()]
    mean, std = np.mean(found), np.std(found, ddof=1)
    assert f"{mean:.1f} ± {std:.1f} ↑ (71.5)" in two and "not run" in two
    assert [cell.strip() for cell in two.split("|")[2:7]] == ["200", "25", "2.1", "50.0", "-"]
    weak = np.mean([100 * r.tasks["two"].accuracies["acc"].value for r in WEAK.values()])
    assert f" {weak:.1f} " in two and two.count("↑") == 1
    assert "(44.5)" in next(line for line in accuracy if line.startswith("| average"))
    assert len(rows) == 3 * (len(LINES) + 3 * 2)
    (row,) = (r for r in rows if (r["label"], r["task"], r["measure"]) == ("strong", "two", "acc"))
    assert row["value"] == pytest.approx(mean) and row["seeds"] == 3


def test_who_always_says_the_more_frequent_answer_is_not_above_guessing():
    classes = [dataclasses.replace(item, choices=("yes", "no")) for item in items(200, 2, 0.8, 1)]
    found = scores_of({"two": classes})
    assert (found.tasks["two"].majority or 0) > 0.7 and (found.tasks["two"].accuracies["acc"].p_chance or 0) < 1e-6
    page, _ = score_tables(LINES[:1], {"frequent": {1: found, 2: found}}, {})
    assert "↑" not in next(line for line in page.splitlines() if line.startswith("| Two"))


def test_below_chance_has_its_own_arrow():
    page, _ = score_tables(LINES[:1], {"wrong": of_seeds(0.2, 0.2)}, {})
    assert "↓" in next(line for line in page.splitlines() if line.startswith("| Two"))


def test_an_arrow_must_stand_among_all_cells():
    """Two hundred models that guess: by chance alone ten are beyond p < 0.05."""
    guessing = {str(i): {1: scores_of({"two": items(200, 2, 0.5, 1000 + i)})} for i in range(200)}
    tasks = [values[1].tasks["two"].accuracies["acc"] for values in guessing.values()]
    assert sum((task.p_chance or 0) < 0.05 for task in tasks) > 2
    page, _ = score_tables(LINES[:1], guessing, {})
    assert not {"↑", "↓"} & set(page.split("### ")[1].split("|", 1)[1])


@pytest.mark.parametrize("unknown", [1, 3])
def test_a_seed_of_which_nothing_can_be_said_leaves_its_cell_without_an_arrow(unknown: int):
    task = STRONG[unknown].tasks["two"]
    accuracies = {"acc": dataclasses.replace(task.accuracies["acc"], p_chance=None)}
    tasks = {**STRONG[unknown].tasks, "two": dataclasses.replace(task, accuracies=accuracies)}
    seeds = {**STRONG, unknown: dataclasses.replace(STRONG[unknown], tasks=tasks)}
    line = next(x for x in score_tables(LINES[:1], {"strong": seeds}, {})[0].splitlines() if x.startswith("| Two"))
    assert "↑" not in line


def test_knowledge_shows_as_an_advantage_and_guessing_does_not():
    page, _ = score_tables(LINES, {"strong": STRONG, "weak": WEAK}, {})
    (table,) = (part for part in page.split("### ") if part.startswith("Advantage"))
    line = next(line for line in table.splitlines() if line.startswith("| Two"))
    strong, weak = (cell.strip() for cell in line.split("|")[3:5])
    assert strong.startswith("+") and strong.endswith("↑") and "↑" not in weak


@pytest.mark.parametrize("table", [TABLE2, TABLE3], ids=lambda table: table.slug)
def test_our_mean_is_the_papers_and_its_lines_are_ours(table: Any):
    printed = [row.paper_scores for row in table.rows if row.paper_scores]
    assert len(printed) == 5
    for *values, mean in printed:
        assert len(values) == len(table.scores)
        assert sum(values) / len(values) == pytest.approx(mean, abs=0.06)  # XNLI's last row is cut, not rounded


def test_every_claim_of_the_paper_is_judged_by_accuracy_and_by_the_finer_measure():
    for table in (TABLE2, TABLE3):
        names = [(claim.higher.system, claim.lower.system, claim.unit) for claim in table.claims]  # pyright: ignore
        for better, worse, unit in names:
            assert (better, worse, {"points": "bits per byte", "bits per byte": "points"}[unit]) in names
        printed = [claim.paper for claim in table.claims if claim.paper]
        assert len(printed) == 3 and all(above > below for above, below in printed)


# ---- from the model to the page -------------------------------------------------------------


def test_finished_models_are_scored_and_the_page_has_them(tmp_path):
    data, scale = tmp_path / "data", dataclasses.replace(at_rate(MINI, 0.01), corpus=ZipfText)
    write_questions(data)
    page = dataclasses.replace(TABLE2, rows=[row for row in TABLE2.rows if row.system.name in ("dense", "xmoe_8")])
    options = finish(page, scale, tmp_path, data=data)
    text = render(page, (scale,), tmp_path, options.results)[tmp_path / f"{page.slug}.md"]
    assert "lm-eval" in text and "| HellaSwag, normalised " in text and "not run" not in text
    found = {v.claim.statement: v for v in verdicts([page], (scale,), options.results)}
    assert found["X-MoE, 8 experts has higher mean accuracy than Dense on nine English tasks"].n == 2
    assert sum(v.verdict == "not run" for v in found.values()) == len(page.claims) - 2


def test_scores_of_all_tasks_have_those_of_a_few_as_if_scored_alone(tmp_path):
    data, scale = tmp_path / "data", dataclasses.replace(at_rate(MINI, 0.01), corpus=ZipfText)
    write_questions(data)
    table = dataclasses.replace(TABLE7, rows=TABLE7.rows[:1], claims=())
    options = finish(table, scale, tmp_path, seeds=(1,), data=data)
    finish(dataclasses.replace(table, measurements=(ZERO_SHOT_ENGLISH,)), scale, tmp_path, seeds=(1,), data=data)
    measurement = ZERO_SHOT_MLP_LAYERS
    (record,) = Records(scale, options.results).by_name.values()
    alone = measured(measurement, record, options.results)
    path_of(measurement, record, options.results).unlink()
    among = measured(measurement, record, options.results)
    assert alone is not None and among is not None and among.measurement == "zero_shot_english"
    ours, theirs = among.values, alone.values
    assert ours is not None and theirs is not None
    assert list(ours.tasks) == list(theirs.tasks) == ["rte", "piqa", "winogrande"]
    assert (ours.data, ours.settings) == (theirs.data, theirs.settings)
    for task, found in ours.tasks.items():
        assert found.accuracies["acc"] == theirs.tasks[task].accuracies["acc"]


def test_models_that_were_trained_alone_are_scored_once_there_is_a_data_folder(tmp_path):
    scale = dataclasses.replace(at_rate(MINI, 0.01), corpus=ZipfText)
    table = dataclasses.replace(TABLE7, rows=TABLE7.rows[:1], claims=())
    options = Options(seeds=(1,), results=tmp_path / "results", cache=tmp_path / "cache")
    assert train(table, scale, options)
    assert "Zero-shot" not in render(table, (scale,), tmp_path, options.results)[tmp_path / f"{table.slug}.md"]
    with pytest.raises(UserError, match=r"measures zero_shot_mlp_layers, which .* set MHMOE_DATA .* --train-only"):
        finish(table, scale, tmp_path, seeds=(1,))
    data = tmp_path / "data"
    write_questions(data)
    finish(table, scale, tmp_path, seeds=(1,), data=data)
    page = render(table, (scale,), tmp_path, options.results)[tmp_path / f"{table.slug}.md"]
    assert "## Zero-shot scores" in page and "(52.9)" in page  # RTE without MLP layers, in the paper
    assert "generated" not in page
