"""The systems that are compared, as functions of the scale.

Numbers that follow from others are not written here: sizes
of MH-MoE are solved in mhmoe.layers.matching, learning rates are chosen on `valid` (learning_rates.py).
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from baselines.dense import dense as dense_config
from baselines.xmoe import xmoe as xmoe_config
from experiments.scales import PAPER, Scale
from mhmoe.layers.absent import AbsentConfig
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import FeedForwardConfig
from mhmoe.layers.matching import Matching, match, with_sizes
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig

HEADS = 4
OURS = "ours: the control that the papers lack"  # the source of such claims


@dataclass(frozen=True)
class System:
    """One row: a name for records, a label for people, and the feed-forward config it has at a scale.

    layer: gives the config of the MoE blocks, or None for a dense model. seeds: limits the final runs to
    the first so many of the scale's seeds. feed_forward: the config of the other blocks, if not the scale's dense one.
    learning_rate: if it is not to be chosen. model, training: replace arguments of the scale's. tuned_as: the
    system whose learning rate it takes, times `lr_multiplier`; None for one that is tuned itself. matching: under
    which reading it is of X-MoE's size; "" for X-MoE itself and for dense models. role: how it looks in figures
    (looks.py); "" takes what is free there. num_experts: of the X-MoE whose size it has; None for dense models.
    settled_by: the page whose runs settle what is trained as this system; "" if it is settled here. steps: times those
    of the scale. gates_itself: its gate is a part of what it is, which settings leave alone.
    """

    name: str
    label: str
    layer: Callable[[Scale], LayerConfig | None] = field(repr=False, hash=False, compare=False)
    seeds: int | None = None
    model: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    training: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    feed_forward: Callable[[Scale], LayerConfig] | None = field(default=None, repr=False, hash=False, compare=False)
    learning_rate: float | None = None
    tuned_as: "System | None" = field(default=None, repr=False)
    lr_multiplier: float = 1.0
    matching: str = ""
    role: str = ""
    num_experts: int | None = None
    settled_by: str = ""
    steps: float = 1.0
    gates_itself: bool = False

    @property
    def arm(self) -> str:
        """How it is trained, in the ledger's words."""
        return "tuned" if self.settled_by else "published"

    def chosen(self, records: Any) -> "System | None":
        """What is trained as this system, by what the records say; None while they do not. Itself, but for systems
        that a search settles."""
        return self

    def at(self, scale: Scale) -> Scale:
        """The scale with this system's own arguments of model and training."""
        model, training = {**scale.model, **self.model}, {**scale.training, **self.training}
        training["steps"] = round(self.steps * training["steps"])
        return dataclasses.replace(scale, model=model, training=training)


@cache
def paper_numbers() -> dict[str, Any]:
    """Every number printed in the two papers' tables, with their names as keys."""
    return json.loads((Path(__file__).parent / "paper.json").read_text())


