"""A run that is watched is the run that nobody watches, and what is told of it is so."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mhmoe.data.packing import PackedDataset
from mhmoe.io import UserError
from mhmoe.layers.switch_router import SwitchRouterConfig
from mhmoe.training.checkpoint import TrainState
from mhmoe.training.loop import train
from mhmoe.training.watch import Evaluated, Step, Watch, Watcher
from mhmoe.training.watchers import JsonLines, TensorBoard, Tracker, heatmap, read_log, step_of
from tests import tiny

EVERY = 4
TRAINING = dataclasses.replace(tiny.TRAINING, steps=10, evaluations=2, evaluation_windows=4)


class Kept(Watcher):
    def __init__(self) -> None:
        self.told: list[Step | Evaluated | str] = []

    def on_begin(self, step: int) -> None:
        self.told.append(f"begin {step}")

    def on_step(self, step: Step) -> None:
        self.told.append(step)

    def on_evaluation(self, found: Evaluated) -> None:
        self.told.append(found)

    def on_end(self) -> None:
        self.told.append("end")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return tiny.text(tmp_path_factory.mktemp("packed"))


def drops_and_draws() -> torch.nn.Module:
    moe = tiny.config("xmoe").moe
    router = SwitchRouterConfig(dim=tiny.DIM, num_experts=4).to_dict()
    return tiny.model("xmoe", moe=moe | {"capacity_factor": 0.5, "router": router})


def trained(model, text: PackedDataset, watch: Watch | None = None, **options) -> TrainState:  # pyright: ignore
    progress = train(model, text, TRAINING, seed=0, watch=watch, **options)
    assert progress is not None
    return progress


@pytest.mark.parametrize("make", [lambda: tiny.model("mhmoe_compute"), drops_and_draws], ids=["mhmoe", "switch"])
def test_watching_changes_no_bit_of_the_weights_and_no_loss(text: PackedDataset, tmp_path: Path, make) -> None:
    alone, watched, kept = make(), make(), Kept()
    curve = trained(alone, text).curve
    with Watch(kept, JsonLines(tmp_path / "log"), TensorBoard(tmp_path / "board"), every=1) as watch:
        found = trained(watched, text, watch).curve
    assert all(torch.equal(value, watched.state_dict()[name]) for name, value in alone.state_dict().items())
    assert [p | {"seconds": 0} for p in found] == [p | {"seconds": 0} for p in curve]
    (dropped,) = {len(e.dropped) for e in kept.told if isinstance(e, Evaluated)}
    shares = [e.dropped[0] for e in kept.told if isinstance(e, Evaluated)]
    assert dropped == 1 and (all(0.3 < s < 0.9 for s in shares) if make is drops_and_draws else set(shares) == {0.0})


def test_the_log_says_what_was_trained(text: PackedDataset, tmp_path: Path) -> None:
    model, steps = tiny.model("mhmoe_parameters"), TRAINING.steps
    with Watch(JsonLines(tmp_path / "log"), every=EVERY) as watch:
        progress = trained(model, text, watch)
    lines = read_log(tmp_path / "log")
    told = [line for line in lines if "evaluation" not in line]
    assert [line["step"] for line in told] == [*range(EVERY, steps, EVERY), steps]
    assert [line["evaluation"] for line in lines if "evaluation" in line] == progress.curve
    by_step = {line["step"]: line for line in told}
    for point in progress.curve:
        if line := by_step.get(point["step"]):
            assert line["task_loss"] == point["task_loss"] and line["balance_loss"] == point["balance_loss"]
    for line in told:
        assert line["learning_rate"] == TRAINING.rate(line["step"] - 1)
        assert line["tokens"] == line["step"] * TRAINING.tokens_per_step
        assert 0 < line["gradient_norm"] < math.inf and line["tokens_per_second"] > 0
        assert [sum(load) for load in line["loads"]] == pytest.approx([1.0]) and len(line["loads"][0]) == 4


def test_a_run_that_goes_on_has_the_log_of_one_that_was_not_interrupted(text: PackedDataset, tmp_path: Path) -> None:
    log, checkpoint = tmp_path / "log", tmp_path / "run.pt"
    with Watch(JsonLines(tmp_path / "whole"), every=1) as watch:
        trained(tiny.model("mhmoe_compute"), text, watch)
    with Watch(JsonLines(log), every=1) as watch:
        assert (
            train(
                tiny.model("mhmoe_compute"),
                text,
                TRAINING,
                seed=0,
                checkpoint=checkpoint,
                deadline=0.0,
                watch=watch,
            )
            is None
        )
    with log.open("a") as file:  # of steps after the last checkpoint, and a line that was cut off
        file.write(json.dumps(read_log(log)[0] | {"step": 7}) + '\n{"step": 8, "ta')
    with Watch(JsonLines(log), every=1) as watch:
        trained(tiny.model("mhmoe_compute", seed=9), text, watch, checkpoint=checkpoint)

    def numbers(path: Path) -> list[object]:
        return [
            line.get("task_loss") or [line["evaluation"]["valid_nll"], line["alike"], step_of(line)]
            for line in read_log(path)
        ]

    assert numbers(log) == numbers(tmp_path / "whole")


@pytest.mark.parametrize("line", ["\0\0\0", "{}", '{"evaluation": {}}'])
def test_a_damaged_line_of_the_log_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "log").write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(UserError, match="log, line 2, is damaged"):
        JsonLines(tmp_path / "log").on_begin(1)


def test_tensorboard_has_the_numbers_and_a_picture_of_every_layer(text: PackedDataset, tmp_path: Path) -> None:
    kept = Kept()
    with Watch(kept, TensorBoard(tmp_path), every=EVERY) as watch:
        trained(tiny.model("mhmoe_compute"), text, watch)
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    steps = [told for told in kept.told if isinstance(told, Step)]
    found = [(event.step, event.value) for event in read.Scalars("training/task_loss")]
    assert found == [(told.step, pytest.approx(told.task_loss)) for told in steps]
    assert {"valid/nll", "experts alike/layer 1", "dropped/layer 1", "largest load/layer 1"} <= set(
        read.Tags()["scalars"]
    )
    assert [kept.told[0], kept.told[-1]] == ["begin 0", "end"]
    (tag,) = read.Tags()["images"]
    last = read.Images(tag)[-1]
    assert (last.width, last.height) == (8 * len(steps), 8 * len(steps[0].loads[0]))


def test_the_picture_of_loads_is_white_at_none_and_black_at_twice_the_even_share() -> None:
    picture = heatmap([[0.0, 0.5, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])
    assert picture.shape == (32, 16, 3) and picture.dtype == np.uint8
    assert picture[::8, ::8, 0].tolist() == [[255, 0], [0, 255], [128, 255], [128, 255]]


def test_a_tracker_that_is_not_installed_is_named() -> None:
    with pytest.raises(UserError, match=r"^--no_such_tracker needs the package no_such_tracker; run: pip install"):
        Tracker("no_such_tracker", "project", "run", {})
