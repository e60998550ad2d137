"""The table of the card: the sizes that are promised, every path, and what is said of the goals."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import card_speed
from benchmarks.card_speed import Subject, measure, measure_card, subjects
from benchmarks.card_table import Peaks, Row, share_of_peak, table, verdicts
from benchmarks.measured_page import RESULTS
from mhmoe.io import UserError
from mhmoe.layers.experts import Experts
from mhmoe.layers.fused import Kernels

CPU = torch.device("cpu")
PEAKS = Peaks(flops=100e12, bandwidth=1e12)


def test_the_layers_are_those_of_the_measured_table() -> None:
    """Inner widths and numbers of experts as solved by hand from v2 Eq. 8 and 9, and v1 Table 11."""
    found = {s.layer: s for s in subjects(quick=False) if s.path == "torch"}
    widths: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        for name in ("MH-MoE at equal FLOPs, 8", "MH-MoE at equal FLOPs, 256", "MH-MoE at equal parameters, 8"):
            experts = found[name].make().get_submodule("inner.experts")
            assert isinstance(experts, Experts)
            widths[name] = tuple(experts.up_proj.shape[:2])
    assert widths["MH-MoE at equal FLOPs, 8"] == (41, 2304)
    assert widths["MH-MoE at equal FLOPs, 256"][0] > 1023 and widths["MH-MoE at equal FLOPs, 256"][1] == 2304
    assert widths["MH-MoE at equal parameters, 8"] == (8, 11_904)
    dense = found["dense FFN"]
    for count in card_speed.EXPERTS:
        assert found[f"MH-MoE at equal FLOPs, {count}"].flops_per_row == pytest.approx(dense.flops_per_row, rel=0.06)


def test_every_layer_of_ours_is_timed_by_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_speed.card, "TRITON_IS_THERE", True)
    paths: dict[str, set[str]] = {}
    for subject in subjects(quick=True):
        paths.setdefault(subject.layer, set()).add(subject.path)
    ours = [layer for layer in paths if "MoE" in layer]
    assert len(ours) == 5 and all(paths[layer] == set(card_speed.PATHS) for layer in ours)
    assert paths["dense FFN"] == {"torch", "torch.compile"}
    assert all("transformers, grouped_mm" in found for layer, found in paths.items() if "SwiGLU" in layer)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch.compile imports
def test_on_a_card_a_layer_is_also_compiled_and_its_steps_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_speed.card, "TRITON_IS_THERE", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = {s.path: s for s in subjects(quick=True) if s.layer == "X-MoE, 2"}
    plain = {"torch", "torch.compile", "torch, in six slices"}
    assert set(found) == plain | {f"{path}, recorded" for path in plain}
    for path, subject in found.items():
        module = subject.make()
        assert (module._compiled_call_impl is not None) == path.startswith("torch.compile")
        assert (module.get_submodule("experts").slices == 6) == ("slices" in path)


def test_a_recorded_step_is_timed_by_its_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Graph:
        def replay(self) -> None:
            done.append("replayed")

    def record(work: Callable[[], object]) -> Graph:
        work()
        done.append("recorded")
        return Graph()

    monkeypatch.setattr(card_speed, "recorded", record)
    subject = next(s for s in subjects(quick=True) if s.layer == "X-MoE, 2")
    row = measure(dataclasses.replace(subject, path="torch, recorded"), CPU, 64 * 8, 3)
    assert done == ["recorded", *["replayed"] * 3] and len(row.seconds) == 3 and not row.note


def test_a_path_is_what_the_experts_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_speed.card, "TRITON_IS_THERE", True)
    found = [s for s in subjects(quick=True) if s.layer == "X-MoE, 2"]
    for subject in found:
        experts = subject.make().get_submodule("experts")
        assert isinstance(experts, Experts) and experts.kernels == card_speed.PATHS[subject.path]
    assert len(found) == 3 and Kernels().recompute


def test_a_quick_run_times_all_of_them_on_a_cpu() -> None:
    rows, best = measure_card(CPU, quick=True, steps=2, only="2")
    assert {row.path for row in rows} >= {"torch", "transformers, grouped_mm"} and best.flops > 0 < best.bandwidth
    assert all(len(row.seconds) == 2 and not row.note and row.flops > 0 for row in rows)
    text = table(rows, best, "a CPU")
    assert all(f"| {row.layer} | {row.path} | " in text for row in rows) and "goal" not in text


def test_a_quick_run_says_that_it_is_one_and_replaces_no_measurement(tmp_path: Path) -> None:
    text = card_speed.run("cpu", True, 1, tmp_path, only="X-MoE, 2")
    written = json.loads((tmp_path / "card.json").read_text())
    assert written["quick"] is True and "QUICK RUN of tiny sizes" in text and "of 64 tokens of width 64" in text
    assert "without kernels, which need Triton" in text
    for output, steps, only, message in (
        (RESULTS, 1, "", "a quick run would replace the committed measurement"),
        (tmp_path, 0, "", "steps=0 is not allowed"),
        (tmp_path, 1, "typo", "only='typo' is in no layer's or path's name"),
    ):
        with pytest.raises(UserError, match=message):
            card_speed.run("cpu", True, steps, output, only)


def test_what_fails_is_a_line_with_its_reason() -> None:
    class Refuses(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("Can't process more than 1024 groups\nand more")

    row = measure(Subject("broken", "torch", 8, 1, 1, Refuses), CPU, 64, 1)
    assert row.note == "fails: Can't process more than 1024 groups" and not row.seconds
    assert "| broken | torch | fails: Can't process more than 1024 groups |" in table([row], PEAKS, "none")


def test_a_path_that_fails_after_some_steps_is_not_shown_as_measured() -> None:
    class RunsOut(nn.Linear):
        left = 5

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            self.left -= 1
            if not self.left:
                raise RuntimeError("memory ran out")
            return super().forward(input)

    row = measure(Subject("broken", "torch", 8, 1, 1, lambda: RunsOut(8, 8)), CPU, 64, 4)
    assert "| broken | torch | fails: memory ran out |" in table([row], PEAKS, "none") and not row.seconds


@pytest.mark.parametrize(
    ("flops", "parameters", "share"), [(10**12, 1, 0.5), (1, 10**9, 0.3)], ids=["arithmetic", "traffic of weights"]
)
def test_the_share_of_the_peak_is_of_what_takes_longer(flops: int, parameters: int, share: float) -> None:
    row = Row("layer", "torch", flops, parameters, seconds=[0.02])
    assert share_of_peak(row, PEAKS) == pytest.approx(share)


def test_a_goal_is_judged_by_the_best_path() -> None:
    name = "MH-MoE at equal FLOPs, 8"
    slow, quick = Row(name, "torch", 1, 1, [0.006], 8 * 10**8), Row(name, "kernels", 1, 1, [0.0035, 0.0039], 2 * 10**9)
    both, slow_alone = verdicts([slow, quick]), verdicts([slow])
    assert f"- {name}: 3.70 ms by kernels, goal 4.0 met; 0.80 GB on top by torch, goal 1 met" in both
    assert f"- {name}: 6.00 ms by torch, goal 4.0 not met; 0.80 GB on top by torch, goal 1 met" in slow_alone
    assert f"- {name}: 3.70 ms by kernels, goal 4.0 met; 2.00 GB on top by kernels, goal 1 not met" in verdicts([quick])
    assert "- X-MoE, 8: not run" in verdicts([slow])
