"""LatentMoE: the experts work in a narrow space, between one projection down and one up.

    z = W_down x                              R^dim -> R^latent
    o = inner(z), its router reading x        any layer of the latent width, a sparse MoE in the papers
    y = W_up o  [+ f_shared(x)]

Elango et al. 2026, arXiv 2601.18089 (Nemotron 3 Super and Ultra): what is sent to experts, and their weights, are
dim / latent times smaller, which pays for as many times more experts, and more chosen. Router and shared expert keep
the full width. Kimi K3 (arXiv 2607.24653) has an RMSNorm between the experts' weighted sum and W_up: here
`NormedConfig` around the inner layer. `latent_moe` composes both.

Departures: none in the equation; the released models' experts use squared ReLU (Nemotron) and a bounded SwiGLU (K3),
ours GELU or SwiGLU. Both projections start normal with variance 1/(input width), as our other matrices.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mhmoe.fields import Size
from mhmoe.layers.bitnet import Precision, linear
from mhmoe.layers.config import LATER, LayerConfig, check_route_by
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig, FFNOutput
from mhmoe.layers.normed import NormedConfig
from mhmoe.layers.routers import RouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig


@dataclass(frozen=True, kw_only=True)
class LatentConfig(LayerConfig, kind="latent"):
    """`inner` works on the latent width, which is its own `dim`; `shared` sees every token at full width.

    `route_by`: the inner layer's router reads the token ("input"), for which a `SparseMoEConfig` wants
    `scored_dim=dim`, or what the projection down gives ("latent"), as does any inner layer without a router.
    """

    dim: Size
    inner: LayerConfig
    shared: FeedForwardConfig | None = None
    bias: bool = False
    route_by: Literal["input", "latent"] = "input"
    precision: Annotated[Precision, LATER] = "full"

    def check(self) -> None:
        if self.shared is not None and self.shared.dim != self.dim:
            raise ValueError(f"shared.dim={self.shared.dim} is not dim={self.dim}; give both the same")
        check_route_by(self.route_by, self.inner, self.dim)

    @property
    def latent_dim(self) -> int:
        return self.inner.dim  # pyright: ignore[reportAttributeAccessIssue]  # every feed-forward config has it

    def build(self) -> "Latent":
        return {"input": Latent, "latent": LatentRoutedByLatent}[self.route_by](self)

    def parameters(self) -> int:
        return self._always() + self.inner.parameters()

    def active_parameters(self, rows: int = 1) -> int:
        return self._always() + self.inner.active_parameters(rows)

    def flops_per_token(self) -> int:
        shared = 0 if self.shared is None else self.shared.flops_per_token()
        return 4 * self.dim * self.latent_dim + shared + self.inner.flops_per_token()

    def _always(self) -> int:
        shared = 0 if self.shared is None else self.shared.parameters()
        return 2 * self.dim * self.latent_dim + self.bias * (self.dim + self.latent_dim) + shared


class Latent(nn.Module):
    """y for tokens of any leading shape; routing and balance loss are the inner layer's."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.to_latent = linear(config.precision, config.dim, config.latent_dim, config.bias)
        self.inner = config.inner.build()
        self.from_latent = linear(config.precision, config.latent_dim, config.dim, config.bias)
        self.shared = None if config.shared is None else config.shared.build()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for layer in (self.to_latent, self.from_latent):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*batch"] | None = None) -> FFNOutput:
        """Tokens where `mask` is False are not routed: they get the bias of W_up, if any, and the shared network."""
        output = self.route(x, self.to_latent(x), mask)
        hidden = self.from_latent(output.hidden)
        if self.shared is not None:
            hidden = hidden + self.shared(x).hidden
        return FFNOutput(hidden, output.balance_loss, output.routing)

    def route(self, x: Tensor, latent: Tensor, mask: Tensor | None) -> FFNOutput:
        """The inner layer's output for `latent`; `x` is what was projected down."""
        return self.inner(latent, mask, x)


class LatentRoutedByLatent(Latent):
    """The router reads the narrow space too, and is as much cheaper; and any layer may stand inside."""

    def route(self, x: Tensor, latent: Tensor, mask: Tensor | None) -> FFNOutput:
        return self.inner(latent, mask)


def latent_moe(
    router: RouterConfig,
    experts: ExpertsConfig,
    *,
    shared: FeedForwardConfig | None = None,
    normed: bool = False,
) -> LatentConfig:
    """LatentMoE of a router at full width and experts of the latent one; `normed` as in Kimi K3."""
    inner: LayerConfig = SparseMoEConfig(router=router, experts=experts, scored_dim=router.dim)
    return LatentConfig(dim=router.dim, inner=NormedConfig(inner=inner) if normed else inner, shared=shared)
