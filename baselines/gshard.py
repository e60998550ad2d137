"""GShard: each token goes to two experts, the second one by chance.

    y(x) = g_1 f_1(x) + g_2 f_2(x),   g_1 and g_2 the two largest of softmax(x W), renormalised to sum to 1

Lepikhin et al. 2020, arXiv 2006.16668, Algorithm 1: the second expert is kept with probability 2 g_2 at most (random
dispatch), an expert takes 2 tokens / experts, first choices before second ones. Published: MoE(2048E, 36L), 600B:
experts of inner width 8,192 at dim 1,024 in every second of 36 layers of encoder and decoder together (18 MoE layers,
36,864 experts).

The printed totals are rounded so that each is four times another (12.5B, 50B, 200B; 37B, 150B, 600B); from the sizes
follow 619B. Not published: the vocabulary of all 100 languages (64,000 is taken) and how the layers divide between
encoder and decoder (evenly is taken).
Departures: a decoder alone; evaluation draws and drops nothing; GELU for ReLU.
"""

from baselines.counting import Published
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.gshard_router import GShardRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig


def gshard(
    dim: int, num_experts: int, *, expert_dim: int | None = None, capacity_factor: float | None = 1.0
) -> SparseMoEConfig:
    """The layer of every other block; experts of 8 dim, as printed, unless told."""
    return SparseMoEConfig(
        router=GShardRouterConfig(dim=dim, num_experts=num_experts),
        experts=ExpertsConfig(dim=dim, num_experts=num_experts, expert_dim=expert_dim or 8 * dim),
        capacity_factor=capacity_factor,
    )


def published() -> dict[str, Published]:
    return {
        "MoE(2048E, 36L)": Published(
            layers=36,
            moe=gshard(1024, 2048, expert_dim=8192),
            moe_layers=18,
            dense=FeedForwardConfig(dim=1024, inner_dim=8192),
            heads=16,
            head_dim=128,
            attentions=18 + 2 * 18,
            vocab_size=64000,
            tied=True,
            total=600,
        )
    }
