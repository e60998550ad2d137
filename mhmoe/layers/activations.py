"""What stands between the two matrices of a feed-forward network.

    gelu            x Phi(x), exact                                         Hendrycks & Gimpel 2016, arXiv 1606.08415
    gelu_tanh       x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2         the same, approximated; GPT-2
    relu            max(x, 0)                                      Shazeer et al. 2017; GShard; Switch-C; GLaM's experts
    relu2           max(x, 0)^2                   So et al. 2021, arXiv 2109.08668 (Nemotron 3's experts)
    swiglu          silu(a) b                                               Shazeer 2020, arXiv 2002.05202
    geglu           gelu(a) b                                     the same; Switch-Base, GLaM's dense blocks, Grok-1
    clamped_swiglu  (b + 1) a sigmoid(1.702 a), a at most 7, b within 7     GPT-OSS, arXiv 2508.10925 and its code

Gated ones get the two halves a, b of one vector; with them the up matrix has twice the inner rows.

Departures: GPT-OSS stores a and b in turns; here, as in all others, they are halves.
"""

from typing import Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

ActivationName: TypeAlias = Literal["gelu", "relu", "relu2", "swiglu", "geglu", "clamped_swiglu", "gelu_tanh"]
GATED = frozenset({"swiglu", "geglu", "clamped_swiglu"})


GELU, ReLU = nn.GELU, nn.ReLU  # exact, and the one here that leaves most numbers at exactly 0


class TanhGELU(nn.Module):
    """GELU as GPT-2 computes it."""

    def forward(self, x: Float[Tensor, "*rows inner"]) -> Float[Tensor, "*rows inner"]:
        return F.gelu(x, approximate="tanh")


class SquaredReLU(nn.Module):
    """max(x, 0)^2."""

    def forward(self, x: Float[Tensor, "*rows inner"]) -> Float[Tensor, "*rows inner"]:
        return F.relu(x).square()


class SwiGLU(nn.Module):
    """silu(gate) * up, the two halves of the last axis (Shazeer 2020, arXiv 2002.05202)."""

    def forward(self, x: Float[Tensor, "*rows two_inner"]) -> Float[Tensor, "*rows inner"]:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up


class GEGLU(nn.Module):
    """gelu(gate) * up."""

    def forward(self, x: Float[Tensor, "*rows two_inner"]) -> Float[Tensor, "*rows inner"]:
        gate, up = x.chunk(2, dim=-1)
        return F.gelu(gate) * up


class ClampedSwiGLU(nn.Module):
    """(up + 1) * gate * sigmoid(1.702 * gate), both cut at 7: no inner number exceeds 56."""

    slope, limit = 1.702, 7.0

    def forward(self, x: Float[Tensor, "*rows two_inner"]) -> Float[Tensor, "*rows inner"]:
        gate, up = x.chunk(2, dim=-1)
        gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        return (up + 1) * gate * (self.slope * gate).sigmoid()


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": GELU,
    "relu": ReLU,
    "relu2": SquaredReLU,
    "swiglu": SwiGLU,
    "geglu": GEGLU,
    "clamped_swiglu": ClampedSwiGLU,
    "gelu_tanh": TanhGELU,
}
