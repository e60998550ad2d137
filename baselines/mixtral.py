"""Mixtral: eight SwiGLU experts in every block, two chosen, their gates a softmax over the two.

    y(x) = sum_{p in top_2(x W)} softmax(top_2(x W))_p SwiGLU_p(x)

Jiang et al. 2024, "Mixtral of Experts", arXiv 2401.04088, section 2.1. A softmax over the chosen scores is the softmax
over all, renormalised over the chosen. Published: Mixtral 8x7B, 46.7B parameters of which 12.9B active
(mistral.ai/news/mixtral-of-experts, December 2023; the paper rounds to 47B and 13B), and 8x22B, 141B of which 39B
active (mistral.ai/news/mixtral-8x22b, April 2024). "8x7B" is a name: the experts share attention and embeddings, so it
is not 56B; and it shares no expert between blocks.

Not published: data, tokens, learning rates, the weight of the balance loss in pre-training. Not found in a source that
we could read: which of 32,000 and 32,768 symbols the base 8x22B has; 0.01B lie between them.
Departures: none in the layer. Nothing is dropped.
"""

from baselines.counting import Published
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig


def mixtral(dim: int, num_experts: int = 8, *, expert_dim: int | None = None, top_k: int = 2) -> SparseMoEConfig:
    """The layer of every block; experts of 3.5 dim, as printed, unless told."""
    expert_dim = 7 * dim // 2 if expert_dim is None else expert_dim
    return SparseMoEConfig(
        router=DotProductRouterConfig(dim=dim, num_experts=num_experts, top_k=top_k, renormalize=True),
        experts=ExpertsConfig(dim=dim, num_experts=num_experts, expert_dim=expert_dim, activation="swiglu"),
    )


def published() -> dict[str, Published]:
    """Table 1 of the paper, and the released config of the larger model."""
    return {
        "Mixtral 8x7B": Published(
            layers=32,
            moe=mixtral(4096, expert_dim=14336),
            moe_layers=32,
            heads=32,
            head_dim=128,
            kv_heads=8,
            vocab_size=32000,
            total=46.7,
            active=12.9,
        ),
        "Mixtral 8x22B": Published(
            layers=56,
            moe=mixtral(6144, expert_dim=16384),
            moe_layers=56,
            heads=48,
            head_dim=128,
            kv_heads=8,
            vocab_size=32768,
            total=141,
            active=39,
        ),
    }
