"""X-MoE: sparse mixture of experts with a low-dimensional cosine router, the base of MH-MoE.

Chi et al. 2022, "On the Representation Collapse of Sparse Mixture of Experts", arXiv 2204.09179.
Router: mhmoe.layers.routers.XMoERouter. Experts: inner width 4 d, top-1 of N.

Not published: which k v1 used. Its Table 9 ("SMoE frequency 2") is read as k = 2 by some; its complexity
analysis, the released script and v2 use top-1, and so do we. With `top_k` equal to the heads of an MH-MoE
this is the control that the papers lack: the same parameters, expert FLOPs and number of selections as
MH-MoE under the matching `parameters`, without heads.

Departures: nothing is dropped (the released code trains with a capacity).
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
