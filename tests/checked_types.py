"""Types checked at every call, at a cost that the tests can bear.

jaxtyping's import hook wraps every function of `mhmoe` in a wrapper that keeps an account of shapes and checks the
arguments twice. Where no shape stands in the signature that buys nothing, and it made a config's construction 20 times
as slow: there the checker alone is enough. It knows nothing of `mhmoe`, as it is imported before the hook.
"""

import dataclasses
import functools
import inspect
import random
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import jaxtyping

with_shapes = jaxtyping.jaxtyped
_WRAPPED = "__types_are_checked__"


def checked(function: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """`jaxtyping.jaxtyped`, for whatever it decorates."""
    if function is None:
        return functools.partial(checked, typechecker=typechecker)
    if getattr(function, "__no_type_check__", False):
        return function
    again = functools.partial(checked, typechecker=typechecker)
    if inspect.isclass(function):
        if dataclasses.is_dataclass(function) and not hasattr(function.__init__, _WRAPPED):
            function.__init__ = _drawing_nothing(again(function.__init__))
        return function
    if isinstance(function, classmethod | staticmethod):
        return type(function)(again(function.__func__))
    if isinstance(function, property):
        return property(*(part and again(part) for part in (function.fget, function.fset, function.fdel)))
    wrapped = with_shapes(function, typechecker=typechecker) if _has_shapes(function) else _plain(function, typechecker)
    setattr(wrapped, _WRAPPED, True)
    return wrapped


def _plain(function: Callable[..., Any], typechecker: Callable[[Any], Any]) -> Callable[..., Any]:
    checking = typechecker(function)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return (function if jaxtyping.config.jaxtyping_disable else checking)(*args, **kwargs)

    return wrapped


def _drawing_nothing(init: Callable[..., None]) -> Callable[..., None]:
    """beartype looks at one item of a tuple, by `random`; hypothesis wants that left alone where it draws configs."""

    @functools.wraps(init)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        state = random.getstate()
        try:
            init(*args, **kwargs)
        finally:
            random.setstate(state)

    return wrapped


def _has_shapes(function: Callable[..., Any]) -> bool:
    """Whether a shape stands in the signature, or may: in a name that is not known yet."""
    try:
        return any(map(_is_shape, get_type_hints(function).values()))
    except NameError:
        return True


def _is_shape(kind: Any) -> bool:
    return (inspect.isclass(kind) and issubclass(kind, jaxtyping.AbstractArray)) or any(map(_is_shape, get_args(kind)))
