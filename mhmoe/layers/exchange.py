"""Rows to the processes that own what they need, and back: all-to-all, with gradients.

    received = to_owners(rows, sent, taken, group)      first sent[0] rows for process 0, then 1, ...
    results  = from_owners(out, taken, sent, group)     the way back

The gradient of an all-to-all is one in the other direction. Every process has a loss of its own, and training takes the
mean of their gradients over all processes. What an owner computes serves all n processes of its group at once, so its
parameters would get a sum where others get a mean: between the two exchanges gradients are therefore 1/n as large, and
those of the rows are what they would be on one process. So every parameter's mean is over those who hold a copy.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


def to_owners(
    rows: Shaped[Tensor, "sent *shape"], sent: Sequence[int], taken: Sequence[int], group: dist.ProcessGroup
) -> Shaped[Tensor, "taken *shape"]:
    """What this process owns the parameters for, of all processes in their order."""
    return _Exchange.apply(rows, list(sent), list(taken), group, float(group.size()))  # pyright: ignore


def from_owners(
    rows: Shaped[Tensor, "sent *shape"], sent: Sequence[int], taken: Sequence[int], group: dist.ProcessGroup
) -> Shaped[Tensor, "taken *shape"]:
    """The results for what this process had sent out, by owner."""
    return _Exchange.apply(rows, list(sent), list(taken), group, 1 / group.size())  # pyright: ignore


def of_owner(value: Shaped[Tensor, "*shape"], group: dist.ProcessGroup) -> Shaped[Tensor, "*shape"]:
    """A result that stays with its owner; it enters the owner's loss alone, as the mean over the group has it."""
    return _Scaled.apply(value, 1 / group.size())  # pyright: ignore[reportReturnType]


class _Exchange(torch.autograd.Function):
    """One all-to-all; its gradient is that of the other direction, times `factor`."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, rows: Tensor, sent: list[int], taken: list[int], group: dist.ProcessGroup, factor: float
    ) -> Tensor:
        ctx.sent, ctx.taken, ctx.group, ctx.factor = sent, taken, group, factor
        received = rows.new_empty(sum(taken), *rows.shape[1:])
        dist.all_to_all_single(received, rows.contiguous(), taken, sent, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        grad = _Exchange.apply(grads[0] * ctx.factor, ctx.taken, ctx.sent, ctx.group, 1.0)
        return grad, None, None, None, None


class _Scaled(torch.autograd.Function):
    """The identity; the gradient times `factor`."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return grads[0] * ctx.factor, None
