"""Balance losses: pure functions of what the router returned.

    L_balance = N sum_p t_p G_p                                                          (v1 Eq. 10)

t_p is the fraction of all selections that went to expert p (they sum to 1), G_p the mean of g_p
over rows, N the number of experts. It is 1 when both are uniform, and N when one expert takes all.
Rows where `mask` is False (padding) count in neither. Both are of one batch: where it is computed in parts,
add up the parts' `selections` and average their G_p, and only then take the product.

Departures from the released code: it counts first choices alone in t_p, whatever top_k, leaves padding in G_p,
and adds up the losses of the layers; here every selection counts, and model/base_model.py takes their mean.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def selections(index: Int[Tensor, "*rows top_k"], num_experts: int) -> Int[Tensor, " experts"]:
    """How often each expert was selected, before any capacity."""
    chosen = index.flatten()
    return torch.zeros(num_experts, dtype=torch.int64, device=index.device).scatter_add(
        0, chosen, torch.ones_like(chosen)
    )


def load_fractions(
    index: Int[Tensor, "*rows top_k"], num_experts: int, mask: Bool[Tensor, "*rows"] | None = None
) -> Float[Tensor, " experts"]:
    """Fraction of the selections of unmasked rows that each expert gets, before any capacity."""
    return fractions(index, mask, torch.zeros(num_experts, dtype=torch.float32, device=index.device))


def fractions(
    index: Int[Tensor, "*rows top_k"], mask: Bool[Tensor, "*rows"] | None, none: Float[Tensor, " experts"]
) -> Float[Tensor, " experts"]:
    """`load_fractions`; the zeros `none` say how many experts there are."""
    counted = torch.ones_like(index, dtype=torch.float32)
    if mask is not None:
        counted = counted * mask.unsqueeze(-1)
    load = none.scatter_add(0, index.flatten(), counted.flatten())
    return load / load.sum().clamp(min=1)


def balance_loss(
    probabilities: Float[Tensor, "*rows experts"],
    index: Int[Tensor, "*rows top_k"],
    mask: Bool[Tensor, "*rows"] | None = None,
) -> Float[Tensor, ""]:
    """v1 Eq. 10. The gradient flows through the probabilities alone, as the selections are discrete."""
    mean = mean_over_rows(probabilities, mask)
    load = fractions(index, mask, torch.zeros_like(mean, dtype=torch.float32))
    return balance_of(load.to(mean.dtype), mean)


def balance_of(load: Float[Tensor, " experts"], mean: Float[Tensor, " experts"]) -> Float[Tensor, ""]:
    """v1 Eq. 10 from t_p and G_p themselves."""
    return load.shape[0] * (load * mean).sum()


def squared_coefficient_of_variation(load: Float[Tensor, " experts"]) -> Float[Tensor, ""]:
    """(standard deviation / mean)^2 of the experts' load (Shazeer et al. 2017, Eq. 11); 0 when even."""
    return load.var(correction=0) / load.mean().square().clamp(min=torch.finfo(load.dtype).tiny)


def router_z_loss(
    scores: Float[Tensor, "*rows experts"], mask: Bool[Tensor, "*rows"] | None = None
) -> Float[Tensor, ""]:
    """Mean squared log-partition of the scores (Zoph et al. 2022, Eq. 5); keeps them small."""
    return mean_over_rows(scores.logsumexp(dim=-1, keepdim=True).square(), mask).squeeze(-1)


def smooth_load(scores: Float[Tensor, "*rows experts"], top_k: int) -> Float[Tensor, "*rows experts"]:
    """The chance that an expert is among a row's `top_k` if its score is drawn anew (Shazeer et al. 2017, Eq. 9).

    Normal with deviation 1/N around the score, N the experts that a row can reach: those of other heads have scores
    of minus infinity.
    """
    experts = scores.isfinite().sum(dim=-1, keepdim=True)
    best = F.pad(scores, (0, 1), value=-torch.inf).topk(top_k + 1, dim=-1).values
    last, first_left_out = best[..., -2:-1], best[..., -1:]
    best_of_others = torch.where(scores >= last, first_left_out, last)  # the top_k-th best of them
    return torch.special.ndtr((scores - best_of_others) * experts)


def mean_over_rows(x: Float[Tensor, "*rows n"], mask: Bool[Tensor, "*rows"] | None = None) -> Float[Tensor, " n"]:
    rows = x.reshape(-1, x.shape[-1])
    if mask is None:
        return rows.mean(dim=0) if rows.shape[0] else rows.sum(dim=0)  # len would fix the shape in export
    counted = mask.reshape(-1, 1).to(x.dtype)
    return (rows * counted).sum(dim=0) / counted.sum().clamp(min=1)
