"""Figures of words cut down to one system, and what was measured of it."""

import dataclasses
from typing import Any

from analysis.measured_claims import MeasuredClaim
from experiments.measurements import MEASUREMENTS, measured
from experiments.running import Options
from experiments.runs import Records
from experiments.schema import Scale, System, WordsFigure


def of_one_system(figure: WordsFigure, label: str, system: System) -> WordsFigure:
    """The figure and the claims of `label`, of another system, which may have fewer heads for its size."""
    claims = [
        dataclasses.replace(
            claim,
            higher=dataclasses.replace(claim.higher, system=system.name),
            lower=dataclasses.replace(claim.lower, system=system.name),
        )
        for claim in figure.claims
        if isinstance(claim, MeasuredClaim) and claim.statement.startswith(f"{label}: ")
    ]
    return dataclasses.replace(figure, systems={label: system}, claims=claims)


def measured_by_seed(name: str, scale: Scale, options: Options) -> dict[int, dict[str, Any]]:
    """The values of a measurement, of the one system that was run."""
    records = Records(scale, options.results).by_name.values()
    found = {r.seed: measured(MEASUREMENTS[name], r, options.results) for r in records}
    return {seed: m.values for seed, m in found.items() if m is not None}
