"""A waterfall goes step by step: each difference is from the step before, the way is counted from the first."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from experiments.kinds.waterfall import Waterfall
from experiments.report.render import render
from experiments.runner.store import Records
from experiments.scales import CPU
from experiments.system import System
from experiments.systems import dense, fine_grained, mhmoe, null, xmoe
from experiments.why import PAGE as WHY
from tests.forged import forged, save
from tests.mini import MINI, at_rate

SCALE = dataclasses.replace(at_rate(MINI, 0.01), seeds=(1, 2, 3))
STEPS = {"nothing": null(), "split": mhmoe(8, "compute"), "whole": dense()}
PAGE = Waterfall(slug="fall", title="Fall", steps=STEPS, goal=xmoe(8), beside={"finer": fine_grained(8, 4)})


def section(results: Path, **losses: float) -> dict[str, dict[str, object]]:
    records = Records(SCALE, results)
    for run in PAGE.runs(SCALE, SCALE.seeds, records):
        if run.system.name in losses:
            save(forged(run, losses[run.system.name] + 0.001 * (run.seed % 2)), results)
    found = PAGE.section(SCALE, Records(SCALE, results), results)
    assert found is not None
    return {row["label"]: row for row in found.rows}


def test_a_step_is_compared_with_the_one_before_and_the_way_with_the_first(tmp_path: Path) -> None:
    rows = section(tmp_path, null=4.8, mhmoe_8_compute=4.7, dense=4.75, xmoe_8=4.4)
    records = Records(SCALE, tmp_path).by_name

    def nll(system: str) -> np.ndarray:
        names = [f"english-{system}-seed{seed}" for seed in SCALE.seeds]
        return np.array([records[name].metrics["test"]["nll_per_token"] for name in names])

    start, way = nll("null"), nll("null") - nll("xmoe_8")
    assert rows["nothing"]["covered"] == 0 and "change" not in rows["nothing"]
    for label, system, before in (("split", "mhmoe_8_compute", "null"), ("whole", "dense", "mhmoe_8_compute")):
        assert rows[label]["covered"] == pytest.approx(100 * ((start - nll(system)) / way).mean())
        assert rows[label]["change"] == pytest.approx(100 * np.expm1((nll(system) - nll(before)).mean()))
    assert rows[f"for comparison: {xmoe(8).label}"]["covered"] == pytest.approx(100)
    assert rows["for comparison: finer"]["perplexity"] == "not run" and "change" not in rows["for comparison: finer"]


def test_a_step_that_was_not_run_is_said_and_nothing_is_compared_with_it(tmp_path: Path) -> None:
    rows = section(tmp_path, null=4.8, dense=4.75, xmoe_8=4.4)
    assert (rows["split"]["perplexity"], rows["split"]["n"], rows["split"]["covered"]) == ("not run", 0, None)
    assert math.isnan(float(str(rows["whole"]["change"])))
    text = "".join(render(PAGE, [SCALE], tmp_path, tmp_path).values())
    assert "nan" not in text


def test_the_steps_of_why_are_of_one_size_and_one_learning_rate() -> None:
    steps: list[System] = [*list(WHY.steps.values())[2:], WHY.goal]
    assert {step.learning_rate for step in steps} == {0.008} and {step.seeds for step in steps} == {3}
    sizes = [layer for step in steps if (layer := step.layer(CPU)) is not None]
    flops = [layer.flops_per_token() for layer in sizes]
    assert len(sizes) == len(steps) and max(flops) < 1.03 * min(flops)
