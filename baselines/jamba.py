"""Jamba: a mixture in every second block of a stack of which one block in eight has attention, and the rest Mamba.

    y(x) = sum_{p in top_2(g(x))} g_p(x) SwiGLU_p(x),   g = softmax(x W), not renormalised

Lieber et al. 2024, arXiv 2403.19887, sections 2 and 3.1: 4 groups of 8 blocks (attention to Mamba 1 : 7), 16 experts in
every second one, 2 chosen; 52B parameters, 12B active. From the released config and transformers' Jamba, which the
tests hold us to: dim 4,096, experts and dense SwiGLUs of inner width 14,336, 32 heads, 8 of keys and values, 65,536
symbols, the mixture in the second of each two blocks (`moe_every=2`, `moe_offset=1`), gates not renormalised.

Departures: attention in every block here, as the transformer is shared by all systems: Mamba blocks are out of scope.
Their parameters are counted below, for the published total alone. Not published: data and tokens.
"""

from baselines.counting import Published
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig

PLACEMENT = {"moe_every": 2, "moe_offset": 1}
"""For `MHMoEConfig`."""


def jamba(dim: int, num_experts: int = 16, *, expert_dim: int | None = None, top_k: int = 2) -> SparseMoEConfig:
    """The layer of every second block; experts of 3.5 dim, as printed, unless told."""
    expert_dim = 7 * dim // 2 if expert_dim is None else expert_dim
    return SparseMoEConfig(
        router=DotProductRouterConfig(dim=dim, num_experts=num_experts, top_k=top_k),
        experts=ExpertsConfig(dim=dim, num_experts=num_experts, expert_dim=expert_dim, activation="swiglu"),
    )


def mamba_parameters(dim: int, state: int = 16, convolution: int = 4, expand: int = 2) -> int:
    """Of one Mamba block (Gu and Dao 2023, arXiv 2312.00752) with the inner norms that Jamba adds."""
    inner, step = expand * dim, dim // 16
    projections = dim * 2 * inner + inner * dim  # in and out
    selection = inner * (step + 2 * state) + step * inner + inner  # B, C and the step; the step's projection, bias
    return projections + selection + inner * (convolution + 1) + inner * state + inner + step + 2 * state


def published() -> dict[str, Published]:
    return {
        "Jamba": Published(
            layers=32,
            moe=jamba(4096, expert_dim=14336),
            moe_layers=16,
            dense=FeedForwardConfig(dim=4096, inner_dim=14336, activation="swiglu"),
            heads=32,
            head_dim=128,
            kv_heads=8,
            attentions=4,
            vocab_size=65536,
            other=28 * mamba_parameters(4096),
            total=52,
            active=12,
        )
    }
