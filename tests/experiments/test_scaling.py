"""Figures 6 and 9: which models are compared, at whose learning rates, and what is claimed of whom."""

import csv
import dataclasses
from pathlib import Path

import pytest

from analysis.claims.measured import MeasuredClaim
from analysis.results import Source
from analysis.routing.activation import ExpertActivation
from analysis.routing.measures import Counts
from analysis.zero_shot.tasks import TASKS
from experiments.figure6_scaling_experts import PAGE as FIGURE6
from experiments.figure6_scaling_experts import SERIES
from experiments.figure9_scaling_curves import PAGE as FIGURE9
from experiments.kinds import curves
from experiments.kinds.routing import EXPERT_ACTIVATION
from experiments.kinds.score_table import ZERO_SHOT_ENGLISH, ZERO_SHOT_HELLASWAG
from experiments.kinds.trend import PANELS
from experiments.regime import PAGE as REGIME
from experiments.regime import SHARES
from experiments.runner.measurements import measured, path_of, save
from experiments.runner.runs import model_config
from experiments.runner.store import Records
from experiments.scales import CPU, SCALES
from tests.experiments.kinds.test_scores import items, scores_of
from tests.fake_records import PROVENANCE, record


def test_mh_moe_has_the_size_of_x_moe_at_every_number_of_experts():
    for n, xmoe in SERIES["X-MoE"].items():
        reference = model_config(CPU, xmoe)
        for label in ("MH-MoE, equal parameters", "MH-MoE, equal FLOPs"):
            ours = model_config(CPU, SERIES[label][n])
            assert abs(ours.parameters() / reference.parameters() - 1) < 0.01, (label, n)
        flops = [model_config(CPU, s).flops_per_token(128) for s in (SERIES["MH-MoE, equal FLOPs"][n], xmoe)]
        assert flops[0] / flops[1] < 1.25  # at 256 experts its router alone costs a fifth


def test_sizes_without_a_grid_take_the_rate_of_a_neighbour_and_run_no_grid_of_their_own(tmp_path):
    runs = FIGURE6.runs(CPU, CPU.seeds, Records(CPU, tmp_path))
    tuned = {run.system.name for run in runs if not run.tests}
    systems = [s for series in SERIES.values() for n, s in series.items() if n in (8, 32)]
    assert tuned == {system.name for system in systems if not system.settled_by}  # those have a search
    seeds = {n: len([r for r in runs if r.tests and r.system.name == s.name]) for n, s in SERIES["X-MoE"].items()}
    assert seeds == {8: 3, 16: 1, 32: 3, 64: 3, 128: 1, 256: 3}
    of_curves = FIGURE9.runs(CPU, CPU.seeds, Records(CPU, tmp_path))
    assert {run.name for run in of_curves} == {run.name for run in runs}


def test_every_claim_names_systems_with_seeds_enough_and_the_reading_that_they_have():
    of = {system.name: system for series in SERIES.values() for system in series.values()}
    for claim in (*FIGURE6.claims, *FIGURE9.claims):
        assert all((of[name].seeds or 5) >= 3 for name in claim.systems)
        assert claim.matching in {of[name].matching for name in claim.systems}
        if claim.source.startswith("v1"):
            assert ("v2" in claim.source) == (claim.matching == "compute")
    for arm in ("published", "tuned"):
        assert sum(isinstance(c, MeasuredClaim) for c in FIGURE6.claims if c.arm == arm) == 3 + 2
        named = {name for claim in FIGURE6.claims if claim.arm == arm for name in claim.systems}
        assert {bool(of[name].settled_by) for name in named} == {arm == "tuned"}
    assert not any(claim.source.startswith("ours") for claim in FIGURE6.claims)  # v1 says that MH-MoE gains more


