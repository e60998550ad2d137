"""The numbers that the two papers print: paper.json."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any


@cache
def paper_numbers() -> dict[str, Any]:
    """Every number printed in the two papers' tables, with their names as keys."""
    return json.loads((Path(__file__).parent / "paper.json").read_text())


def paper_number(path: Sequence[str | int]) -> Any:
    """What stands at a path in paper.json."""
    value: Any = paper_numbers()
    for key in path:
        value = value[key]
    return value


def paper_pair(first: Sequence[str | int], second: Sequence[str | int]) -> tuple[float, float] | None:
    """What stands at two paths; None where one of them is empty, as the paper does not print both."""
    return (paper_number(first), paper_number(second)) if first and second else None
