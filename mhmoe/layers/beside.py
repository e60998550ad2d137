"""A dense network beside a routed layer, on whole tokens: what it learned stays while the routed layer learns.

    y(x) = f_shared(x) + routed(x)

x is a token, f_shared a network that every token goes through, routed any layer. Inside `SparseMoEConfig` a shared
expert reads what the routed ones read, which within `MultiHead` are sub-tokens; here it reads the token. DeepSeekMoE
(arXiv 2401.06066) has it as shared experts, Snowflake Arctic as a dense network with a mixture as its residual. With
`merge_start="zero"` in the routed layer, y starts as f_shared.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import FeedForwardConfig, FFNOutput


@dataclass(frozen=True, kw_only=True)
class BesideConfig(LayerConfig, kind="beside"):
    """`shared` and `routed` have the same width."""

    shared: FeedForwardConfig
    routed: LayerConfig

    def check(self) -> None:
        width = self.routed.dim  # pyright: ignore[reportAttributeAccessIssue]  # every feed-forward config has it
        if self.shared.dim != width:
            raise ValueError(f"shared.dim={self.shared.dim} and routed.dim={width} differ; give both the same")

    @property
    def dim(self) -> int:
        return self.shared.dim

    @property
    def read_width(self) -> int | None:
        return self.routed.read_width

    def build(self) -> "Beside":
        return Beside(self)

    def parameters(self) -> int:
        return self.shared.parameters() + self.routed.parameters()

    def active_parameters(self, rows: int = 1) -> int:
        return self.shared.parameters() + self.routed.active_parameters(rows)

    def flops_per_token(self) -> int:
        return self.shared.flops_per_token() + self.routed.flops_per_token()


class Beside(nn.Module):
    """y(x) for every token; routing and balance loss are the routed layer's."""

    def __init__(self, config: BesideConfig) -> None:
        super().__init__()
        self.shared, self.routed = config.shared.build(), config.routed.build()

    def forward(
        self, x: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*batch"] | None = None, *scored: Tensor
    ) -> FFNOutput:
        output: FFNOutput = self.routed(x, mask, *scored)
        return FFNOutput(self.shared(x).hidden + output.hidden, output.balance_loss, output.routing)
