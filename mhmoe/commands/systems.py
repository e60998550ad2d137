"""What stands in every second block of a model that `train` makes: a layer by the name of its system.

    mhmoe          heads around X-MoE, of its size under a matching (layers/matching.py)
    xmoe           a cosine router of low dimension (layers/routers.py), the reference of the matchings
    switch         the best expert by jittered scores, with a capacity (layers/switch_router.py)
    mixtral        scores by dot product, the best two, renormalised; SwiGLU
    deepseekmoe    the experts of X-MoE's size cut in four, of which one is shared (layers/fine_grained.py); SwiGLU
    dense          one network of the width of an expert

Experts are 4 dim wide unless told. The exact published sizes, and more systems, are in the repository's baselines/.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mhmoe.fields import Size, check_fields
from mhmoe.io import UserError
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.fine_grained import fine_grained
from mhmoe.layers.matching import MATCHINGS, Matching, match, with_sizes
from mhmoe.layers.routers import DotProductRouterConfig, RouterConfig, XMoERouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.layers.switch_router import SwitchRouterConfig

SWITCH_CAPACITY = 1.25  # Fedus et al. 2021, Table 9
UNMATCHED = "none"
MATCHING_NAMES: dict[str, Matching] = {
    words.lower().replace(" ", "-"): matching for matching, words in MATCHINGS.items()
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of a layer. heads: of MH-MoE. experts, expert_dim: of the mixture whose size it has; with matching="none" its
    own. top_k: None takes the system's. network: further arguments of the experts. multiple_of: of inner widths."""

    dim: Size
    heads: Size = 4
    experts: Size = 8
    expert_dim: Size | None = None
    top_k: Size | None = None
    matching: str = "equal-flops"
    network: dict[str, Any] = field(default_factory=dict[str, Any])
    multiple_of: Size = 1

    def __post_init__(self) -> None:
        check_fields(self)
        if self.matching not in (*MATCHING_NAMES, UNMATCHED):
            known = ", ".join((*MATCHING_NAMES, UNMATCHED))
            raise UserError(f"matching={self.matching!r} is not known; choose one of {known}")

    def mixture(self, router: type[RouterConfig], top_k: int, activation: str = "gelu", **more: Any) -> SparseMoEConfig:
        """Experts that a router chooses from; `more` are the router's."""
        width = self.expert_dim or 4 * self.dim
        network: dict[str, Any] = {"activation": activation, **self.network}
        experts = ExpertsConfig(dim=self.dim, num_experts=self.experts, expert_dim=width, **network)
        chosen = self.top_k or top_k
        return SparseMoEConfig(
            router=router(dim=self.dim, num_experts=self.experts, top_k=chosen, **more), experts=experts
        )


def xmoe(sizes: Sizes) -> SparseMoEConfig:
    return sizes.mixture(XMoERouterConfig, top_k=1)


def mhmoe(sizes: Sizes) -> LayerConfig:
    """`top_k` is that of its sub-tokens; the reference has one choice."""
    reference = sizes.mixture(XMoERouterConfig, top_k=1)
    reference = reference.replace(router=reference.router.replace(top_k=1))
    top_k = sizes.top_k or 1
    if sizes.matching == UNMATCHED:
        own = reference.experts
        return with_sizes(
            reference, heads=sizes.heads, top_k=top_k, expert_dim=own.expert_dim, num_experts=own.num_experts
        )
    matching = MATCHING_NAMES[sizes.matching]
    return match(matching, reference, heads=sizes.heads, top_k=top_k, multiple_of=sizes.multiple_of)


def switch(sizes: Sizes) -> SparseMoEConfig:
    return sizes.mixture(SwitchRouterConfig, top_k=1).replace(capacity_factor=SWITCH_CAPACITY)


def mixtral(sizes: Sizes) -> SparseMoEConfig:
    return sizes.mixture(DotProductRouterConfig, top_k=2, activation="swiglu", renormalize=True)


def deepseekmoe(sizes: Sizes) -> SparseMoEConfig:
    return fine_grained(sizes.mixture(DotProductRouterConfig, top_k=1, activation="swiglu"), by=4, shared=1)


def dense(sizes: Sizes) -> None:
    """No mixture: every block has the network of the others."""


SYSTEMS: dict[str, Callable[[Sizes], LayerConfig | None]] = {
    "mhmoe": mhmoe,
    "xmoe": xmoe,
    "switch": switch,
    "mixtral": mixtral,
    "deepseekmoe": deepseekmoe,
    "dense": dense,
}


UNREAD = {
    **dict.fromkeys(("xmoe", "switch", "mixtral", "deepseekmoe"), ("heads", "matching")),
    "dense": ("heads", "experts", "top_k", "matching"),
}
"""Sizes that change nothing in a system."""
OF_MIXTURES = ("moe_every", "moe_offset", "balance_weight")
"""Options of the model that change nothing where no block has a mixture."""


def layer_of(system: str, sizes: Sizes) -> LayerConfig | None:
    """Raises UserError if there is no such system, ValueError for sizes that do not fit together."""
    if system not in SYSTEMS:
        raise UserError(f"system={system!r} is not known; choose one of {', '.join(SYSTEMS)}")
    return SYSTEMS[system](sizes)
