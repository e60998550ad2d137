"""Every system of baselines/ as a small layer, found by its file: a new one is here by itself."""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from mhmoe.layers.config import LayerConfig

DIM = 24
SIZES: dict[str, Any] = {
    "dim": DIM,
    "num_experts": 4,
    "groups": 2,
    "experts_per_group": 4,
    "experts_per_head": 4,
    "heads": 3,
    "latent_dim": 12,
    "top_k": 2,
    "expert_dim": 8,
}
"""What a function of a baseline gets for its arguments without a default, and for `expert_dim`."""

FILES = sorted(path.stem for path in (Path(__file__).parents[1] / "baselines").glob("*.py"))
NAMES = [name for name in FILES if name not in ("__init__", "counting")]


def module(name: str) -> ModuleType:
    return importlib.import_module(f"baselines.{name}")


def small(make: Callable[..., LayerConfig]) -> LayerConfig:
    arguments = {
        name: SIZES[name]
        for name, parameter in inspect.signature(make).parameters.items()
        if parameter.default is parameter.empty or name == "expert_dim"
    }
    return make(**arguments)


SYSTEMS: dict[str, LayerConfig] = {name: small(getattr(module(name), name)) for name in NAMES}
