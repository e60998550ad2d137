"""How much an expert takes in training, and what becomes of the rest.

    limit = factor * top_k * ceil(rows / experts) selections an expert

    Capacity    the rest counts 0                                      (Lepikhin et al. 2020; Fedus et al. 2021)
    NextBest    the rest goes to the next best expert with room        (Fedus et al. 2021, "No-Token-Left-Behind")

First choices of all rows come before second choices, and earlier rows before later ones (GShard). Padded rows take
no room. Evaluation drops and moves nothing: what a token gets does not depend on its batch. So it is in MH-MoE's own
evaluation scripts, where a `moe-eval-capacity-token-fraction` of 2 lets an expert take twice the tokens that there are.
(The -1 of its training scripts would be the capacity of training, but they switch validation off.)
"""

from fractions import Fraction

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from mhmoe.layers.card import numbers_may_be_read
from mhmoe.layers.routing import Routing, wanted_by


class Capacity(nn.Module):
    """Selections beyond the limit are not kept and get weight 0."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = Fraction(str(factor)).limit_denominator(10**6)  # 0.29 means 29/100, which no float is

    def forward(self, routing: Routing) -> Routing:
        if not self.training:
            return routing
        num_experts, top_k = routing.probabilities.shape[-1], routing.index.shape[-1]
        index, kept = routing.index.reshape(-1, top_k), routing.kept.reshape(-1, top_k)
        limit = self.limit(index.shape[0], num_experts, top_k)
        within = kept & (_position(index, kept, num_experts) < limit)
        return self.overflow(routing, within, limit)

    def limit(self, rows: int, num_experts: int, top_k: int) -> int:
        share = (rows + num_experts - 1) // num_experts
        return self.factor.numerator * top_k * share // self.factor.denominator  # whole numbers, for torch.export

    def overflow(self, routing: Routing, within: Bool[Tensor, "rows top_k"], limit: int) -> Routing:
        """What to do where a kept selection is not `within` the limit."""
        kept = within.view(routing.kept.shape)
        weight = torch.where(kept, routing.weight, 0.0)
        return Routing(routing.index, weight, routing.probabilities, kept, routing.scores, wanted_by(routing))


class NextBest(Capacity):
    """Selections beyond the limit go to the row's most probable expert that has room and that it did not choose.

    What `Capacity` keeps stays where it is. Then all rows with something left over ask at once, each for one
    selection, and earlier rows are served first; who is refused asks again, until nobody asks. A selection that moves
    weighs as its probability does: as much more or less than the row's own choice as the expert is more or less
    probable. It is dropped only where no expert with room and a probability above 0 is left.

    Cost: each round sorts out rows x experts numbers, and there are up to experts + top_k of them. Where the numbers
    may not be read (a compiled or exported graph, vmap) all of them are run.
    """

    def overflow(self, routing: Routing, within: Bool[Tensor, "rows top_k"], limit: int) -> Routing:
        probabilities = routing.probabilities.reshape(-1, routing.probabilities.shape[-1])
        num_experts, top_k = probabilities.shape[-1], within.shape[-1]
        wanted, kept = wanted_by(routing).reshape(-1, top_k), routing.kept.reshape(-1, top_k)
        weight, given = routing.weight.reshape(-1, top_k), probabilities.gather(-1, wanted)
        share = (weight * kept).sum(-1, keepdim=True) / (given * kept).sum(-1, keepdim=True).clamp(min=1e-30)

        index, taken = wanted, within
        chosen = torch.zeros_like(probabilities, dtype=torch.bool).scatter(-1, wanted, 1)
        room = limit - _one_hot(wanted, within, num_experts).sum(dim=(0, 1))
        choices = torch.arange(top_k, device=index.device)
        for _ in range(num_experts + top_k):
            left = kept & ~taken
            if numbers_may_be_read(index) and not left.any():
                break
            best = probabilities.detach().masked_fill(chosen | (room <= 0), -1.0).max(dim=-1)
            asks = left.any(dim=-1, keepdim=True) & (best.values > 0).unsqueeze(-1)
            if numbers_may_be_read(index) and not asks.any():
                break
            asked = best.indices.unsqueeze(-1)
            served = asks & (_position(asked, asks, num_experts) < room[asked])
            place = served & (left.int().argmax(dim=-1, keepdim=True) == choices)
            index, taken = torch.where(place, asked, index), taken | place
            given_to = _one_hot(asked, served, num_experts).squeeze(1)
            chosen, room = chosen | given_to, room - given_to.sum(dim=0)

        moved = torch.where(within, weight, share * probabilities.gather(-1, index))
        shape = routing.index.shape
        return Routing(
            index.view(shape),
            torch.where(taken, moved, 0.0).view(shape),
            routing.probabilities,
            taken.view(shape),
            routing.scores,
            wanted_by(routing),
        )


OVERFLOW: dict[str, type[Capacity]] = {"drop": Capacity, "next": NextBest}


def _one_hot(
    index: Int[Tensor, "rows top_k"], counted: Bool[Tensor, "rows top_k"], num_experts: int
) -> Bool[Tensor, "rows top_k experts"]:
    experts = torch.arange(num_experts, device=index.device)
    return (index.unsqueeze(-1) == experts) & counted.unsqueeze(-1)


def _position(
    index: Int[Tensor, "rows top_k"], counted: Bool[Tensor, "rows top_k"], num_experts: int
) -> Int[Tensor, "rows top_k"]:
    """How many counted selections of the same expert come before each: choice by choice, row by row."""
    chosen = _one_hot(index, counted, num_experts).transpose(0, 1).flatten(0, 1)
    place = (chosen.cumsum(dim=0) - 1).gather(-1, index.T.reshape(-1, 1))
    return place.view(index.shape[1], -1).T
