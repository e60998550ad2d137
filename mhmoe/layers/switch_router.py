"""Switch Transformer's router: the one best expert, by scores that training jitters.

    s(x) = W (x * u),   u_i ~ U[1 - jitter, 1 + jitter] in training, 1 else
    y(x) = p_i(x) f_i(x),   p = softmax(s),   i = argmax p                              (Fedus et al. 2021, Eq. 1-2)

Fedus, Zoph, Shazeer 2021, arXiv 2101.03961: top_k = 1, input jitter (Appendix C and Table 11; its size is not printed,
the released configs have 0.01), scores in float32 ("selective precision", section 2.4), a capacity factor of 1.0 to
2.0, and the balance loss of Eq. 4, which is v1's Eq. 10.

Departures: any top_k. The text jitters the input, as here; the printed pseudo-code adds noise to the logits. The
router's weights are drawn as the paper says of all weight matrices, from a normal distribution of variance 0.1/dim, cut
at two deviations; here no others are, and experts start as everywhere. The jitter is that of the router's input alone,
as in the released code; the experts see x itself.

How the capacity counts: here and in the paper an expert takes capacity_factor * rows / experts of the rows of a
batch (here rounded up before the factor, `Capacity`), in training alone. transformers' Switch takes a fixed number
`expert_capacity` of each sequence, counts padding too, and drops in evaluation as well. One sequence without padding
in training is counted alike.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mhmoe.fields import Range
from mhmoe.layers.routers import DotProductRouter, DotProductRouterConfig

INITIAL_VARIANCE = 0.1  # times 1/dim (section 2.4)


@dataclass(frozen=True, kw_only=True)
class SwitchRouterConfig(DotProductRouterConfig, kind="switch_router"):
    """One embedding of width dim per expert; `jitter` is the largest relative change of an input in training."""

    jitter: Annotated[float, Range(least=0, below=1)] = 0.01

    @property
    def draws(self) -> bool:
        return self.jitter > 0

    def build(self) -> "SwitchRouter":
        return SwitchRouter(self)


class SwitchRouter(DotProductRouter):
    """s(x) = W (x * u); u is drawn from torch's generator of the input's device."""

    def __init__(self, config: SwitchRouterConfig) -> None:
        super().__init__(config)
        self.jitter = config.jitter

    def reset_parameters(self) -> None:
        std = (INITIAL_VARIANCE / self.config.dim) ** 0.5
        nn.init.trunc_normal_(self.expert_embeddings, std=std, a=-2 * std, b=2 * std)

    def scores(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows experts"]:
        if self.training and self.jitter:
            x = x * torch.empty_like(x).uniform_(1 - self.jitter, 1 + self.jitter)
        return super().scores(x)
