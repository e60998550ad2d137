"""What is claimed of the routing (v1 Section 5.1), on any text.

    effective experts                exp of the entropy of a layer's load, over all of them, mean over layers
    experts that a token reaches     different experts of a layer over all of them, mean over tokens and layers
    bits about the group             mutual information of a choice and the text's group (specialisation)

The paper's activation ratio counts experts above a threshold that it does not print; these two need none. Between
systems of unequal k and h the second is decided by their arithmetic (X-MoE reaches k of N whatever its router does),
so systems are compared by the first, and a system with itself before training by the second. The most bits that a
choice can tell fall with k h too: systems of equal k h and as many experts are compared.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.measured_claims import MeasuredClaim, Quantity, Side, Values
from analysis.routing_measures import summary, total
from experiments.schema import RoutingFigure, System


def _quantity(name: str, measure: str, router: str = "trained") -> Quantity:
    def of(values: Values) -> float | None:
        return 100 * summary(total(values[router]["groups"]))[measure] if values else None

    return Quantity(name=name, unit="points (% of a layer's experts)", of=of)


def _bits(values: Values) -> float | None:
    return float(np.mean(values["trained"]["specialisation"]["bits"])) if values else None


EFFECTIVE = _quantity("experts in effective use", "effective_share")
REACHED = _quantity("experts that a token reaches", "distinct_share")
REACHED_UNTRAINED = _quantity("experts that a token reaches before training", "distinct_share", "untrained")
BITS = Quantity(name="bits about the group", unit="bits", of=_bits)


def routing_figure(
    *,
    stem: str,
    title: str,
    systems: Mapping[str, System],
    denser: Sequence[tuple[str, str, str]],
    telling: Sequence[tuple[str, str, str]] = (),
    text: str,
    group: str,
    measurement: str,
    task: str = "english",
    printed: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> RoutingFigure:
    """The figure and its claims: that each of `denser` (labels of the denser and the sparser system, who says so)
    has more experts in effective use; that the choices of the first of `telling` tell more of the group; and that
    training makes the tokens of systems with heads reach more."""

    def claim(statement: str, source: str, higher: tuple[str, Quantity], lower: tuple[str, Quantity]) -> MeasuredClaim:
        return MeasuredClaim(
            stem=stem,
            statement=statement,
            source=source,
            reading=systems[higher[0]].reading or systems[lower[0]].reading,
            task=task,
            measurement=measurement,
            higher=Side(system=systems[higher[0]].name, quantity=higher[1]),
            lower=Side(system=systems[lower[0]].name, quantity=lower[1]),
        )

    claims = [
        claim(f"{dense}: more {EFFECTIVE.name} than {sparse}", source, (dense, EFFECTIVE), (sparse, EFFECTIVE))
        for dense, sparse, source in denser
    ]
    claims += [
        claim(f"{more}: a choice tells more of the {group} than with {less}", source, (more, BITS), (less, BITS))
        for more, less, source in telling
    ]
    claims += [
        claim(
            f"{label}: more {REACHED.name} than before training",
            "ours: against the untrained router",
            (label, REACHED),
            (label, REACHED_UNTRAINED),
        )
        for label, system in systems.items()
        if system.reading
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
