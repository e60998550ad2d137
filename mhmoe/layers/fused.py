"""The experts on a card, in few passes: gather, product and activation in one; product, gate and scatter in another.

    y_r = sum_j g_rj W_down act(W_up x_r),   over the selections (r, j) of row r

`experts` is what experts.py calls; `reference` is the same in torch alone. Sorted selections i have rows row(i).
Backward needs, of the inner width, z = W_up x for act and its slope. It is either kept by forward, or computed again,
tile by tile, from x (`recompute`); reading it back costs about as much time as the product, as sub-tokens are narrow.
Then nothing of the inner width outlives forward. In both passes it exists a slice of the inner width at a time
(LARGEST); slices of the weights' gradients stand side by side, and only the narrow y and the gradient of x are sums.

    y'_i = gradient of y at row(i),   a_i = act(z_i),   u_i = W_down^T y'_i
    gate:   g'_i  = <u_i, a_i>                    so that the experts' outputs need not be kept either
    inner:  z'_i  = g_i u_i act'(z_i)
    W_down' = sum_i y'_i (g_i a_i)^T,   W_up' = sum_i z'_i x_i^T,   x'_r = sum_{i: row(i) = r} W_up^T z'_i

Gates stay in float32. Not for biases, norms or rounding between the products, for which experts.py has its other path;
nor under vmap and torch.func. Gradients of gradients are those of `reference`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mhmoe.layers import card
from mhmoe.layers.activations import ACTIVATIONS, GATED
from mhmoe.layers.dispatch import Order, combine, gather
from mhmoe.layers.grouped import grouped_linear
from mhmoe.layers.grouped_on_card import outer_on_card

LARGEST = 640 * 2**20
"""Bytes of the inner width that exist at once. 131,072 sub-tokens of inner width 2,304 go in one slice forward, in two
backward, where there are twice as many numbers: more slices mean more passes over the sums."""
SLICE = 64
"""A slice is a multiple of it, so that rows of weights begin at addresses that products like."""


@dataclass(frozen=True)
class Kernels:
    """How the experts' inner width is treated between forward and backward on a card."""

    recompute: bool = True
    """Computed again in backward; else kept, in the type of the rows."""


def runs_on(x: Float[Tensor, "rows dim"]) -> bool:
    """Whether `experts` takes these rows."""
    return card.triton_runs(x) and not card.transformed()


def experts(
    x: Float[Tensor, "rows dim"],
    up: Float[Tensor, "experts up_width dim"],
    down: Float[Tensor, "experts dim inner"],
    weight: Float[Tensor, "rows top_k"],
    order: Order,
    activation: str,
    kernels: Kernels,
) -> Float[Tensor, "rows dim"]:
    """y of every row."""
    up, down = up.contiguous(), down.contiguous()  # as the kernels read them
    return _Experts.apply(x, up, down, weight, *order, activation, kernels.recompute)  # pyright: ignore


def reference(
    x: Float[Tensor, "rows dim"],
    up: Float[Tensor, "experts up_width dim"],
    down: Float[Tensor, "experts dim inner"],
    weight: Float[Tensor, "rows top_k"],
    order: Order,
    activation: str,
) -> Float[Tensor, "rows dim"]:
    """The same by torch's products."""
    inner = ACTIVATIONS[activation]()(grouped_linear(gather(x, order), up, order.offsets))
    return combine(grouped_linear(inner, down, order.offsets), weight, order)


class _Experts(torch.autograd.Function):
    """Inputs: x, up, down, weight, the four parts of an Order, activation, recompute."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, up, down, weight, _, row, slot, offsets, activation, recompute = inputs
        y, z = forward_op(x, up, down, weight, row, slot, offsets, activation, recompute)
        ctx.save_for_backward(*inputs[:8], z)
        ctx.activation, ctx.recompute = activation, recompute
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, up, down, weight, expert, row, slot, offsets, z = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph: gradients of these are wanted
            inputs = [t for t, needed in zip((x, up, down, weight), ctx.needs_input_grad, strict=False) if needed]
            y = reference(x, up, down, weight, Order(expert, row, slot, offsets), ctx.activation)
            found = iter(torch.autograd.grad(y, inputs, grads[0], create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:4]), *[None] * 6
        grad = grads[0].contiguous()
        found = backward_op(grad, z, x, up, down, weight, row, slot, offsets, ctx.activation, ctx.recompute)
        return *found, *[None] * 6


@torch.library.custom_op("mhmoe::fused_experts", mutates_args=())
def forward_op(
    x: Tensor, up: Tensor, down: Tensor, weight: Tensor, row: Tensor, slot: Tensor, offsets: Tensor,
    activation: str, recompute: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(y, z); z is empty where it is computed again."""
    from mhmoe.layers import triton_kernels as kernels

    x, parts = x.contiguous(), _parts(up, activation)
    inner, selections, source = down.shape[2], row.shape[0], _inverse(slot)
    gate, tiles = weight.flatten()[source], kernels.Tiles(offsets, selections)
    slices = list(_slices(inner, selections * x.element_size())) if recompute else [slice(0, inner)]
    y = x.new_empty(selections, x.shape[1], dtype=torch.float32 if len(slices) > 1 else x.dtype)
    z = x.new_empty(0)
    for i, part in enumerate(slices):
        width = part.stop - part.start
        if recompute:
            a, kind = x.new_empty(selections, 1, width), "none"
            kernels.up(x, row, parts[:, :, part], tiles, activation, a)
        else:
            a = z = x.new_empty(selections, parts.shape[1], width)
            kind = activation
            kernels.up(x, row, parts, tiles, "none", a)
        kernels.down(a, gate, source, down[:, :, part], tiles, kind, y, add=i > 0)
    return _sum_of_choices(y, slot).to(x.dtype), z


