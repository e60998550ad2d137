"""DeepSeek-V3's router: balanced by a bias of the choice instead of a loss, and limited to a few groups of experts.

    s_p = sigmoid(x . e_p)                                                                        (Eq. 15)
    P   = the top_k largest of s_p + b_p, within the top_groups groups whose two best s_p + b_p sum highest   (Eq. 16)
    g_p = scale * s_p / sum over P of s                                                           (Eq. 13-14)
    b_p <- b_p + bias_step * sign(mean load - load_p)           after every step, load of the whole global batch

DeepSeek-AI 2024, arXiv 2412.19437, section 2.1.2; the bias is Wang et al. 2024, arXiv 2408.15664. Published: 256
experts in 8 groups of which 4, top_k 8, scale 2.5, bias_step 0.001 (0 for the last 500B of 14.8T tokens).

The bias is a buffer and changes in `rebalance` alone, never in forward, which the training loop calls once a step
with the load that it has added up for Eq. 10 anyway. A forward that changed it would do so once a micro-batch, again
where gradient checkpointing or the counting pass runs it anew (choosing otherwise the second time), and differently
on every process. As it is, every process takes the same step from the same load, and as a part of the state dict the
bias is saved and resumed. A loop of one's own calls `mhmoe.training.objective.rebalance(model, loads)` once a step;
where nobody does, as in Trainer, the bias stays 0. It stays in float32 where the layer is turned into half precision:
0.001 would be lost.

Departures: none known; the paper's small loss within a sequence is not here. Its weight is a choice of the model
(balance=() in SparseMoEConfig leaves all losses out). With `gate` the sigmoid can be a softmax.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mhmoe.fields import Range, Size
from mhmoe.layers.config import LATER
from mhmoe.layers.routers import DotProductRouter, DotProductRouterConfig
from mhmoe.layers.routing import Routing, best


@dataclass(frozen=True, kw_only=True)
class BalancedRouterConfig(DotProductRouterConfig, kind="balanced_router"):
    """One embedding of width dim per expert. Experts are `num_groups` groups of neighbours; 1 sets no limit."""

    renormalize: bool = True
    gate: Annotated[Literal["softmax", "sigmoid"], LATER] = "sigmoid"
    num_groups: Size = 1
    top_groups: Size = 1
    scale: Annotated[float, Range(above=0, most=10**3)] = 1.0
    bias_step: Annotated[float, Range(least=0, most=1)] = 0.001

    def check(self) -> None:
        super().check()
        if self.num_experts % self.num_groups:
            raise ValueError(f"num_groups={self.num_groups} does not divide num_experts={self.num_experts}")
        if self.top_groups > self.num_groups:
            raise ValueError(f"top_groups={self.top_groups} exceeds num_groups={self.num_groups}; choose at most that")
        reached = self.top_groups * self.num_experts // self.num_groups
        if self.top_k > reached:
            raise ValueError(f"top_k={self.top_k} exceeds the {reached} experts of top_groups={self.top_groups} groups")

    def build(self) -> "BalancedRouter":
        return BalancedRouter(self)


class BalancedRouter(DotProductRouter):
    """Chooses by gate and bias; weighs by the gate alone."""

    balancing_bias: Float[Tensor, " experts"]

    def __init__(self, config: BalancedRouterConfig) -> None:
        super().__init__(config)
        self.num_groups, self.top_groups = config.num_groups, config.top_groups
        self.scale, self.bias_step = config.scale, config.bias_step
        self.register_buffer("balancing_bias", torch.zeros(config.num_experts, dtype=torch.float32))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if "balancing_bias" in self._buffers:  # not yet at construction
            nn.init.zeros_(self.balancing_bias)

    def forward(self, x: Float[Tensor, "*rows dim"], mask: Bool[Tensor, "*rows"] | None = None) -> Routing:
        routing = super().forward(x, mask)
        weight = self.scale * routing.weight
        return Routing(routing.index, weight, routing.probabilities, routing.kept, routing.scores, routing.wanted)

    def choose(
        self, gates: Float[Tensor, "*rows experts"]
    ) -> tuple[Float[Tensor, "*rows top_k"], Int[Tensor, "*rows top_k"]]:
        preference = gates.detach() + self.balancing_bias
        if self.top_groups < self.num_groups:
            preference = preference.masked_fill(~self._in_best_groups(preference), -torch.inf)
        index = best(preference, self.config.top_k)[1]
        return gates.gather(-1, index), index

    def _in_best_groups(self, preference: Float[Tensor, "*rows experts"]) -> Tensor:
        groups = preference.unflatten(-1, (self.num_groups, -1))
        value = groups.topk(min(2, groups.shape[-1]), dim=-1).values.sum(dim=-1)
        best = torch.zeros_like(value, dtype=torch.bool).scatter(-1, value.topk(self.top_groups, dim=-1).indices, 1)
        return best.unsqueeze(-1).expand_as(groups).flatten(-2)

    @torch.no_grad()
    def rebalance(self, load: Float[Tensor, " experts"]) -> None:
        """A step of fixed size up for every expert with less than the mean load, down for one with more."""
        self.balancing_bias += self.bias_step * (load.mean() - load).sign()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "BalancedRouter":
        """What `.to` and `.bfloat16` call: devices change, half precision passes the bias by."""
        bias = self.balancing_bias
        super()._apply(fn, recurse)
        if self.balancing_bias.dtype.itemsize < bias.dtype.itemsize:
            self.balancing_bias = bias.to(self.balancing_bias.device)
        return self
