"""Measurements on finished models: done once, current while run and settings are, and shown in Table 5's figure."""

import csv
import dataclasses
import json
import shutil
import sys

import pytest

from experiments.kinds.routing import EXPERT_ACTIVATION
from experiments.report.index import index_rows, write_index
from experiments.report.render import render
from experiments.runner.jobs import run_in_jobs
from experiments.runner.launch import Options, unmeasured
from experiments.runner.measurements import measured, path_of
from experiments.runner.queue import Queue
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.table5_head_number import for_heads
from mhmoe.io import UserError
from tests.finished import finish, measure
from tests.mini import MINI, at_rate
from tests.tiny import ZipfText

SCALE = dataclasses.replace(at_rate(MINI, 0.01), corpus=ZipfText)
HEADS = for_heads((2,))
ACTIVATION = EXPERT_ACTIVATION


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return finish(HEADS, SCALE, tmp_path_factory.mktemp("finished"), seeds=(1,))


def records(options: Options, scale: Scale = SCALE) -> Records:
    return Records(scale, options.results)


def test_every_finished_model_is_measured_and_counts_are_complete(finished: Options) -> None:
    for record in records(finished).by_name.values():
        found = measured(ACTIVATION, record, finished.results)
        assert found is not None and found.run_fingerprint == record.fingerprint
        assert found.values is not None
        counts = found.values.counts
        (selections,) = counts.selections  # one MoE layer
        assert sum(selections) == counts.tokens * counts.rows_per_token * counts.top_k > 0
    assert len(records(finished).by_name) == 4  # X-MoE, its control, and both readings


def test_what_is_measured_is_not_measured_again_and_what_is_not_current_is(finished: Options) -> None:
    record = records(finished).by_name["english-xmoe_8-seed1"]
    path = path_of(ACTIVATION, record, finished.results)
    before = path.stat().st_mtime_ns
    assert measure(HEADS, SCALE, finished)
    assert path.stat().st_mtime_ns == before
    changed = dataclasses.replace(ACTIVATION, settings={**ACTIVATION.settings, "max_windows": 7})
    assert measured(changed, record, finished.results) is None
    other = dataclasses.replace(record, fingerprint="0" * 16)
    assert measured(ACTIVATION, other, finished.results) is None


def test_a_model_that_is_gone_is_trained_again_and_its_record_stays(finished: Options, tmp_path) -> None:
    results = shutil.copytree(finished.results, tmp_path / "results")
    cache = shutil.copytree(finished.cache, tmp_path / "cache")
    options = dataclasses.replace(finished, results=results, cache=cache)
    record = records(options).by_name["english-mhmoe_8_compute_h2-seed1"]
    path, kept = (
        path_of(ACTIVATION, record, results),
        (results / "runs" / SCALE.name / f"{record.name}.json").read_bytes(),
    )
    values = json.loads(path.read_bytes())["values"]
    path.unlink()
    shutil.rmtree(cache / "models" / SCALE.name / record.name)
    assert measure(HEADS, SCALE, options)
    assert json.loads(path.read_bytes())["values"] == values
    assert (results / "runs" / SCALE.name / f"{record.name}.json").read_bytes() == kept
    assert (cache / "models" / SCALE.name / record.name / "config.json").is_file()


def test_what_two_pages_of_a_queue_measure_is_measured_once(finished: Options, tmp_path) -> None:
    """And nothing for a page that is left out at the scale."""
    again = dataclasses.replace(finished, results=shutil.copytree(finished.results, tmp_path / "results"))
    record = records(again).by_name["english-xmoe_8-seed1"]
    path_of(ACTIVATION, record, again.results).unlink()
    other, elsewhere = (dataclasses.replace(HEADS, slug="other", only=only) for only in ((), ("smoke",)))
    for pages, expected in (([HEADS, other], [record.name]), ([HEADS], [record.name]), ([elsewhere], [])):
        left = unmeasured(Queue.of(pages), SCALE, again, records(again))
        assert [run.name for run, _ in left] == expected


def test_the_index_counts_the_models_that_are_measured(finished: Options, tmp_path) -> None:
    results = shutil.copytree(finished.results, tmp_path / "results")

    def line() -> str:
        text = write_index(index_rows([HEADS], [SCALE], results), [HEADS], tmp_path)[tmp_path / "README.md"]
        return next(line for line in text.splitlines() if f"]({HEADS.slug}.md)" in line)

    models = len([r for r in Records(SCALE, results).by_name.values() if "test" in r.metrics])
    assert f"| {models} of {models} " in line()
    path_of(ACTIVATION, Records(SCALE, results).by_name["english-xmoe_8-seed1"], results).unlink()
    assert f"| {models - 1} of {models} " in line()


def test_a_damaged_measurement_is_named_in_one_line(finished: Options, tmp_path) -> None:
    results = shutil.copytree(finished.results, tmp_path / "results")
    record = Records(SCALE, results).by_name["english-xmoe_8-seed1"]
    path = path_of(ACTIVATION, record, results)
    whole = path.read_text()
    earlier = whole.replace('"schema_version":2', '"schema_version":1')
    for damaged in (whole[:-30], earlier, whole.replace('"run_fingerprint":', '"runs":'), "[]", '{"measurement": "x"}'):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"measurement .* is damaged .*measure again") as refused:
            measured(ACTIVATION, record, results)
        assert "\n" not in str(refused.value) and damaged != whole


def test_the_figure_has_the_perplexity_and_the_activation_of_every_number_of_heads(finished: Options, tmp_path) -> None:
    page = render(HEADS, (SCALE,), tmp_path, finished.results)[tmp_path / "ablate_heads.md"]
    assert "ablate_heads_mini.png" in page
    points = list(csv.DictReader((tmp_path / "ablate_heads_mini.csv").read_text().splitlines()))
    xmoe = [p for p in points if p["label"] in ("X-MoE", "X-MoE, k = h (control)")]
    shares = {p["x"]: float(p["mean"]) for p in xmoe if "reaches" in p["panel"]}
    assert shares["1"] == pytest.approx(100 / 8) and shares["2"] == pytest.approx(100 * 2 / 8)
    heads = [p for p in points if p["label"] == "MH-MoE, equal parameters" and "reaches" in p["panel"]]
    assert 100 / 8 <= float(heads[0]["mean"]) <= 100 * 2 / 8
    assert {p["panel"] for p in points} == {"test perplexity", "experts of a layer that a token reaches (%)"}


# ---- several processes ----------------------------------------------------------------------


def test_a_process_that_was_killed_is_told_of_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    stub, ended = tmp_path / "stub", tmp_path / "ended"
    first = f'if mkdir "{tmp_path}/first" 2>/dev/null; then kill -9 $$; fi'
    stub.write_text(f"#!/bin/sh\n{first}\nsleep 1\ntouch {ended}\n")
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    assert run_in_jobs(2, []) == 9
    said = capsys.readouterr().err
    assert said.count("one of 2 processes was stopped by signal 9, perhaps because memory ran out") == 1
    assert ended.exists()
