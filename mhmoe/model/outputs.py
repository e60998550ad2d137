"""What the language model returns: as transformers' own models, with both losses and the routing besides.

The cache is `output.past_key_values` in every version; transformers 5.24 renamed the field itself to `cache`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from mhmoe.layers.routers import Routing

IGNORED_LABEL = -100

CACHE = next(f.name for f in dataclasses.fields(BaseModelOutputWithPast) if f.name in ("cache", "past_key_values"))
"""The cache's name as a field of an output, and as an argument of transformers' own functions."""


@dataclass
class MHMoEModelOutput(BaseModelOutputWithPast):
    """What the blocks return together; `balance_loss` is the mean over the MoE layers, None without any."""

    last_hidden_state: Float[Tensor, "batch length dim"] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    """What enters each block, then what leaves the final norm."""
    attentions: tuple[Tensor, ...] | None = None
    """The weights of each block, (batch, heads, length, length); the eager kernel alone has them."""
    balance_loss: Float[Tensor, ""] | None = None
    routing: tuple[Routing, ...] | None = None


@dataclass
class MHMoEOutput(CausalLMOutputWithPast):
    """`task_loss` is in nats per label. `loss` is the one to minimise, and outside of training the one to report:

    in training     `task_loss` + config.balance_weight * `balance_loss`
    in evaluation   `task_loss`, whose exponential is the perplexity
    """

    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "batch length vocabulary"] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    task_loss: Float[Tensor, ""] | None = None
    balance_loss: Float[Tensor, ""] | None = None
    routing: tuple[Routing, ...] | None = None


def mean_of(losses: Sequence[Tensor], device: torch.device) -> Float[Tensor, ""]:
    """Of the balance losses of a model's layers, which may lie on several devices."""
    return torch.stack([loss.to(device) for loss in losses]).mean()


def with_balance(
    task_loss: Float[Tensor, ""],
    weight: float,
    balance: Float[Tensor, ""],
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    shift_labels: Tensor | None = None,
) -> Float[Tensor, ""]:
    """What is trained on. The balance loss counts in proportion to the labels' share of `num_items_in_batch`, those of
    all micro-batches."""
    balance = balance.to(task_loss.device)
    if num_items_in_batch is not None:
        scored = labels[..., 1:] if shift_labels is None else shift_labels
        balance = (scored != IGNORED_LABEL).sum().to(balance.device) / num_items_in_batch * balance
    return task_loss + weight * balance


LOST_BALANCE = (
    "num_items_in_batch without labels: Trainer computes the loss itself, and the balance loss would be lost; set "
    "label_smoothing_factor=0, or balance_weight=0 and add the balance loss to your own loss"
)


def is_reentrant(model: nn.Module) -> bool:
    """Whether it recomputes by the older checkpointing, in which a block's hidden states alone have gradients."""
    return any(
        getattr(getattr(part, "_gradient_checkpointing_func", None), "keywords", {}).get("use_reentrant", False)
        for part in model.modules()
        if getattr(part, "gradient_checkpointing", False)
    )
