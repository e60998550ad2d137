"""The verdicts of a page at a scale: every claim measured, and what can be tested there decided."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence

from analysis.claims.controls import Controls
from analysis.claims.measured import MeasuredClaim, Measurements, measure_values
from analysis.claims.rules import Claim, Verdict, decide, measure
from mhmoe.training.record import Record


def judge(
    claims: Sequence[Claim | MeasuredClaim],
    records: Sequence[Record],
    scale: str,
    values: Measurements | None = None,
    *,
    controls: Controls | None = None,
    judged: Mapping[Hashable, Verdict] | None = None,
) -> list[Verdict]:
    """A verdict on every claim, in their order. Claims of one slug are a family for Holm's correction, also those that
    cannot be tested here or are not run: the others must not become easier by it.

    records: the current ones, those of the controls among them. values: what was measured on the models of this scale.
    controls: without which nothing is testable; with None there are none to ask for. judged: verdicts on other pages by
    their claims' question, which stand, and count in no family again. Raises UserError if two that are to be compared
    were not trained, evaluated or measured on the same data.
    """
    here = [record for record in records if record.scale == scale]
    found: list[Verdict] = []
    for claim in claims:
        measured = (
            measure(claim, here, scale) if isinstance(claim, Claim) else measure_values(claim, values or {}, scale)
        )
        known = (judged or {}).get(claim.question)
        if known is not None and measured.n >= 2:
            measured = dataclasses.replace(measured, verdict=known.verdict, adjusted_p=known.adjusted_p, repeats=True)
        elif controls is not None and measured.n >= 2 and (why := controls.objection(claim, here, scale)):
            measured = dataclasses.replace(measured, verdict="not testable here", objection=why)
        found.append(measured)
    families: dict[str, list[int]] = {}
    for place, verdict in enumerate(found):
        if not verdict.repeats:
            families.setdefault(verdict.claim.slug, []).append(place)
    for places in families.values():
        for place, verdict in zip(places, decide([found[place] for place in places]), strict=True):
            found[place] = verdict
    return found
