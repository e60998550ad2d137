"""The systems of the field at one cost: each a family of layers of any width, number of experts and inner width.

    FLOPs a token of the layer = those of X-MoE with 8 experts and k = 2, routers included, by the inner width

Proportions are the published ones where a laptop has room for them (k, groups, shared experts, how many times narrower
an expert is), beside X-MoE's 8 experts, with about its parameters: but for the densely gated mixture, which has those
of the experts that it uses, and Jamba's 16 experts. With heads, as many experts as give the parameters nearest to
X-MoE's. Activations are the systems' own: GELU or, of Mixtral, DeepSeekMoE and Jamba, SwiGLU, of Grok-1 a gated GELU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from baselines.deepseekmoe import deepseekmoe
from baselines.densely_gated import densely_gated
from baselines.glam import glam
from baselines.grok1 import grok1
from baselines.gshard import gshard
from baselines.hierarchical import hierarchical
from baselines.jamba import PLACEMENT, jamba
from baselines.latentmoe import latentmoe
from baselines.mixtral import mixtral
from baselines.multi_head_latentmoe import multi_head_latentmoe
from baselines.switch import switch
from baselines.xmoe import xmoe
from experiments.layers import reference
from experiments.scales import Scale
from experiments.settings import Point
from experiments.system import System
from experiments.tuning import EXPERTS, TOP_K, at_best
from mhmoe.layers.balanced_router import BalancedRouterConfig
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.grouped_router import GroupedRouterConfig
from mhmoe.layers.matching import of_cost, of_size
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.routers import (
    DotProductRouterConfig,
    FixedTemperatureRouterConfig,
    ReleasedRouterConfig,
    RouterConfig,
)
from mhmoe.layers.sparse_moe import SparseMoEConfig

SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Family:
    """build: its layer with (dim, number of experts, inner width). experts: how many it has without heads. step: what
    their number is a multiple of with heads; 0 where it stays. gates_itself, model: as of a System."""

    name: str
    label: str
    build: Callable[[int, int, int], LayerConfig] = field(repr=False, hash=False, compare=False)
    experts: int = EXPERTS
    step: int = 1
    gates_itself: bool = True
    model: tuple[tuple[str, int], ...] = ()

    def counts(self, heads: int) -> Sequence[int]:
        """Numbers of experts that are tried with heads: from as many as without to half as many again for each head."""
        return range(self.experts, self.experts * (heads + heads // 2) + 1, self.step) if self.step else [self.experts]


@cache
def alone(family: Family, scale: Scale) -> LayerConfig:
    """Its layer at a scale, of X-MoE's FLOPs."""
    dim, flops = scale.model["hidden_size"], reference(scale, EXPERTS, TOP_K).flops_per_token()
    return of_cost(lambda width: family.build(dim, family.experts, width), flops, scale.multiple_of)