def test_a_model_scored_on_all_tasks_is_not_scored_on_one_of_them_again(tmp_path):
    run, whole, part = record("xmoe_8", 1), ZERO_SHOT_ENGLISH, ZERO_SHOT_HELLASWAG
    assert measured(part, run, tmp_path) is None
    values = dataclasses.replace(
        scores_of({"rte": items(9, 2, 0.5, 0), "hellaswag": items(9, 4, 0.5, 1)}),
        data=Source(kind="local", files={TASKS["rte"].file: "a", TASKS["hellaswag"].file: "b"}),
        tokens=7,
    )
    save(whole, run, values, PROVENANCE, tmp_path)
    found = measured(part, run, tmp_path)
    assert found is not None
    alone = Source(kind="local", files={TASKS["hellaswag"].file: "b"})
    expected = dataclasses.replace(values, tasks={"hellaswag": values.tasks["hellaswag"]}, data=alone, tokens=None)
    assert found.values == expected
    stricter = dataclasses.replace(part, settings={**part.settings, "limit": 5})
    assert measured(stricter, run, tmp_path) is None
    other = dataclasses.replace(run, fingerprint="0" * 16)
    assert measured(part, other, tmp_path) is None
    path_of(whole, run, tmp_path).unlink()
    other = scores_of({"hellaswag": items(9, 4, 0.5, 2)})
    save(part, run, other, PROVENANCE, tmp_path)
    found = measured(part, run, tmp_path)
    assert found is not None and found.values == other != expected


def test_the_panels_of_experts_are_shares_of_a_layers_experts_in_percent(tmp_path):
    run = record("xmoe_8", 1)
    one_of_four = ExpertActivation(
        counts=Counts(
            tokens=100,
            rows_per_token=1,
            top_k=1,
            selections=[[100, 0, 0, 0]],
            probability=[[1.0, 0.0, 0.0, 0.0]],
            distinct=[[0, 100]],
        )
    )
    names = ("activation", "effective", "collapsed")
    assert [PANELS[name][1](run, tmp_path) for name in names] == [None, None, None]
    save(EXPERT_ACTIVATION, run, one_of_four, PROVENANCE, tmp_path)
    assert [PANELS[name][1](run, tmp_path) for name in names] == [25.0, 25.0, 75.0]
    assert FIGURE6.trend is not None and set(names[1:]) < set(FIGURE6.trend.panels)


def test_shares_of_a_scales_tokens_stand_on_the_axis_as_millions():
    trend, long = REGIME.trend, SCALES["long"]
    assert trend is not None and FIGURE6.trend is not None
    assert [trend.shown(share, long) for share in SHARES] == [0.5, 2, 12, 48]
    assert FIGURE6.trend.shown(256, long) == 256


def test_a_seed_that_one_arm_lacks_is_not_taken_from_the_other():
    """Tuned MH-MoE has no seed 1; the points as published are still means over theirs."""
    path = Path(__file__).parents[2] / "results" / "figure6_scaling_experts_cpu.csv"
    rows = [*csv.DictReader(path.read_text(encoding="utf-8").splitlines())]
    points = {(row["label"], row["x"]): row for row in rows if row["panel"] == "test perplexity"}
    records = Records(CPU).by_name
    found = [records[f"english-xmoe_8-seed{seed}"].metrics["test"]["perplexity"] for seed in (1, 2, 3)]
    point = points["X-MoE", "8"]
    assert int(point["n"]) == 3 and float(point["mean"]) == pytest.approx(sum(found) / 3, 1e-5)


def test_a_panel_of_curves_of_which_nothing_is_run_is_not_drawn(tmp_path, monkeypatch):
    drawn: list[str] = []
    monkeypatch.setattr(curves, "learning_curves", lambda panels, *_, **__: drawn.extend(panels))
    long = SCALES["long"]
    records = Records(long)
    section = FIGURE9.section(long, records, tmp_path)
    run = {record.system for record in records.by_name.values() if record.task == FIGURE9.task}
    having = [title for title, of in FIGURE9.panels.items() if run & {system.name for system in of.values()}]
    assert drawn == having and 0 < len(having) < len(FIGURE9.panels)
    assert section is not None and section.markdown.count("not run") >= len(FIGURE9.panels) - len(having)
