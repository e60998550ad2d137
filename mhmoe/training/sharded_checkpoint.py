"""The checkpoint of a model that lies on several processes: torch.distributed.checkpoint, in a folder.

Every process writes its own parts, by the parameters' names; however many read it again, each takes what it needs. So
a run of four processes goes on with two, or with one without any sharding, and `whole_model` makes of it the one model
that `save_pretrained` writes as safetensors.

    path/000001, path/000002, ...    one folder a checkpoint, whole or not there; the latest counts, others are removed
    path/00000n/checkpoint.json      whose it is, how far the run is, and the hash of every file

All processes must see the same folder.
"""

import contextlib
import dataclasses
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import FSDPModule

from mhmoe.io import UserError, check_sealed_folder, new_folder, remove_leftovers, seal_folder, sha256_of
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.model.masked import language_model
from mhmoe.training.checkpoint import TrainState, check_progress
from mhmoe.training.config import TrainingConfig

LISTING = "checkpoint.json"
ADVICE = "remove it to start this run from its beginning"
MOMENTS = ("exp_avg", "exp_avg_sq")
_METADATA = ".metadata"  # torch's listing of the parts
Found = TypeVar("Found")


def save_sharded(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: TrainState, run: str
) -> None:
    """Everything that the rest of the run depends on; all processes call it together. `run` says whose it is."""
    state = _state(model, optimizer)
    with contextlib.ExitStack() as stack:

        def begin() -> str:
            path.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path)
            number = 1 + max((int(folder.name) for folder in _folders(path)), default=0)
            return str(stack.enter_context(new_folder(path / f"{number:06d}")))

        new = Path(_by_first(begin))
        try:
            _torchs(save, state, new, not dist.is_initialized())
        except CheckpointException as error:
            raise UserError(f"cannot write {path} ({_first_line(error)}); the old checkpoint is untouched") from None
        if _is_first():
            written = {"run": run, "progress": dataclasses.asdict(progress), "metadata": sha256_of(new / _METADATA)}
            seal_folder(new, LISTING, written)
    if _is_first():
        for folder in _folders(path)[:-1]:
            shutil.rmtree(folder)
    if dist.is_initialized():
        dist.barrier()


def load_sharded(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainingConfig, run: str
) -> TrainState | None:
    """Put model and optimiser, sharded or not, where the checkpoint has them; None if there is none yet.

    Raises UserError if it is damaged, belongs to another run, or cannot be a state of this one.
    """
    found = _by_first(lambda: _checked(path))
    if found is None:
        return None
    folder, listing = found
    if listing["run"] != run:
        raise UserError(
            f"checkpoint {folder} belongs to another run (model, training, data or seed differ); "
            "remove it, or name another file"
        )
    try:
        progress = TrainState(**listing["progress"])
        check_progress(progress, config)
        if progress.step:
            _make_moments(model, optimizer, progress.step)
        _torchs(load, _state(model, optimizer), folder, not dist.is_initialized())
    except (Exception, CheckpointException) as error:  # the latter is a BaseException
        reason = _first_line(error)
        raise UserError(f"checkpoint {folder} cannot be read ({reason}); {ADVICE}") from None
    return progress


def holds_sharded(path: Path) -> bool:
    """Whether a sharded run wrote there."""
    return bool(_folders(path))


def remove_checkpoint(path: Path) -> None:
    """Of any run, sharded or not, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def whole_model(path: Path, config: MHMoEConfig) -> MHMoEForCausalLM:
    """The model of the latest checkpoint, on the CPU of this process alone."""
    found = _checked(path)
    if found is None:
        raise UserError(f"there is no checkpoint in {path}; name the folder that a sharded run wrote")
    model = language_model(config)
    _torchs(load, _of_model(model), found[0], True)
    return model


def _torchs(work: Callable[..., Any], state: dict[str, Any], folder: Path, alone: bool) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # alone, as is meant
        work(state, checkpoint_id=folder, no_dist=alone)


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """By name, so that it does not depend on how the optimiser groups parameters."""
    state: dict[str, Any] = _of_model(model)
    for name, parameter in model.named_parameters():
        for moment in MOMENTS:
            if parameter in optimizer.state:
                state[f"optimizer.{moment}.{name}"] = optimizer.state[parameter][moment]
    return state


def _of_model(model: nn.Module) -> dict[str, Any]:
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # the outermost keeps whole parameters after a forward without a backward
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {f"model.{name}": tensor.detach() for name, tensor in tensors}


def _make_moments(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            moments = {moment: torch.zeros_like(parameter) for moment in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(step), device=parameter.device), **moments}


def _folders(path: Path) -> list[Path]:
    """Oldest first; what is not a number is being written, or not ours."""
    return sorted(folder for folder in path.iterdir() if folder.name.isdecimal()) if path.is_dir() else []


def _checked(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """The latest checkpoint, every file the one that was written, and its listing."""
    if path.is_file():
        raise UserError(f"checkpoint {path} is of an unsharded run; go on without sharding, or name another file")
    if not (folders := _folders(path)):
        return None
    folder = folders[-1]
    listing = check_sealed_folder(folder, LISTING, ADVICE)
    if not (folder / _METADATA).is_file() or sha256_of(folder / _METADATA) != listing.get("metadata"):
        raise UserError(f"{folder / _METADATA} was changed, its sha256 is not the recorded one; {ADVICE}")
    return folder, listing


def _first_line(error: BaseException) -> str:
    if isinstance(error, CheckpointException):  # says which processes failed; each has its own reason
        error = next(iter(error.failures.values()))[0]
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _by_first(work: Callable[[], Found]) -> Found:
    """What the first process found, told to all, as are the user's mistakes."""
    told: list[Any] = [None, None]
    if _is_first():
        try:
            told[0] = work()
        except UserError as error:
            told[1] = error
    if dist.is_initialized():
        dist.broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    return told[0]
