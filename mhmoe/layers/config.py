"""Configs that validate themselves, count themselves and travel as JSON.

Every layer has a frozen config beside its class. `kind` names the class in JSON, so a
checkpoint carries whole configs and loading needs nothing but this package.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, get_args

from torch import nn

from mhmoe.fields import check_fields, check_value, declared_fields, shown

_KINDS: dict[str, type["Config"]] = {}
_RETIRED: dict[str, str] = {}
SomeConfig = TypeVar("SomeConfig", bound="Config")  # Self is more than the checks of shapes in tests understand


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every layer config. Subclasses register themselves: `class XConfig(Config, kind="x")`.

    Every field is held to its annotation, ranges included; `check` says what fields must be to each other.
    A class whose function changes takes a new kind; `retired` then says of the old one why, and what to do.
    """

    kind: ClassVar[str]

    def __init_subclass__(cls, kind: str | None = None, retired: Mapping[str, str] | None = None) -> None:
        _RETIRED.update(retired or {})
        if kind is not None:
            if kind in _KINDS and _KINDS[kind].__qualname__ != cls.__qualname__:
                raise TypeError(f"kind={kind!r} is taken by {_KINDS[kind].__qualname__}")
            cls.kind = kind
            _KINDS[kind] = cls

    def __post_init__(self) -> None:
        check_fields(self)
        self.check()

    def check(self) -> None:
        """Raises ValueError, naming the fields, where they do not fit together."""

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
        """JSON form: `kind`, then every field but LATER ones at their defaults; nested configs likewise."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not _is_left_out(self, f)}
        return {"kind": self.kind} | {k: v.to_dict() if isinstance(v, Config) else v for k, v in fields.items()}

    @property
    def draws(self) -> bool:
        """Whether this part, without those in it, draws random numbers in training."""
        return False

    @property
    def mixes_rows(self) -> bool:
        """Whether what a row gets depends, in training, on which others are computed with it; parts in it aside."""
        return False

    @property
    def looks_ahead(self) -> bool:
        """Whether what a row gets depends on later rows in evaluation too; parts in it aside."""
        return False

    @property
    def read_width(self) -> int | None:
        """Of what its router reads; None without a router that can be given something else than its experts."""
        return None

    def parts(self) -> Iterator["Config"]:
        """This config and all configs in it."""
        yield self
        for value in vars(self).values():
            if isinstance(value, Config):
                yield from value.parts()

    def replace(self: SomeConfig, **changes: Any) -> SomeConfig:
        return dataclasses.replace(self, **changes)


LATER = "added later"
"""Marks a field that configs did not always have, `Annotated[type, LATER]`: at its default it is left out of JSON, so
that the fingerprints of earlier configs stand."""


def _is_left_out(config: Config, field: "dataclasses.Field[Any]") -> bool:
    marks = get_args(declared_fields(type(config))[field.name])
    return LATER in marks and getattr(config, field.name) == field.default


class LayerConfig(Config):
    """Base of whole feed-forward layers, which all have a `dim` and return an FFNOutput; routers are only parts."""


def check_route_by(route_by: str, inner: LayerConfig, width: int) -> None:
    """Raises ValueError if the inner layer's router cannot read what it is given: the input, of this width, or rows."""
    if route_by == "input" and inner.read_width is None:
        raise ValueError(f"route_by='input' needs a mixture within, and {inner.kind} is none")
    given: int = width if route_by == "input" else inner.dim  # pyright: ignore[reportAttributeAccessIssue]
    if inner.read_width not in (None, given):
        raise ValueError(f"the router within reads width {inner.read_width}; route_by={route_by!r} gives it {given}")


def config_from_dict(raw: Mapping[str, Any]) -> Config:
    """The config that `to_dict` wrote. Raises ValueError, naming the field, where it is not one."""
    kind = raw.get("kind")
    if isinstance(kind, str) and kind in _RETIRED:
        raise ValueError(f"kind={kind!r} is no more: {_RETIRED[kind]}")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"kind={shown(kind)} is not known; choose one of {', '.join(sorted(_KINDS))}")
    cls = _KINDS[kind]
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(raw.keys() - fields.keys() - {"kind"}, key=str)
    if unknown:
        raise ValueError(f"{kind} has no field {unknown[0]!r}; it has {', '.join(fields)}")
    required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(required - raw.keys()):
        raise ValueError(f"{kind} needs the field {missing[0]!r}")
    try:
        nested = {k: config_from_dict(v) if isinstance(v, Mapping) else v for k, v in raw.items() if k != "kind"}
    except RecursionError:
        raise ValueError(f"{kind} is nested too deeply; give a layer within a few layers") from None
    return cls(**{k: check_value(f"{kind}.{k}", v, declared_fields(cls)[k]) for k, v in nested.items()})


def divisors(number: int) -> list[int]:
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})
