"""Killed at any moment and started again, a run ends as if nothing had happened; nothing is lost."""

import dataclasses
import io
import math
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

from mhmoe.cli import stopped_at
from mhmoe.data.packing import PackedDataset
from mhmoe.io import UserError, write_sealed
from mhmoe.layers.absent import AbsentConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.checkpoint import TrainState, load_checkpoint, read_checkpoint
from mhmoe.training.config import TrainingConfig
from mhmoe.training.loop import make_optimizer, train
from tests import tiny
from tests.commands import Command, program
from tests.integrity import flipped, zeroed

SHORT = dataclasses.replace(tiny.TRAINING, steps=6, length=16)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return tiny.text(tmp_path_factory.mktemp("cache"))


def without_seconds(curve: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in point.items() if name != "seconds"} for point in curve]


def assert_identical(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(ours[name], expected[name])] == []


def test_a_model_without_its_layer_goes_on_from_a_checkpoint(text: PackedDataset, tmp_path: Path) -> None:
    """The norm before the absent layer has no effect, and a place in the optimiser's state all the same."""
    models = [tiny.model("xmoe", moe=AbsentConfig(dim=tiny.DIM).to_dict()) for _ in range(3)]
    assert train(models[0], text, SHORT, seed=0) is not None
    assert train(models[1], text, SHORT, seed=0, checkpoint=tmp_path / "run.pt", deadline=0.0) is None
    assert train(models[2], text, SHORT, seed=0, checkpoint=tmp_path / "run.pt") is not None
    assert_identical(models[2].state_dict(), models[0].state_dict())


# ---- killed ---------------------------------------------------------------------------------

PROGRAM = """
import dataclasses, sys
from pathlib import Path
import torch
from mhmoe.data.packing import load_packed
from mhmoe.training.loop import train
from tests import tiny
from tests.commands import Command, program

packed, folder = map(Path, sys.argv[1:])
config = dataclasses.replace(tiny.TRAINING, steps=300, length=16, evaluations=10)
model = tiny.model("mhmoe_compute")
trained = []
model.register_forward_pre_hook(lambda module, _: trained.append(1) if module.training else None)
progress = train(
    model, load_packed(packed), config, seed=0, checkpoint=folder / "run.pt", checkpoint_seconds=0.03
)
result = {"weights": model.state_dict(), "curve": progress.curve, "seconds": progress.seconds}
torch.save(result | {"trained": len(trained)}, folder / "result")
"""


def start(packed: Path, folder: Path) -> Command:
    folder.mkdir(exist_ok=True)
    return program(PROGRAM, packed, folder)


def finish(packed: Path, folder: Path) -> dict[str, Any]:
    ended = start(packed, folder).wait()
    assert ended.code == 0, ended.err
    return torch.load(folder / "result")


def steps_saved(folder: Path) -> int:
    return read_checkpoint(folder / "run.pt")["progress"]["step"]


@pytest.mark.slow  # the command line is killed too
def test_a_run_killed_three_times_ends_with_the_weights_of_one_never_killed(
    text: PackedDataset, tmp_path: Path
) -> None:
    whole = finish(text.folder, tmp_path / "whole")
    assert whole["trained"] == 300
    folder, draw, saved = tmp_path / "killed", random.Random(0), 0
    for _ in range(3):
        begun = _write_time(folder)
        run = start(text.folder, folder)
        while _write_time(folder) == begun:  # until it trains
            assert run.process.is_alive()
            time.sleep(0.002)
        time.sleep(draw.uniform(0.01, 0.2) * whole["seconds"])
        killed = run.kill_when(lambda: True)
        assert killed.code == -signal.SIGKILL, "it had ended before it was killed"
        assert saved < steps_saved(folder) < 300
        saved = steps_saved(folder)
    resumed = finish(text.folder, folder)
    assert resumed["trained"] == 300 - saved
    assert_identical(resumed["weights"], whole["weights"])
    assert without_seconds(resumed["curve"]) == without_seconds(whole["curve"])
    assert len(resumed["curve"]) == 10
    seconds = [point["seconds"] for point in resumed["curve"]]
    assert seconds == sorted(seconds)
    assert sorted(path.name for path in folder.iterdir()) == [
        "result",
        "run.pt",
    ]  # no half-written file is left


def _write_time(folder: Path) -> int:
    path = folder / "run.pt"
    return path.stat().st_mtime_ns if path.exists() else 0


