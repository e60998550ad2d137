"""Rows to their experts and back: sort the selections, and sum the experts' results with the gates.

    order      the selections (row, choice) sorted by expert, so that each expert's rows lie together
    combine    out_r = sum_j g_rj y_{slot(r, j)}

What makes it fast on CPU: an expert's share of rows is filled up so that shapes recur; gathering and combining
are index_select and embedding_bag, whose gradients are again gathers, never scatters. Gradients of any order,
and under vmap the batch is so many more rows. On a card nothing is filled up, keys are sorted in 16 bits, and a sum
over choices is a gather and a sum: embedding_bag took a sixth of a step there.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from mhmoe.layers import card
from mhmoe.layers.card import numbers_may_be_read as numbers_may_be_read  # where earlier code looks for it
from mhmoe.layers.grouped import batch_first, shifted

BLOCK = 32
"""On CPU each expert's share is filled up to a multiple of so many rows, or of an eighth of an average share, but of at
least 8. oneDNN builds a kernel for every new shape, which costs more than a small product: with shapes that recur it
does not have to. Of 256 experts with 64 rows each, blocks of 32 would add a quarter of the rows."""


class Order(NamedTuple):
    """The selections in the order of their experts, and among one expert's in their own."""

    expert: Int[Tensor, " selections"]
    row: Int[Tensor, " selections"]
    slot: Int[Tensor, "rows top_k"]
    """Where each selection went. What fills up a share is nobody's slot: nothing reads its result."""
    offsets: Int[Tensor, " experts"]


def sort_by_expert(index: Int[Tensor, "rows top_k"], num_experts: int) -> Order:
    """The order of these selections; shares are filled up with row 0."""
    if card.on_card(index):
        return _sort_on_card(index, num_experts)
    expert, source = index.flatten().sort(stable=True)  # stable: the sums' order does not vary
    offsets = expert.new_zeros(num_experts).scatter_add(0, expert, torch.ones_like(expert)).cumsum(0)
    place, row = torch.arange(expert.shape[0], device=index.device), source // index.shape[1]
    if index.device.type == "cpu" and numbers_may_be_read(index):  # the filled length varies
        sizes = offsets.diff(prepend=offsets.new_zeros(1))
        block = min(BLOCK, max(8, expert.shape[0] // num_experts // 64 * 8))
        filled = (sizes + block - 1) // block * block
        place = place + (filled.cumsum(0) - filled - offsets + sizes)[expert]
        offsets = filled.cumsum(0)
        empty = place.new_zeros(int(offsets[-1]))
        expert, row = empty.index_copy(0, place, expert), empty.index_copy(0, place, row)
    slot = source.scatter(0, source, place).view_as(index)
    return Order(expert, row, slot, offsets.to(torch.int32))


def _sort_on_card(index: Int[Tensor, "rows top_k"], num_experts: int) -> Order:
    """The same, not filled up. Sorting 16 bits takes a quarter of the passes of 64; ends are looked up, not counted,
    as counting would queue up at the few experts."""
    keys = index.flatten().to(torch.int16 if num_experts < 2**15 else torch.int32)
    expert, source = keys.sort(stable=True)
    ends = torch.searchsorted(
        expert.to(torch.int32), torch.arange(num_experts, dtype=torch.int32, device=index.device), right=True
    )
    slot = source.scatter(0, source, torch.arange(source.shape[0], device=index.device)).view_as(index)
    return Order(expert.to(index.dtype), source // index.shape[1], slot, ends.to(torch.int32))


def gather(x: Float[Tensor, "rows dim"], order: Order) -> Float[Tensor, "selections dim"]:
    """Each selection's row, in the order of the experts."""
    return _Gather.apply(x, order.row, order.slot)  # pyright: ignore[reportReturnType]


def combine(
    y: Float[Tensor, "selections dim"], weight: Float[Tensor, "rows top_k"], order: Order
) -> Float[Tensor, "rows dim"]:
    """Each row's results, summed with its gate weights."""
    return _Combine.apply(y, weight.to(y.dtype), order.row, order.slot)  # pyright: ignore


class _Gather(torch.autograd.Function):
    """x[row]; backward sums each row's gradients."""

    @staticmethod
    def forward(x: Tensor, row: Tensor, slot: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.index_select(0, row)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (slot,) = ctx.saved_tensors
        return _Sum.apply(grads[0].contiguous(), slot), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, int]:  # pyright: ignore
        x, row, slot = batch_first(info, in_dims, *inputs)
        flat = _Gather.apply(x.flatten(0, 1), shifted(row, x.shape[1]), shifted(slot, row.shape[1]))
        return flat.view(*row.shape, x.shape[2]), 0


class _Sum(torch.autograd.Function):
    """sum_j y[slot[r, j]]: the transpose of `_Gather`."""

    @staticmethod
    def forward(y: Tensor, slot: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _sum_on_card(y, slot) if card.on_card(y) else F.embedding_bag(slot, y, mode="sum")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.selections = inputs[0].shape[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (slot,) = ctx.saved_tensors
        rows = grads[0].repeat_interleave(slot.shape[1], dim=0)
        return grads[0].new_zeros(ctx.selections, rows.shape[1]).index_copy(0, slot.flatten(), rows), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, int]:  # pyright: ignore
        y, slot = batch_first(info, in_dims, *inputs)
        flat = _Sum.apply(y.flatten(0, 1), shifted(slot, y.shape[1]))
        return flat.view(*slot.shape[:2], y.shape[2]), 0


def _sum_on_card(y: Tensor, slot: Tensor, weight: Tensor | None = None) -> Tensor:
    """sum_j weight[r, j] y[slot[r, j]]; with one choice there is nothing to sum."""
    rows, top_k = slot.shape
    chosen = y.index_select(0, slot.flatten())
    if top_k == 1:
        return chosen if weight is None else chosen.mul_(weight)
    chosen = chosen.view(rows, top_k, y.shape[1])
    weighted = chosen if weight is None else chosen.mul_(weight.unsqueeze(-1))
    return weighted.sum(dim=1, dtype=y.dtype)  # said, as autocast would make it float32 there


class _Combine(torch.autograd.Function):
    """sum_j weight[r, j] y[slot[r, j]]."""

    @staticmethod
    def forward(y: Tensor, weight: Tensor, row: Tensor, slot: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if card.on_card(y):
            return _sum_on_card(y, slot, weight)
        return F.embedding_bag(slot, y, mode="sum", per_sample_weights=weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        y, weight, row, slot = ctx.saved_tensors
        grad = _Gather.apply(grads[0], row, slot)
        weight_grad = torch.linalg.vecdot(grad, y).index_select(0, slot.flatten()).view_as(weight)
        gate = weight.new_zeros(y.shape[0]).index_copy(0, slot.flatten(), weight.flatten())
        return grad * gate.unsqueeze(-1), weight_grad, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, int]:  # pyright: ignore
        y, weight, row, slot = batch_first(info, in_dims, *inputs)
        places = shifted(slot, y.shape[1])
        flat = _Combine.apply(y.flatten(0, 1), weight.flatten(0, 1), shifted(row, slot.shape[1]), places)
        return flat.view(*slot.shape[:2], y.shape[2]), 0
