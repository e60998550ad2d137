"""What a router decides, and how scores become that.

    g(x) = softmax(s(x)),   P = the top_k largest of g(x)                                (v1 Eq. 1, 5)

A row x in R^dim is a token, or a sub-token inside `MultiHead`; s(x) are the scores of the experts, in which routers
differ. The gate weight is the softmax value itself: at top_k = 1, renormalising would make it 1 and cut
the router off from the task's gradient. All router arithmetic is in float32, also under autocast.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mhmoe.fields import Size
from mhmoe.layers import card
from mhmoe.layers.config import LATER, Config


class Routing(NamedTuple):
    """What a router decided for every row. `probabilities` and `scores` are over all experts, before the choice."""

    index: Int[Tensor, "*rows top_k"]  # pyright: ignore[reportIncompatibleMethodOverride]  # not tuple.index
    weight: Float[Tensor, "*rows top_k"]
    probabilities: Float[Tensor, "*rows experts"]
    kept: Bool[Tensor, "*rows top_k"]
    """False where a selection does not count: a padded row, one beyond an expert's capacity, one not drawn."""
    scores: Float[Tensor, "*rows experts"] | None = None
    """What the gate was applied to; None of a router that does not score every expert."""
    wanted: Int[Tensor, "*rows top_k"] | None = None
    """The router's own choice, where a capacity may have moved selections to other experts; None means `index`."""


def wanted_by(routing: Routing) -> Int[Tensor, "*rows top_k"]:
    """The experts that the router chose itself, of which balance losses count the load."""
    return routing.index if routing.wanted is None else routing.wanted


@dataclass(frozen=True, kw_only=True)
class RouterConfig(Config):
    """Sizes that all routers share. `renormalize` makes the chosen weights of a row sum to 1. `gate` says
    what a score becomes: a softmax over the experts, or each its own sigmoid (DeepSeek-V3, arXiv 2412.19437)."""

    dim: Size
    num_experts: Size
    top_k: Size = 1
    renormalize: bool = False
    gate: Annotated[Literal["softmax", "sigmoid"], LATER] = "softmax"

    def build(self) -> "Router":
        raise NotImplementedError

    @property
    def scores_all(self) -> bool:
        """Whether the routing has scores of all experts."""
        return True

    def check(self) -> None:
        if self.top_k > self.num_experts:
            raise ValueError(
                f"top_k={self.top_k} exceeds num_experts={self.num_experts}; choose at most {self.num_experts}"
            )


class SoftmaxGate(nn.Module):
    """Probabilities over the experts, which are the gates too."""

    def forward(self, scores: Float[Tensor, "*rows experts"]) -> tuple[Tensor, Tensor]:
        probabilities = scores.softmax(dim=-1)
        return probabilities, probabilities


class SigmoidGate(nn.Module):
    """Gates that do not compete; as probabilities, for the balance loss, their shares of their sum."""

    def forward(self, scores: Float[Tensor, "*rows experts"]) -> tuple[Tensor, Tensor]:
        gates = scores.sigmoid()
        return shares(gates), gates


GATES = {"softmax": SoftmaxGate, "sigmoid": SigmoidGate}
LEAST_SUM = 1e-30


def shares(gates: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
    """Of each gate in a row's sum; 0 where float32 has no number for any of them, which 0 / 0 would make nan.

    So it is where all scores of a sigmoid are below -103, or where a bias chose experts whose softmax is 0.
    """
    return gates / gates.sum(dim=-1, keepdim=True).clamp(min=LEAST_SUM)


class Router(nn.Module):
    """Scores to routing. A subclass gives `scores`, or chooses in another way."""

    def __init__(self, config: RouterConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = GATES[config.gate]()

    def scores(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows experts"]:
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "*rows dim"], mask: Bool[Tensor, "*rows"] | None = None) -> Routing:
        """Route every row; rows where `mask` is False get weight 0 and are marked as not kept."""
        check_mask(mask)
        with torch.autocast(autocast_type(x), enabled=False):
            scores = self.scores(to_float32(x))
            probabilities, gates = self.gate(scores)
        weight, index = self.choose(gates)
        if self.config.renormalize:
            weight = shares(weight)
        kept = torch.ones_like(index, dtype=torch.bool)
        if mask is not None:
            kept = kept & mask.unsqueeze(-1)
            weight = weight * kept
        return Routing(index, weight, probabilities, kept, scores, index)

    def choose(
        self, gates: Float[Tensor, "*rows experts"]
    ) -> tuple[Float[Tensor, "*rows top_k"], Int[Tensor, "*rows top_k"]]:
        """Gates and numbers of the experts that a row goes to, best first."""
        return best(gates, self.config.top_k)

    def rebalance(self, load: Float[Tensor, " experts"]) -> None:
        """What a router learns from the fractions of a whole step's selections and not by gradients: nothing."""


def best(
    gates: Float[Tensor, "*rows experts"], top_k: int
) -> tuple[Float[Tensor, "*rows top_k"], Int[Tensor, "*rows top_k"]]:
    """The `top_k` largest and their places. On a card the largest alone is a maximum, for which nothing is sorted."""
    if top_k == 1 and card.on_card(gates):
        value, index = gates.max(dim=-1, keepdim=True)
    else:
        value, index = gates.topk(top_k, dim=-1)
    return value, index


def check_mask(mask: Tensor | None) -> None:
    """Raises ValueError unless it is Boolean: as numbers are joined bit by bit, 2 would be padding."""
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(
            f"mask is of {mask.dtype}; give one of torch.bool, False where there is padding (attention_mask.bool())"
        )


def autocast_type(x: Tensor) -> str:
    """The device type whose autocast holds for `x`; the meta device has none of its own."""
    return "cpu" if x.device.type == "meta" else x.device.type


def to_float32(x: Tensor) -> Tensor:
    """At least float32: half precision cannot tell close scores apart."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
