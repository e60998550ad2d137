"""One matrix product a group of rows: y_i = W_{e(i)} x_i, where expert p owns rows offsets[p-1] to offsets[p].

`loop_linear` is the readable reference, `grouped_linear` the fast path; both give the same outputs and
gradients, of any order. What makes it fast on CPU: a stacked weight's gradient is computed in the weight's own
layout (autograd's formula gives a transposed one, which is copied whole), and wide float32 products go to
oneDNN where torch offers it. Under vmap the batch is so many more groups.
On a graphics card grouped_on_card.py does it, without waiting for the offsets.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from mhmoe.layers import card
from mhmoe.layers.grouped_on_card import (
    MOST_GROUPS,
    aligned,
    grouped_mm_takes,
    linear_on_card,
    outer_on_card,
    stays_on_card,
)

_WIDE = 128 * 128
"""Weights of one expert from which a call from Python per expert costs less than oneDNN saves."""


def loop_linear(
    x: Float[Tensor, "selections dim"],
    weight: Float[Tensor, "experts out dim"],
    offsets: Int[Tensor, " experts"],
) -> Float[Tensor, "selections out"]:
    """One matrix product an expert, in their order."""
    sizes = offsets.diff(prepend=offsets.new_zeros(1)).tolist()
    return torch.cat([group @ matrix.mT for group, matrix in zip(x.split(sizes), weight, strict=True)])


def grouped_linear(
    x: Float[Tensor, "selections dim"],
    weight: Float[Tensor, "experts out dim"],
    offsets: Int[Tensor, " experts"],
) -> Float[Tensor, "selections out"]:
    """`loop_linear`, fast; `offsets` are int32."""
    return _Linear.apply(x, weight, offsets)  # pyright: ignore[reportReturnType]


def linear(x: Float[Tensor, "*rows dim"], weight: Float[Tensor, "out dim"]) -> Float[Tensor, "*rows out"]:
    """x W^T. On CPU, where both are wide and float32, as one group, by the product that experts take."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or min(x.numel(), weight.numel()) < _WIDE:
        return F.linear(x, weight)
    flat = x.reshape(-1, x.shape[-1])
    ends = torch.full((1,), flat.shape[0], dtype=torch.int32)
    return grouped_linear(flat, weight.unsqueeze(0), ends).view(*x.shape[:-1], weight.shape[0])


