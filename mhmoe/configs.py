"""Configs that validate themselves, count themselves and travel as JSON.

Every layer has a frozen config beside its class. `kind` names the class in JSON, so a
checkpoint carries whole configs and loading needs nothing but this package.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

from torch import nn

_KINDS: dict[str, type["Config"]] = {}
SomeConfig = TypeVar("SomeConfig", bound="Config")  # Self is more than the checks of shapes in tests understand


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every layer config. Subclasses register themselves: `class XConfig(Config, kind="x")`."""

    kind: ClassVar[str]

    def __init_subclass__(cls, kind: str | None = None) -> None:
        if kind is not None:
            if kind in _KINDS and _KINDS[kind].__qualname__ != cls.__qualname__:
                raise TypeError(f"kind={kind!r} is taken by {_KINDS[kind].__qualname__}")
            cls.kind = kind
            _KINDS[kind] = cls

    def build(self) -> nn.Module:
        """The module this config describes."""
        raise NotImplementedError

    def parameters(self) -> int:
        """Number of trainable numbers, exactly those of `build()`."""
        raise NotImplementedError

    def active_parameters(self, rows: int = 1) -> int:
        """Parameters that `rows` rows make use of together, at most: their selections may coincide."""
        return self.parameters()

    def flops_per_token(self) -> int:
        """Two per multiply-add in the matrix products of one token's forward pass, as torch counts them."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """JSON form: `kind`, then every field; nested configs likewise."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"kind": self.kind} | {k: v.to_dict() if isinstance(v, Config) else v for k, v in fields.items()}

    def replace(self: SomeConfig, **changes: Any) -> SomeConfig:
        return dataclasses.replace(self, **changes)

    def check_at_least(self, minimum: int, *names: str) -> None:
        for name in names:
            if getattr(self, name) < minimum:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed; it must be at least {minimum}")


def config_from_dict(raw: Mapping[str, Any]) -> Config:
    """The config that `to_dict` wrote. Raises ValueError, naming the field, where it is not one."""
    kind = raw.get("kind")
    if kind not in _KINDS:
        raise ValueError(f"kind={kind!r} is not known; choose one of {', '.join(sorted(_KINDS))}")
    cls = _KINDS[kind]
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(raw.keys() - fields.keys() - {"kind"})
    if unknown:
        raise ValueError(f"{kind} has no field {unknown[0]!r}; it has {', '.join(fields)}")
    required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(required - raw.keys()):
        raise ValueError(f"{kind} needs the field {missing[0]!r}")
    nested = {k: config_from_dict(v) if isinstance(v, Mapping) else v for k, v in raw.items() if k != "kind"}
    for name, value in nested.items():
        _check_type(f"{kind}.{name}", value, fields[name].type)
    return cls(**nested)


def _check_type(name: str, value: Any, declared: Any) -> None:
    """Raises ValueError where JSON holds something of another type than the field's."""
    if isinstance(declared, str) or get_origin(declared) is Literal:  # the config itself knows what is allowed
        return
    allowed: tuple[Any, ...] = get_args(declared) or (declared,)
    if float in allowed:
        allowed += (int,)
    if not isinstance(value, allowed):
        shown = f"of kind {value.kind}" if isinstance(value, Config) else repr(value)
        names = " or ".join(t.__name__.replace("NoneType", "None") for t in allowed)
        raise ValueError(f"{name} is {shown}; it must be {names}")


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
