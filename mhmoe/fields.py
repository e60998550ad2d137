"""Fields of configs held to their declared types and ranges, where a config is made.

A range stands beside its field: `rate: Annotated[float, Range(above=0)]`. Whole numbers of other libraries
(numpy's) become int, whole numbers where decimal ones are wanted become float, lists become tuples: equal
configs are then equal in JSON too. `True` is no number, and no number is infinite or nan.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

_NAMES = {int: "a whole number", float: "a finite number", bool: "True or False", str: "text", NoneType: "None"}
_LONGEST = 80  # characters of a refused value in a message
_NOTHING = object()


@dataclass(frozen=True)
class Range:
    """What a number may be; the limits that are None do not hold."""

    least: int | float | None = None
    above: int | float | None = None
    most: int | float | None = None
    below: int | float | None = None

    def __contains__(self, number: int | float) -> bool:
        return (
            (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        limits = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{words} {limit:,}" for words, limit in limits.items() if limit is not None)


Count = Annotated[int, Range(least=1)]
Size = Annotated[int, Range(least=1, most=2**24)]
"""Of a tensor's axis: beyond it a slip of the pen is likelier than a layer."""


def check_fields(config: Any, declared: Mapping[str, Any] | None = None) -> None:
    """Hold a dataclass to its annotations, or some fields of any object to `declared` ones; for `__post_init__`.

    Raises ValueError in one line that names the field, the value and what is allowed. Values of harmless other
    types are replaced by plain ones.
    """
    declared = declared_fields(type(config)) if declared is None else declared
    for name, kind in declared.items():
        value = getattr(config, name)
        checked = check_value(_full_name(type(config), name), value, kind)
        if checked is not value:
            object.__setattr__(config, name, checked)  # the config may be frozen


@functools.cache
def declared_fields(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields, with their ranges."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def check_value(name: str, value: Any, declared: Any) -> Any:
    """`value`, plain. Raises ValueError where it is not of the declared type or outside the range."""
    try:
        return _fit(value, declared)
    except _MisfitError as misfit:
        raise ValueError(f"{name}={shown(value)} is not allowed; {misfit}") from None


def _full_name(cls: type, name: str) -> str:
    kind = getattr(cls, "kind", None)
    return name if kind is None else f"{kind}.{name}"


class _MisfitError(Exception):
    """What is allowed instead; `near` where the type is right and the value is not."""

    def __init__(self, allowed: str, near: bool) -> None:
        super().__init__(allowed)
        self.near = near


def _fit(value: Any, declared: Any) -> Any:
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Annotated:
        try:
            fitted = _fit(value, arguments[0])
        except _MisfitError as misfit:
            raise (misfit if misfit.near else _MisfitError(f"it must be {_described(declared)}", near=False)) from None
        for limits in arguments[1:]:
            if isinstance(limits, Range) and fitted not in limits:
                raise _MisfitError(f"it must be {limits}", near=True)
        return fitted
    if origin in (Union, UnionType):
        return _fit_one_of(value, arguments, declared)
    if origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in arguments):
            return value
    elif origin in (tuple, list) and isinstance(value, tuple | list):
        endless = origin is list or arguments[-1] is Ellipsis
        kinds = arguments[:1] * len(value) if endless else arguments
        if len(kinds) == len(value):
            return origin(_fit(item, kind) for item, kind in zip(value, kinds, strict=True))
    elif (fitted := _plain(value, origin or declared)) is not _NOTHING:
        return fitted
    raise _MisfitError(f"it must be {_described(declared)}", near=False)


def _fit_one_of(value: Any, options: tuple[Any, ...], declared: Any) -> Any:
    for option in options:
        try:
            return _fit(value, option)
        except _MisfitError as misfit:
            if misfit.near:
                raise _MisfitError(f"{misfit}{', or None' if NoneType in options else ''}", near=True) from None
    raise _MisfitError(f"it must be {_described(declared)}", near=False)


def _plain(value: Any, cls: Any) -> Any:
    """`value` as an instance of `cls`, or `_NOTHING`."""
    if cls is Any:
        return value
    if cls is not int and cls is not float:
        return value if isinstance(value, cls) else _NOTHING
    if type(value) is bool or not issubclass(type(value), numbers.Integral if cls is int else numbers.Real):
        return _NOTHING
    try:
        number = cls(value)
    except OverflowError:  # an int beyond all floats
        return _NOTHING
    return number if cls is int or math.isfinite(number) else _NOTHING


def _described(declared: Any) -> str:
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Annotated:
        limits = " and ".join(str(limits) for limits in arguments[1:] if isinstance(limits, Range))
        return f"{_described(arguments[0])}, {limits}" if limits else _described(arguments[0])
    if origin in (Union, UnionType):
        return ", or ".join(map(_described, arguments))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (tuple, list):
        return f"a list of {' and '.join(_described(kind) for kind in arguments if kind is not Ellipsis)}"
    return _NAMES.get(declared, getattr(declared, "__name__", str(declared)))


def shown(value: Any) -> str:
    """One short line, whatever the value is."""
    kind = getattr(value, "kind", None)
    try:
        text = f"<{kind}>" if isinstance(kind, str) else " ".join(repr(value).split())
    except Exception:  # such as an int of thousands of digits, or a foreign object's own fault
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
