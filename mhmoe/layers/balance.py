"""Which balance losses a mixture adds up, and what of them a training loop has to know.

    eq10          N sum_p t_p G_p                           v1 Eq. 10; Fedus et al. 2021, Eq. 4
    importance    CV^2(sum over rows of g_p)                Shazeer et al. 2017, Eq. 6-7
    load          CV^2(sum over rows of P_p)                Shazeer et al. 2017, Eq. 9-11
    z             mean over rows of (log sum_p exp s_p)^2   Zoph et al. 2022, Eq. 5

CV is the standard deviation over the mean. P_p(x) is the chance that p is among the chosen of x if its score is drawn
anew with normal noise, the others staying: Phi((s_p - the k-th best score of the others) / sigma). It is a smooth
stand-in for the count of selections, through which no gradient flows.

Each is a function of `load` t, the fractions of selections, and of means over rows, so that a global batch can be
cut: load and means are added up over the parts, and every part's gradient is that of its own means. For eq10 and z,
which are linear in the means, a part needs the load of all, for the others also the means of all (`linear`).

Departures. Shazeer et al. take the gates after the choice for the importance, noise of learned size, and the same
noise in the choice; here, as in V-MoE (Riquelme et al. 2021, arXiv 2106.05974, appendix A), the probabilities of all
experts and sigma = 1/N, and the choice has no noise. Scores are those before a balancing bias or groups.
"""

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mhmoe.fields import Range
from mhmoe.layers.losses import (
    balance_of,
    fractions,
    mean_over_rows,
    router_z_loss,
    smooth_load,
    squared_coefficient_of_variation,
)
from mhmoe.layers.routing import Routing, wanted_by

LossName: TypeAlias = Literal["eq10", "importance", "load", "z"]
Balance: TypeAlias = tuple[tuple[LossName, Annotated[float, Range(least=0, most=10**6)]], ...]
"""Losses and their weights within the balance loss, which the model weighs with balance_weight as a whole."""

EQ10: Balance = (("eq10", 1.0),)


class Loss:
    """A function of the load and of means over rows; `means` says which, `of` is the function."""

    linear: ClassVar[bool] = True
    needs_scores: ClassVar[bool] = False

    def means(self, routing: Routing, mask: Bool[Tensor, "*rows"] | None) -> Float[Tensor, " n"]:
        """Of unmasked rows; n is `width(experts)`."""
        raise NotImplementedError

    def width(self, num_experts: Any) -> Any:
        """Numbers are no int while a model is traced."""
        return num_experts

    def of(self, load: Float[Tensor, " experts"], means: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        raise NotImplementedError


class Eq10(Loss):
    """1 at balance, the number of experts when one takes all."""

    def means(self, routing: Routing, mask: Tensor | None) -> Tensor:
        return mean_over_rows(routing.probabilities, mask)

    def of(self, load: Tensor, means: Tensor) -> Tensor:
        return balance_of(load, means)


class Importance(Eq10):
    """0 at balance, N - 1 when one expert has all."""

    linear = False

    def of(self, load: Tensor, means: Tensor) -> Tensor:
        return squared_coefficient_of_variation(means)


class Load(Importance):
    """0 at balance, N / k - 1 when k experts have all."""

    needs_scores = True

    def means(self, routing: Routing, mask: Tensor | None) -> Tensor:
        return mean_over_rows(smooth_load(_scores_of(routing), routing.index.shape[-1]), mask)


class ZLoss(Loss):
    """Keeps the scores small; no balance."""

    needs_scores = True

    def means(self, routing: Routing, mask: Tensor | None) -> Tensor:
        return router_z_loss(_scores_of(routing), mask).unsqueeze(0)

    def width(self, num_experts: Any) -> Any:
        return 1

    def of(self, load: Tensor, means: Tensor) -> Tensor:
        return means.sum()


LOSSES: dict[str, type[Loss]] = {"eq10": Eq10, "importance": Importance, "load": Load, "z": ZLoss}


class BalanceLoss(nn.Module):
    """The weighted sum of some losses, of one batch (forward) or of a batch in parts (means, of)."""

    def __init__(self, balance: Balance = EQ10) -> None:
        super().__init__()
        self.losses = tuple(LOSSES[name]() for name, _ in balance)
        self.weights = tuple(weight for _, weight in balance)

    @property
    def is_eq10(self) -> bool:
        return self.weights == (1.0,) and type(self.losses[0]) is Eq10

    @property
    def linear(self) -> bool:
        """Whether a part of a batch needs no other part's means."""
        return all(loss.linear for loss in self.losses)

    def forward(self, routing: Routing, mask: Bool[Tensor, "*rows"] | None = None) -> Float[Tensor, ""]:
        means = self.means(routing, mask)
        none = routing.probabilities.new_zeros(routing.probabilities.shape[-1], dtype=torch.float32)
        load = fractions(wanted_by(routing), mask, none)
        return self.of(load.to(means.dtype), means)

    def means(self, routing: Routing, mask: Bool[Tensor, "*rows"] | None = None) -> Float[Tensor, " n"]:
        """Those of all losses, one behind the other."""
        if not self.losses:
            return routing.probabilities.new_zeros(0)
        found = [loss.means(routing, mask) for loss in self.losses]
        return found[0] if len(found) == 1 else torch.cat(found)

    def of(self, load: Float[Tensor, " experts"], means: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """From t and the means of a whole batch."""
        if len(self.losses) == 1:  # the usual case, without what one token would wait for
            return self.weights[0] * self.losses[0].of(load, means)
        parts = means.split([loss.width(load.shape[0]) for loss in self.losses]) if self.losses else ()
        terms = [w * loss.of(load, part) for w, loss, part in zip(self.weights, self.losses, parts, strict=True)]
        return torch.stack(terms).sum() if terms else means.sum()


def mixtures(module: nn.Module) -> list[nn.Module]:
    """The layers in `module` whose routing is returned, in order: of mixtures within one another the outermost."""
    if isinstance(getattr(module, "balance", None), BalanceLoss):
        return [module]
    return [mixture for child in module.children() for mixture in mixtures(child)]


def _scores_of(routing: Routing) -> Tensor:
    if routing.scores is None:
        raise ValueError("the losses load and z need the scores of all experts, which this router does not give")
    return routing.scores
