"""The systems that are compared, as functions of the scale.

Numbers that follow from others are not written here: sizes
of MH-MoE are solved in mhmoe.layers.matching, learning rates are chosen on `valid` (learning_rates.py).
"""

import dataclasses
import functools
from collections.abc import Callable

from experiments.layers import HEADS, TABLE11_EXPERTS, dense_layer, reference, table11_layer
from experiments.scales import PAPER, Scale
from experiments.system import System
from mhmoe.layers.absent import AbsentConfig
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import FeedForwardConfig
from mhmoe.layers.fine_grained import fine_grained as cut_up
from mhmoe.layers.matching import Matching, match

_match = functools.cache(match)  # pages ask for the same few hundred again and again
OURS = "ours: the control that the papers lack"  # the source of such claims


def dense() -> System:
    return System("dense", "Dense", lambda scale: None, role="dense")


def xmoe(num_experts: int, top_k: int = 1, *, seeds: int | None = None, width: int | None = None) -> System:
    """X-MoE; with top_k = h it is the control of MH-MoE's gain. `width` replaces the scale's model width."""
    name = f"xmoe_{num_experts}" + (f"_k{top_k}" if top_k > 1 else "")
    label = f"X-MoE, {num_experts} experts" + (f", k = {top_k} (control)" if top_k > 1 else "")
    system = _system(name, label, lambda scale: reference(scale, num_experts, top_k), seeds, width)
    return dataclasses.replace(system, role="control" if top_k > 1 else "xmoe", num_experts=num_experts)


def mhmoe(
    num_experts: int,
    matching: Matching,
    heads: int = HEADS,
    *,
    top_k: int = 1,
    layers: int = 1,
    seeds: int | None = None,
    width: int | None = None,
    like_top_k: int = 1,
) -> System:
    """MH-MoE of the size of X-MoE with `num_experts` experts and k = `like_top_k`, under a matching of that.

    heads=1 splits nothing; `layers` is the depth of the head and the merge MLP, 0 leaves them out.
    """
    name = f"mhmoe_{num_experts}_{matching}" + (f"_h{heads}" if heads != HEADS else "")
    label = f"MH-MoE, {num_experts} experts, h = {heads}"
    if top_k > 1:
        name, label = f"{name}_k{top_k}", f"{label}, k = {top_k}"
    if like_top_k > 1:
        name, label = f"{name}_as_k{like_top_k}", f"{label}, size of X-MoE with k = {like_top_k}"
    if layers != 1:
        name, label = f"{name}_n{layers}", f"{label}, {layers or 'no'} MLP layers"

    def layer(scale: Scale) -> LayerConfig:
        base = reference(scale, num_experts, like_top_k)
        printed = matching == "parameters" and (heads, top_k, layers, width, like_top_k) == (HEADS, 1, 1, None, 1)
        if printed and scale.name == PAPER.name and num_experts in TABLE11_EXPERTS:
            return table11_layer(num_experts)
        return _match(matching, base, heads=heads, top_k=top_k, layers=layers, multiple_of=scale.multiple_of)

    system = _system(name, f"{label}, `{matching}`", layer, seeds, width)
    return dataclasses.replace(system, matching=matching, role=matching, num_experts=num_experts)


def controls() -> tuple[System, ...]:
    """What the papers' rows lack: the null, Dense of the FLOPs of MH-MoE at equal parameters, more choices of smaller
    experts, and two choices."""
    return null(), dense_of_cost(mhmoe(8, "parameters")), fine_grained(8, HEADS), xmoe(8, top_k=2)


def compared() -> tuple[tuple[System, tuple[str, ...]], ...]:
    """The systems of Tables 1 to 3, each with where it stands in the paper's Table 1, () if it does not."""
    return (
        (dense(), ("dense",)),
        (xmoe(8), ("xmoe", "8")),
        (xmoe(8, top_k=HEADS), ()),
        (mhmoe(8, "parameters"), ("mhmoe", "8")),
        (mhmoe(8, "compute"), ()),
        (xmoe(32), ("xmoe", "32")),
        (mhmoe(32, "parameters", seeds=3), ("mhmoe", "32")),
        (mhmoe(32, "compute", seeds=3), ()),
    )


def null() -> System:
    """The model without any layer where the others have their mixture: what every system must beat."""
    return System("null", "no layer", lambda scale: AbsentConfig(dim=scale.model["hidden_size"]), role="null")


def dense_of_cost(system: System) -> System:
    """Dense, with the FLOPs a token that another system has: its blocks' networks are as wide as those cost."""

    def layer(scale: Scale) -> LayerConfig:
        other, plain = system.layer(scale), dense_layer(scale)
        assert other is not None and isinstance(plain, FeedForwardConfig)
        width = plain.inner_dim * other.flops_per_token() / plain.flops_per_token()
        return plain.replace(inner_dim=max(round(width / scale.multiple_of), 1) * scale.multiple_of)

    return System(f"dense_as_{system.name}", f"Dense, FLOPs of {system.label}", layer, role="dense")


def fine_grained(num_experts: int, parts: int, top_k: int = 1, *, seeds: int | None = None) -> System:
    """X-MoE with every expert cut into so many, of which as many times more are chosen (v2's "fine-grained")."""

    def layer(scale: Scale) -> LayerConfig:
        return cut_up(reference(scale, num_experts, top_k), parts)

    name = f"fine_{num_experts}_p{parts}" + (f"_k{top_k}" if top_k > 1 else "")
    label = f"fine-grained X-MoE, {num_experts} x {parts} experts, k = {top_k * parts}"
    return System(name, label, layer, seeds, role="control")


def _system(
    name: str, label: str, layer: Callable[[Scale], LayerConfig], seeds: int | None, width: int | None
) -> System:
    if width is None:
        return System(name, label, layer, seeds)
    return System(f"{name}_w{width}", f"{label}, width {width}", layer, seeds, {"hidden_size": width})
