"""Multi-Head LatentMoE: heads as in MH-MoE, and every head has its own router and its own experts.

    z = W_in x
    o_i = sum_{p in top_k(g_i(z_i))} g_{i,p}(z_i) f_{i,p}(z_i)        for each of the h slices z_i of z
    y = W_out [o_1 ... o_h]

Cui et al. 2026, arXiv 2602.04870: as no sub-token leaves its head, heads can live on different devices, with traffic
that is balanced and known beforehand (Head Parallel), whatever the routing. It is MH-MoE (`MultiHeadConfig`) with
`PerHeadRouterConfig` inside; the released code (kerner-lab/Sparse-GPT-Pretraining) has neither biases nor norms.

Not held here: the sizes of its experiments, so `published` is empty. As in the released code (ffwd/mh_moe_hp_nrt.py),
gates are a softmax over the chosen scores, for which it wants two experts at least, experts have GELU, and a bias
balances the choice. Departures: the bias is added to the gates and not to the scores, and moves by 0.001 times
the sign, as DeepSeek-V3's; the released code moves it by 50 times the largest learning rate, times the sign less its
mean over a head's experts (training/launch_training.py, gradient_accumulation.py). The balance loss of all mixtures
here stays beside it; h slices of dim / h numbers, where the released code allows any width of a head; head and merge
layer start as MH-MoE's.
"""

from baselines.counting import Published
from mhmoe.layers.activations import ActivationName
from mhmoe.layers.balanced_router import BalancedRouterConfig
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.multi_head import MultiHeadConfig, check_heads
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig


def multi_head_latentmoe(
    dim: int, heads: int, experts_per_head: int, top_k: int = 2, *, expert_dim: int, activation: ActivationName = "gelu"
) -> MultiHeadConfig:
    """The layer of every MoE block, heads * experts_per_head experts; `top_k` of a head's, two or more, are chosen."""
    check_heads("heads", heads, dim)
    width = dim // heads
    router = BalancedRouterConfig(
        dim=width, num_experts=experts_per_head, top_k=top_k, gate="softmax", renormalize=True
    )
    return MultiHeadConfig(
        dim=dim,
        heads=heads,
        bias=False,
        inner=SparseMoEConfig(
            router=PerHeadRouterConfig.of(router, heads),
            experts=ExpertsConfig(
                dim=width, num_experts=heads * experts_per_head, expert_dim=expert_dim, activation=activation
            ),
        ),
    )


def published() -> dict[str, Published]:
    return {}
