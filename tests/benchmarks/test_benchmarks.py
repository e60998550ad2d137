"""The benchmark compares equal work, takes turns, and its verdicts are what was measured."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from analysis.tables import NOT_RUN
from benchmarks.__main__ import RESULTS, benchmark
from benchmarks.contenders import Batch, Sizes, contenders
from benchmarks.layer_speed import sizes_dict
from benchmarks.report import layer_markdown, layer_rows, training_markdown, zero_shot_markdown
from benchmarks.roofline import Machine, least_seconds
from benchmarks.timing import in_turns, memory_of
from benchmarks.verdicts import MET, NOT_MET, TO_DENSE, verdicts
from mhmoe.data.tokenizer import as_transformers
from mhmoe.io import UserError
from mhmoe.layers.experts import FFNOutput
from tests import tiny
from tests.commands import module
from tests.questions import write_questions

ROOT = Path(__file__).parents[2]
TINY = Sizes(dim=192, tokens=16, num_experts=(4,))


def measured(factor: dict[str, float], missing: tuple[str, ...] = ()) -> dict[str, Any]:
    """A full run in which a contender takes so many seconds (1 if not given), of three rounds."""
    rows = [
        {
            "threads": threads,
            "precision": "float32",
            "num_experts": num_experts,
            "contender": name,
            "seconds": [] if name in missing else [factor.get(name, 1.0) * x for x in (0.9, 1.0, 1.3)],
            "note": "not run, too slow" if name in missing else "",
            "memory_bytes": 10**6,
            "flops": 10**9,
            "parameters": 10**6,
            "weight_traffic_bytes": 12 * 10**6,
            "machine": Machine(mm=1e11, onednn=2e11, bandwidth=1e10).to_dict(),
        }
        for threads in (1, 2)
        for num_experts in TO_DENSE
        for name in ("dense", "dense_onednn", "mhmoe", "sparse", "mixtral_grouped_mm", "mixtral_eager")
    ]
    source = {"device": "a CPU", "versions": {"torch": "2"}, "commit": "0" * 40, "dirty": False}
    return {
        "quick": False,
        "cores": 2,
        "repetitions": 3,
        "sizes": sizes_dict(quick=False),
        "provenance": source | {"started": "2020-01-01", "command": "python -m benchmarks"},
        "rows": rows,
    }


def found(data: dict[str, Any], other: str) -> set[str]:
    return {row["verdict"] for row in verdicts(data) if row["other"] == other}


def test_a_slow_layer_does_not_meet_its_bounds_and_the_report_says_so() -> None:
    assert found(measured({"mhmoe": 1.1}), "dense") == {MET}
    assert found(measured({"mhmoe": 1.9}), "dense") == {NOT_MET}
    rows = verdicts(measured({"mhmoe": 1.4}))
    between = {row["num_experts"]: row for row in rows if row["ours"] == "mhmoe"}
    assert {n: row["verdict"] for n, row in between.items()} == {8: NOT_MET, 64: NOT_MET, 256: MET}
    assert between[8]["value"] == pytest.approx(1.4)
    text = layer_markdown(measured({"mhmoe": 1.9}))
    assert text.count(f"| {NOT_MET} ") == 6 and "12 of 18 bounds met, 6 not met" in text


def test_being_slower_than_mixtral_is_not_met() -> None:
    data = measured({"sparse": 1.01, "mixtral_eager": 2.0})
    assert found(data, "mixtral_grouped_mm") == {NOT_MET}
    assert found(data, "mixtral_eager") == {MET}


@pytest.mark.parametrize("quick", [False, True])
def test_a_bound_that_was_not_measured_is_not_met(quick: bool) -> None:
    data = measured({}, missing=("mixtral_eager", "mhmoe")) | {"quick": quick}
    assert found(data, "mixtral_eager") == found(data, "dense") == {NOT_RUN}
    assert found(data, "mixtral_grouped_mm") == {NOT_RUN if quick else MET}
    assert "too slow" in layer_markdown(data)


def test_contenders_of_one_kind_compute_the_same_function() -> None:
    batch = Batch(TINY, torch.float32)
    batch.draw()

    def run(name: str) -> tuple[Tensor, Tensor]:
        """Output, and gradient of the input by the output alone."""
        contender = by_name[name]
        assert contender.module is not None
        x = batch.subtokens if contender.on_subtokens else batch.tokens
        output = contender.module(x)
        hidden = output.hidden if isinstance(output, FFNOutput) else output
        (gradient,) = torch.autograd.grad(hidden, x, batch.grad.view_as(hidden))
        return hidden, gradient

    by_name = {c.name: c for c in contenders(TINY, 4, torch.float32)}
    for ours, others in (
        ("dense", ["dense_onednn"]),
        ("mhmoe", ["mhmoe_loop"]),
        ("sparse", ["mixtral_grouped_mm", "mixtral_eager"]),
    ):
        expected = run(ours)
        for other in others:
            torch.testing.assert_close(run(other), expected, rtol=1e-4, atol=1e-5)


def test_a_step_leaves_no_gradients_behind() -> None:
    batch = Batch(TINY, torch.bfloat16)
    batch.draw()
    for contender in contenders(TINY, 4, torch.bfloat16):
        assert contender.module is not None
        assert contender.step(batch).isfinite().all()
        tensors = [batch.tokens, batch.subtokens, *contender.module.parameters()]
        assert all(tensor.grad is None for tensor in tensors)


def test_the_dense_network_has_the_flops_of_the_layer() -> None:
    sizes = Sizes()
    assert (sizes.dim, sizes.tokens, sizes.expert_dim) == (768, 4096, 768)
    for n in sizes.num_experts:
        layer, dense = sizes.layer(n).flops_per_token(), sizes.dense(n).flops_per_token()
        assert dense == pytest.approx(layer, rel=2e-3)


def test_eager_mixtral_with_many_experts_is_left_out_with_a_reason() -> None:
    left_out = [c for c in contenders(TINY, 65, torch.bfloat16) if c.module is None]
    assert [c.name for c in left_out] == ["mixtral_eager"]
    assert "too slow" in left_out[0].note


def test_contenders_are_timed_in_turns_on_new_input_each_round() -> None:
    calls: list[str] = []
    steps = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    timings = in_turns(steps, lambda: calls.append("draw"), rounds=2)
    assert calls == ["draw", "a", "b", "c"] * 4  # two of them to warm up: memory is measured, then it is kept
    assert [len(timing.seconds) for timing in timings.values()] == [2, 2, 2]


def test_the_memory_of_a_step_is_what_it_takes_though_as_much_lay_free() -> None:
    def step() -> list[bytes]:
        return [bytes(100_000) for _ in range(1000)]

    kept = step()[-1]  # at the end of the heap, so that what was freed before it stays with the process
    assert 90e6 < (memory_of(step) or 0) < 130e6 and len(kept) == 100_000


def test_no_round_but_the_first_begins_after_the_deadline() -> None:
    timings = in_turns({"a": lambda: None}, lambda: None, rounds=50, deadline=0.0)
    assert len(timings["a"].seconds) == 1


def test_the_lower_bound_is_the_slower_of_arithmetic_and_traffic() -> None:
    assert least_seconds(flops=4 * 10**9, traffic=10**8, peak=2e9, bandwidth=1e8) == 2.0
    assert least_seconds(flops=4 * 10**9, traffic=10**9, peak=2e9, bandwidth=1e8) == 10.0


def test_a_step_that_is_quicker_than_the_measured_peak_is_the_peak() -> None:
    """Else a dense network would reach more than all of it."""
    slow = layer_rows(measured({}), 1, "float32")
    assert [row["reached"] for row in slow] == [pytest.approx(10**9 / 2e11 / 1.0)] * len(slow)
    quick = measured({"dense": 0.0045})  # 1e9 FLOPs in 0.9 x 0.0045 s, of which the peak needs 0.005
    (dense,) = {row["reached"] for row in layer_rows(quick, 1, "float32") if row["contender"] == "dense"}
    assert dense == pytest.approx(0.9)
    assert "oneDNN's product 200 GFLOP/s, a step 247 GFLOP/s, copy" in layer_markdown(quick)
    assert "oneDNN's product 200 GFLOP/s, copy" in layer_markdown(measured({}))


@pytest.mark.slow
def test_a_quick_run_writes_tables_and_a_figure_that_render_gives_again(tmp_path: Path) -> None:
    options = ("--quick", "--repetitions", "1", "--output", str(tmp_path))
    printed = module("benchmarks", *options, PYTHONWARNINGS="default").wait()
    assert printed.code == 0, printed.err
    names = {"layer.json", "layer.md", "layer.png", "training.json", "training.md"}
    assert {path.name for path in tmp_path.iterdir()} == names
    written = {name: (tmp_path / name).read_bytes() for name in names}
    assert "QUICK RUN" in printed.out and written["layer.md"].decode() in printed.out
    rows = json.loads(written["layer.json"])["rows"]
    assert len(rows) == 2 * 7 + 2 * 6 and all(len(row["seconds"]) == 1 for row in rows)
    assert len(json.loads(written["training.json"])["measured"]["rows"]) == 8
    Image.open(tmp_path / "layer.png").verify()

    for row in json.loads(written["training.json"])["measured"]["rows"]:
        step = row["held_bytes"] - 12 * row["parameters"]
        assert step > 4 * row["parameters"]  # the gradients at least

    for name in names - {"layer.json", "training.json"}:
        (tmp_path / name).unlink()
    benchmark(output=tmp_path, render=True)
    assert {name: (tmp_path / name).read_bytes() for name in names} == written


@pytest.mark.slow
def test_zero_shot_scores_stand_beside_those_of_lm_evals_command(tmp_path: Path) -> None:
    write_questions(tmp_path / "data")
    text = tiny.text(tmp_path / "cache")
    tiny.model("mhmoe_compute").save_pretrained(tmp_path / "model")
    as_transformers(text.tokenizer).save_pretrained(tmp_path / "model")
    options = {"quick": True, "checkpoint": tmp_path / "model", "data": tmp_path / "data", "output": tmp_path / "out"}
    benchmark(only="zero_shot", tasks=("openbookqa", "truthfulqa_mc2"), **options)
    found = json.loads((tmp_path / "out" / "zero_shot.json").read_text())["measured"]
    assert [(row["task"], row["measure"], row["n"]) for row in found["rows"]] == [
        ("openbookqa", "acc", 4),
        ("openbookqa", "acc_norm", 4),
        ("truthfulqa_mc2", "acc", 4),
    ]
    *counted, mc2 = found["rows"]
    assert all(row["ours"] == row["lm_eval"] for row in counted) and min(found["seconds"].values()) > 0
    assert mc2["ours"] == pytest.approx(mc2["lm_eval"], abs=1e-6)  # a mean of float probabilities, in another order
    same = sum(row["ours"] == row["lm_eval"] for row in found["rows"])
    page = (tmp_path / "out" / "zero_shot.md").read_text()
    assert f"{same} of 3 accuracies are the same number" in page and "QUICK RUN" in page
    found["rows"][0]["ours"] += 1e-9
    data = json.loads((tmp_path / "out" / "zero_shot.json").read_text()) | {"measured": found}
    assert f"{same - 1} of 3 accuracies" in zero_shot_markdown(data) and "NO" in zero_shot_markdown(data)


def test_zero_shot_scores_without_a_model_or_questions_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("MHMOE_DATA", raising=False)
    for checkpoint in (None, tmp_path):
        with pytest.raises(UserError, match="zero_shot needs --checkpoint, and questions"):
            benchmark(only="zero_shot", checkpoint=checkpoint, output=tmp_path)


@pytest.mark.parametrize(
    ("name", "markdown"),
    [("layer", layer_markdown), ("training", training_markdown), ("zero_shot", zero_shot_markdown)],
)
def test_the_committed_report_is_what_the_committed_measurement_gives(name: str, markdown: Any) -> None:
    if not (RESULTS / f"{name}.json").exists():
        pytest.skip("not measured yet")
    data = json.loads((RESULTS / f"{name}.json").read_text())
    assert (RESULTS / f"{name}.md").read_text() == markdown(data)
    assert not data["quick"]


def test_options_that_measure_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="repetitions=0"):
        benchmark(repetitions=0, output=tmp_path)
    with pytest.raises(UserError, match=r"layer\.json does not exist; measure, without"):
        benchmark(only="layer", render=True, output=tmp_path)


@pytest.mark.parametrize("options", [{"render": True}, {"only": "training"}], ids=["render", "training"])
def test_a_card_is_not_measured_where_something_else_was_asked(options: Any, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("benchmarks.__main__.run_card", lambda *_: pytest.fail("measured"))
    with pytest.raises(UserError, match="device=cuda times the layer and nothing else"):
        benchmark(device="cuda", output=tmp_path, **options)
