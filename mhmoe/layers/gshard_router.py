"""GShard's router: the best expert always, the second one by chance.

    g = softmax(W x),   w_j = g_j / (g_1 + ... + g_k) for the k best experts             (GShard, Algorithm 1)
    the first is kept; in training the j-th is kept with probability min(1, k w_j); evaluation keeps all

Lepikhin et al. 2020, arXiv 2006.16668, Algorithm 1, with k = 2: the second expert is kept if 2 w_2 is above a uniform
number. A second expert that counts little would take room in its expert's buffer for nothing. GLaM (Du et al. 2021)
routes so too. The first expert's weight is not raised where the second is left out.

Departures: any top_k (the paper has 2). A selection that is not drawn takes no room: in Algorithm 1's text the counter
of the expert goes up all the same. `Capacity` drops over the whole batch; the paper does in groups of rows.
Selections that are not drawn cost what others cost here: their results are multiplied by 0.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mhmoe.fields import Size
from mhmoe.layers.routers import DotProductRouter, DotProductRouterConfig
from mhmoe.layers.routing import Routing


@dataclass(frozen=True, kw_only=True)
class GShardRouterConfig(DotProductRouterConfig, kind="gshard_router"):
    """One embedding of width dim per expert; two experts a row, whose weights sum to 1."""

    top_k: Size = 2
    renormalize: bool = True

    @property
    def draws(self) -> bool:
        return self.top_k > 1

    def build(self) -> "GShardRouter":
        return GShardRouter(self)


class GShardRouter(DotProductRouter):
    """Draws from torch's generator of the input's device, in training alone."""

    def forward(self, x: Float[Tensor, "*rows dim"], mask: Bool[Tensor, "*rows"] | None = None) -> Routing:
        routing = super().forward(x, mask)
        if not self.training:
            return routing
        gates = routing.probabilities.detach().gather(-1, routing.index)
        chance = gates * gates.shape[-1] / gates.sum(dim=-1, keepdim=True)
        # The best expert's chance is at least 1 but for rounding.
        drawn = (chance > torch.rand_like(chance)) | (torch.arange(gates.shape[-1], device=gates.device) == 0)
        weight = torch.where(drawn, routing.weight, 0.0)
        return Routing(
            routing.index, weight, routing.probabilities, routing.kept & drawn, routing.scores, routing.wanted
        )
