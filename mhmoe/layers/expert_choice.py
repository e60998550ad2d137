"""Expert choice: every expert takes the rows that it is most probable for.

    S = softmax(X W) over experts [rows, experts];   expert p takes the C largest of column p
    y(x_r) = sum over the experts p that took r of S_rp f_p(x_r),      C = ceil(rows * top_k / experts)

Zhou et al. 2022, arXiv 2202.09368, section 3.2; their capacity factor c is `router.top_k`, the experts that a row has
on average. Every expert has the same load, nothing overflows and no loss is needed; a row may have any number of
experts, or none, and gets 0 then. S are the probabilities of any router that scores all experts; its own choice,
its bias for the choice and its renormalising do not count.

Causality: whether an expert takes a row depends on all others of the batch, on later tokens of its sequence and on
other sequences too. So it is no layer of a causal language model: it would learn to read the future, and its
perplexity would be none. `MHMoEConfig` refuses it, in any depth, with a line of ValueError. It is for encoders and for
layers used alone.

Why not a router of `SparseMoE`: the number of experts differs from row to row, and `Routing` has the same number for
all. As a router it would need top_k = N slots of which most have weight 0, and `Experts` would compute them all: N /
top_k times the arithmetic, that of a densely gated mixture. Here only what is taken is computed; the routing that is
returned still has N slots a row, slot p for expert p, `kept` where p took the row.

Departures: the paper divides a batch into groups and every expert takes its rows from each; here from all rows.
Padded rows are taken last, count 0, and count in C: shapes do not depend on the mask.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mhmoe.layers.balance import BalanceLoss
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig, FFNOutput
from mhmoe.layers.routing import RouterConfig, Routing, check_mask
from mhmoe.layers.sparse_moe import SparseMoEConfig


@dataclass(frozen=True, kw_only=True)
class ExpertChoiceConfig(LayerConfig, kind="expert_choice"):
    """A router whose gates the experts choose by, `router.top_k` rows an expert for every `num_experts` rows."""

    router: RouterConfig
    experts: ExpertsConfig
    shared: FeedForwardConfig | None = None

    def check(self) -> None:
        if not self.router.scores_all:
            raise ValueError(f"expert_choice needs a router that scores all experts, which {self.router.kind} does not")
        self._as_sparse_moe()

    def _as_sparse_moe(self) -> SparseMoEConfig:
        """The layer with the same parts, in which rows choose."""
        return SparseMoEConfig(router=self.router, experts=self.experts, shared=self.shared)

    @property
    def dim(self) -> int:
        return self.experts.dim

    @property
    def mixes_rows(self) -> bool:
        return True

    @property
    def looks_ahead(self) -> bool:
        return True

    @property
    def read_width(self) -> int:
        return self.router.dim

    def build(self) -> "ExpertChoice":
        return ExpertChoice(self)

    def parameters(self) -> int:
        return self._as_sparse_moe().parameters()

    def active_parameters(self, rows: int = 1) -> int:
        """Of an average row: of one alone, every expert takes it."""
        return self._as_sparse_moe().active_parameters(rows)

    def flops_per_token(self) -> int:
        """Of a batch whose rows * top_k the experts divide; of others, a little more."""
        return self._as_sparse_moe().flops_per_token()


class ExpertChoice(nn.Module):
    """y(x) for every row, and who took it; the balance loss is 0."""

    def __init__(self, config: ExpertChoiceConfig) -> None:
        super().__init__()
        self.num_experts, self.top_k = config.experts.num_experts, config.router.top_k
        self.router = config.router.build()
        self.experts = config.experts.build()
        self.shared = None if config.shared is None else config.shared.build()
        self.balance = BalanceLoss(())  # for training, which asks each mixture for its own

    def forward(
        self,
        x: Float[Tensor, "*batch dim"],
        mask: Bool[Tensor, "*batch"] | None = None,
        scored: Float[Tensor, "*batch dim"] | None = None,
    ) -> FFNOutput:
        """Rows where `mask` is False get 0 (and the shared network). scored: what the router reads instead of `x`."""
        check_mask(mask)
        routing: Routing = self.router(x if scored is None else scored)
        gates, rows = routing.probabilities.reshape(-1, self.num_experts), x.reshape(-1, x.shape[-1])
        real = None if mask is None else mask.reshape(-1, 1)
        taken = (rows.shape[0] * self.top_k + self.num_experts - 1) // self.num_experts
        wish = gates.detach() if real is None else gates.detach().masked_fill(~real, -1.0)
        row = wish.topk(taken, dim=0).indices  # [taken, experts]

        kept = torch.zeros_like(gates, dtype=torch.bool).scatter(0, row, 1)
        kept = kept if real is None else kept & real
        weight = torch.where(kept, gates, 0.0)
        out = self.experts.each(rows.index_select(0, row.T.flatten()).view(self.num_experts, taken, rows.shape[1]))
        out = out * weight.gather(0, row).T.unsqueeze(-1).to(out.dtype)
        hidden = out.new_zeros(rows.shape).index_add(0, row.T.flatten(), out.flatten(0, 1)).view(x.shape)
        if self.shared is not None:
            hidden = hidden + self.shared(x).hidden

        index = torch.arange(self.num_experts, device=x.device).expand_as(gates)
        shape = (*x.shape[:-1], self.num_experts)
        index, weight, kept = index.reshape(shape), weight.view(shape), kept.view(shape)
        found = Routing(index, weight, routing.probabilities, kept, routing.scores, index)
        return FFNOutput(hidden, routing.probabilities.new_zeros(()), found)

    def rebalance(self, load: Float[Tensor, " experts"]) -> None:
        """Every expert has the same load: nothing."""
