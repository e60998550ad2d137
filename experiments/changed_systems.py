"""Systems with one thing changed: their layer, their steps, or whose learning rate they take."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from experiments.layers import dense_layer
from experiments.scales import Scale
from experiments.system import System
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig


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
