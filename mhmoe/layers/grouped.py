"""One matrix product a group of rows: y_i = W_{e(i)} x_i, where expert p owns rows offsets[p-1] to offsets[p].

`loop_linear` is the readable reference, `grouped_linear` the fast path; both give the same outputs and
gradients, of any order. What makes it fast on CPU: a stacked weight's gradient is computed in the weight's own
layout (autograd's formula gives a transposed one, which is copied whole), and wide float32 products go to
oneDNN where torch offers it. Under vmap the batch is so many more groups.

On a card the host does not wait for the offsets: by F.grouped_mm where it has a kernel (bfloat16, compute capability 9
and 10), else by Triton where that is there. Only what neither takes goes by a loop over sizes that the host reads.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from mhmoe.layers import card

MOST_GROUPS = 1023
"""That F.grouped_mm takes in one call: its CUDA kernel refuses 1,024. More experts go by in several."""

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


@torch.library.custom_op("mhmoe::grouped_linear", mutates_args=())
def _linear(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    if card.on_card(x) and _stays_on_card(x, weight):
        return _linear_on_card(x, weight, offsets)
    out = x.new_empty(x.shape[0], weight.shape[1])
    if _grouped_mm_takes(x, weight):
        x, weight = _aligned(x), _aligned(weight)
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
    weight = grad.new_empty(len(offsets), grad.shape[1], x.shape[1])
    if card.on_card(x) and _stays_on_card(x, weight):
        return _outer_on_card(grad, x, offsets, weight)
    if _grouped_mm_takes(x, weight):
        grad, x = _aligned(grad), _aligned(x)
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
    aligned = all(width * x.element_size() % 16 == 0 for width in weight.shape[1:])
    wide_on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and weight[0].numel() >= _WIDE
    return x.dtype in (torch.float32, torch.bfloat16, torch.float16) and aligned and not wide_on_cpu


def _aligned(tensor: Tensor) -> Tensor:
    """At an address that F.grouped_mm of torch 2.10 takes; weights mapped from a file may begin anywhere."""
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _calls(offsets: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """(experts, their rows, their ends among those) of every call of F.grouped_mm."""
    begin = 0
    for first in range(0, len(offsets), MOST_GROUPS):
        part = offsets[first : first + MOST_GROUPS]
        end = int(part[-1])
        yield slice(first, first + len(part)), slice(begin, end), part - begin
        begin = end


def _stays_on_card(x: Tensor, weight: Tensor) -> bool:
    return card.triton_runs(x) or (card.grouped_mm_is_fast(x) and _grouped_mm_takes(x, weight))


def _linear_on_card(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    fast = card.grouped_mm_is_fast(x) and _grouped_mm_takes(x, weight)
    if fast and (len(offsets) <= MOST_GROUPS or not card.triton_runs(x)):
        return linear_in_calls(_aligned(x), _aligned(weight), offsets)
    from mhmoe.layers import triton_kernels as kernels

    x, out = x.contiguous(), x.new_empty(x.shape[0], weight.shape[1])
    places, tiles = torch.arange(x.shape[0], device=x.device), kernels.Tiles(offsets, x.shape[0])
    kernels.down(x.unsqueeze(1), None, places, weight, tiles, "none", out, add=False)
    return out


def _outer_on_card(grad: Tensor, x: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    fast = card.grouped_mm_is_fast(x) and _grouped_mm_takes(x, weight)
    if fast and (len(offsets) <= MOST_GROUPS or not card.triton_runs(x)):
        return outer_in_calls(_aligned(grad), _aligned(x), offsets)
    from mhmoe.layers import triton_kernels as kernels

    kernels.outer(grad.contiguous(), x.contiguous(), offsets, weight)
    return weight


def linear_in_calls(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """F.grouped_mm of any number of experts. A call begins with row 0, so the rows of a later one are turned there."""
    if len(offsets) <= MOST_GROUPS:
        return F.grouped_mm(x, weight.mT, offs=offsets)
    out, rows = x.new_empty(x.shape[0], weight.shape[1]), torch.arange(x.shape[0], device=x.device)
    for experts, begin, ends in _calls_on_card(offsets):
        turned = F.grouped_mm(x[(rows + begin) % x.shape[0]], weight[experts].mT, offs=ends)
        own = (rows >= begin) & (rows < begin + ends[-1])  # what lies beyond the last end is never written
        out = torch.where(own.unsqueeze(1), turned[(rows - begin) % x.shape[0]], out)
    return out


def outer_in_calls(grad: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    """The same of the weights' gradient."""
    if len(offsets) <= MOST_GROUPS:
        return F.grouped_mm(grad.t(), x, offs=offsets)
    rows, found = torch.arange(x.shape[0], device=x.device), list[Tensor]()
    for _, begin, ends in _calls_on_card(offsets):
        here = (rows + begin) % x.shape[0]
        found.append(F.grouped_mm(grad[here].t(), x[here], offs=ends))
    return torch.cat(found)


def _calls_on_card(offsets: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(experts, their first row, their ends from there) of every call, none of which the host reads."""
    for first in range(0, len(offsets), MOST_GROUPS):
        begin = offsets[first - 1] if first else offsets.new_zeros(())
        experts = slice(first, first + MOST_GROUPS)
        yield experts, begin, offsets[experts] - begin


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.T, by oneDNN for float32 on CPU: there MKL, torch's default, can be half as fast."""
    if a.device.type == "cpu" and a.dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return a @ b.t()


def _groups(offsets: Tensor, *rows: Tensor) -> list[tuple[Tensor, ...]]:
    sizes = offsets.diff(prepend=offsets.new_zeros(1)).tolist()
    return [part.split(sizes) for part in rows]
