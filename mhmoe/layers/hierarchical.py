"""Hierarchical mixture: each expert is a whole layer, which may be a mixture itself.

    y(x) = sum_{i in top_k(g(x))} g_i(x) y_i(x)

g is the first router, y_i the i-th of `router.num_experts` layers of the same config. With a mixture for y_i,
y_i(x) = sum_j g_ij(x) f_ij(x), this is y = sum_i sum_j g_i g_ij f_ij (Jordan & Jacobs 1994, "Hierarchical mixtures of
experts and the EM algorithm"; Shazeer et al. 2017, arXiv 1701.06538, Appendix B, Eq. 12). An inner layer sees the
rows alone that the first router sent to it.

Departures from Shazeer et al.: no noise on the gates. The balance loss is the mean of both levels' own (v1 Eq. 10): the
first router's, and that of the inner layers, each weighted with its share of the selections; so it is 1 where both
are even. Theirs are coefficients of variation of products of both levels' importance and load. The routing that is
returned is the first router's.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mhmoe.layers.config import LayerConfig
from mhmoe.layers.dispatch import numbers_may_be_read
from mhmoe.layers.experts import FFNOutput
from mhmoe.layers.losses import balance_loss, load_fractions
from mhmoe.layers.routers import RouterConfig, Routing


@dataclass(frozen=True, kw_only=True)
class HierarchicalMoEConfig(LayerConfig, kind="hierarchical_moe"):
    """`router` chooses among as many layers like `inner`, which works on the same width."""

    router: RouterConfig
    inner: LayerConfig

    def check(self) -> None:
        if self.router.dim != self.dim:
            raise ValueError(
                f"router.dim={self.router.dim} is not the inner layers' dim={self.dim}; give both the same"
            )

    @property
    def dim(self) -> int:
        return self.inner.dim  # pyright: ignore[reportAttributeAccessIssue]  # every feed-forward config has it

    def build(self) -> "HierarchicalMoE":
        return HierarchicalMoE(self)

    def parameters(self) -> int:
        return self.router.parameters() + self.router.num_experts * self.inner.parameters()

    def active_parameters(self, rows: int = 1) -> int:
        """At most, which is where the selections spread evenly over the inner layers."""
        each, more = divmod(rows * self.router.top_k, self.router.num_experts)
        active = more * self.inner.active_parameters(each + 1)
        if each:
            active += (self.router.num_experts - more) * self.inner.active_parameters(each)
        return self.router.parameters() + active

    def flops_per_token(self) -> int:
        return self.router.flops_per_token() + self.router.top_k * self.inner.flops_per_token()


class HierarchicalMoE(nn.Module):
    """y(x) for every row.

    Which rows go where is known only once the router has run, so an eager forward takes them out and calls each inner
    layer with its own. Where shapes must be fixed beforehand (torch.compile, export, torch.func) every inner layer
    gets all rows and a mask, with the same result and `num_experts / top_k` times the cost. (An inner capacity counts
    the rows that it is given, and so drops less there.)
    """

    def __init__(self, config: HierarchicalMoEConfig) -> None:
        super().__init__()
        self.router = config.router.build()
        self.inner = nn.ModuleList([config.inner.build() for _ in range(config.router.num_experts)])

    def forward(self, x: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*batch"] | None = None) -> FFNOutput:
        """Rows where `mask` is False are not routed: they get 0 and count nowhere."""
        routing: Routing = self.router(x, mask)
        rows = x.reshape(-1, x.shape[-1])
        index, weight, kept = (part.flatten(0, -2) for part in (routing.index, routing.weight, routing.kept))
        run = _on_chosen_rows if numbers_may_be_read(index) else _on_all_rows
        hidden, losses = torch.zeros_like(rows), []
        for i, layer in enumerate(self.inner):
            chosen = (index == i) & kept
            hidden, loss = run(layer, rows, (weight * chosen).sum(-1).to(rows.dtype), chosen.any(-1), hidden)
            losses += [] if loss is None else [loss]
        loss = balance_loss(routing.probabilities, routing.index, mask)
        if losses:
            share = load_fractions(routing.index, len(self.inner), mask)
            loss = (loss + (share * torch.stack(losses)).sum()) / 2
        return FFNOutput(hidden.view(x.shape), loss, routing)


def _on_chosen_rows(
    layer: nn.Module, rows: Tensor, gate: Tensor, chosen: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor | None]:
    """`hidden` with the layer's output for its rows added, and the layer's balance loss."""
    own = chosen.nonzero().squeeze(-1)
    output: FFNOutput = layer(rows.index_select(0, own))
    weighted = (output.hidden * gate.index_select(0, own).unsqueeze(-1)).to(hidden.dtype)
    return hidden.index_add(0, own, weighted), output.balance_loss


def _on_all_rows(
    layer: nn.Module, rows: Tensor, gate: Tensor, chosen: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The same, of the same shapes whatever was chosen."""
    output: FFNOutput = layer(rows, chosen)
    return hidden + (output.hidden * gate.unsqueeze(-1)).to(hidden.dtype), output.balance_loss
