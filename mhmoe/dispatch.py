"""Rows to their experts and back: sort the selections, multiply group by group, sum with the gates.

    order      the selections (row, choice) sorted by expert, so that each expert's rows lie together
    product    y_i = W_{e(i)} x_i for the sorted rows i; expert p owns rows ends[p-1] to ends[p]
    combine    out_r = sum_j g_rj y_{position(r, j)}

`loop_linear` is the readable reference of the product, `grouped_linear` the fast path; both give the same
outputs and gradients. What makes it fast on CPU: an expert's share of rows is filled up so that shapes recur; a
stacked weight's gradient is computed in the weight's own layout (autograd's formula gives a transposed one,
which is copied whole); gathering and combining are index_select and embedding_bag, whose gradients are again
gathers, never scatters; wide float32 products go to oneDNN where torch offers it.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

BLOCK = 32
"""On CPU each expert's share is filled up to a multiple of so many rows. oneDNN builds a kernel for every new
shape, which costs more than a small product: with shapes that recur it does not have to."""


class Order(NamedTuple):
    """The selections in the order of their experts, and among one expert's in their own."""

    expert: Int[Tensor, " selections"]
    row: Int[Tensor, " selections"]
    position: Int[Tensor, "rows top_k"]
    """Where each selection went. What fills up a share is nobody's position: nothing reads its result."""
    ends: Int[Tensor, " experts"]


def sort_by_expert(index: Int[Tensor, "rows top_k"], num_experts: int) -> Order:
    """The order of these selections; shares are filled up with row 0."""
    expert, source = index.flatten().sort(stable=True)  # stable: the sums' order does not vary
    ends = torch.searchsorted(expert, torch.arange(num_experts, device=index.device), right=True)
    place, row = torch.arange(len(expert), device=index.device), source // index.shape[1]
    if index.device.type == "cpu" and not torch.compiler.is_compiling():  # the filled length varies
        sizes = ends.diff(prepend=ends.new_zeros(1))
        filled = (sizes + BLOCK - 1) // BLOCK * BLOCK
        place = place + (filled.cumsum(0) - filled - ends + sizes)[expert]
        ends = filled.cumsum(0)
        empty = place.new_zeros(int(ends[-1]))
        expert, row = empty.index_copy(0, place, expert), empty.index_copy(0, place, row)
    position = torch.empty_like(source).scatter_(0, source, place).view_as(index)
    return Order(expert, row, position, ends.to(torch.int32))


def gather(x: Float[Tensor, "rows dim"], order: Order) -> Float[Tensor, "selections dim"]:
    """Each selection's row, in the order of the experts."""
    return _Gather.apply(x, order.row, order.position)  # pyright: ignore[reportReturnType]


def combine(
    y: Float[Tensor, "selections dim"], weight: Float[Tensor, "rows top_k"], order: Order
) -> Float[Tensor, "rows dim"]:
    """Each row's results, summed with its gate weights."""
    return _Combine.apply(y, weight.to(y.dtype), order.row, order.position)  # pyright: ignore


def loop_linear(
    x: Float[Tensor, "selections dim"],
    weight: Float[Tensor, "experts out dim"],
    ends: Int[Tensor, " experts"],
) -> Float[Tensor, "selections out"]:
    """One matrix product an expert, in their order."""
    sizes = ends.diff(prepend=ends.new_zeros(1)).tolist()
    return torch.cat([group @ matrix.mT for group, matrix in zip(x.split(sizes), weight, strict=True)])


@torch.library.custom_op("mhmoe::grouped_linear", mutates_args=())
def grouped_linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """`loop_linear`, fast. Shapes [selections, dim], [experts, out, dim], [experts] (int32)."""
    if _grouped_mm_takes(x, weight):
        return F.grouped_mm(x, weight.mT, offs=ends)
    out = x.new_empty(x.shape[0], weight.shape[1])
    for group, result, matrix in zip(*_groups(ends, x, out), weight, strict=True):
        if len(group):
            result.copy_(_product(group, matrix))
    return out


@torch.library.custom_op("mhmoe::grouped_outer", mutates_args=())
def _grouped_outer(grad: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    """Gradient of the weight: for each expert grad.T @ x of its rows, 0 where it has none."""
    weight = grad.new_empty(len(ends), grad.shape[1], x.shape[1])
    if _grouped_mm_takes(x, weight):
        return F.grouped_mm(grad.t(), x, offs=ends)
    for group_grad, group, matrix in zip(*_groups(ends, grad, x), weight, strict=True):
        if len(group):
            matrix.copy_(_product(group_grad.t(), group.t()))
        else:
            matrix.zero_()
    return weight


@grouped_linear.register_fake
def _(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


@_grouped_outer.register_fake
def _(grad: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    return grad.new_empty(ends.shape[0], grad.shape[1], x.shape[1])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight, ends = ctx.saved_tensors
    grad = grad.contiguous()
    x_grad = grouped_linear(grad, weight.mT, ends) if ctx.needs_input_grad[0] else None
    weight_grad = _grouped_outer(grad, x, ends) if ctx.needs_input_grad[1] else None
    return x_grad, weight_grad, None


grouped_linear.register_autograd(_backward, setup_context=_save)

_WIDE = 128 * 128
"""Weights of one expert from which a call from Python per expert costs less than oneDNN saves."""


def _grouped_mm_takes(x: Tensor, weight: Tensor) -> bool:
    """Its types and alignment; and not where a loop over oneDNN's products is faster."""
    aligned = all(width * x.element_size() % 16 == 0 for width in weight.shape[1:])
    wide_on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and weight[0].numel() >= _WIDE
    return x.dtype in (torch.float32, torch.bfloat16, torch.float16) and aligned and not wide_on_cpu


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.T, by oneDNN for float32 on CPU: there MKL, torch's default, can be half as fast."""
    if a.device.type == "cpu" and a.dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return a @ b.t()


def _groups(ends: Tensor, *rows: Tensor) -> list[tuple[Tensor, ...]]:
    sizes = ends.diff(prepend=ends.new_zeros(1)).tolist()
    return [part.split(sizes) for part in rows]


class _Gather(torch.autograd.Function):
    """x[row]; backward sums each row's gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, row: Tensor, position: Tensor) -> Tensor:
        ctx.save_for_backward(position)
        return x.index_select(0, row)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (position,) = ctx.saved_tensors
        return F.embedding_bag(position, grads[0].contiguous(), mode="sum"), None, None


class _Combine(torch.autograd.Function):
    """sum_j weight[r, j] y[position[r, j]]."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, row: Tensor, position: Tensor) -> Tensor:
        ctx.save_for_backward(y, weight, row, position)
        return F.embedding_bag(position, y, mode="sum", per_sample_weights=weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        y, weight, row, position = ctx.saved_tensors
        grad = grads[0].index_select(0, row)
        weight_grad = torch.linalg.vecdot(grad, y).index_select(0, position.flatten()).view_as(weight)
        gate = weight.new_zeros(len(y)).index_copy(0, position.flatten(), weight.flatten())
        return grad * gate.unsqueeze(-1), weight_grad, None, None
