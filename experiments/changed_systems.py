"""Systems with one thing changed: their layer, their steps, or whose learning rate they take.

Where the layer or the training changes, the system must be one that no search settles: what a search finds would take
the place of the change. Change the base that it is asked for instead, by `at_best` of tuning.py.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from experiments.layers import dense_layer
from experiments.scales import Scale
from experiments.system import System
from experiments.systems import dense
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import FeedForwardConfig
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig


def with_layers(system: System) -> System:
    """The system with a head and a merge layer around its MoE, nothing split and nothing matched.

    Under "Dense" they go around the feed-forward networks that MoE layers would replace. v2 Table 4 adds layers so; v1
    Table 6 keeps the parameters equal. Raises ValueError for a system that a search settles.
    """

    def layer(scale: Scale) -> LayerConfig:
        inner = system.layer(scale) or dense_layer(scale)
        return MultiHeadConfig(dim=scale.model["hidden_size"], heads=1, inner=inner)

    return _changed(system, "mlp", "with MLP layers", layer=layer)


def dense_with_layers_within() -> System:
    """Dense with a head and a merge layer around networks that pay for them in width (v1 Table 6).

    The two take 2 dim^2 parameters and a unit of the inner width 2 dim, so it is less by dim; biases make the rest,
    2 dim at most. X-MoE with such layers is `mhmoe` of one head under `parameters`.
    """

    def layer(scale: Scale) -> LayerConfig:
        dim, plain = scale.model["hidden_size"], dense_layer(scale)
        assert isinstance(plain, FeedForwardConfig) and plain.activation != "swiglu"  # whose units take 3 dim
        return MultiHeadConfig(dim=dim, heads=1, inner=plain.replace(inner_dim=plain.inner_dim - dim))

    return _changed(dense(), "mlp_within", "with MLP layers, equal parameters", layer=layer)


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

    moe: changes the sparse MoE, inside the heads where there are some. model, training: as in System. Raises ValueError
    for a system that a search settles.
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

    return _changed(
        system,
        name,
        label,
        layer=layer,
        seeds=1,
        model={**system.model, **(model or {})},
        training={**system.training, **(training or {})},
        learning_rate=None,
        tuned_as=system,
        lr_multiplier=lr_multiplier,
    )


def _changed(system: System, name: str, label: str, **changes: Any) -> System:
    """It is of no matching any more, and has no look of its own in figures."""
    if system.settled_by:
        raise ValueError(f"{system.name} is settled by a search ({system.settled_by}), which would undo {label!r}")
    named = {"name": f"{system.name}_{name}", "label": f"{system.label}, {label}"}
    return dataclasses.replace(system, **named, matching="", role="", **changes)


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
        seen=(),
    )


def with_lr_of(system: System, other: System, *, seeds: int = 1) -> System:
    """A few seeds of a system, at the learning rate of another."""
    return dataclasses.replace(system, seeds=seeds, tuned_as=other)
