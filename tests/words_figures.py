"""Figures of words cut down to one system, and what was measured of it."""

import dataclasses

from analysis.claims.measured import MeasuredClaim
from experiments.kinds.words import WordsFigure
from experiments.runner.launch import Options
from experiments.runner.measurements import Measurement, SomeResult, measured
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.system import System


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


def measured_by_seed(measurement: Measurement[SomeResult], scale: Scale, options: Options) -> dict[int, SomeResult]:
    """The values of a measurement, of the one system that was run."""
    records = Records(scale, options.results).by_name.values()
    found = {r.seed: measured(measurement, r, options.results) for r in records}
    return {seed: m.values for seed, m in found.items() if m is not None and m.values is not None}
