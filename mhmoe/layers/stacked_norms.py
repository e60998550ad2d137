"""LayerNorms over the inner width of stacked experts, each expert with its own scale and shift."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class StackedLayerNorm(nn.Module):
    """LayerNorm over the inner width, each expert with its own scale and shift.

    W (s * n + t) + b = (W diag(s)) n + (W t + b): scale and shift go into the expert's down matrix and bias, which
    are few, so that the rows, which are many, are only normalised.
    """

    def __init__(self, num_experts: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, width))
        self.bias = nn.Parameter(torch.empty(num_experts, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def fold(
        self, down: Float[Tensor, "experts dim inner"], bias: Float[Tensor, "experts dim"] | None
    ) -> tuple[Float[Tensor, "experts dim inner"], Float[Tensor, "experts dim"] | None]:
        """The down matrices and biases with scale and shift in them."""
        shift = (down * self.bias.unsqueeze(1)).sum(dim=-1)
        return down * self.weight.unsqueeze(1), shift if bias is None else shift + bias

    def forward(self, x: Float[Tensor, "*rows inner"], expert: Any = None) -> Float[Tensor, "*rows inner"]:
        """n, without scale and shift."""
        return F.layer_norm(x, x.shape[-1:])


class StackedLayerNormOfRows(StackedLayerNorm):
    """The same with scale and shift in the rows: what comes out is rounded, and so are the down matrices."""

    def fold(
        self, down: Float[Tensor, "experts dim inner"], bias: Float[Tensor, "experts dim"] | None
    ) -> tuple[Float[Tensor, "experts dim inner"], Float[Tensor, "experts dim"] | None]:
        return down, bias

    def forward(self, x: Float[Tensor, "*rows inner"], expert: Any = None) -> Float[Tensor, "*rows inner"]:
        """expert: of each row; None where rows are [experts, rows, inner]."""
        scale, shift = (p.unsqueeze(1) if expert is None else p[expert] for p in (self.weight, self.bias))
        return super().forward(x) * scale + shift


class NoNorm(nn.Module):
    """The identity, with the methods of `StackedLayerNorm`."""

    def fold(
        self, down: Float[Tensor, "experts dim inner"], bias: Float[Tensor, "experts dim"] | None
    ) -> tuple[Float[Tensor, "experts dim inner"], Float[Tensor, "experts dim"] | None]:
        return down, bias

    def forward(self, x: Float[Tensor, "*rows inner"], expert: Any = None) -> Float[Tensor, "*rows inner"]:
        return x
