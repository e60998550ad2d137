"""GPT-OSS's router: a learned bias beside every expert's score, and a softmax over the chosen scores alone.

    s_p = x . e_p + b_p,   P = the top_k largest of s,   g_p = exp(s_p) / sum over P of exp(s)

OpenAI 2025, arXiv 2508.10925; the released config has 128 experts (gpt-oss-120b) or 32 (20b), top_k 4. A softmax over
the chosen scores is the softmax over all, renormalised over the chosen, so `renormalize` is on.

Unlike DeepSeek-V3's bias (balanced_router.py), b is a parameter: it gets gradients and counts in the gate.

Departures: none known in the layer; how the experts were balanced in training is not published, as far as we found.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mhmoe.layers.routers import DotProductRouter, DotProductRouterConfig
from mhmoe.layers.routing import to_float32


@dataclass(frozen=True, kw_only=True)
class BiasedRouterConfig(DotProductRouterConfig, kind="biased_router"):
    """One embedding of width dim and one bias per expert."""

    renormalize: bool = True

    def build(self) -> "BiasedRouter":
        return BiasedRouter(self)

    def parameters(self) -> int:
        return super().parameters() + self.num_experts


class BiasedRouter(DotProductRouter):
    """s_p = x . e_p + b_p; b starts at 0."""

    def __init__(self, config: BiasedRouterConfig) -> None:
        super().__init__(config)
        self.bias = nn.Parameter(torch.zeros(config.num_experts))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if "bias" in self._parameters:  # not yet at construction
            nn.init.zeros_(self.bias)

    def scores(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows experts"]:
        return F.linear(x, to_float32(self.expert_embeddings), to_float32(self.bias))
