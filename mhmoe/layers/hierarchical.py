"""Hierarchical mixture: each expert is a whole layer, which may be a mixture itself.

    y(x) = sum_{i in top_k(g(x))} g_i(x) y_i(x)

g is the first router, y_i the i-th of `router.num_experts` layers of the same config. With a mixture for y_i,
y_i(x) = sum_j g_ij(x) f_ij(x), this is y = sum_i sum_j g_i g_ij f_ij (Jordan & Jacobs 1994, "Hierarchical mixtures of
experts and the EM algorithm"; Shazeer et al. 2017, arXiv 1701.06538, Appendix B, Eq. 12). An inner layer sees the
rows alone that the first router sent to it.

What is returned is the routing over all leaves (i, j), numbered i M + j with M the experts of an inner layer: a
selection of a leaf weighs g_i g_ij, its probability is p_i p_ij, as the importance of a leaf is in Shazeer et al.
(Eq. 13). A row has p_ij for the inner layers alone that it reached; the leaves of others share p_i evenly. So every
balance loss that needs no scores is one of leaves, and training, which adds up loads and means over a global batch,
knows it as that of any mixture. It is 1 under v1 Eq. 10 where all leaves are even. Around layers that do not route, the
routing is the first router's.

Departures from Shazeer et al.: no noise on the gates; v1 Eq. 10 by default in the place of their coefficients of
variation (`balance=(("importance", 1.0),)` is their Eq. 13); their load loss (Eq. 14) needs scores of all leaves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mhmoe.layers.balance import EQ10, LOSSES, Balance, BalanceLoss, mixtures
from mhmoe.layers.card import numbers_may_be_read
from mhmoe.layers.config import LATER, LayerConfig
from mhmoe.layers.experts import FFNOutput
from mhmoe.layers.routing import RouterConfig, Routing, wanted_by


@dataclass(frozen=True, kw_only=True)
class HierarchicalMoEConfig(LayerConfig, kind="hierarchical_moe"):
    """`router` chooses among as many layers like `inner`, which works on the same width. `balance`: the losses over the
    leaves, and their weights; those of inner mixtures are not used, so they must be the default."""

    router: RouterConfig
    inner: LayerConfig
    balance: Annotated[Balance, LATER] = EQ10

    def check(self) -> None:
        if self.router.dim != self.dim:
            raise ValueError(
                f"router.dim={self.router.dim} is not the inner layers' dim={self.dim}; give both the same"
            )
        if self.inner.read_width not in (None, self.dim):
            raise ValueError(f"the router within reads width {self.inner.read_width}, and is given rows of {self.dim}")
        if any(part.looks_ahead for part in self.inner.parts()):
            raise ValueError(
                "an inner expert choice takes rows by how many it is given, which a compiled layer gives otherwise; "
                "choose a router of rows within"
            )
        for name, _ in self.balance:
            if LOSSES[name].needs_scores:
                raise ValueError(f"balance={name!r} needs scores of all leaves, of which a row scores those it reaches")
        if any(getattr(part, "balance", EQ10) != EQ10 for part in self.inner.parts()):
            raise ValueError(
                "an inner mixture's balance is not used here; give it to the hierarchical one, over leaves"
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
        self.balance = BalanceLoss(config.balance)

    def forward(self, x: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*batch"] | None = None) -> FFNOutput:
        """Rows where `mask` is False are not routed: they get 0 and count nowhere."""
        first: Routing = self.router(x, mask)
        rows = x.reshape(-1, x.shape[-1])
        index, weight, kept = (part.flatten(0, -2) for part in (first.index, first.weight, first.kept))
        run = _on_chosen_rows if numbers_may_be_read(index) else _on_all_rows
        hidden, found = torch.zeros_like(rows), []
        for i, layer in enumerate(self.inner):
            chosen = (index == i) & kept
            hidden, routing = run(layer, rows, (weight * chosen).sum(-1).to(rows.dtype), chosen.any(-1), hidden)
            found += [] if routing is None else [routing]
        routing = of_leaves(first, found, x.shape[:-1]) if found else first
        return FFNOutput(hidden.view(x.shape), self.balance(routing, mask), routing)

    def rebalance(self, load: Float[Tensor, " leaves"]) -> None:
        """What the routers of both levels learn from the fractions of a whole step's selections."""
        each = load.view(len(self.inner), -1)
        self.router.rebalance(each.sum(-1))
        for layer, own in zip(self.inner, each, strict=True):
            for mixture in mixtures(layer):
                cast("HierarchicalMoE", mixture).rebalance(own / own.sum().clamp(min=torch.finfo(own.dtype).tiny))


