"""Files of measurements as an earlier version wrote them, converted where they are read.

Version 1 had mappings without types: of each word a list by position, the sources of data in three forms, and no
values where a model has none.
"""

from collections.abc import Mapping
from typing import Any

from analysis.zero_shot.answers import ACCURACIES, FINER
from mhmoe.data.manifest import LOCAL

SCHEMA_VERSION = 2
_WORDS = ("first", "part", "count", "tokens", "trained", "untrained")


def converted(raw: Any) -> Any:
    """A file's content as this version has it. Raises ValueError, KeyError, TypeError or AttributeError if it is none
    of a known version."""
    if not isinstance(raw, dict) or raw.get("schema_version") not in (1, SCHEMA_VERSION):
        raise ValueError(f"schema_version is not 1 or {SCHEMA_VERSION}")
    if raw["schema_version"] == SCHEMA_VERSION:
        return raw
    return {**raw, "values": _values(raw["values"]), "schema_version": SCHEMA_VERSION}


def _values(values: Mapping[str, Any]) -> dict[str, Any] | None:
    if not values:
        return None
    data = _source(values["data"]) if "data" in values else None
    if "tasks" in values:
        tasks = {name: _scores(task) for name, task in values["tasks"].items()}
        return {**values, "tokens": None, "seconds": None, **values, "tasks": tasks, "data": data}
    if "words" in values:
        return _words(values) | {"data": data}
    return {**values, "data": data} if "trained" in values else {"data": data, "counts": values}


def _source(data: Mapping[str, Any]) -> dict[str, Any]:
    files = {name: value for name, value in data.items() if name != "kind"}
    tasks = files.get("tasks")
    if tasks is not None:
        files = {task["file"]: task["sha256"] for task in tasks.values()}
    return {"kind": data.get("kind", LOCAL), "files": files}


def _scores(task: Mapping[str, Any]) -> dict[str, Any]:
    items = {name: packed for name, packed in task["items"].items() if name != "sha256"}
    return {
        **{name: task[name] for name in ("n", "chance", "majority", "version", "cut", "windowed")},
        "accuracies": {name: task[name] for name in ACCURACIES if name in task},
        "finer": {name: task[name] for name in FINER},
        "items": {"sha256": task["items"]["sha256"], "values": items},
    }


def _words(values: Mapping[str, Any]) -> dict[str, Any]:
    columns = {name: [entry[i] for entry in values["words"].values()] for i, name in enumerate(_WORDS)}
    columns |= {"word": [*values["words"]], "first": [bool(first) for first in columns["first"]]}
    comparisons = {
        name: {view: _comparison(found) for view, found in views.items() if view != "pairs"}
        for name, views in values.items()
        if name not in ("text", "words", "choices", "data")
    }
    choices = {"choices": values["choices"]} if "choices" in values else {}
    return {"text": values["text"], "words": columns, "comparisons": comparisons} | choices


def _comparison(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"mean": None, "median": None, **found}
