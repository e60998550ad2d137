"""A norm behind a feed-forward layer, before its output is added to anything.

    y(x) = w * f(x) / rms(f(x)),   rms(v)^2 = mean of v_i^2

f is any feed-forward layer, w a learned gain for each number. Around a whole layer it is the post-norm of OLMo 2
(arXiv 2501.00656) and Gemma 2 (arXiv 2408.00118); around the layer inside `MultiHead` it stands between the experts
and the merge layer. A sum of experts has another scale for every routing, which the norm takes away: with one expert
chosen it takes the gate's value away too, and with that the router's gradient from the task.
"""

from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mhmoe.fields import Range
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import FFNOutput


@dataclass(frozen=True, kw_only=True)
class NormedConfig(LayerConfig, kind="normed"):
    """Any feed-forward config with a norm behind it; `gain` is where every number of w starts."""

    inner: LayerConfig
    gain: Annotated[float, Range(above=0, most=10**3)] = 1.0
    eps: Annotated[float, Range(above=0, most=1)] = 1e-6

    @property
    def dim(self) -> int:
        return self.inner.dim  # pyright: ignore[reportAttributeAccessIssue]  # every feed-forward config has it

    @property
    def read_width(self) -> int | None:
        return self.inner.read_width

    def build(self) -> "Normed":
        return Normed(self)

    def parameters(self) -> int:
        return self.inner.parameters() + self.dim

    def active_parameters(self, rows: int = 1) -> int:
        return self.inner.active_parameters(rows) + self.dim

    def flops_per_token(self) -> int:
        return self.inner.flops_per_token()


class OutputNorm(nn.RMSNorm):
    """RMSNorm whose gain starts at another number than 1."""

    def __init__(self, dim: int, gain: float, eps: float) -> None:
        self.gain = gain
        super().__init__(dim, eps=eps)

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.gain)


class Normed(nn.Module):
    """y(x) for every row; routing and balance loss are the inner layer's."""

    def __init__(self, config: NormedConfig) -> None:
        super().__init__()
        self.inner = config.inner.build()
        self.norm = OutputNorm(config.dim, config.gain, config.eps)

    def forward(
        self, x: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*batch"] | None = None, *scored: Tensor
    ) -> FFNOutput:
        """`scored`: what routers read in the place of `x`, for an inner layer that has them."""
        output: FFNOutput = self.inner(x, mask, *scored)
        hidden = output.hidden.to(self.norm.weight.dtype)  # under autocast it may be in half precision, the gain is not
        return FFNOutput(self.norm(hidden), output.balance_loss, output.routing)
