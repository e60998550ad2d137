"""Claims that compare systems: of the matching and the arm of the one that is said to be better, or higher."""

from typing import Any

from analysis.claims.measured import MeasuredClaim, Quantity, Side
from analysis.claims.rules import Claim
from experiments.runner.measurements import Measurement
from experiments.system import System


def lower(statement: str, source: str, better: System, worse: System, **more: Any) -> Claim:
    """That `better` has lower perplexity than `worse`. more: further fields of `Claim`."""
    fields = {"matching": better.matching, "arm": better.arm, **more}
    return Claim(statement=statement, source=source, better=better.name, worse=worse.name, **fields)


def higher(
    statement: str,
    source: str,
    measurement: Measurement[Any],
    system: tuple[System, Quantity[Any]],
    other: tuple[System, Quantity[Any]],
    **more: Any,
) -> MeasuredClaim:
    """That the quantity of one system is above that of another. more: further fields of `MeasuredClaim`."""
    first, second = (Side(system=of.name, quantity=quantity) for of, quantity in (system, other))
    fields = {"measurement": measurement.name, "matching": system[0].matching, "arm": system[0].arm, **more}
    return MeasuredClaim(statement=statement, source=source, higher=first, lower=second, **fields)
