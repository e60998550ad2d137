"""Experts a slice of their inner width at a time, where all of it would not fit into memory.

    f(x) = sum over slices s of  W_down[:, s] act(W_up[s] x + b_up[s])

Each slice is computed again in backward, so that no more than one is in memory at any time: for n slices about 1/n of
the activations, and a third more arithmetic. Sums are in float32 at least.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mhmoe.layers.grouped import grouped_linear

_STEP = 8  # numbers, of which a slice has a multiple: what grouped products in bfloat16 take


def in_slices(
    slices: int,
    rows: Float[Tensor, "selections dim"],
    up: Float[Tensor, "experts up_width dim"],
    up_bias: Float[Tensor, "experts up_width"] | None,
    down: Float[Tensor, "experts dim inner"],
    activation: Callable[[Tensor], Tensor],
    offsets: Int[Tensor, " experts"],
    expert: Int[Tensor, " selections"],
) -> Float[Tensor, "selections dim"]:
    """f of sorted rows, without the down bias. A gated activation's up matrices are two halves, one above the other."""
    inner = down.shape[2]
    width = -(-inner // (slices * _STEP)) * _STEP

    def part(rows: Tensor, up: Tensor, bias: Tensor | None, down: Tensor) -> Tensor:
        z = grouped_linear(rows, up.flatten(1, 2), offsets)
        z = z if bias is None else z + bias.flatten(1).to(z.dtype)[expert]
        return grouped_linear(activation(z).to(rows.dtype), down.contiguous(), offsets)

    # split, and not sliced: the gradient of all slices is then put together once
    ups, downs = up.unflatten(1, (-1, inner)).split(width, dim=2), down.split(width, dim=2)
    biases = [None] * len(ups) if up_bias is None else up_bias.unflatten(1, (-1, inner)).split(width, dim=2)
    total = torch.zeros_like(rows, dtype=torch.promote_types(rows.dtype, torch.float32))
    for given in zip(ups, biases, downs, strict=True):
        total += checkpoint(part, rows, *given, use_reentrant=False, preserve_rng_state=False)
    return total.to(rows.dtype)
