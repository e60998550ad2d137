"""BitNet b1.58: linear layers whose weights are -1, 0 or 1 times a scale, and whose inputs have 8 bits.

    W~ = RoundClip(W / gamma, -1, 1) gamma,              gamma = mean of |W_ij| over a matrix
    x~ = RoundClip(x 127 / eta, -128, 127) eta / 127,    eta = max of |x_i| over a row
    y  = W~ x~ + b

Ma et al. 2024, "The Era of 1-bit LLMs", arXiv 2402.17764, Eq. 1 to 3; Wang et al. 2023, arXiv 2310.11453. Straight
through: the gradients of W and x are those of W~ and x~, as if nothing were rounded. W keeps full precision and is what
an optimiser moves. Rounding is in float32.

Matrices that lie in one tensor (query, key and value; the two halves of SwiGLU; stacked experts) have a scale each.
Routers, norms, embeddings and the output layer stay in full precision.

Departures: 127 levels, as in the released code, where the paper has 128 less epsilon; no norm inside the layer, so that
no parameters come in (`inner_norm` puts one before the down matrices, where theirs is). MH-MoE's head and merge layers
are ternary too, as v2 says that all models are quantised; its authors' code (yushuiwx/MH-MoE, tutel_moe_layer.py) keeps
them in full precision. Products are of rounded numbers in the model's own type: this trains such networks, and saves
neither time nor memory.

Adapters: peft's `target_parameters` adds to W before it is rounded, and merges into the same. `target_modules` adds
behind, so that merging rounds the adapter away and tells nobody.
"""

import dataclasses
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mhmoe.layers.config import Config

LEAST_SCALE = 1e-5
Precision = Literal["full", "bitnet"]
SomeConfig = TypeVar("SomeConfig", bound=Config)


def ternary(weight: Float[Tensor, "*stack out inner"], parts: int = 1) -> Float[Tensor, "*stack out inner"]:
    """W~; a matrix is `parts` matrices below each other. The gradient goes straight through."""
    matrices = _wide(weight.detach()).unflatten(-2, (parts, -1))
    scale = matrices.abs().mean(dim=(-2, -1), keepdim=True).clamp(min=LEAST_SCALE)
    return _straight_through(((matrices / scale).round().clamp(-1, 1) * scale).flatten(-3, -2), weight)


def eight_bits(x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """x~ of every row. The gradient goes straight through."""
    rows = _wide(x.detach())
    scale = 127 / rows.abs().amax(dim=-1, keepdim=True).clamp(min=LEAST_SCALE)
    return _straight_through((rows * scale).round().clamp(-128, 127) / scale, x)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _straight_through(rounded: Tensor, exact: Tensor) -> Tensor:
    return rounded.to(exact.dtype) + (exact - exact.detach())  # the bracket is 0, and has the gradient


class FullPrecision:
    """Weights and rows as they are."""

    @staticmethod
    def weights(weight: Tensor, parts: int = 1) -> Tensor:
        return weight

    @staticmethod
    def rows(x: Tensor) -> Tensor:
        return x


class BitNetPrecision:
    """Ternary weights and rows of 8 bits."""

    weights = staticmethod(ternary)
    rows = staticmethod(eight_bits)


PRECISIONS: dict[Precision, type[FullPrecision] | type[BitNetPrecision]] = {
    "full": FullPrecision,
    "bitnet": BitNetPrecision,
}


class BitLinear(nn.Linear):
    """y for every row; `parts` matrices below each other have a scale each."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, parts: int = 1) -> None:
        self.parts = parts
        super().__init__(in_features, out_features, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(eight_bits(input), ternary(self.weight, self.parts), self.bias)


def linear(precision: Precision, in_features: int, out_features: int, bias: bool, parts: int = 1) -> nn.Linear:
    """A linear layer of this precision."""
    if precision == "bitnet":
        return BitLinear(in_features, out_features, bias, parts)
    return nn.Linear(in_features, out_features, bias=bias)


def in_precision(config: SomeConfig, precision: Precision) -> SomeConfig:
    """The config with this precision wherever it or a config inside has a choice."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "precision":
            changes[field.name] = precision
        elif isinstance(value, Config):
            changes[field.name] = in_precision(value, precision)
    return config.replace(**changes)
