"""Densely gated mixture of experts: every expert sees every row.

    y(x) = sum_p g_p(x) f_p(x),   g(x) = softmax(W x)

x in R^dim is a row, f_p the p-th of `num_experts` networks, W the router's matrix. The mixture before sparsity
(Jacobs et al. 1991, "Adaptive Mixtures of Local Experts"; Shazeer et al. 2017, arXiv 1701.06538, Eq. 1 and 2): its
cost grows with the number of experts, which routing to the best k avoids.

Departures: the gate may be any router of this package that chooses all of its experts; with the dot product it is the
equation. Every expert has the same load, so there is nothing to balance and no balance loss (v1 Eq. 10 would be 1
whatever the gates are).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import Experts, ExpertsConfig, FFNOutput
from mhmoe.layers.routers import RouterConfig, Routing
from mhmoe.layers.sparse_moe import SparseMoEConfig


@dataclass(frozen=True, kw_only=True)
class DenseMixtureConfig(LayerConfig, kind="dense_mixture"):
    """A router that chooses all experts, and the experts."""

    router: RouterConfig
    experts: ExpertsConfig

    def check(self) -> None:
        SparseMoEConfig(router=self.router, experts=self.experts)  # which refuses parts that do not fit together
        if self.router.top_k != self.experts.num_experts:
            raise ValueError(
                f"router.top_k={self.router.top_k} is not num_experts={self.experts.num_experts}: every expert is "
                "used here; give both the same, or take sparse_moe"
            )

    @property
    def dim(self) -> int:
        return self.experts.dim

    @property
    def read_width(self) -> int:
        return self.router.dim

    def build(self) -> "DenseMixture":
        return DenseMixture(self)

    def parameters(self) -> int:
        return self.router.parameters() + self.experts.parameters()

    def flops_per_token(self) -> int:
        """Gate and every expert; the gates multiply what goes into the down matrices, and their biases if any."""
        experts = self.experts
        folded = experts.inner_norm and experts.precision == "full"  # into the down matrices, which leaves a bias
        biases = 2 * experts.num_experts * self.dim if experts.bias or folded else 0
        return self.router.flops_per_token() + experts.num_experts * experts.flops_per_token() + biases


class DenseMixture(nn.Module):
    """y(x) for every row; the routing names all experts, the weightiest first."""

    def __init__(self, config: DenseMixtureConfig) -> None:
        super().__init__()
        self.router = config.router.build()
        self.experts = config.experts.build()

    def forward(
        self,
        x: Float[Tensor, "*batch dim"],
        mask: Bool[Tensor, "*batch"] | None = None,
        scored: Float[Tensor, "*batch scored_dim"] | None = None,
    ) -> FFNOutput:
        """Rows where `mask` is False get 0. scored: what the router reads in the place of `x`."""
        routing: Routing = self.router(x if scored is None else scored, mask)
        gates = torch.zeros_like(routing.weight).scatter(-1, routing.index, routing.weight)  # in the experts' order
        return FFNOutput(
            weighted_sum(self.experts, x.reshape(-1, x.shape[-1]), gates.flatten(0, -2)).view(x.shape), None, routing
        )


def weighted_sum(
    experts: Experts, rows: Float[Tensor, "rows dim"], gates: Float[Tensor, "rows experts"]
) -> Float[Tensor, "rows dim"]:
    """sum_p g_p f_p(x) over all experts.

    sum_p g_p W_p a_p is one product of the matrices W_p side by side with the g_p a_p below each other.
    """
    precision = experts.precision
    up, down = precision.weights(experts.up_proj, experts.gated), precision.weights(experts.down_proj)
    inner = torch.matmul(precision.rows(rows), up.mT)  # experts, rows, inner
    gates = gates.to(inner.dtype)
    if experts.up_bias is not None:
        inner = inner + experts.up_bias.unsqueeze(1).to(inner.dtype)
    down, bias = experts.inner_norm.fold(down, experts.down_bias)
    inner = precision.rows(experts.inner_norm(experts.activation(inner))).to(inner.dtype) * gates.mT.unsqueeze(-1)
    hidden = inner.transpose(0, 1).flatten(1) @ down.transpose(0, 1).flatten(1).mT
    return hidden if bias is None else hidden + gates @ bias
