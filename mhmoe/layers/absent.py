"""No layer at all, as a layer: y(x) = 0. The null that says what a block's feed-forward layer is worth."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mhmoe.fields import Size
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import FFNOutput


@dataclass(frozen=True, kw_only=True)
class AbsentConfig(LayerConfig, kind="absent"):
    """Its block has attention alone."""

    dim: Size

    def build(self) -> "Absent":
        return Absent()

    def parameters(self) -> int:
        return 0

    def flops_per_token(self) -> int:
        return 0


class Absent(nn.Module):
    """0 for every row."""

    def forward(self, x: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*batch"] | None = None) -> FFNOutput:
        return FFNOutput(0 * x)  # with gradients, of 0: what comes before it then has a place in an optimiser's state
