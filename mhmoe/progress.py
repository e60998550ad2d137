"""What a run has done so far, and the checkpoint from which it goes on."""

import dataclasses
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mhmoe.records import UserError, write_atomically


@dataclass
class Progress:
    """What a run has done so far; travels in its checkpoint."""

    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, run: str
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
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, run: str) -> Progress:
    """Raises UserError if the file is cut short, or belongs to another run."""
    try:
        state = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
        if state["run"] != run:
            # Not left to the tensors' shapes: systems may differ in top_k alone.
            raise UserError(
                f"checkpoint {path} belongs to another run (model, training, data or seed differ); "
                "remove it, or name another file"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return Progress(**state["progress"])
    except UserError:
        raise
    except Exception as error:  # torch.load fails on damaged files in a dozen ways
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"checkpoint {path} cannot be read ({reason}); remove it to start this run from its beginning"
        ) from None