def test_a_run_removes_what_its_killed_predecessor_had_half_written(text: PackedDataset, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    killed = "import os, signal, sys; os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL);" + PROGRAM
    assert program(killed, text.folder, folder).wait().code == -signal.SIGKILL
    (half,) = folder.iterdir()
    assert half.name != "run.pt" and half.stat().st_size > 0
    train(tiny.model("dense"), text, SHORT, seed=0, checkpoint=folder / "run.pt")
    assert [path.name for path in folder.iterdir()] == ["run.pt"]


# ---- out of time ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "changes"),
    [("dense", {}), ("full", {"micro_batches": 2}), ("xmoe", {"precision": "bfloat16"})],
)
def test_a_run_cut_into_pieces_by_deadlines_ends_bit_identical(
    text: PackedDataset, tmp_path: Path, system: str, changes: dict[str, Any]
) -> None:
    config = dataclasses.replace(SHORT, **changes)
    whole, pieces = tiny.model(system), 0
    expected = train(whole, text, config, seed=3)
    path = tmp_path / "run.pt"
    while True:
        model = tiny.model(system, seed=9)  # whatever it holds, the checkpoint decides, but the first time
        if not path.exists():
            model = tiny.model(system)
        progress = train(model, text, config, seed=3, checkpoint=path, deadline=time.monotonic())
        if progress is not None:
            break
        pieces += 1
        assert read_checkpoint(path)["progress"]["step"] == pieces  # at least one step, whatever the deadline
    assert pieces == config.steps - 1
    assert_identical(model.state_dict(), whole.state_dict())
    assert expected is not None and without_seconds(progress.curve) == without_seconds(expected.curve)
    assert read_checkpoint(path)["progress"]["step"] == config.steps


def test_a_finished_run_is_not_trained_again(text: PackedDataset, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    first = train(tiny.model("xmoe"), text, SHORT, seed=0, checkpoint=path)
    model = tiny.model("xmoe", seed=9)
    model.register_forward_pre_hook(lambda *_: pytest.fail("it trained"))
    assert train(model, text, SHORT, seed=0, checkpoint=path, deadline=time.monotonic()) == first
    assert_identical(model.state_dict(), read_checkpoint(path)["model"])


def test_a_deadline_without_a_checkpoint_leaves_no_file(text: PackedDataset, tmp_path: Path) -> None:
    assert train(tiny.model("dense"), text, SHORT, seed=0, deadline=0.0) is None
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_come_as_often_as_asked(text: PackedDataset, tmp_path: Path) -> None:
    """At 0 seconds after every step, at infinity only at the end."""
    path, seen = tmp_path / "run.pt", list[int]()
    model = tiny.model("dense")

    def note(module: torch.nn.Module, _: Any) -> None:
        if module.training:
            seen.append(read_checkpoint(path)["progress"]["step"] if path.exists() else 0)

    model.register_forward_pre_hook(note)
    train(model, text, SHORT, seed=0, checkpoint=path, checkpoint_seconds=0.0)
    assert seen == [0, 1, 2, 3, 4, 5]
    path.unlink()
    seen.clear()
    train(model, text, SHORT, seed=0, checkpoint=path, checkpoint_seconds=math.inf)
    assert seen == [0] * 6 and read_checkpoint(path)["progress"]["step"] == 6


@pytest.mark.parametrize("training", [True, False], ids=["in a step", "in an evaluation"])
def test_a_deadline_stops_long_work_at_once_with_a_checkpoint(
    text: PackedDataset, tmp_path: Path, training: bool
) -> None:
    """The second step, or the evaluation after it, takes a minute; nothing of what was done before is lost."""
    path, model, calls = tmp_path / "run.pt", tiny.model("mhmoe_compute"), list[bool]()

    def dawdle(module: torch.nn.Module, _: Any) -> None:
        calls.append(module.training)
        if calls.count(training) == (2 if training else 1) and module.training is training:
            time.sleep(60)

    hook = model.register_forward_pre_hook(dawdle)
    begun = time.monotonic()
    with stopped_at(begun + 0.5):
        assert train(model, text, SHORT, seed=0, checkpoint=path, deadline=begun + 0.5) is None
    assert time.monotonic() - begun < 5
    hook.remove()
    assert read_checkpoint(path)["progress"]["step"] == (1 if training else 2)
    resumed, whole = tiny.model("mhmoe_compute", seed=9), tiny.model("mhmoe_compute")
    progress, expected = train(resumed, text, SHORT, seed=0, checkpoint=path), train(whole, text, SHORT, seed=0)
    assert_identical(resumed.state_dict(), whole.state_dict())
    assert progress is not None and expected is not None
    assert without_seconds(progress.curve) == without_seconds(expected.curve)


def test_without_a_deadline_nothing_rings() -> None:
    with stopped_at(math.inf):
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0
    with stopped_at(time.monotonic() + 100):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 99
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0


# ---- bad checkpoints ------------------------------------------------------------------------


def load(path: Path) -> TrainState:
    model, run = tiny.model("mhmoe_compute"), read_checkpoint(path.parent / "good.pt")["run"]
    return load_checkpoint(path, model, make_optimizer(model, SHORT), SHORT, run)


def write(path: Path, state: Any) -> None:
    """As `save_checkpoint` writes, with a hash that is right."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_sealed(path, buffer.getvalue())


@pytest.fixture(scope="module")
def good(text: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after the first step of SHORT."""
    path = tmp_path_factory.mktemp("checkpoint") / "good.pt"
    assert train(tiny.model("mhmoe_compute"), text, SHORT, seed=0, checkpoint=path, deadline=0.0) is None
    return path


def test_a_checkpoint_cut_short_anywhere_is_one_clear_line(good: Path) -> None:
    whole, path = good.read_bytes(), good.with_name("cut.pt")
    assert load(good).step == 1
    draw = random.Random(0)
    cuts = [
        0,
        1,
        2,
        30,
        64,
        1000,
        len(whole) - 1,
        len(whole) - 22,
        *(draw.randrange(len(whole)) for _ in range(40)),
    ]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"^checkpoint .*/cut.pt cannot be read \(.+\); remove it to") as caught:
            load(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
        assert path.read_bytes() == whole[:cut]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_that_is_no_checkpoint_is_one_clear_line(good: Path) -> None:
    path = good.with_name("other.pt")
    contents: list[Any] = [b"hello\n", b"\n\n", bytes(3000), b"\x80\x04.", b"PK\x03\x04"]
    state = read_checkpoint(good)
    contents += [[1], {"weights": 1}, {"run": state["run"]}, state | {"model": None}]
    torch.save(state, path)
    contents.append(path.read_bytes())  # of a version that wrote no hash
    for content in contents:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            write(path, content)
        with pytest.raises(UserError, match=r"^checkpoint .*/other.pt cannot be read \(.+\)") as caught:
            load(path)
        assert "\n" not in str(caught.value)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"^checkpoint .*/other.pt cannot be read \(.+\)"):
        load(path)
    path.rmdir()


