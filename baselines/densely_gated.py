"""Densely gated mixture: every expert sees every token, weighted by a softmax gate.

    y(x) = sum_p g_p(x) f_p(x),   g = softmax(x W)

Jacobs, Jordan, Nowlan and Hinton 1991, "Adaptive Mixtures of Local Experts" (Neural Computation 3, 79-87); as a layer
of a language model, MoE-4 of Shazeer et al. 2017, arXiv 1701.06538, Eq. 1 and 2, Appendix C.1 and Table 7: 4 experts of
inner width 1,024 between two LSTMs of 512, of which all 4 are chosen; 8.4M parameters without embeddings and output.

Not published by Jacobs et al.: any size that compares. Departures from Shazeer et al.: a transformer for the LSTMs, no
noise on the gates (its matrix is in the published total) and no sigmoid behind the mixture, GELU for ReLU unless told.
"""

from baselines.counting import Published
from mhmoe.layers.activations import ActivationName
from mhmoe.layers.dense_mixture import DenseMixtureConfig
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.routers import DotProductRouterConfig


def densely_gated(
    dim: int, num_experts: int, *, expert_dim: int | None = None, activation: ActivationName = "gelu"
) -> DenseMixtureConfig:
    """The layer of every MoE block: N times the FLOPs of one expert, of 4 dim unless told."""
    expert_dim = 4 * dim if expert_dim is None else expert_dim
    return DenseMixtureConfig(
        router=DotProductRouterConfig(dim=dim, num_experts=num_experts, top_k=num_experts),
        experts=ExpertsConfig(dim=dim, num_experts=num_experts, expert_dim=expert_dim, activation=activation),
    )


def published() -> dict[str, Published]:
    lstm = 4 * (512 + 512) * 512
    return {
        "MoE-4": Published(
            layers=1,
            moe=densely_gated(512, 4, expert_dim=1024, activation="relu"),
            moe_layers=1,
            heads=0,
            head_dim=0,
            vocab_size=0,
            other=2 * lstm + 4 * 512,
            total=0.0084,
        )
    }
