"""What training minimises, and its gradient over one global batch.

    L = sum nll / tokens + balance_weight * mean over MoE layers of N sum_p t_p G_p       (v1 Eq. 10-11)

Both terms are of the global batch, all micro-batches of all processes: t_p is the fraction of its selections
that went to expert p, G_p the mean of g_p over its rows, N the number of experts. The selections are discrete,
so the gradient flows through G_p alone; and G_p is a mean of equal parts. With t_p known, every part's share of
the gradient is therefore exact, however the batch is cut, up to the order of sums. The counts of selections are
added up over the processes between forward and backward. With several micro-batches they are needed before the
first backward: the blocks then run once more over all of them, without gradients and without the output layer,
which adds up to a third to a step's arithmetic.

Not so under a `capacity_factor`: which selections are dropped depends on the micro-batch and on the process.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from mhmoe.layers.losses import balance_of, mean_over_rows, selections
from mhmoe.layers.routers import Router
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import TrainingConfig
from mhmoe.training.evaluation import token_nll

Tensors = tuple[Tensor, ...]


class Objective(nn.Module):
    """The parts of the losses of one micro-batch: summed nll in nats, and t and G of every MoE layer.

    t as counts of selections, G as the mean of g over rows, each [experts]; none without routing. Without
    `targets` the counts alone. A module of its own so that compilation and data parallelism wrap it and not the
    model.
    """

    def __init__(self, model: MHMoEForCausalLM, precision: str) -> None:
        super().__init__()
        self.model, self.low_precision = model, precision == "bfloat16"

    def forward(
        self, inputs: Int[Tensor, "batch length"], targets: Int[Tensor, "batch length"] | None = None
    ) -> tuple[Float[Tensor, ""], Tensors, Tensors] | Tensors:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.low_precision):
            output = (self.model.model if targets is None else self.model)(inputs, output_routing=True)
        counts = tuple(selections(r.index, r.probabilities.shape[-1]) for r in output.routing)
        if targets is None:
            return counts
        nll = token_nll(output.logits, targets).sum()
        return nll, counts, tuple(mean_over_rows(r.probabilities) for r in output.routing)


def accumulate_gradients(
    objective: nn.Module, tokens: Int[Tensor, "sequences length_plus_1"], config: TrainingConfig, balance_weight: float
) -> tuple[float, float]:
    """Gradients of L for this process's share `tokens` of a global batch, added to `.grad`.

    Under DDP, whose all-reduce is a mean, the gradient of L results on every process.
    Returns this process's mean nll per token, and its balance loss; the means over processes are those of L.
    """
    parts = tokens.chunk(config.micro_batches)
    count = tokens.shape[0] * (tokens.shape[1] - 1)
    total_nll = total_balance = 0.0
    load = _load_of_all(objective, parts) if len(parts) > 1 else None
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if isinstance(objective, nn.parallel.DistributedDataParallel):
            objective.require_backward_grad_sync = last
        nll, counts, means = objective(part[:, :-1], part[:, 1:])
        loads = _over_processes(counts) if load is None else load
        balance = _mean_over_layers(loads, means, nll)
        share = part.shape[0] / tokens.shape[0]
        (nll / count + balance_weight * share * balance).backward()
        total_nll += nll.item()
        total_balance += share * balance.item()
    return total_nll / count, total_balance


def _load_of_all(objective: nn.Module, parts: Sequence[Tensor]) -> Tensors:
    """t of every MoE layer over all micro-batches of all processes."""
    if not any(isinstance(module, Router) for module in objective.modules()):
        return ()
    with torch.no_grad():
        counts = [objective(part[:, :-1]) for part in parts]
    return _over_processes(tuple(torch.stack(of_layer).sum(dim=0) for of_layer in zip(*counts, strict=True)))


def _over_processes(counts: Tensors) -> Tensors:
    """Fractions of the selections of all processes, from this one's counts; one small message."""
    if dist.is_initialized() and counts:
        together = torch.cat(counts)
        dist.all_reduce(together)
        counts = together.split([len(of_layer) for of_layer in counts])
    return tuple(of_layer / of_layer.sum() for of_layer in counts)


def _mean_over_layers(loads: Tensors, means: Tensors, like: Tensor) -> Float[Tensor, ""]:
    if not means:
        return like.new_zeros(())
    return torch.stack([balance_of(load, mean) for load, mean in zip(loads, means, strict=True)]).mean()
