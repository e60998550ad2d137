"""What a run has done so far, and the checkpoint from which it goes on.

A checkpoint begins with the hash of the rest, so that damage is found before anything of it is read. What it holds
is then held against the run: a checkpoint of another run, of steps that the run has not, or without the state of a
parameter is refused, and model and optimiser stay as they are.
"""

import dataclasses
import io
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mhmoe.io import UserError, read_sealed, write_sealed
from mhmoe.training.config import TrainingConfig
from mhmoe.training.record_checks import Point, TrainedPoint


@dataclass
class TrainState:
    """What a run has done so far; travels in its checkpoint.

    due: the curve's point of the last step while it lacks its evaluation, else None.
    """

    step: int = 0
    seconds: float = 0.0
    curve: list[Point] = field(default_factory=list[Point])
    due: TrainedPoint | None = None


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: TrainState, run: str
) -> None:
    """Everything that the rest of the run depends on, written whole or not at all; `run` says whose it is."""
    buffer = io.BytesIO()
    state = {
        "run": run,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": dataclasses.asdict(progress),
    }
    torch.save(state, buffer)
    write_sealed(path, buffer.getbuffer())


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainingConfig, run: str
) -> TrainState:
    """Put model and optimiser where the checkpoint has them.

    Raises UserError if the file is damaged, belongs to another run, or cannot be a state of this one.
    """
    try:
        state = read_checkpoint(path, next(model.parameters()).device)
        if state["run"] != run:
            # Not left to the tensors' shapes: systems may differ in top_k alone.
            raise UserError(
                f"checkpoint {path} belongs to another run (model, training, data or seed differ); "
                "remove it, or name another file"
            )
        progress = TrainState(**state["progress"])
        check_progress(progress, config)
        _check_tensors("model", state["model"], model.state_dict())
        _check_optimizer(state["optimizer"], optimizer.state_dict(), optimizer, progress.step)
    except UserError:
        raise
    except Exception as error:  # torch.load fails on damaged files in a dozen ways
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"checkpoint {path} cannot be read ({reason}); remove it to start this run from its beginning"
        ) from None
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return progress


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a checkpoint holds, its hash checked and nothing else. Raises ValueError or OSError if it is damaged."""
    return torch.load(io.BytesIO(read_sealed(path)), map_location=device, weights_only=True)


def check_progress(progress: TrainState, config: TrainingConfig) -> None:
    """Raises ValueError unless a run could have come to this."""
    if type(progress.step) is not int or not 0 <= progress.step <= config.steps:
        raise ValueError(f"step={progress.step!r} is not one of this run's {config.steps}")
    if type(progress.seconds) is not float or not 0 <= progress.seconds < math.inf:
        raise ValueError(f"seconds={progress.seconds!r} is no duration")
    points = [*progress.curve, progress.due] if progress.due is not None else progress.curve
    steps = [done for done in range(1, progress.step + 1) if config.evaluates_after(done)]
    if [point["step"] for point in points] != steps:
        raise ValueError("its curve is not that of its steps")


def _check_tensors(what: str, found: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    if differing := found.keys() ^ wanted.keys():
        raise ValueError(f"{what} and the checkpoint differ in {min(differing)}")
    for name, tensor in wanted.items():
        _check_tensor(f"{what}.{name}", found[name], tensor)


def _check_tensor(name: str, found: Any, wanted: Tensor) -> None:
    if not isinstance(found, Tensor) or (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        raise ValueError(f"{name} is not a tensor of shape {tuple(wanted.shape)} in {wanted.dtype}")


def _check_optimizer(
    found: Mapping[str, Any], fresh: Mapping[str, Any], optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Its groups are those of a fresh one but for the rate, and every parameter has its moments of `step` steps."""
    ours, theirs = ([{**group, "lr": None} for group in state["param_groups"]] for state in (fresh, found))
    if ours != theirs:
        raise ValueError("the optimiser's groups are not this run's")
    parameters = list(itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups))
    if found["state"].keys() != set(range(len(parameters)) if step else ()):
        raise ValueError(f"the optimiser has state for {len(found['state'])} of {len(parameters)} parameters")
    for number, state in found["state"].items():
        if state.keys() != {"step", "exp_avg", "exp_avg_sq"} or state["step"] != step:
            raise ValueError(f"the optimiser's state of parameter {number} is not that of step {step}")
        for name in ("exp_avg", "exp_avg_sq"):
            _check_tensor(f"{name} of parameter {number}", state[name], parameters[number])