def of_leaves(first: Routing, inner: Sequence[Routing], batch: Sequence[int]) -> Routing:
    """One routing over the leaves of all inner layers, whose own are over all rows (flat) in the order of the first.

    A selection of the first router that was not sent anywhere (padding, or not drawn) has no leaf; it is named as one
    of its layer's in turns, and not kept.
    """
    top_k, groups = first.index.shape[-1], len(inner)
    index, weight, kept, gates = (
        part.flatten(0, -2) for part in (first.index, first.weight, first.kept, first.probabilities)
    )
    slots, each = inner[0].index.shape[-1], inner[0].probabilities.shape[-1]
    turn = (torch.arange(index.shape[0], device=index.device) % each).view(-1, 1, 1)
    leaf = (index * each).unsqueeze(-1) + turn.expand(-1, top_k, slots)
    wanted, share = leaf, torch.zeros_like(weight).unsqueeze(-1).expand(-1, -1, slots)
    counted = torch.zeros_like(leaf, dtype=torch.bool)
    probabilities = (gates / each).unsqueeze(-1).expand(-1, -1, each)
    group = torch.arange(groups, device=index.device)
    for i, routing in enumerate(inner):
        sent = (index == i) & kept
        here, there = sent.unsqueeze(-1), (sent.any(-1, keepdim=True) & (group == i)).unsqueeze(-1)
        leaf = torch.where(here, i * each + routing.index.unsqueeze(1), leaf)
        wanted = torch.where(here, i * each + wanted_by(routing).unsqueeze(1), wanted)
        share = torch.where(here, weight.unsqueeze(-1) * routing.weight.unsqueeze(1), share)
        counted = torch.where(here, routing.kept.unsqueeze(1), counted)
        probabilities = torch.where(
            there, gates[:, i : i + 1, None] * routing.probabilities.unsqueeze(1), probabilities
        )
    selections, leaves = (*batch, top_k * slots), (*batch, groups * each)
    return Routing(
        leaf.reshape(selections),
        share.reshape(selections),
        probabilities.reshape(leaves),
        counted.reshape(selections),
        None,
        wanted.reshape(selections),
    )


def _flat(routing: Routing | None) -> Routing | None:
    """With one axis for rows: the sub-tokens of a row are selections of it, and their probabilities one mean."""
    if routing is None or routing.index.ndim == 2:
        return routing
    index, weight, kept, wanted = (
        part.flatten(1) for part in (routing.index, routing.weight, routing.kept, wanted_by(routing))
    )
    return Routing(index, weight, routing.probabilities.flatten(1, -2).mean(1), kept, None, wanted)


def _on_chosen_rows(
    layer: nn.Module, rows: Tensor, gate: Tensor, chosen: Tensor, hidden: Tensor
) -> tuple[Tensor, Routing | None]:
    """`hidden` with the layer's output for its rows added, and the layer's routing over all rows."""
    own = chosen.nonzero().squeeze(-1)
    output: FFNOutput = layer(rows.index_select(0, own))
    weighted = (output.hidden * gate.index_select(0, own).unsqueeze(-1)).to(hidden.dtype)
    routing = _flat(output.routing)

    def over_all(part: Tensor) -> Tensor:
        return part.new_zeros(rows.shape[0], part.shape[-1]).index_copy(0, own, part)

    if routing is not None:
        index, weight, probabilities, kept = (
            over_all(part) for part in (routing.index, routing.weight, routing.probabilities, routing.kept)
        )
        routing = Routing(index, weight, probabilities, kept, None, over_all(wanted_by(routing)))
    return hidden.index_add(0, own, weighted), routing


def _on_all_rows(
    layer: nn.Module, rows: Tensor, gate: Tensor, chosen: Tensor, hidden: Tensor
) -> tuple[Tensor, Routing | None]:
    """The same, of the same shapes whatever was chosen."""
    output: FFNOutput = layer(rows, chosen)
    return hidden + (output.hidden * gate.unsqueeze(-1)).to(hidden.dtype), _flat(output.routing)