def paper_number(path: Sequence[str | int]) -> Any:
    """What stands at a path in paper.json."""
    value: Any = paper_numbers()
    for key in path:
        value = value[key]
    return value


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
        if printed and scale.name == PAPER.name:
            return table11_layer(num_experts)
        return match(matching, base, heads=heads, top_k=top_k, layers=layers, multiple_of=scale.multiple_of)

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
        (xmoe(32, seeds=3), ("xmoe", "32")),
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
        whole = reference(scale, num_experts, top_k)
        count = num_experts * parts
        router = whole.router.replace(num_experts=count, top_k=top_k * parts)
        experts = whole.experts.replace(num_experts=count, expert_dim=whole.experts.expert_dim // parts)
        return whole.replace(router=router, experts=experts)

    name = f"fine_{num_experts}_p{parts}" + (f"_k{top_k}" if top_k > 1 else "")
    label = f"fine-grained X-MoE, {num_experts} x {parts} experts, k = {top_k * parts}"
    return System(name, label, layer, seeds, role="control")


def with_layers(system: System) -> System:
    """The system with a head and a merge layer around its MoE, nothing split and nothing matched (v1 Table 6).

    Under "Dense" they go around the feed-forward networks that MoE layers would replace.
    """

    def layer(scale: Scale) -> LayerConfig:
        inner = system.layer(scale) or dense_layer(scale)
        return MultiHeadConfig(dim=scale.model["hidden_size"], heads=1, inner=inner)

    return System(
        f"{system.name}_mlp", f"{system.label}, with MLP layers", layer, system.seeds, num_experts=system.num_experts
    )


def ablate(
    system: System,
    name: str,
    label: str,
    *,
    moe: Callable[[SparseMoEConfig], LayerConfig] | None = None,
    model: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    lr_multiplier: float = 1.0,
) -> System:
    """The system with one thing changed, at the learning rate of the unchanged one.

    moe: changes the sparse MoE, inside the heads where there are some. model, training: as in System.
    """

    def layer(scale: Scale) -> LayerConfig | None:
        whole = system.layer(scale)
        if moe is None:
            return whole
        if isinstance(whole, MultiHeadConfig):
            assert isinstance(whole.inner, SparseMoEConfig)
            return whole.replace(inner=moe(whole.inner))
        assert isinstance(whole, SparseMoEConfig)
        return moe(whole)

    return System(
        f"{system.name}_{name}",
        f"{system.label}, {label}",
        layer,
        seeds=1,
        model={**system.model, **(model or {})},
        training={**system.training, **(training or {})},
        tuned_as=system,
        lr_multiplier=lr_multiplier,
        num_experts=system.num_experts,
    )


def for_steps(system: System, times: float) -> System:
    """The system trained for so many times the scale's steps, at the learning rate that it has for those."""
    if times == 1:
        return system
    return dataclasses.replace(
        system,
        name=f"{system.name}_x{times:g}",
        label=f"{system.label}, {times:g} x tokens",
        steps=times,
        tuned_as=None if system.settled_by else system,
    )


def with_lr_of(system: System, other: System, *, seeds: int = 1) -> System:
    """A few seeds of a system, at the learning rate of another."""
    return dataclasses.replace(system, seeds=seeds, tuned_as=other)


def _system(
    name: str, label: str, layer: Callable[[Scale], LayerConfig], seeds: int | None, width: int | None
) -> System:
    if width is None:
        return System(name, label, layer, seeds)
    return System(f"{name}_w{width}", f"{label}, width {width}", layer, seeds, {"hidden_size": width})


def reference(scale: Scale, num_experts: int, top_k: int = 1) -> SparseMoEConfig:
    """The X-MoE layer at a scale."""
    options = scale.ffn
    return xmoe_config(
        scale.model["hidden_size"],
        num_experts,
        top_k,
        activation=options.activation,
        bias=options.bias,
        inner_norm=options.inner_norm,
    )


def dense_layer(scale: Scale) -> LayerConfig:
    """The feed-forward network of ordinary blocks. Its inner norm is left to the experts (v1 Table 11)."""
    return dense_config(scale.model["hidden_size"], scale.ffn.activation, scale.ffn.bias)


def table11_layer(num_experts: int) -> LayerConfig:
    """MH-MoE as v1 Table 11 prints it (h = 4): the inner width follows from the printed expert parameters."""
    millions = paper_numbers()["v1_table11_parameters_millions"]["english"]["mhmoe"][str(num_experts)][1]
    base = reference(PAPER, num_experts)
    blocks = PAPER.model["num_hidden_layers"] // 2

    def experts(width: int) -> int:
        layer = with_sizes(base, heads=HEADS, top_k=1, expert_dim=width, num_experts=num_experts)
        assert isinstance(layer.inner, SparseMoEConfig)
        return blocks * layer.inner.experts.parameters()

    per_width = experts(2) - experts(1)
    width = round(1 + (millions * 1e6 - experts(1)) / per_width)
    return with_sizes(base, heads=HEADS, top_k=1, expert_dim=width, num_experts=num_experts)
