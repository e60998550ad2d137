"""GLaM: a decoder with 64 experts in every other block, two chosen.

    y(x) = sum_{p in top_2(g(x))} g_p(x) f_p(x),   g = softmax(x W)

Du et al. 2021, arXiv 2112.06905, section 4 and Table 4: the dense blocks have a gated GELU; the experts between them
are "feed-forward networks", and the weighted average of two of them goes on. Each token goes to two experts (not one),
as in GShard. Published, 64B/64E: 64 blocks of 8,192, 128 heads of 128, inner width 32,768, 1.2T parameters, 96.6B
active. With experts of two matrices these sizes give 96.6B exactly; with three they would not. Table 4 has smaller
ones too, not held here.

Not published: the experts' activation, and whether gates are renormalised (GShard, which it follows, does so; so do
we). The capacity factor is 2.0, as ST-MoE tells (arXiv 2202.08906). Departures: nothing is dropped, and the balance
loss counts both choices, where GShard's counts the first. The vocabulary is 256K, read as 256,000.
"""

from baselines.counting import Published
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig


def glam(dim: int, num_experts: int = 64, *, expert_dim: int | None = None, top_k: int = 2) -> SparseMoEConfig:
    """The layer of every other block; experts of 4 dim, as printed, unless told."""
    expert_dim = 4 * dim if expert_dim is None else expert_dim
    return SparseMoEConfig(
        router=DotProductRouterConfig(dim=dim, num_experts=num_experts, top_k=top_k, renormalize=True),
        experts=ExpertsConfig(dim=dim, num_experts=num_experts, expert_dim=expert_dim),
    )


def dense(dim: int) -> FeedForwardConfig:
    """The gated network of the blocks between."""
    return FeedForwardConfig(dim=dim, inner_dim=4 * dim, activation="geglu")


def published() -> dict[str, Published]:
    """The largest row of Table 4."""
    return {
        "GLaM 64B/64E": Published(
            layers=64,
            moe=glam(8192, expert_dim=32768),
            moe_layers=32,
            dense=dense(8192),
            heads=128,
            head_dim=128,
            vocab_size=256000,
            tied=True,
            total=1200,
            active=96.6,
        )
    }
