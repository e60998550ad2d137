"""Fields held to their declared types and ranges: of configs where they are made, of JSON where it is read.

A range stands beside its field: `rate: Annotated[float, Range(above=0)]`. Whole numbers of other libraries
(numpy's) become int, whole numbers where decimal ones are wanted become float, lists become tuples: equal
configs are then equal in JSON too. `True` is no number, and no number is infinite or nan.

Why not msgspec or pydantic, here and in from_json.py: both bring a compiled package to every training machine, msgspec
checks nothing where an object is constructed, and pydantic reports in several lines.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

_NAMES = {int: "a whole number", float: "a finite number", bool: "True or False", str: "text", NoneType: "None"}
LONGEST = 80  # characters of a refused value in a message
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
    cls = type(config)
    fits = _fits_of(cls) if declared is None else {name: _fit_for(kind) for name, kind in declared.items()}
    for name, fit in fits.items():
        value = getattr(config, name)
        try:
            checked = fit(value)
        except _MisfitError as misfit:
            raise _refusal(_full_name(cls, name), value, misfit) from None
        if checked is not value:
            object.__setattr__(config, name, checked)  # the config may be frozen


@functools.cache
def declared_fields(cls: type) -> dict[str, Any]:
    """The annotations of the fields of a dataclass or TypedDict, with their ranges."""
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else hints


@functools.cache
def _fits_of(cls: type) -> dict[str, "Fit"]:
    return {name: _fit_for(kind) for name, kind in declared_fields(cls).items()}


def check_value(name: str, value: Any, declared: Any) -> Any:
    """`value`, plain. Raises ValueError where it is not of the declared type or outside the range."""
    try:
        return _fit_for(declared)(value)
    except _MisfitError as misfit:
        raise _refusal(name, value, misfit) from None


def _refusal(name: str, value: Any, misfit: "_MisfitError") -> ValueError:
    return ValueError(f"{name}={shown(value)} is not allowed; {misfit}")


def _full_name(cls: type, name: str) -> str:
    kind = getattr(cls, "kind", None)
    return name if kind is None else f"{kind}.{name}"


class _MisfitError(Exception):
    """What is allowed instead; `near` where the type is right and the value is not."""

    def __init__(self, allowed: str, near: bool) -> None:
        super().__init__(allowed)
        self.near = near


Fit = Callable[[Any], Any]
"""A value made plain. Raises _MisfitError where it is not of the type or outside the range."""


@functools.cache
def _fit_for(declared: Any) -> Fit:
    """Of a type, taken apart once: configs are checked by the thousand."""
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Annotated:
        return _fit_in_range(declared, arguments[0], [limits for limits in arguments[1:] if isinstance(limits, Range)])
    if origin in (Union, UnionType):
        return _fit_one_of(declared, arguments)
    if origin is Literal:
        return lambda value: _fit_choice(value, arguments, declared)
    if origin in (tuple, list):
        return lambda value: _fit_sequence(value, origin, arguments, declared)
    if origin is dict and arguments[1] is not Any:
        fit_key, fit_item = map(_fit_for, arguments)
        return lambda value: _fit_mapping(value, fit_key, fit_item, declared)
    return _fit_plain(declared, origin or declared)


def _misfit(declared: Any) -> "_MisfitError":
    return _MisfitError(f"it must be {_described(declared)}", near=False)


def _fit_plain(declared: Any, cls: Any) -> Fit:
    def fit(value: Any) -> Any:
        if (fitted := _plain(value, cls)) is _NOTHING:
            raise _misfit(declared)
        return fitted

    return fit


def _fit_in_range(declared: Any, kind: Any, ranges: Sequence[Range]) -> Fit:
    fit_kind = _fit_for(kind)

    def fit(value: Any) -> Any:
        try:
            fitted = fit_kind(value)
        except _MisfitError as misfit:
            raise (misfit if misfit.near else _misfit(declared)) from None
        for limits in ranges:
            if fitted not in limits:
                raise _MisfitError(f"it must be {limits}", near=True)
        return fitted

    return fit


def _fit_one_of(declared: Any, options: tuple[Any, ...]) -> Fit:
    fits = [_fit_for(option) for option in options]

    def fit(value: Any) -> Any:
        if value is None and NoneType in options:
            return None
        for fit_option in fits:
            try:
                return fit_option(value)
            except _MisfitError as misfit:
                if misfit.near:
                    raise _MisfitError(f"{misfit}{', or None' if NoneType in options else ''}", near=True) from None
        raise _misfit(declared)

    return fit


def _fit_choice(value: Any, choices: tuple[Any, ...], declared: Any) -> Any:
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return value
    raise _misfit(declared)


def _fit_sequence(value: Any, origin: Any, arguments: tuple[Any, ...], declared: Any) -> Any:
    if isinstance(value, tuple | list):
        endless = origin is list or arguments[-1] is Ellipsis
        if endless and all_plain(value, arguments[0]):
            return origin(value)
        kinds = arguments[:1] * len(value) if endless else arguments
        if len(kinds) == len(value):
            return origin(_fit_for(kind)(item) for item, kind in zip(value, kinds, strict=True))
    raise _misfit(declared)


def _fit_mapping(value: Any, fit_key: Fit, fit_item: Fit, declared: Any) -> Any:
    if not isinstance(value, dict):
        raise _misfit(declared)
    return {fit_key(key): fit_item(item) for key, item in value.items()}


def _plain(value: Any, cls: Any) -> Any:
    """`value` as an instance of `cls`, or `_NOTHING`."""
    if cls is Any:
        return value
    if cls is not int and cls is not float:
        return value if isinstance(value, cls) else _NOTHING
    if type(value) is cls is int:
        return value
    if type(value) is bool or not issubclass(type(value), numbers.Integral if cls is int else numbers.Real):
        return _NOTHING
    try:
        number = cls(value)
    except OverflowError:  # an int beyond all floats
        return _NOTHING
    return number if cls is int or math.isfinite(number) else _NOTHING


def all_plain(values: Collection[Any], declared: Any) -> bool:
    """Whether a look at all together shows that each fits: most values do, and there are many of them."""
    kind, *limits = get_args(declared) if get_origin(declared) is Annotated else (declared,)
    if set(map(type, values)) != {kind} or kind not in (int, float, str, bool):
        return False
    if kind is float and not math.isfinite(sum(values)):
        return False
    return all(min(values) in limit and max(values) in limit for limit in limits)


# ---- messages -------------------------------------------------------------------------------


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
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