@torch.library.custom_op("mhmoe::grouped_linear", mutates_args=())
def _linear(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    if card.on_card(x) and stays_on_card(x, weight):
        return linear_on_card(x.contiguous(), weight, offsets)
    out = x.new_empty(x.shape[0], weight.shape[1])
    if _grouped_mm_takes(x, weight):
        x, weight = aligned(x), aligned(weight)
        if len(offsets) <= MOST_GROUPS:
            return F.grouped_mm(x, weight.mT, offs=offsets)
        for experts, rows, part in _calls(offsets):
            out[rows] = F.grouped_mm(x[rows], weight[experts].mT, offs=part)
        return out
    for group, result, matrix in zip(*_groups(offsets, x, out), weight, strict=True):
        if len(group):
            result.copy_(_product(group, matrix))
    return out


@torch.library.custom_op("mhmoe::grouped_outer", mutates_args=())
def _outer(grad: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    """For each expert grad.T @ x of its rows, 0 where it has none."""
    weight = grad.new_empty(len(offsets), grad.shape[1], x.shape[1], device="meta")
    if card.on_card(x) and stays_on_card(x, weight):
        return outer_on_card(grad.contiguous(), x.contiguous(), offsets)
    weight = torch.empty_like(weight, device=grad.device)
    if _grouped_mm_takes(x, weight):
        grad, x = aligned(grad), aligned(x)
        if len(offsets) <= MOST_GROUPS:
            return F.grouped_mm(grad.t(), x, offs=offsets)
        for experts, rows, part in _calls(offsets):
            weight[experts] = F.grouped_mm(grad[rows].t(), x[rows], offs=part)
        return weight
    for group_grad, group, matrix in zip(*_groups(offsets, grad, x), weight, strict=True):
        if len(group):
            matrix.copy_(_product(group_grad.t(), group.t()))
        else:
            matrix.zero_()
    return weight


@_linear.register_fake
def _(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


@_outer.register_fake
def _(grad: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    return grad.new_empty(offsets.shape[0], grad.shape[1], x.shape[1])


class _Linear(torch.autograd.Function):
    """y_i = W_{e(i)} x_i."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _linear(x, weight, offsets)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, weight, offsets = ctx.saved_tensors
        grad = grads[0].contiguous()
        x_grad = _Linear.apply(grad, weight.mT, offsets) if ctx.needs_input_grad[0] else None
        weight_grad = _Outer.apply(grad, x, offsets) if ctx.needs_input_grad[1] else None
        return x_grad, weight_grad, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, int]:  # pyright: ignore
        x, weight, offsets = batch_first(info, in_dims, *inputs)
        flat = _Linear.apply(x.flatten(0, 1), weight.flatten(0, 1), shifted(offsets, x.shape[1]))
        return flat.view(*x.shape[:2], weight.shape[2]), 0


class _Outer(torch.autograd.Function):
    """Gradient of the weight: sum over the rows i of expert p of grad_i x_i^T."""

    @staticmethod
    def forward(grad: Tensor, x: Tensor, offsets: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _outer(grad, x, offsets)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        grad, x, offsets = ctx.saved_tensors
        weight = grads[0].contiguous()
        grad_grad = _Linear.apply(x, weight, offsets) if ctx.needs_input_grad[0] else None
        x_grad = _Linear.apply(grad, weight.mT, offsets) if ctx.needs_input_grad[1] else None
        return grad_grad, x_grad, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, int]:  # pyright: ignore
        grad, x, offsets = batch_first(info, in_dims, *inputs)
        flat = _Outer.apply(grad.flatten(0, 1), x.flatten(0, 1), shifted(offsets, x.shape[1]))
        return flat.view(*offsets.shape, *flat.shape[1:]), 0


def batch_first(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> list[Tensor]:
    """The inputs of a rule for vmap, each with the batch as its first axis."""
    return [
        tensor.expand(info.batch_size, *tensor.shape) if axis is None else tensor.movedim(axis, 0)
        for tensor, axis in zip(inputs, in_dims, strict=True)
    ]


def shifted(index: Tensor, step: int) -> Tensor:
    """Indices [batch, n, ...] into `step` rows each become [batch * n, ...] into all rows, one after another."""
    shift = torch.arange(index.shape[0], dtype=index.dtype, device=index.device) * step
    return (index + shift.view(-1, *(1,) * (index.ndim - 1))).flatten(0, 1)


def _grouped_mm_takes(x: Tensor, weight: Tensor) -> bool:
    """Its types and alignment; and not where a loop over oneDNN's products is faster."""
    wide_on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and weight[0].numel() >= _WIDE
    return grouped_mm_takes(x, weight) and not wide_on_cpu


def _calls(offsets: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """(experts, their rows, their ends among those) of every call of F.grouped_mm."""
    begin = 0
    for first in range(0, len(offsets), MOST_GROUPS):
        part = offsets[first : first + MOST_GROUPS]
        end = int(part[-1])
        yield slice(first, first + len(part)), slice(begin, end), part - begin
        begin = end


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.T, by oneDNN for float32 on CPU: there MKL, torch's default, can be half as fast."""
    if a.device.type == "cpu" and a.dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return a @ b.t()


def _groups(offsets: Tensor, *rows: Tensor) -> list[tuple[Tensor, ...]]:
    sizes = offsets.diff(prepend=offsets.new_zeros(1)).tolist()
    return [part.split(sizes) for part in rows]
