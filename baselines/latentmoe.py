"""LatentMoE: the routed experts of a mixture work in a narrower space.

    y(x) = f_shared(x) + W_up norm( sum_{p in top_k(g(x))} g_p(x) f_p(W_down x) )

Elango et al. 2026, arXiv 2601.18089, Eq. 1 and 2, without the norm: with alpha = dim / latent (4 in its runs), alpha
times as many experts, of which as many (`eff`) or alpha times as many (`acc`, what it recommends) are chosen, cost no
more than the ordinary mixture. Router and shared expert read the full width. Its own models (Table 2) have 16B, 95B and
73B parameters, and gates that are a softmax. In Nemotron 3 Super (released config): 512 experts of inner width 2,688 in
a space of 1,024, 22 chosen, a shared one of 5,376, in 40 of 88 layers of 4,096; 120.6B parameters, 12.7B active (its
report). Kimi K3 (arXiv 2607.24653, Table 1, and released config) adds the norm: 896 experts of 3,072 in a space of
3,584, 16 chosen, two shared ones of 3,072, in 92 of 93 layers of 7,168; 2.78T parameters, 104.2B active. In both the
gates are a sigmoid, renormalised, with a bias for balance; K3 sets the bias from quantiles of the scores (its Quantile
Balancing) and not by a fixed step.

Not published: how K3's norm fares against none. Departures: gates have no further scale (Nemotron's have one); the
bias takes steps of fixed size, and the balance loss of all mixtures here stays beside it; GELU unless told, `published`
has Nemotron's squared ReLU, and SwiGLU for K3's bounded one (SiTU-GLU). `published` counts the mixtures alone: the rest
of these models is Mamba and linear attention, which this package does not have.
"""

from baselines.counting import Published
from mhmoe.layers.activations import ActivationName
from mhmoe.layers.balanced_router import BalancedRouterConfig
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.latent import LatentConfig, latent_moe


def latentmoe(
    dim: int,
    latent_dim: int,
    num_experts: int,
    top_k: int,
    *,
    expert_dim: int,
    shared_dim: int | None = None,
    activation: ActivationName = "gelu",
    normed: bool = False,
) -> LatentConfig:
    """The layer of every MoE block; `normed` as in Kimi K3."""
    experts = ExpertsConfig(dim=latent_dim, num_experts=num_experts, expert_dim=expert_dim, activation=activation)
    shared = None
    if shared_dim is not None:
        shared = FeedForwardConfig(dim=dim, inner_dim=shared_dim, activation=activation)
    router = BalancedRouterConfig(dim=dim, num_experts=num_experts, top_k=top_k)
    return latent_moe(router, experts, shared=shared, normed=normed)


def published() -> dict[str, Published]:
    """The mixtures of both models; `total` and `active` are of the whole models."""
    nemotron = latentmoe(4096, 1024, 512, 22, expert_dim=2688, shared_dim=5376, activation="relu2")
    k3 = latentmoe(7168, 3584, 896, 16, expert_dim=3072, shared_dim=6144, activation="swiglu", normed=True)
    return {
        "Nemotron 3 Super, mixtures": _mixtures(40, nemotron, total=120.6, active=12.7),
        "Kimi K3, mixtures": _mixtures(92, k3, total=2780, active=104.2),
    }


def _mixtures(layers: int, moe: LatentConfig, total: float, active: float) -> Published:
    return Published(
        layers=layers,
        moe=moe,
        moe_layers=layers,
        heads=0,
        head_dim=0,
        attentions=0,
        vocab_size=0,
        total=total,
        active=active,
    )
