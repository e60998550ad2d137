"""Grok-1: eight gated experts in every block, two chosen.

    y(x) = sum_{p in top_2(g(x))} g_p(x) W_p (gelu(U_p x) * V_p x),   g = softmax(x W)

xAI 2024, the released weights and code (github.com/xai-org/grok-1, run.py, model.py, README.md); there is no paper.
Printed there: 64 blocks of 6,144, 48 query heads of 128 and 8 of keys and values, 8 experts, 2 chosen, widening 8,
hence an inner width of 8 x 6,144 x 2/3 = 32,768 (`ffn_size`), vocabulary 131,072, tied embeddings; 314B parameters.
"25% of the weights active on a given token" is of its announcement (x.ai/news/grok-os, March 2024).

From these sizes follow 315.7B parameters, 0.5% more than is printed, and 83.7B active: 27%, as attention and embeddings
are always used.
Not published: what 314B leaves out; data, tokens, training.
Departures: the exact GELU for its approximation by tanh. In the released code gates are the softmax over all experts,
not renormalised, and the router starts at 0; the gates are so here, the start is not.
"""

from baselines.counting import Published
from mhmoe.layers.activations import ActivationName
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig


def grok1(
    dim: int,
    num_experts: int = 8,
    *,
    expert_dim: int | None = None,
    top_k: int = 2,
    activation: ActivationName = "geglu",
) -> SparseMoEConfig:
    """The layer of every block; experts of 16/3 dim (two thirds of a widening of 8), as released, unless told."""
    expert_dim = 16 * dim // 3 if expert_dim is None else expert_dim
    return SparseMoEConfig(
        router=DotProductRouterConfig(dim=dim, num_experts=num_experts, top_k=top_k),
        experts=ExpertsConfig(dim=dim, num_experts=num_experts, expert_dim=expert_dim, activation=activation),
    )


def published() -> dict[str, Published]:
    return {
        "Grok-1": Published(
            layers=64,
            moe=grok1(6144, expert_dim=32768),
            moe_layers=64,
            heads=48,
            head_dim=128,
            kv_heads=8,
            vocab_size=131072,
            tied=True,
            total=314,
        )
    }
