"""Hierarchical mixture: a first router chooses groups, and in each group a second one chooses experts.

    y(x) = sum_{i in top_k(g)} g_i(x) sum_{j in top_k(g_i)} g_ij(x) f_ij(x)

Jordan and Jacobs 1994, "Hierarchical mixtures of experts and the EM algorithm"; Shazeer et al. 2017, arXiv 1701.06538,
Appendix B (Eq. 12) and C.1: 256 to 4,096 experts of inner width 1,024 at dim 512 in 16 groups (one a GPU), 2 chosen of
each level, between two LSTMs of 512. Table 7's parameters without embeddings and output layer: 272.9M, 1,079.0M and
4,303.4M. Its Appendix D goes on to 131,072 experts and 137.6B parameters (Table 8).

Not published: what a group of experts has in common; nothing, as far as the equation says.
Departures: a transformer for the LSTMs; no noise on the gates (its matrices are in the published totals), which are
the softmax over all, renormalised over the chosen, as theirs are; no sigmoid behind the mixture; GELU for ReLU unless
told; v1's balance loss over all experts of all groups in the place of their two (Eq. 13 and 14).
"""

from baselines.counting import Published
from mhmoe.layers.activations import ActivationName
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.hierarchical import HierarchicalMoEConfig
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig


def hierarchical(
    dim: int,
    groups: int,
    experts_per_group: int,
    *,
    expert_dim: int | None = None,
    top_k: int = 2,
    activation: ActivationName = "gelu",
) -> HierarchicalMoEConfig:
    """The layer of every MoE block: `top_k` groups, and `top_k` experts in each; experts of 4 dim unless told."""
    expert_dim = 4 * dim if expert_dim is None else expert_dim
    return HierarchicalMoEConfig(
        router=DotProductRouterConfig(dim=dim, num_experts=groups, top_k=min(top_k, groups), renormalize=True),
        inner=SparseMoEConfig(
            router=DotProductRouterConfig(
                dim=dim, num_experts=experts_per_group, top_k=min(top_k, experts_per_group), renormalize=True
            ),
            experts=ExpertsConfig(dim=dim, num_experts=experts_per_group, expert_dim=expert_dim, activation=activation),
        ),
    )


def published() -> dict[str, Published]:
    """Appendix C.1, Table 7."""
    lstm = 4 * (512 + 512) * 512
    totals = {256: 0.2729, 1024: 1.0790, 4096: 4.3034}
    return {
        f"MoE-{experts}-h": Published(
            layers=1,
            moe=hierarchical(512, 16, experts // 16, expert_dim=1024, activation="relu"),
            moe_layers=1,
            heads=0,
            head_dim=0,
            vocab_size=0,
            other=2 * lstm + 512 * (16 + experts),
            total=total,
        )
        for experts, total in totals.items()
    }
