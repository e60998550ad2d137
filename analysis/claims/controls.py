"""What a scale can show: claims are judged only where a known effect of their kind is seen, and no side is worthless.

    mixture    X-MoE lies below Dense of equal active FLOPs: what mixtures gain can be seen
    experts    X-MoE with more experts lies below X-MoE with fewer: what experts gain can be seen
    null       every system that the claim names lies below the model without the layer

Each is a claim itself, judged by the ledger's rule without Holm's correction, in the arm (as published, tuned) and at
the scale of the claims that rest on it; where a paper claims just that effect, it is no condition of itself. Without
them a difference between two systems says nothing of the paper's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from analysis.claims.rules import LEVEL, Claim, Statement, Verdict, measure, percent_of_perplexity
from mhmoe.training.record import Record


@dataclass(frozen=True, kw_only=True)
class Controls:
    """effects: (arm, kind) -> the claim of the known effect. nulls: arm -> the system without the layer.

    labels: system -> what people call it, for the reasons that are given.
    """

    effects: Mapping[tuple[str, str], Claim] = field(default_factory=dict[tuple[str, str], Claim])
    nulls: Mapping[str, str] = field(default_factory=dict[str, str])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])

    def objection(self, claim: Statement, records: Sequence[Record], scale: str) -> str:
        """Why the claim cannot be judged at a scale; "" if it can."""
        if not claim.control:
            return ""
        effect = self.effects.get((claim.arm, claim.control))
        if effect is None:
            return f"no control of the kind {claim.control!r} is declared for the arm {claim.arm!r}"
        verdict = measure(effect, records, scale, resample=False)
        if not seen(verdict) and claim.difference != effect.difference:
            return f"control not {'seen' if verdict.n >= 2 else 'run'}: {effect.statement} ({_figure(verdict)})"
        null = self.nulls.get(claim.arm, "")
        for system in sorted(claim.systems - {null}):
            verdict = measure(against_null(system, null, claim), records, scale, resample=False)
            if not seen(verdict):
                return f"{self.labels.get(system, system)} does not beat the null ({_figure(verdict)})"
        return ""


def together(several: Sequence[Controls], labels: Mapping[str, str]) -> Controls | None:
    """Those of several testbeds, whose arms have names of their own; None of none."""
    if not several:
        return None
    return Controls(
        effects={key: effect for each in several for key, effect in each.effects.items()},
        nulls={arm: null for each in several for arm, null in each.nulls.items()},
        labels=labels,
    )


def against_null(system: str, null: str, claim: Statement) -> Claim:
    """That a system beats the model without the layer; p counts twice where it does for the claim."""
    return Claim(
        slug=claim.slug,
        statement=f"{system} lies below the model without the layer",
        source="ours: the null",
        better=system,
        worse=null,
        task=claim.task,
        arm=claim.arm,
        control="",
        split=_split(claim),
        raised_at=claim.raised_at,
    )


def _split(claim: Statement) -> str:
    """Where its perplexity is measured; costs are read off the validation curve."""
    if not isinstance(claim, Claim):
        return "test"
    return claim.split if claim.metric == "perplexity" else "valid"


def seen(verdict: Verdict) -> bool:
    """Whether a known effect is seen, or a system beats the null."""
    return verdict.p_value < LEVEL and verdict.tested.high < 0


def _figure(verdict: Verdict) -> str:
    if verdict.n < 2:
        return "fewer than two seeds"
    mean, low, high = percent_of_perplexity(verdict.tested)
    return f"{mean:+.2f}% [{low:+.2f}%, {high:+.2f}%], n = {verdict.n}"
