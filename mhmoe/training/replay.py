"""A step's gradients as one CUDA graph: launching the thousand kernels of a small model takes longer than running them.

The first step of a shape records `add_gradients` with all that it launches; every later one copies its tokens to where
the recorded ones lay and launches the record. The kernels are the same, and so are the numbers. What would make the
host wait, such as the sizes that a hierarchical mixture reads, cannot be recorded: the steps are then taken one by one,
as they are with MHMOE_GRAPH=0. A record keeps the memory of a step's activations between steps too.
"""

import os
import sys

import torch
from jaxtyping import Int
from torch import Tensor, nn

from mhmoe.training.config import TrainingConfig, parts
from mhmoe.training.objective import Accumulated, Terms, add_gradients

WARM_UP = 3  # steps before recording, as torch's documentation asks for: they choose kernels and take memory


class Gradients:
    """`accumulate_gradients` for steps of one shape, each into gradients that are None; recorded where that works."""

    def __init__(
        self, objective: nn.Module, config: TrainingConfig, balance_weight: float, mask: int | None = None
    ) -> None:
        self.objective, self.config, self.balance_weight, self.mask = objective, config, balance_weight, mask
        self.recording: _Recording | None = None
        self.records = records(objective, config)

    def __call__(self, tokens: Int[Tensor, "sequences length_plus_1"]) -> Accumulated:
        if self.records and self.recording is None:
            with torch.cuda.device(tokens.device):
                self.recording = self._record(tokens)
            self.records = self.recording is not None
        found = self.add(tokens) if self.recording is None else self.recording.replay(tokens)
        return found.read()

    def add(self, tokens: Tensor) -> Terms:
        return add_gradients(self.objective, tokens, self.config, self.balance_weight, self.mask)

    def _record(self, tokens: Tensor) -> "_Recording | None":
        """None if a step cannot be recorded. Parameters are as before, and their gradients None."""
        aside, mode = torch.cuda.Stream(tokens.device), torch.cuda.get_sync_debug_mode()
        aside.wait_stream(torch.cuda.current_stream(tokens.device))
        try:
            with torch.cuda.stream(aside):
                for step in range(WARM_UP):
                    torch.cuda.set_sync_debug_mode("error" if step == WARM_UP - 1 else mode)
                    self.add(tokens)
                    self.objective.zero_grad()
            torch.cuda.set_sync_debug_mode(mode)
            torch.cuda.current_stream(tokens.device).wait_stream(aside)
            return _Recording(self, tokens)
        except RuntimeError as error:
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            if "synchroniz" not in str(error):
                print(f"a step cannot be recorded as a CUDA graph and is taken as it is: {error}", file=sys.stderr)
            return None
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            torch.cuda.current_stream(tokens.device).wait_stream(aside)
            self.objective.zero_grad()


class _Recording:
    """One step's work, and the places of its tokens, terms and gradients."""

    def __init__(self, of: Gradients, tokens: Tensor) -> None:
        self.tokens, self.graph = tokens.clone(), torch.cuda.CUDAGraph()
        # torch's default stream is of the card that was first used
        with torch.cuda.graph(self.graph, stream=torch.cuda.Stream(tokens.device)):
            self.terms = of.add(self.tokens)
        self.gradients = [(parameter, parameter.grad) for parameter in of.objective.parameters()]

    def replay(self, tokens: Tensor) -> Terms:
        self.tokens.copy_(tokens)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.terms


def records(objective: nn.Module, config: TrainingConfig) -> bool:
    """Whether it is tried: on a card, in one process, in one piece, and with nothing drawn or compiled."""
    if os.environ.get("MHMOE_GRAPH") == "0" or next(objective.parameters()).device.type != "cuda":
        return False
    model = getattr(objective, "model", None)  # none where data parallelism wraps it
    in_parts = torch.distributed.is_initialized() or config.micro_batches > 1
    return not (model is None or in_parts or config.compile or any(part.draws for part in parts(model.config)))
