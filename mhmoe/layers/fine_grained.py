"""Fine-grained and shared experts: the same parameters and FLOPs in more, narrower experts.

    N experts of inner width w, k chosen   ->   m N experts of inner width w / m, m k chosen
    of which K_s are shared:                    every row sees them, and m N - K_s are routed, m k - K_s chosen

Dai et al. 2024, DeepSeekMoE, arXiv 2401.06066, Eq. 6 to 11: with m times as many experts there are far more ways to
combine the chosen ones at the same cost; shared ones take what all rows need. v2 (arXiv 2411.16205) calls it
fine-grained SMoE.

Several shared networks are one wider network: f_1(x) + f_2(x) has the columns of both side by side, so
`SparseMoEConfig.shared` holds one of inner width K_s w / m. (With `inner_norm` it has one norm over all of them, where
apart each would have its own; and with biases one down bias.) The router grows with N, as it does in the paper.
"""

from mhmoe.layers.experts import FeedForwardConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig


def fine_grained(config: SparseMoEConfig, by: int, shared: int = 0) -> SparseMoEConfig:
    """The mixture with each expert cut into `by`, of which `shared` see every row.

    Raises ValueError where `by` does not divide the experts' width, nothing is left to route, or the config has a
    shared network already.
    """
    experts, router = config.experts, config.router
    if by < 1 or experts.expert_dim % by:
        raise ValueError(f"by={by} does not divide expert_dim={experts.expert_dim}; choose one of its divisors")
    if not 0 <= shared < by * router.top_k:
        raise ValueError(f"shared={shared} leaves none of {by * router.top_k} chosen experts to route; choose fewer")
    if config.shared is not None:
        raise ValueError("the config has a shared network already; leave it out and give `shared`")
    width, count = experts.expert_dim // by, by * experts.num_experts - shared
    network = FeedForwardConfig(
        dim=experts.dim,
        inner_dim=max(shared, 1) * width,
        activation=experts.activation,
        bias=experts.bias,
        inner_norm=experts.inner_norm,
        output_gain=experts.output_gain,
        precision=experts.precision,
    )
    return config.replace(
        router=router.replace(num_experts=count, top_k=by * router.top_k - shared),
        experts=experts.replace(num_experts=count, expert_dim=width),
        shared=network if shared else None,
    )
