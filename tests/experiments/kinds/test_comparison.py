"""What was measured on models stands beside their perplexity, in the table, the figure and the CSV file."""

import csv
import dataclasses
from pathlib import Path

import pytest

from experiments.kinds.comparison import MEASURES, SPEED, Comparison
from experiments.kinds.table import Row
from experiments.report.render import render
from experiments.runner.launch import Options
from experiments.runner.measurements import measured
from experiments.runner.store import Records
from experiments.systems import dense, mhmoe, null, xmoe
from tests.finished import finish
from tests.mini import MINI, at_rate
from tests.tiny import ZipfText

SCALE = dataclasses.replace(at_rate(MINI, 0.01), corpus=ZipfText)
SMALL = {
    "experts_alike": {"windows": 4},
    "dropped": {"batch_sequences": 4, "batches": 2},
    "speed": {"rounds": 2, "texts": 2, "prompt": 4, "new_tokens": 2, "batch_sequences": 4},
}
SHORT = {
    measure.measurement.name: dataclasses.replace(
        measure.measurement,
        settings={**measure.measurement.settings, **SMALL.get(measure.measurement.name, {})},
    )
    for measure in MEASURES
}
PAGE = Comparison(
    slug="compared",
    title="Compared",
    rows=[Row(system=system) for system in (null(), dense(), xmoe(8), mhmoe(8, "compute", 2))],
    reference="xmoe_8",
    measures=[measure._replace(measurement=SHORT[measure.measurement.name]) for measure in MEASURES],
    measurements=tuple(SHORT.values()),
    stressed=("xmoe_8",),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return finish(PAGE, SCALE, tmp_path_factory.mktemp("finished"), seeds=(1,))


def test_systems_without_experts_have_speeds_alone(finished: Options) -> None:
    found = PAGE.section(SCALE, Records(SCALE, finished.results), finished.results)
    assert found is not None
    rows = {row["system"]: row for row in found.rows}
    for system in ("null", "dense"):
        assert rows[system]["alike"] is None and rows[system]["largest_load"] is None
        assert rows[system]["training_speed"] > 0
    for system in ("xmoe_8", "mhmoe_8_compute_h2"):
        assert 1 <= rows[system]["largest_load"] <= 8 and rows[system]["dropped_selections"] == 0
        assert -1 <= rows[system]["alike"] <= 1 and rows[system]["generation_to_parameters"] > 0


def test_the_page_the_figure_and_the_file_have_every_system(finished: Options, tmp_path: Path) -> None:
    files = render(PAGE, [SCALE], tmp_path, finished.results)
    page = files[tmp_path / "compared.md"]
    assert "### Measured on the finished models" in page and "x Dense of its parameters" in page
    with (tmp_path / "compared_mini.csv").open() as file:
        ranked = list(csv.DictReader(file))
    assert sorted(row["label"] for row in ranked) == sorted(row.system.label for row in PAGE.rows)
    means = [float(row["mean"]) for row in ranked]
    assert means == sorted(means) and all(float(row["parameters (M)"]) > 0 for row in ranked)
    assert "largest_load" in files[tmp_path / "compared.csv"].splitlines()[0]


def test_time_in_the_figure_is_over_that_of_the_dense_model_beside_it(finished: Options, tmp_path: Path) -> None:
    render(PAGE, [SCALE], tmp_path, finished.results)
    record = Records(SCALE, finished.results).by_name["english-xmoe_8-seed1"]
    speed = measured(SHORT[SPEED.name], record, finished.results)
    assert speed is not None and speed.values is not None
    with (tmp_path / "compared_mini.csv").open() as file:
        (row,) = [r for r in csv.DictReader(file) if r["label"] == xmoe(8).label]
    ratio = speed.values.training.times_as_fast_as("same_flops")
    assert float(row["time, in that of Dense of its FLOPs"]) == pytest.approx(1 / ratio, rel=1e-4)
