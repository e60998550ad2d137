"""GShard: each token goes to two experts, the second one by chance.

    y(x) = g_1 f_1(x) + g_2 f_2(x),   g_1 and g_2 the two largest of softmax(x W), renormalised to sum to 1

Lepikhin et al. 2020, arXiv 2006.16668, Algorithm 1: the second expert is kept with probability 2 g_2 at most (random
dispatch), first choices before second ones; an expert takes O(2 tokens / experts) (section 3.1; exactly so here).
Published, Table 1 and Appendix A.2: MoE(2048E, 36L), 600B: experts of inner width 8,192 at dim 1,024, 16 heads of 128,
in every second of 36 layers of encoder and decoder together; 64,000 source and 32,000 target symbols.

Table 1 prints 36,684 experts in all, and 12,228 for 12 layers: 18 x 2,048 is 36,864, 6 x 2,048 is 12,288. Its weights
are rounded so that each is four times another (12.5B, 50B, 200B; 37B, 150B, 600B); from the sizes follow 619B.
Not published: how 36 layers divide between encoder and decoder (evenly is taken; 12 are 6 and 6, section 4.4), and
whether output and target embeddings are one matrix (they are here).
Departures: a decoder alone; evaluation draws and drops nothing; GELU for ReLU (section 3.1) unless told; the balance
loss counts both choices, where Algorithm 1 counts the first.
"""

from baselines.counting import Published
from mhmoe.layers.activations import ActivationName
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.gshard_router import GShardRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig


def gshard(
    dim: int,
    num_experts: int,
    *,
    expert_dim: int | None = None,
    activation: ActivationName = "gelu",
    capacity_factor: float | None = 1.0,
) -> SparseMoEConfig:
    """The layer of every other block; experts of 8 dim, as printed, unless told."""
    expert_dim = 8 * dim if expert_dim is None else expert_dim
    return SparseMoEConfig(
        router=GShardRouterConfig(dim=dim, num_experts=num_experts),
        experts=ExpertsConfig(dim=dim, num_experts=num_experts, expert_dim=expert_dim, activation=activation),
        capacity_factor=capacity_factor,
    )


def published() -> dict[str, Published]:
    return {
        "MoE(2048E, 36L)": Published(
            layers=36,
            moe=gshard(1024, 2048, expert_dim=8192, activation="relu"),
            moe_layers=18,
            dense=FeedForwardConfig(dim=1024, inner_dim=8192, activation="relu"),
            heads=16,
            head_dim=128,
            attentions=18 + 2 * 18,
            vocab_size=64000 + 32000,
            tied=True,
            total=600,
        )
    }