def test_a_checkpoint_cannot_run_code(good: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (good.with_name("owned"),)

    write(good.with_name("evil.pt"), read_checkpoint(good) | {"progress": Evil()})
    with pytest.raises(UserError, match=r"evil.pt cannot be read"):
        load(good.with_name("evil.pt"))
    assert not good.with_name("owned").exists()


def test_any_bit_flipped_or_block_zeroed_in_a_checkpoint_is_one_clear_line(good: Path) -> None:
    path, draw = good.with_name("flipped.pt"), random.Random(1)
    whole = good.read_bytes()
    for damaged in [*(flipped(whole, draw) for _ in range(40)), *(zeroed(whole, draw) for _ in range(10))]:
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"^checkpoint .*/flipped.pt cannot be read \(.+\); remove it to") as caught:
            load(path)
        assert "\n" not in str(caught.value)


def edited(state: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The state with `value` where the path leads."""
    *parents, last = path.split("/")
    place: Any = state
    for key in parents:
        place = place[int(key) if key.isdigit() else key]
    place[int(last) if last.isdigit() else last] = value
    return state


NO_STATE_OF_THIS_RUN = {
    "a step before": ("progress/step", 0, "the optimiser has state for"),
    "a step later": ("progress/step", 2, "its curve is not that of its steps"),
    "a step beyond the end": ("progress/step", 7, "step=7 is not one of this run's 6"),
    "half a step": ("progress/step", 0.5, "step=0.5 is not one of this run's 6"),
    "no time": ("progress/seconds", math.nan, "seconds=nan is no duration"),
    "a point too many": ("progress/curve", [{"step": 1}], "its curve is not that of its steps"),
    "no curve": ("progress/curve", None, ""),
    "an unknown field": ("progress/other", 1, ""),
    "no moments": ("optimizer/state", {}, "the optimiser has state for 0 of"),
    "moments of another step": ("optimizer/state/3/step", torch.tensor(9.0), "of parameter 3 is not that of step 1"),
    "moments of another shape": ("optimizer/state/3/exp_avg", torch.zeros(2), "exp_avg of parameter 3 is not a tensor"),
    "moments that are none": ("optimizer/state/3/exp_avg_sq", None, "exp_avg_sq of parameter 3 is not a tensor"),
    "another decay": ("optimizer/param_groups/0/weight_decay", 0.5, "groups are not this run's"),
    "weights of another shape": ("model/model.norm.weight", torch.zeros(3), "model.model.norm.weight is not a tensor"),
    "weights of another type": ("model/model.norm.weight", torch.zeros(32, dtype=torch.half), "is not a tensor of"),
    "weights that are none": ("model/model.norm.weight", [1.0], "model.model.norm.weight is not a tensor"),
    "one weight too many": ("model/model.other", torch.zeros(3), "differ in model.other"),
}


@pytest.mark.parametrize("case", NO_STATE_OF_THIS_RUN)
def test_a_checkpoint_that_is_no_state_of_the_run_is_refused_though_its_hash_is_right(
    good: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the type checks
    path, value, message = NO_STATE_OF_THIS_RUN[case]
    write(good.with_name("edited.pt"), edited(read_checkpoint(good), path, value))
    model = tiny.model("mhmoe_compute")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer, run = make_optimizer(model, SHORT), read_checkpoint(good)["run"]
    with pytest.raises(
        UserError, match=rf"^checkpoint .*/edited.pt cannot be read \(.*{message}.*\); remove"
    ) as caught:
        load_checkpoint(good.with_name("edited.pt"), model, optimizer, SHORT, run)
    assert "\n" not in str(caught.value)
    assert_identical(model.state_dict(), before)
    assert not optimizer.state_dict()["state"]


ANOTHER: dict[str, tuple[Callable[[], MHMoEForCausalLM], TrainingConfig, int]] = {
    "system": (lambda: tiny.model("xmoe"), SHORT, 0),
    "size": (lambda: tiny.model("mhmoe_compute", vocab_size=400), SHORT, 0),
    # These have all tensors of the same shapes:
    "top_k": (lambda: tiny.model("mhmoe_compute", moe=_with_top_k_2()), SHORT, 0),
    "balance_weight": (lambda: tiny.model("mhmoe_compute", balance_weight=0.02), SHORT, 0),
    "learning_rate": (lambda: tiny.model("mhmoe_compute"), dataclasses.replace(SHORT, learning_rate=0.02), 0),
    "steps": (lambda: tiny.model("mhmoe_compute"), dataclasses.replace(SHORT, steps=7), 0),
    "seed": (lambda: tiny.model("mhmoe_compute"), SHORT, 1),
}


def _with_top_k_2() -> dict[str, Any]:
    moe = tiny.config("mhmoe_compute").moe
    assert moe is not None
    return moe | {"inner": moe["inner"] | {"router": moe["inner"]["router"] | {"top_k": 2}}}


@pytest.mark.parametrize("what", ANOTHER)
def test_a_checkpoint_of_another_run_is_refused_in_one_line_and_stays(
    text: PackedDataset, good: Path, what: str
) -> None:
    make, config, seed = ANOTHER[what]
    before = good.read_bytes()
    with pytest.raises(UserError, match=r"^checkpoint .*/good.pt belongs to another run .*remove it") as caught:
        train(make(), text, config, seed=seed, checkpoint=good)
    assert "\n" not in str(caught.value)
    assert good.read_bytes() == before


def test_a_checkpoint_of_other_text_is_refused(text: PackedDataset, good: Path) -> None:
    other = dataclasses.replace(text, fingerprint=text.fingerprint | {"tokenizer_sha256": "0"})
    with pytest.raises(UserError, match=r"belongs to another run"):
        train(tiny.model("mhmoe_compute"), other, SHORT, seed=0, checkpoint=good)


# ---- nothing is lost ------------------------------------------------------------------------


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(text: PackedDataset, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    assert train(tiny.model("mhmoe_compute"), text, SHORT, seed=0, checkpoint=path, deadline=0.0) is None
    before = path.read_bytes()
    with (
        tiny.full_disk(len(before) // 2),
        pytest.raises(UserError, match=r"^cannot write .*/run.pt: .*the old file, if any, is untouched$") as caught,
    ):
        train(tiny.model("mhmoe_compute"), text, SHORT, seed=0, checkpoint=path, checkpoint_seconds=0.0)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    model, whole = tiny.model("mhmoe_compute"), tiny.model("mhmoe_compute")
    train(model, text, SHORT, seed=0, checkpoint=path)
    train(whole, text, SHORT, seed=0)
    assert_identical(model.state_dict(), whole.state_dict())


def test_a_loss_that_is_not_finite_leaves_the_checkpoint_before_it(text: PackedDataset, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    config = dataclasses.replace(SHORT, learning_rate=1e30, evaluations=1)
    for _ in range(2):  # the second time from the checkpoint, with the same end
        with pytest.raises(UserError, match=r"the .* is not finite at step 1"):
            train(tiny.model("xmoe"), text, config, seed=0, checkpoint=path, checkpoint_seconds=0.0)
        assert read_checkpoint(path)["progress"]["step"] == 1
        assert list(tmp_path.iterdir()) == [path]