@cache
def with_heads(family: Family, scale: Scale, heads: int) -> LayerConfig:
    """Its layer inside the multi-head mechanism, of X-MoE's FLOPs and about its parameters."""
    dim, whole = scale.model["hidden_size"], reference(scale, EXPERTS, TOP_K)

    def build(count: int, width: int) -> MultiHeadConfig:
        return MultiHeadConfig(dim=dim, heads=heads, inner=family.build(dim // heads, count, width))

    return of_size(build, whole, family.counts(heads), scale.multiple_of)


def system(family: Family, *, seeds: int = SEEDS) -> System:
    """The family's system at the best point of X-MoE."""

    def build(point: Point) -> System:
        return _system(family, lambda scale: alone(family, scale))

    return replace(at_best("xmoe_{}", family.name, family.label, build, seeds), role="")


def headed(family: Family, *, seeds: int = SEEDS) -> System:
    """The same with heads, at the best point of MH-MoE and with as many."""

    def build(point: Point) -> System:
        return _system(family, lambda scale: with_heads(family, scale, point.parts))

    name, label = f"{family.name}_heads", f"{family.label}, with heads"
    return replace(at_best("mhmoe_{}_compute", name, label, build, seeds), role="")


def _system(family: Family, layer: Callable[[Scale], LayerConfig]) -> System:
    return System(family.name, family.label, layer, model=dict(family.model), gates_itself=family.gates_itself)


# ---- the systems -----------------------------------------------------------------------------


def _family(name: str, label: str, layer: Callable[..., LayerConfig], **more: Any) -> Family:
    """Of a baseline of (dim, number of experts, expert_dim). more: further fields of `Family`."""
    return Family(name=name, label=label, build=lambda dim, count, width: layer(dim, count, expert_dim=width), **more)


# The FLOPs of the densely gated mixture and its parameters are one number; experts of Switch are twice as wide.
DENSELY_GATED = _family("densely_gated", "Densely gated, 8 experts, all of them", densely_gated, step=0)
HIERARCHICAL = Family(
    name="hierarchical",
    label="Hierarchical, 4 groups, 2 chosen, and 2 of 4 experts in each",
    build=lambda dim, count, width: hierarchical(dim, 4, count // 4, expert_dim=width),
    experts=16,
    step=4,
)
SWITCH = _family("switch", "Switch, 4 experts, k = 1, capacity 1.25", switch, experts=4)
GSHARD = _family("gshard", "GShard, 8 experts, k = 2, the second by chance, capacity 1", gshard)
GLAM = _family("glam", "GLaM, 8 experts, k = 2", glam)
MIXTRAL = _family("mixtral", "Mixtral, 8 experts, k = 2", mixtral)
GROK1 = _family("grok1", "Grok-1, 8 experts, k = 2, not renormalised", grok1)
JAMBA = _family(
    "jamba", "Jamba's mixture and placement, 16 experts, k = 2", jamba, experts=16, model=tuple(PLACEMENT.items())
)
DEEPSEEKMOE = Family(
    name="deepseekmoe",
    label="DeepSeekMoE, 2 shared, k = 6 of 30",
    build=lambda dim, count, width: deepseekmoe(dim, count, 6, 2, expert_dim=width),
    experts=30,
)
LATENTMOE = Family(
    name="latentmoe",
    label="LatentMoE, width / 4, shared, k = 8 of 56",
    build=lambda dim, count, width: latentmoe(dim, dim // 4, count, 8, expert_dim=width, shared_dim=2 * width),
    experts=56,
)
LATENTMOE_K3 = Family(
    name="latentmoe_k3",
    label="LatentMoE with the norm of Kimi K3, the same sizes",
    build=lambda dim, count, width: latentmoe(
        dim, dim // 4, count, 8, expert_dim=width, shared_dim=2 * width, normed=True
    ),
    experts=56,
)
FAMILIES = (
    *(DENSELY_GATED, HIERARCHICAL, GSHARD, SWITCH, GLAM, DEEPSEEKMOE, MIXTRAL, GROK1, JAMBA),
    *(LATENTMOE, LATENTMOE_K3),
)

WITH_SWIGLU = (DEEPSEEKMOE, MIXTRAL, GROK1, JAMBA)


def multi_head_latent(*, seeds: int = SEEDS) -> System:
    """Multi-Head LatentMoE: 8 experts a head, of which k = 2; with MH-MoE's heads and settings."""

    def build(point: Point) -> System:
        family = Family(
            name=f"multi_head_latentmoe_{point.parts}",
            label="",
            build=lambda dim, count, width: multi_head_latentmoe(dim, point.parts, count, TOP_K, expert_dim=width),
        )
        return _system(family, lambda scale: alone(family, scale))

    label = "Multi-Head LatentMoE, 8 experts a head, k = 2"
    return replace(at_best("mhmoe_{}_compute", "multi_head_latentmoe", label, build, seeds), role="", matching="")


# ---- X-MoE with another activation or router -------------------------------------------------


XMOE_SWIGLU = Family(
    name="xmoe_swiglu",
    label="X-MoE with SwiGLU, 8 experts, k = 2",
    build=lambda dim, count, width: xmoe(dim, count, TOP_K, expert_dim=width, activation="swiglu"),
    gates_itself=False,
)


def _router(
    name: str, label: str, router: Callable[..., RouterConfig], *, gates_itself: bool = False, step: int = 1
) -> Family:
    """router: of dim, num_experts and top_k."""

    def build(dim: int, count: int, width: int) -> LayerConfig:
        experts = ExpertsConfig(dim=dim, num_experts=count, expert_dim=width)
        return SparseMoEConfig(router=router(dim=dim, num_experts=count, top_k=TOP_K), experts=experts)

    return Family(name=name, label=label, build=build, gates_itself=gates_itself, step=step)


def _fixed(*, dim: int, num_experts: int, top_k: int) -> RouterConfig:
    width = max(num_experts // 2, 1)
    return FixedTemperatureRouterConfig(dim=dim, num_experts=num_experts, top_k=top_k, router_dim=width)


VARIANTS = (
    XMOE_SWIGLU,
    _router("dot_router", "scores x . e (v1 Eq. 5)", DotProductRouterConfig),
    _router("released_router", "router of the released code", ReleasedRouterConfig),
    _router("fixed_router", "router with a fixed temperature", _fixed),
    _router("balanced_router", "DeepSeek-V3's router, a bias for balance", BalancedRouterConfig, gates_itself=True),
    _router("grouped_router", "routing in two levels", GroupedRouterConfig, step=4),
)