@forward_op.register_fake
def _(
    x: Tensor, up: Tensor, down: Tensor, weight: Tensor, row: Tensor, slot: Tensor, offsets: Tensor,
    activation: str, recompute: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    parts = 2 if activation in GATED else 1
    shape = (0,) if recompute else (row.shape[0], parts, down.shape[2])
    return x.new_empty(x.shape), x.new_empty(shape)


@torch.library.custom_op("mhmoe::fused_experts_gradients", mutates_args=())
def backward_op(
    grad: Tensor, z: Tensor, x: Tensor, up: Tensor, down: Tensor, weight: Tensor, row: Tensor, slot: Tensor,
    offsets: Tensor, activation: str, recompute: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of x, up, down and weight."""
    from mhmoe.layers import triton_kernels as kernels

    x, parts = x.contiguous(), _parts(up, activation)
    inner, selections, source = down.shape[2], row.shape[0], _inverse(slot)
    gate, tiles = weight.flatten()[source], kernels.Tiles(offsets, selections)
    slices = list(_slices(inner, selections * x.element_size() * (1 + parts.shape[1])))
    rows, row_grads = x.index_select(0, row), grad.index_select(0, row)
    up_grad, down_grad = torch.empty_like(up), torch.empty_like(down)
    up_grads = _parts(up_grad, activation)
    x_grad = x.new_empty(selections, x.shape[1], dtype=torch.float32 if len(slices) > 1 else x.dtype)
    gate_grad = torch.zeros_like(gate, dtype=torch.float32)
    for i, part in enumerate(slices):
        of_up, of_down = parts[:, :, part], down[:, :, part]
        kept = None if recompute else z[:, :, part]
        a, z_grad, of_gate = kernels.gradients(x, grad, row, gate, of_up, of_down, kept, tiles, activation)
        gate_grad += of_gate
        flat = z_grad.flatten(1)
        outer_on_card(row_grads, a, offsets, down_grad[:, :, part])
        for half in range(parts.shape[1]):
            outer_on_card(z_grad[:, half], rows, offsets, up_grads[:, half, part])
        matrix = of_up.flatten(1, 2).mT
        kernels.down(flat.unsqueeze(1), None, source, matrix, tiles, "none", x_grad, add=i > 0)
    weight_grad = torch.empty_like(gate_grad).index_copy_(0, source, gate_grad).view_as(weight)
    return _sum_of_choices(x_grad, slot).to(x.dtype), up_grad, down_grad, weight_grad.to(weight.dtype)


@backward_op.register_fake
def _(
    grad: Tensor, z: Tensor, x: Tensor, up: Tensor, down: Tensor, weight: Tensor, row: Tensor, slot: Tensor,
    offsets: Tensor, activation: str, recompute: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(x), torch.empty_like(up), torch.empty_like(down), torch.empty_like(weight)


def _parts(up: Tensor, activation: str) -> Tensor:
    """[experts, parts, inner, dim]: the halves of a gated activation apart."""
    return up.unflatten(1, (2 if activation in GATED else 1, -1))


def _slices(inner: int, bytes_of_a_column: int) -> Iterator[slice]:
    """As many columns at once as LARGEST allows, in slices of about the same width."""
    count = -(-bytes_of_a_column * inner // LARGEST)
    width = -(-inner // (count * SLICE)) * SLICE
    for begin in range(0, inner, width):
        yield slice(begin, min(begin + width, inner))


def _inverse(slot: Tensor) -> Tensor:
    """Which selection (row times top_k plus choice) stands at each place."""
    places = slot.flatten()
    return torch.empty_like(places).index_copy_(0, places, torch.arange(places.shape[0], device=slot.device))


def _sum_of_choices(y: Tensor, slot: Tensor) -> Tensor:
    rows, top_k = slot.shape
    return y if top_k == 1 else y.view(rows, top_k, -1).sum(dim=1)
