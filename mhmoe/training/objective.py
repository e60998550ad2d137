"""What training minimises, and its gradient over one global batch.

    L = sum nll / tokens + balance_weight * mean over MoE layers of N sum_p t_p G_p       (v1 Eq. 10-11)

Both terms are of the global batch, all micro-batches of all processes: t_p is the fraction of its selections
that went to expert p, G_p the mean of g_p over its rows, N the number of experts. The selections are discrete,
so the gradient flows through G_p alone; and G_p is a mean of equal parts. With t_p known, every part's share of
the gradient is therefore exact, however the batch is cut, up to the order of sums. The counts of selections are
added up over the processes between forward and backward. With several micro-batches they are needed before the
first backward: the blocks then run once more over all of them, without gradients and without the output layer,
which adds up to a third to a step's arithmetic. What training draws (jitter, a random second expert) is drawn alike
in both runs.

Other balance losses (layers/balance.py) are functions f(t, m) of means m over rows in the place of G. Where f is not
linear in them, the means of the global batch are added up beside the counts, and a part's gradient is that of
f(t, m_all + m - [m]), [m] without gradient: df/dm at m_all, times the part's own dm. So they are exact too.

The same t tells routers with a balancing bias how to move it, once a step, after everything that can be interrupted:
`rebalance`.

Not so under a `capacity_factor`: which selections are dropped depends on the micro-batch and on the process.

Where tokens are masked (data/masking.py), the first mean is over the masked ones of the global batch.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from mhmoe.data.masking import read_and_predicted
from mhmoe.layers.balance import BalanceLoss, mixtures
from mhmoe.layers.hierarchical import HierarchicalMoE
from mhmoe.layers.losses import selections
from mhmoe.layers.routing import Router, Routing, wanted_by
from mhmoe.layers.sparse_moe import SparseMoE
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.model.outputs import is_reentrant
from mhmoe.training.config import TrainingConfig
from mhmoe.training.evaluation import token_nll

Tensors = tuple[Tensor, ...]


class Accumulated(NamedTuple):
    """This process's mean nll per token and its balance loss (their means over processes are those of L), and t of
    every MoE layer over the global batch."""

    nll: float
    balance: float
    loads: Tensors


class Terms(NamedTuple):
    """What `Accumulated` is read from, on the device: of each micro-batch its summed nll, its balance loss and its
    share of the batch; and how many tokens were predicted, on a process in the mean."""

    nll: Tensors
    balance: Tensors
    shares: Sequence[float]
    loads: Tensors
    predicted: int | Tensor

    def read(self) -> Accumulated:
        """Waits for the device."""
        nll = sum(part.item() for part in self.nll)
        balance = sum(share * part.item() for share, part in zip(self.shares, self.balance, strict=True))
        return Accumulated(nll / float(self.predicted), balance, self.loads)


class Objective(nn.Module):
    """The parts of the losses of one micro-batch: summed nll in nats, and t and the means of every MoE layer.

    t as counts of selections [experts]; the means over rows that the layer's balance loss needs, G [experts] for
    Eq. 10; none without routing. Without `targets` these two alone. A module of its own so that compilation and data
    parallelism wrap it and not the model. Raises ValueError for a model with reentrant checkpointing, whose routing has
    no gradients.
    """

    def __init__(self, model: MHMoEForCausalLM, precision: str) -> None:
        super().__init__()
        if is_reentrant(model):
            raise ValueError(
                "with reentrant checkpointing the balance loss would have no gradient; "
                'call gradient_checkpointing_enable({"use_reentrant": False})'
            )
        self.model, self.low_precision = model, precision == "bfloat16"
        self.own_losses = tuple(_own_losses(model))  # a tuple, so as not to be its parts

    def forward(
        self, inputs: Int[Tensor, "batch length"], targets: Int[Tensor, "batch length"] | None = None
    ) -> tuple[Float[Tensor, ""], Tensors, Tensors] | tuple[Tensors, Tensors]:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.low_precision):
            if targets is not None:
                output = self.model(inputs, output_routing=True)
            elif isinstance(self.model, FSDPModule):  # the whole model alone gathers its parameters
                output = self.model(inputs, output_routing=True, logits_to_keep=1)
            else:
                output = self.model.model(inputs, output_routing=True)
        routings: tuple[Routing, ...] = output.routing
        losses = _of_layers(self.own_losses, len(routings))
        counts = tuple(selections(wanted_by(r), r.probabilities.shape[-1]) for r in routings)
        means = tuple(loss.means(routing) for loss, routing in zip(losses, routings, strict=True))
        if targets is None:
            return counts, means
        return token_nll(output.logits, targets).sum(), counts, means


def balance_losses(model: nn.Module, layers: int) -> Sequence[BalanceLoss]:
    """That of each of the `layers` that route, in their order; Eq. 10 for those of other packages, which have none.

    Raises ValueError where some have none and others another than Eq. 10, so that it is not known whose is whose.
    """
    return _of_layers(_own_losses(model), layers)


def _own_losses(model: nn.Module) -> list[BalanceLoss]:
    return [cast(BalanceLoss, mixture.balance) for mixture in mixtures(model)]


def _of_layers(found: Sequence[BalanceLoss], layers: int) -> Sequence[BalanceLoss]:
    if len(found) == layers:
        return found
    if any(not loss.is_eq10 for loss in found):
        raise ValueError(
            f"{len(found)} mixtures have a balance loss of their own, but {layers} blocks route; a layer whose routing "
            "is returned must have one SparseMoE, or all of them Eq. 10"
        )
    return [BalanceLoss() for _ in range(layers)]


def accumulate_gradients(
    objective: nn.Module,
    tokens: Int[Tensor, "sequences length_plus_1"],
    config: TrainingConfig,
    balance_weight: float,
    mask: int | None = None,
) -> Accumulated:
    """Gradients of L for this process's share `tokens` of a global batch, added to `.grad`.

    Under DDP, whose all-reduce is a mean, the gradient of L results on every process. mask: what is read in the place
    of tokens that stand there as their complements, and are what is predicted; then `tokens` are no longer than length.
    """
    return add_gradients(objective, tokens, config, balance_weight, mask).read()


def add_gradients(
    objective: nn.Module, tokens: Tensor, config: TrainingConfig, balance_weight: float, mask: int | None = None
) -> Terms:
    """`accumulate_gradients`, which waits for nothing on a card, so that it can be a graph there (replay.py)."""
    inputs, targets = (tokens[:, :-1], tokens[:, 1:]) if mask is None else read_and_predicted(tokens, mask)
    count = targets.numel() if mask is None else _mean_masked(tokens)
    parts = list(zip(inputs.chunk(config.micro_batches), targets.chunk(config.micro_batches), strict=True))
    terms = Terms((), (), [len(part) / len(inputs) for part, _ in parts], (), count)
    known = _of_all(objective, [part for part, _ in parts]) if len(parts) > 1 else None
    for left, part, share in zip(reversed(range(len(parts))), parts, terms.shares, strict=True):
        _add_up_over_processes(objective, left == 0)
        nll, counts, means = objective(*part)
        losses = balance_losses(objective, len(means))
        linear = all(loss.linear for loss in losses)
        if known is None:
            known = _fractions_over_processes(counts), () if linear else _means_over_processes(means)
        loads, means_of_all = known
        if not linear:
            pairs = zip(means_of_all, means, strict=True)
            means = tuple(of_all + (mean - mean.detach()) for of_all, mean in pairs)
        balance = _mean_over_layers(losses, loads, means, nll)
        (nll / count + balance_weight * share * balance).backward()
        terms = Terms((*terms.nll, nll.detach()), (*terms.balance, balance.detach()), terms.shares, loads, count)
    return terms


def _mean_masked(tokens: Tensor) -> Float[Tensor, ""]:
    """How many tokens are masked on a process, in the mean over processes; of one token in all where nothing is."""
    return _means_over_processes(((tokens < 0).sum()[None].float(),))[0][0].clamp(min=1 / _world())


def _add_up_over_processes(objective: nn.Module, now: bool) -> None:
    """Whether the next backward pass ends with the mean of gradients over processes."""
    objective = getattr(objective, "_orig_mod", objective)  # within what torch.compile gives
    if isinstance(objective, nn.parallel.DistributedDataParallel):
        objective.require_backward_grad_sync = now
    elif isinstance(objective, Objective) and isinstance(objective.model, FSDPModule):
        objective.model.set_requires_gradient_sync(now)


def rebalance(model: nn.Module, loads: Tensors) -> None:
    """Lets every router take its step outside the gradients, given t of the global batch of every MoE layer."""
    found = mixtures(model)
    if len(found) == len(loads):  # else there are layers of other packages, which nothing here knows
        for mixture, load in zip(found, loads, strict=True):
            cast(SparseMoE | HierarchicalMoE, mixture).rebalance(load)


def _of_all(objective: nn.Module, parts: Sequence[Tensor]) -> tuple[Tensors, Tensors]:
    """t and means of every MoE layer over what all micro-batches of all processes read."""
    if not any(isinstance(module, Router) for module in objective.modules()):
        return (), ()
    device = parts[0].device
    drawing_alike = torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type)
    with drawing_alike, torch.no_grad():
        found = [objective(part) for part in parts]
    shares = [part.shape[0] / sum(map(len, parts)) for part in parts]
    counts = tuple(torch.stack(of_layer).sum(dim=0) for of_layer in zip(*(c for c, _ in found), strict=True))
    means = tuple(
        torch.stack([share * mean for share, mean in zip(shares, of_layer, strict=True)]).sum(dim=0)
        for of_layer in zip(*(m for _, m in found), strict=True)
    )
    losses = balance_losses(objective, len(means))
    linear = all(loss.linear for loss in losses)
    return _fractions_over_processes(counts), () if linear else _means_over_processes(means)


def _fractions_over_processes(counts: Tensors) -> Tensors:
    """Fractions of the selections of all processes, from this one's counts; one small message."""
    return tuple(of_layer / of_layer.sum() for of_layer in _summed(counts))


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _means_over_processes(means: Tensors) -> Tensors:
    return tuple(of_layer / _world() for of_layer in _summed(tuple(mean.detach() for mean in means)))


def _summed(parts: Tensors) -> Tensors:
    if dist.is_initialized() and parts:
        together = torch.cat(parts)
        dist.all_reduce(together)
        parts = together.split([len(of_layer) for of_layer in parts])
    return parts


def _mean_over_layers(losses: Sequence[BalanceLoss], loads: Tensors, means: Tensors, like: Tensor) -> Float[Tensor, ""]:
    if not means:
        return like.new_zeros(())
    return torch.stack([loss.of(*pair) for loss, *pair in zip(losses, loads, means, strict=True)]).mean()
