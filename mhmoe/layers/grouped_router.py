"""Two-level routing: first a group of experts, then an expert in it; the cost grows with the square root of N.

    p(i)     = softmax over groups of x . u_i,    i* the most probable group
    p(j | i) = softmax over the experts j of group i of x . e_ij
    p(i, j)  = p(i) p(j | i),   g = the top_k largest of p(i*, .)

N experts are `num_groups` groups of neighbours. A row is scored against all groups and the experts of its own:
num_groups + N / num_groups products of width dim instead of N, about 2 sqrt(N) where both are alike, as they are by
default. Two levels of gates are of Jordan & Jacobs 1994 and of Shazeer et al. 2017, appendix B; choosing one group
before any of its experts is scored is what makes them cheap.

    probabilities   p(i*, j) in the row's group; elsewhere p(i) evenly over the experts of group i, which were not
                    scored. They sum to 1 and balance groups among each other, and experts within their groups.
    scores          none, as most experts have none: the losses `load` and `z` are refused.

Departures from Shazeer et al.: one group a row, no noise. What a row can be sent to is its group alone: the best
expert of another group is not found, even if it is better. top_k experts are all of one group.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from mhmoe.fields import Size
from mhmoe.layers.config import divisors
from mhmoe.layers.dispatch import gather, sort_by_expert
from mhmoe.layers.grouped import grouped_linear
from mhmoe.layers.routing import Router, RouterConfig, Routing, autocast_type, best, check_mask, shares, to_float32


@dataclass(frozen=True, kw_only=True)
class GroupedRouterConfig(RouterConfig, kind="grouped_router"):
    """One embedding of width dim per group and per expert.

    num_groups: by default the number that divides num_experts, leaves top_k experts a group, and costs least.
    """

    num_groups: Size | None = None

    def check(self) -> None:
        super().check()
        allowed = self._allowed()
        if self.num_groups is not None and self.num_groups not in allowed:
            raise ValueError(
                f"num_groups={self.num_groups} does not cut num_experts={self.num_experts} into groups of at least "
                f"top_k={self.top_k}; choose one of {', '.join(map(str, allowed))}"
            )

    def _allowed(self) -> list[int]:
        return [n for n in divisors(self.num_experts) if self.num_experts // n >= self.top_k]

    @property
    def groups(self) -> int:
        if self.num_groups is not None:
            return self.num_groups
        return min(self._allowed(), key=lambda n: n + self.num_experts // n)

    @property
    def scores_all(self) -> bool:
        return False

    def build(self) -> "GroupedRouter":
        return GroupedRouter(self)

    def parameters(self) -> int:
        return self.dim * (self.groups + self.num_experts)

    def flops_per_token(self) -> int:
        return 2 * self.dim * (self.groups + self.num_experts // self.groups)


class GroupedRouter(Router):
    """Rows sorted by group, so that each group's experts score their own in one product."""

    def __init__(self, config: GroupedRouterConfig) -> None:
        super().__init__(config)
        groups = config.groups
        self.group_embeddings = nn.Parameter(torch.empty(groups, config.dim))
        self.expert_embeddings = nn.Parameter(torch.empty(groups, config.num_experts // groups, config.dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for embeddings in (self.group_embeddings, self.expert_embeddings):
            nn.init.normal_(embeddings, std=self.config.dim**-0.5)

    def forward(self, x: Float[Tensor, "*rows dim"], mask: Bool[Tensor, "*rows"] | None = None) -> Routing:
        check_mask(mask)
        with torch.autocast(autocast_type(x), enabled=False):
            rows = to_float32(x).reshape(-1, x.shape[-1])
            of_groups, group_gates = self.gate(F.linear(rows, to_float32(self.group_embeddings)))
            group = of_groups.argmax(dim=-1, keepdim=True)
            within, gates = self.gate(self._scores_within(rows, group))
        size = within.shape[-1]
        weight, choice = best(group_gates.gather(-1, group) * gates, self.config.top_k)
        if self.config.renormalize:
            weight = shares(weight)

        even = (of_groups / size).unsqueeze(-1).expand(*of_groups.shape, size)
        own, place = of_groups.gather(-1, group) * within, group.unsqueeze(-1).expand(*group.shape, size)
        probabilities = even.scatter(-2, place, own.unsqueeze(-2)).flatten(-2)
        index = group * size + choice
        kept = torch.ones_like(index, dtype=torch.bool)
        if mask is not None:
            kept = kept & mask.reshape(-1, 1)
            weight = weight * kept
        index, weight, probabilities, kept = (
            part.view(*x.shape[:-1], part.shape[-1]) for part in (index, weight, probabilities, kept)
        )
        return Routing(index, weight, probabilities, kept, None, index)

    def _scores_within(self, rows: Float[Tensor, "rows dim"], group: Tensor) -> Float[Tensor, "rows experts_of_group"]:
        """x . e_ij for the experts j of the group i of each row."""
        order = sort_by_expert(group, self.expert_embeddings.shape[0])
        sorted_scores = grouped_linear(gather(rows, order), to_float32(self.expert_embeddings), order.offsets)
        return sorted_scores.index_select(0, order.slot.flatten())
