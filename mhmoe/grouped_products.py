"""Products of contiguous groups of rows with the stacked weights of their experts.

    y_i = W_{e(i)} x_i,   rows i sorted by expert e(i); expert p owns rows ends[p-1] to ends[p]

`loop_linear` is the readable reference, `grouped_linear` the fast path; both give the same outputs and
gradients. Under autocast both compute in its type, as torch's own products do.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def loop_linear(
    x: Float[Tensor, "rows dim"], weight: Float[Tensor, "experts out dim"], ends: Int[Tensor, " experts"]
) -> Float[Tensor, "rows out"]:
    """One matrix product an expert, in their order."""
    x, weight = _compute_type(x, weight)
    sizes = ends.diff(prepend=ends.new_zeros(1)).tolist()
    return torch.cat([group @ matrix.mT for group, matrix in zip(x.split(sizes), weight, strict=True)])


def grouped_linear(
    x: Float[Tensor, "rows dim"], weight: Float[Tensor, "experts out dim"], ends: Int[Tensor, " experts"]
) -> Float[Tensor, "rows out"]:
    """The same by torch's grouped product, where it takes these sizes and types."""
    x, weight = _compute_type(x, weight)
    if x.dtype == torch.float64 or weight.shape[1] * x.element_size() % 16 or weight.shape[2] * x.element_size() % 16:
        return loop_linear(x, weight, ends)
    return torch.nn.functional.grouped_mm(x, weight.mT, offs=ends.to(torch.int32))


def _compute_type(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        return x.to(dtype), weight.to(dtype)
    return x, weight
