"""Experts on a handful of rows, as in generation: the chosen experts' matrices alone, nothing sorted or filled up.

    o_r = sum_{j <= top_k} g_rj f_{p_rj}(x_r)

dispatch.py fills up every expert's share of rows, so that shapes recur, and grouped.py takes all experts apart; of one
token's time that was more than half, and grew with the experts. Here it is one product for each expert that is chosen,
by torch's own library: with few rows all time goes into reading the matrix, and oneDNN would lay it out anew first.
On a CPU, without gradients; `Experts` by dispatch.py is the reference.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from mhmoe.layers.card import numbers_may_be_read

MOST_SELECTIONS = 64


def takes(x: Tensor, index: Tensor) -> bool:
    """Whether these rows go this way: few, and nobody wants gradients, traces, or another type by autocast."""
    if not numbers_may_be_read(index) or torch.is_grad_enabled():  # first: to ask a traced index its size would fix it
        return False
    return x.device.type == "cpu" and index.numel() <= MOST_SELECTIONS and not torch.is_autocast_enabled("cpu")


def few_experts(
    x: Float[Tensor, "rows dim"],
    up: Float[Tensor, "experts up dim"],
    down: Float[Tensor, "experts dim inner"],
    index: Int[Tensor, "rows top_k"],
    weight: Float[Tensor, "rows top_k"],
    activation: Callable[[Tensor], Tensor],
) -> Float[Tensor, "rows dim"]:
    """The weighted sum of the chosen experts' outputs."""
    places = dict[int, list[int]]()
    for place, expert in enumerate(index.flatten().tolist()):
        places.setdefault(expert, []).append(place)
    top_k = index.shape[1]
    found = x.new_empty(index.numel(), x.shape[1])
    for expert, own in places.items():
        rows = [place // top_k for place in own]
        inner = activation(F.linear(x[rows[0] : rows[0] + 1] if len(rows) == 1 else x[rows], up[expert]))
        out = F.linear(inner, down[expert])
        if len(own) == 1:
            found[own[0]] = out[0]
        else:
            found[own] = out
    return torch.einsum("rk,rkd->rd", weight.to(x.dtype), found.view(*index.shape, x.shape[1]))
