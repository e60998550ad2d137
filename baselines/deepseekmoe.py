"""DeepSeekMoE: many narrow experts, and shared ones that every token sees.

    y(x) = f_shared(x) + sum_{p in top_k(g(x))} g_p(x) f_p(x),   g = softmax(x E)

Dai et al. 2024, arXiv 2401.06066, Eq. 9 to 11: each expert of an ordinary mixture is cut into m, and K_s of them become
shared (see mhmoe/layers/fine_grained.py). Gates are not renormalised. Published, DeepSeekMoE 16B (section 5.1.2): 28
blocks of 2,048, the first with a dense network, 16 heads of 128; 64 routed experts of 0.25 times the standard width, 6
chosen, 2 shared; 16.4B parameters, 2.8B active. From its released config: experts of 1,408, the first block's network
of 10,944, 102,400 symbols (the paper: 100K). DeepSeek-V2 (arXiv 2405.04434) and V3 (arXiv 2412.19437) keep
the layer; V3's gate is a sigmoid with a bias for balance and a limit of groups (mhmoe/layers/balanced_router.py).

Not published: nothing that matters here. Departures: none in the expert-level balance loss (Eq. 12 to 14), which is
v1 Eq. 10 but for its weight; there is no device-level one (Eq. 15 to 17), which concerns devices alone.
"""

from baselines.counting import Published
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig


def deepseekmoe(
    dim: int, num_experts: int = 64, top_k: int = 6, shared: int = 2, *, expert_dim: int | None = None
) -> SparseMoEConfig:
    """`num_experts` routed and `shared` shared experts of width `expert_dim`, by default 2/3 dim: a quarter of 8/3."""
    expert_dim = max(2 * dim // 3, 1) if expert_dim is None else expert_dim
    network = FeedForwardConfig(dim=dim, inner_dim=max(shared, 1) * expert_dim, activation="swiglu")
    return SparseMoEConfig(
        router=DotProductRouterConfig(dim=dim, num_experts=num_experts, top_k=top_k),
        experts=ExpertsConfig(dim=dim, num_experts=num_experts, expert_dim=expert_dim, activation="swiglu"),
        shared=network if shared else None,
    )


def published() -> dict[str, Published]:
    return {
        "DeepSeekMoE 16B": Published(
            layers=28,
            moe=deepseekmoe(2048, expert_dim=1408),
            moe_layers=27,
            dense=FeedForwardConfig(dim=2048, inner_dim=10944, activation="swiglu"),
            heads=16,
            head_dim=128,
            vocab_size=102400,
            total=16.4,
            active=2.8,
        )
    }
