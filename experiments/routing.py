"""What is claimed of the routing (v1 Section 5.1), on any text.

    experts that a token reaches     different experts of a layer over all of them, mean over tokens and layers
    effective experts                exp of the entropy of a layer's load, over all of them, mean over layers

The paper's activation ratio counts experts above a threshold that it does not print; these two need none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.measured_claims import MeasuredClaim, Quantity, Side, Values
from analysis.routing_measures import summary, total
from experiments.schema import RoutingFigure, System

OURS = "ours: the control that the papers lack"


def _quantity(name: str, measure: str, router: str = "trained") -> Quantity:
    def of(values: Values) -> float | None:
        return 100 * summary(total(values[router]["groups"]))[measure] if values else None

    return Quantity(name=name, unit="% of a layer's experts", of=of)


REACHED = _quantity("experts that a token reaches", "distinct_share")
EFFECTIVE = _quantity("experts in effective use", "effective_share")
REACHED_UNTRAINED = _quantity("experts that a token reaches before training", "distinct_share", "untrained")


def routing_figure(
    *,
    stem: str,
    title: str,
    systems: Mapping[str, System],
    denser: Sequence[tuple[str, str, str]],
    text: str,
    group: str,
    measurement: str,
    task: str = "english",
    printed: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> RoutingFigure:
    """The figure, and its claims: for each of `denser` (labels of the denser and the sparser system, who says so)
    both measures; and for each system with heads, that training makes its tokens reach more experts."""

    def sides(higher: tuple[str, Quantity], lower: tuple[str, Quantity]) -> dict[str, Any]:
        return {
            "stem": stem,
            "reading": "parameters",
            "task": task,
            "measurement": measurement,
            "higher": Side(system=systems[higher[0]].name, quantity=higher[1]),
            "lower": Side(system=systems[lower[0]].name, quantity=lower[1]),
        }

    claims = [
        MeasuredClaim(
            statement=f"{dense}: more {quantity.name} than {sparse}",
            source=source,
            **sides((dense, quantity), (sparse, quantity)),
        )
        for dense, sparse, source in denser
        for quantity in (REACHED, EFFECTIVE)
    ]
    claims += [
        MeasuredClaim(
            statement=f"{label}: more {REACHED.name} than before training",
            source="ours: against the untrained router",
            **sides((label, REACHED), (label, REACHED_UNTRAINED)),
        )
        for label in systems
        if label.startswith("MH-MoE")
    ]
    return RoutingFigure(
        stem=stem,
        title=title,
        task=task,
        systems=systems,
        text=text,
        group=group,
        printed=printed or {},
        notes=notes,
        measurements=(measurement,),
        claims=claims,
    )
