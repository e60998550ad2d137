"""Every head its own router and its own experts, as in Multi-Head LatentMoE (arXiv 2602.04870).

    o_i = sum_{p in top_k(g_i(x_i))} g_{i,p}(x_i) f_{i,p}(x_i)              for the sub-token x_i of head i

Nothing but a numbering: expert p of head i is number i N + p of one list of h N experts, of which the router of a
head reaches its own N alone. So `SparseMoE`, its capacity and its balance loss need not know: with t and G over all
h N experts, v1 Eq. 10 is the mean over heads of each head's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from mhmoe.fields import Size
from mhmoe.layers.routing import Router, RouterConfig, Routing, wanted_by


@dataclass(frozen=True, kw_only=True)
class PerHeadRouterConfig(RouterConfig, kind="per_head_router"):
    """`router` is that of one head, with num_experts / heads experts of its own; rows are (..., heads, dim)."""

    heads: Size
    router: RouterConfig

    @classmethod
    def of(cls, router: RouterConfig, heads: int) -> "PerHeadRouterConfig":
        """`heads` routers like this one, each with as many experts."""
        return cls(
            heads=heads,
            router=router,
            dim=router.dim,
            num_experts=heads * router.num_experts,
            top_k=router.top_k,
            renormalize=router.renormalize,
            gate=router.gate,
        )

    def check(self) -> None:
        super().check()
        one = self.router
        expected = {name: getattr(one, name) for name in ("dim", "top_k", "renormalize", "gate")}
        for name, value in {**expected, "num_experts": self.heads * one.num_experts}.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name}={getattr(self, name)} is not that of {self.heads} such routers ({value}); "
                    "make it by PerHeadRouterConfig.of"
                )

    @property
    def scores_all(self) -> bool:
        return self.router.scores_all

    def build(self) -> "PerHeadRouter":
        return PerHeadRouter(self)

    def parameters(self) -> int:
        return self.heads * self.router.parameters()

    def flops_per_token(self) -> int:
        """Of one row, which has one head."""
        return self.router.flops_per_token()


class PerHeadRouter(Router):
    """Each head's sub-tokens to that head's experts."""

    def __init__(self, config: PerHeadRouterConfig) -> None:
        super().__init__(config)
        self.routers = nn.ModuleList([config.router.build() for _ in range(config.heads)])

    def forward(self, x: Float[Tensor, "*rows dim"], mask: Bool[Tensor, "*rows"] | None = None) -> Routing:
        """Raises ValueError unless the last axis before the numbers is that of the heads."""
        heads = len(self.routers)
        if x.ndim < 2 or x.shape[-2] != heads:
            raise ValueError(f"x of shape {tuple(x.shape)} has not {heads} heads before its width; put heads around it")
        found = [
            router(x[..., head, :], None if mask is None else mask[..., head])
            for head, router in enumerate(self.routers)
        ]
        each = found[0].probabilities.shape[-1]

        def numbered(indices: Sequence[Tensor]) -> Tensor:
            return torch.stack([index + head * each for head, index in enumerate(indices)], dim=-2)

        def padded(parts: Sequence[Tensor], value: float) -> Tensor:
            wide = [F.pad(p, (head * each, (heads - 1 - head) * each), value=value) for head, p in enumerate(parts)]
            return torch.stack(wide, dim=-2)

        scores = [routing.scores for routing in found if routing.scores is not None]
        return Routing(
            numbered([routing.index for routing in found]),
            torch.stack([routing.weight for routing in found], dim=-2),
            padded([routing.probabilities for routing in found], 0.0),
            torch.stack([routing.kept for routing in found], dim=-2),
            padded(scores, -torch.inf) if scores else None,
            numbered([wanted_by(routing) for routing in found]),
        )

    def rebalance(self, load: Float[Tensor, " experts"]) -> None:
        for router, own in zip(self.routers, load.chunk(len(self.routers)), strict=True):
            router.rebalance(own)  # pyright: ignore[reportCallIssue]
