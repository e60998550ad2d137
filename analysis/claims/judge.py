"""The verdicts of a page at a scale: every claim measured, then all decided together."""

from collections.abc import Sequence

from analysis.claims.measured import MeasuredClaim, Measurements, measure_values
from analysis.claims.rules import Claim, Verdict, decide, measure
from mhmoe.training.record import Record


def judge(
    claims: Sequence[Claim | MeasuredClaim], records: Sequence[Record], scale: str, values: Measurements | None = None
) -> list[Verdict]:
    """A verdict on every claim, in their order. Claims of one slug are a family for Holm's correction.

    records: the current ones. values: what was measured on the models of this scale. Raises UserError if two that are
    to be compared were not trained, evaluated or measured on the same data.
    """
    here = [record for record in records if record.scale == scale]
    measured = [
        measure(claim, here, scale) if isinstance(claim, Claim) else measure_values(claim, values or {}, scale)
        for claim in claims
    ]
    families = {slug: [v for v in measured if v.claim.slug == slug] for slug in {v.claim.slug for v in measured}}
    decided = {slug: iter(decide(family)) for slug, family in families.items()}
    return [next(decided[verdict.claim.slug]) for verdict in measured]
