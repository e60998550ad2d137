"""X-MoE: sparse mixture of experts with a low-dimensional cosine router, the base of MH-MoE.

Chi et al. 2022, "On the Representation Collapse of Sparse Mixture of Experts", arXiv 2204.09179.
Router: mhmoe.layers.routers.XMoERouter. Experts: inner width 4 d, top-1 of N.

Not published: which k v1 used. The caption of its Table 9 says that the "SMoE frequency", 2, is k, and early training
scripts of the authors choose two experts (yushuiwx/MH-MoE at 0ff2c7d, fairseq/train_mhmoev2_no_fc_params_balance.sh).
The introduction ("SMoE only activates one expert"), Appendix D (Eq. 13 and 16) and v2, whose count of v1 (67 B d^2) is
at k = 1, have one; so has the X-MoE paper. k = 1 is our choice: with it costs are those that v1 and v2 count. The
script released in 2024/09 has k = 1 too, but is a later set-up: SwiGLU, RMS norms and 8 experts of 2,048, as in v2.

With `top_k` equal to the heads of an MH-MoE this is the control that the papers lack: the same parameters, expert FLOPs
and number of selections as MH-MoE under the matching `parameters`, without heads.

Departures: nothing is dropped (the released code trains with a capacity). The balance loss is v1's Eq. 10, of the gates
at the learned temperature; the X-MoE paper's (its Eq. 8) is of a softmax at a temperature that stays fixed. It sets the
router's dimension to N/2 typically, 16 for its 32 experts; we keep 16 for any N, as v1's Table 9 prints it.
"""

from mhmoe.layers.activations import ActivationName
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.routers import XMoERouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig


def xmoe(
    dim: int,
    num_experts: int,
    top_k: int = 1,
    *,
    expert_dim: int | None = None,
    activation: ActivationName = "gelu",
    bias: bool = False,
    inner_norm: bool = False,
) -> SparseMoEConfig:
    """The layer of every MoE block."""
    return SparseMoEConfig(
        router=XMoERouterConfig(dim=dim, num_experts=num_experts, top_k=top_k),
        experts=ExpertsConfig(
            dim=dim,
            num_experts=num_experts,
            expert_dim=expert_dim or 4 * dim,
            activation=activation,
            bias=bias,
            inner_norm=inner_norm,
        ),
    )
