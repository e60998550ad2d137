"""`grouped_linear` and its weights' gradient on a graphics card, where the host never waits for the offsets.

By F.grouped_mm where it has a kernel (bfloat16, compute capability 9 and 10) for so many experts; else by Triton where
that is there. grouped.py sends the rest to F.grouped_mm's own loop, or to one over sizes that the host reads.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from mhmoe.layers import card

MOST_GROUPS = 1023
"""That F.grouped_mm takes in one call: its CUDA kernel refuses 1,024. More experts go by in several."""


def stays_on_card(x: Tensor, weight: Tensor) -> bool:
    """Whether there is a way that reads no numbers."""
    return card.triton_runs(x) or (card.grouped_mm_is_fast(x) and grouped_mm_takes(x, weight))


def _by_grouped_mm(x: Tensor, weight: Tensor) -> bool:
    few = weight.shape[0] <= MOST_GROUPS or not card.triton_runs(x)
    return few and card.grouped_mm_is_fast(x) and grouped_mm_takes(x, weight)


def linear_on_card(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    if _by_grouped_mm(x, weight):
        return linear_in_calls(aligned(x), aligned(weight), offsets)
    from mhmoe.layers import triton_kernels as kernels

    out = x.new_empty(x.shape[0], weight.shape[1])
    places, tiles = torch.arange(x.shape[0], device=x.device), kernels.Tiles(offsets, x.shape[0])
    kernels.down(x.unsqueeze(1), None, places, weight, tiles, "none", out, add=False)
    return out


def outer_on_card(grad: Tensor, x: Tensor, offsets: Tensor, out: Tensor | None = None) -> Tensor:
    """Into `out` if it is given, which may be a slice."""
    like = grad.new_empty(len(offsets), grad.shape[1], x.shape[1], device="meta") if out is None else out
    if _by_grouped_mm(x, like):
        found = outer_in_calls(aligned(grad), aligned(x), offsets)
        return found if out is None else out.copy_(found)
    from mhmoe.layers import triton_kernels as kernels

    out = torch.empty_like(like, device=grad.device) if out is None else out
    kernels.outer(grad, x, offsets, out)
    return out


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


def grouped_mm_takes(x: Tensor, weight: Tensor) -> bool:
    """Its types, and widths that are multiples of 16 bytes."""
    aligned = all(width * x.element_size() % 16 == 0 for width in weight.shape[1:])
    return x.dtype in (torch.float32, torch.bfloat16, torch.float16) and aligned


def aligned(tensor: Tensor) -> Tensor:
    """At an address that F.grouped_mm of torch 2.10 takes; weights mapped from a file may begin anywhere."""
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()
