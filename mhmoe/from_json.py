"""Dataclasses out of JSON: records, measurements, all that was written as `json.dumps(dataclasses.asdict(value))`."""

import dataclasses
import functools
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, is_typeddict

from mhmoe.fields import LONGEST, all_plain, check_value, declared_fields, shown

Some = TypeVar("Some")


def from_json(cls: type[Some], raw: Any, name: str = "", **given: Any) -> Some:
    """What `raw`, as JSON has it, says of a dataclass, with dataclasses, lists and mappings inside; and of a
    TypedDict, which stays the very mapping that it is and may have more keys.

    name: stands before the names of fields in messages. given: types in the place of fields' own annotations.
    Raises ValueError, in one line that names the field, where keys are unknown or missing or a value does not fit.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"{name or 'it'} is a {type(raw).__name__}; it must have {', '.join(declared_fields(cls))}")
    declared = declared_fields(cls) | given
    missing = sorted(declared.keys() - raw.keys())
    if is_typeddict(cls):
        if missing:
            raise ValueError(f"{_path(name, missing[0])} is missing")
        for key, kind in declared.items():
            _read(_path(name, key), raw[key], kind)
        return cast(Some, raw)
    unknown = sorted(raw.keys() - declared.keys())
    if unknown or missing:
        raise ValueError(f"{name and f'{name}: '}unknown fields {shown(unknown)}, missing fields {shown(missing)}")
    return cls(**{key: _read(_path(name, key), raw[key], kind) for key, kind in declared.items()})


def _path(name: str, key: Any) -> str:
    plain = str(key).isprintable() and len(str(key)) <= LONGEST
    return f"{name and f'{name}.'}{key if plain else shown(key)}"


@functools.cache
def _has_objects(declared: Any) -> bool:
    if isinstance(declared, type) and (dataclasses.is_dataclass(declared) or is_typeddict(declared)):
        return True
    return get_origin(declared) is not Annotated and any(map(_has_objects, get_args(declared)))


def _read(name: str, raw: Any, declared: Any) -> Any:
    if not _has_objects(declared):
        return check_value(name, raw, declared)
    origin, arguments = get_origin(declared), get_args(declared)
    if origin in (Union, UnionType):  # an object or None
        (some,) = (option for option in arguments if option is not NoneType)
        return None if raw is None and NoneType in arguments else _read(name, raw, some)
    if origin is dict:
        return {
            key: _read(_path(name, key), value, arguments[1]) for key, value in check_value(name, raw, dict).items()
        }
    if origin is list:
        rows = check_value(name, raw, list)
        if is_typeddict(arguments[0]) and _are_plain_rows(rows, declared_fields(arguments[0])):
            return rows
        return [_read(_path(name, i), row, arguments[0]) for i, row in enumerate(rows)]
    return from_json(declared, raw, name)


def _are_plain_rows(rows: list[Any], declared: Mapping[str, Any]) -> bool:
    """Whether a look at each column shows that all rows fit: a record has thousands of documents."""
    if set(map(type, rows)) != {dict}:
        return False
    try:
        return all(all_plain([row[name] for row in rows], kind) for name, kind in declared.items())
    except KeyError:
        return False
