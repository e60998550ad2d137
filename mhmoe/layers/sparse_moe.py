"""Sparsely gated mixture of experts: router -> capacity -> experts -> combine.

    y(x) = sum_{p in top_k(g(x))} g_p(x) f_p(x)  [+ f_shared(x)]                         (v1 Eq. 1, 6)

x is a token, or a sub-token inside `MultiHead`. The optional shared network sees every row (v2 Table 2).

Departures from the paper: Eq. 6's residual x + ... is not here but in `Residual`, which wraps any layer;
Figure 3, the pseudo-code and the released code leave it out, and so do we by default. No row is dropped
unless a capacity is set; `capacity_factor=1.0` is what the released code trains with.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mhmoe.fields import Range, Size
from mhmoe.layers.balance import EQ10, LOSSES, Balance, BalanceLoss
from mhmoe.layers.capacity import OVERFLOW
from mhmoe.layers.capacity import Capacity as Capacity  # where earlier code looks for it
from mhmoe.layers.config import LATER, LayerConfig
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig, FFNOutput
from mhmoe.layers.routing import RouterConfig, Routing


@dataclass(frozen=True, kw_only=True)
class SparseMoEConfig(LayerConfig, kind="sparse_moe"):
    """A router, the experts it chooses from, and optionally a capacity and a shared network.

    `scored_dim`: the width of what the router reads, where that is not the row (`forward` then needs `scored`).
    overflow: what becomes of selections beyond the capacity. balance: the losses of balance.py and their weights;
    () is a loss of 0, as beside a balanced router. The model weighs their sum with its balance_weight: at 0.01, a
    z-loss of 0.001 is ("z", 0.1).
    """

    router: RouterConfig
    experts: ExpertsConfig
    capacity_factor: Annotated[float, Range(least=0.01, most=10**6)] | None = None  # below, nearly all is dropped
    shared: FeedForwardConfig | None = None
    scored_dim: Annotated[Size | None, LATER] = None
    overflow: Annotated[Literal["drop", "next"], LATER] = "drop"
    balance: Annotated[Balance, LATER] = EQ10

    def check(self) -> None:
        for name in ("dim", "num_experts") if self.scored_dim is None else ("num_experts",):
            if getattr(self.router, name) != getattr(self.experts, name):
                raise ValueError(
                    f"router.{name}={getattr(self.router, name)} and experts.{name}="
                    f"{getattr(self.experts, name)} differ; give both the same"
                )
        if self.scored_dim not in (None, self.router.dim):
            raise ValueError(f"scored_dim={self.scored_dim} is not router.dim={self.router.dim}; give both the same")
        if self.shared is not None and self.shared.dim != self.dim:
            raise ValueError(f"shared.dim={self.shared.dim} is not the experts' dim={self.dim}; give both the same")
        if self.overflow != "drop" and self.capacity_factor is None:
            raise ValueError(f"overflow={self.overflow!r} needs a capacity_factor; without one nothing overflows")
        names: list[str] = [name for name, _ in self.balance]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(
                f"balance has {repeated[0]!r} {names.count(repeated[0])} times; give it once, with a weight"
            )
        for name in names:
            if LOSSES[name].needs_scores and not self.router.scores_all:
                raise ValueError(
                    f"balance={name!r} needs scores of all experts, which {self.router.kind} does not give"
                )

    @property
    def dim(self) -> int:
        return self.experts.dim

    @property
    def mixes_rows(self) -> bool:
        return self.capacity_factor is not None

    @property
    def read_width(self) -> int:
        return self.router.dim

    def build(self) -> "SparseMoE":
        return SparseMoE(self)

    def parameters(self) -> int:
        return self.router.parameters() + self.experts.parameters() + _of(self.shared, "parameters")

    def active_parameters(self, rows: int = 1) -> int:
        selected = min(rows * self.router.top_k, self.experts.num_experts)
        chosen = selected * self.experts.network_parameters()
        return self.router.parameters() + chosen + _of(self.shared, "parameters")

    def flops_per_token(self) -> int:
        experts = self.router.top_k * self.experts.flops_per_token()
        return self.router.flops_per_token() + experts + _of(self.shared, "flops_per_token")


def _of(shared: FeedForwardConfig | None, count: str) -> int:
    return 0 if shared is None else getattr(shared, count)()


class SparseMoE(nn.Module):
    """y(x) for every row; returns what was routed where, and the balance loss of it."""

    def __init__(self, config: SparseMoEConfig) -> None:
        super().__init__()
        self.router = config.router.build()
        factor = config.capacity_factor
        self.capacity = nn.Identity() if factor is None else OVERFLOW[config.overflow](factor)
        self.experts = config.experts.build()
        self.shared = None if config.shared is None else config.shared.build()
        self.balance = BalanceLoss(config.balance)

    def forward(
        self,
        x: Float[Tensor, "*batch dim"],
        mask: Bool[Tensor, "*batch"] | None = None,
        scored: Float[Tensor, "*batch scored_dim"] | None = None,
    ) -> FFNOutput:
        """Rows where `mask` is False are not routed: they get 0 (and the shared network), and count nowhere.

        scored: what the router reads in the place of `x`.
        """
        output = self.routed(x, mask, scored)
        return output if self.shared is None else output._replace(hidden=output.hidden + self.shared(x).hidden)

    def routed(
        self,
        x: Float[Tensor, "*batch dim"],
        mask: Bool[Tensor, "*batch"] | None = None,
        scored: Float[Tensor, "*batch scored_dim"] | None = None,
    ) -> FFNOutput:
        """The same without the shared network."""
        routing: Routing = self.capacity(self.router(x if scored is None else scored, mask))
        return FFNOutput(self.experts(x, routing.index, routing.weight), self.balance(routing, mask), routing)

    def rebalance(self, load: Float[Tensor, " experts"]) -> None:
        """What the router learns from the fractions of a whole step's selections."""
        self.router.rebalance(load)


@dataclass(frozen=True, kw_only=True)
class ResidualConfig(LayerConfig, kind="residual"):
    """Any feed-forward config, with the residual of Eq. 6 around it."""

    inner: LayerConfig

    @property
    def dim(self) -> int:
        return self.inner.dim  # pyright: ignore[reportAttributeAccessIssue]  # every feed-forward config has it

    @property
    def read_width(self) -> int | None:
        return self.inner.read_width

    def build(self) -> "Residual":
        return Residual(self)

    def parameters(self) -> int:
        return self.inner.parameters()

    def active_parameters(self, rows: int = 1) -> int:
        return self.inner.active_parameters(rows)

    def flops_per_token(self) -> int:
        return self.inner.flops_per_token()


class Residual(nn.Module):
    """o = x + inner(x) (v1 Eq. 6)."""

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        self.inner = config.inner.build()

    def forward(
        self, x: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*batch"] | None = None, *scored: Tensor
    ) -> FFNOutput:
        output: FFNOutput = self.inner(x, mask, *scored)
        return FFNOutput(x + output.hidden, output.balance_loss, output.routing)
