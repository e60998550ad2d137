"""The page of the testbed: can this scale show what mixtures gain at all? First in the index.

For each arm: does the null lose to Dense, Dense to X-MoE, fewer experts to more? And of the distance from the null to
X-MoE, how much does each system cover?
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from analysis.claims.controls import Controls, seen
from analysis.claims.rules import Claim, Verdict, measure, percent_of_perplexity
from analysis.statistics import covered, paired_difference
from analysis.tables import NOT_RUN, Column, Row, table_markdown
from experiments.report.captions import caption_of, current_runs
from experiments.runner.page import Page, Section, unique
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.system import System
from mhmoe.training.record import Record

CONTROLS = (
    Column("arm", "arm"),
    Column("label", "known effect"),
    Column("change", "change of perplexity", "+.2f", suffix="%"),
    Column("low", "low", "+.2f", suffix="%"),
    Column("high", "high", "+.2f", suffix="%"),
    Column("n", "seeds"),
    Column("seen", "seen"),
)
COVERED = (
    Column("arm", "arm"),
    Column("label", "system"),
    Column("perplexity", "test perplexity", ".2f"),
    Column("change", "covers, of the distance from no layer to X-MoE", ".0f", suffix="%"),
    Column("low", "low", ".0f", suffix="%"),
    Column("high", "high", ".0f", suffix="%"),
    Column("n", "seeds"),
)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """null, dense, few, many: the model without the layer, Dense of the FLOPs of `few`, X-MoE with 8 and 32 experts;
    without the last nothing can be claimed of more experts.

    others: whatever else is set on the way from the null to X-MoE. raised_at: of each known effect ("mixture",
    "experts"; "null", that Dense lies below it), the scales at which seeds were added after a look.
    """

    name: str
    null: System
    dense: System
    few: System
    many: System | None = None
    others: Sequence[System] = ()
    raised_at: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    @property
    def systems(self) -> list[System]:
        more = [self.many] if self.many else []
        return unique([self.null, self.dense, self.few, *more, *self.others])


@dataclass(frozen=True, kw_only=True)
class Testbed(Page):
    """arms: how systems are trained, as published or tuned."""

    arms: Sequence[Arm]

    def all_systems(self) -> list[System]:
        return unique([system for arm in self.arms for system in arm.systems])

    def controls(self) -> Controls:
        """What other pages' claims rest on."""
        effects = {(arm.name, kind): claim for arm in self.arms for kind, claim in self._effects(arm).items() if kind}
        return Controls(effects=effects, nulls={arm.name: arm.null.name for arm in self.arms})

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        current = current_runs(self.all_systems(), scale, records, self.task)
        runs = [record for of_system in current.values() for record in of_system]
        if not runs:
            return None
        shown = [
            _shown(arm.name, measure(claim, runs, scale.name))
            for arm in self.arms
            for claim in (*self._effects(arm).values(), self._below(arm, arm.dense, arm.null, "null"))
        ]
        shares = [row for arm in self.arms for row in covered_by(arm, current)]
        lines = caption_of(runs)[:1]
        lines.append(
            "An effect is seen where the 95% interval of the paired difference over seeds is below zero, and p, which "
            "counts twice where seeds were added, or runs trained again, after a look, below 0.05."
        )
        left_out = "What a system covers is left out where the seeds do not tell X-MoE from no layer."
        tables = (table_markdown(CONTROLS, shown, caption=lines), table_markdown(COVERED, shares, caption=[left_out]))
        page = "\n".join(tables)
        columns = (
            Column("arm", "arm"),
            Column("label", "label"),
            *(Column(c, c) for c in ("perplexity", "change", "low", "high", "n", "seen")),
        )
        return Section(page, columns, [*shown, *shares])

    def _effects(self, arm: Arm) -> dict[str, Claim]:
        more = {"experts": self._below(arm, arm.many, arm.few, "experts")} if arm.many else {}
        return {"mixture": self._below(arm, arm.few, arm.dense, "mixture"), **more}

    def _below(self, arm: Arm, better: System, worse: System, kind: str) -> Claim:
        return Claim(
            slug=self.slug,
            statement=f"{better.label} lies below {worse.label}",
            source="ours: control",
            better=better.name,
            worse=worse.name,
            task=self.task,
            arm=arm.name,
            control="",
            raised_at=arm.raised_at.get(kind, ()),
        )


def _shown(arm: str, verdict: Verdict) -> Row:
    mean, low, high = percent_of_perplexity(verdict.tested)
    said = (NOT_RUN, "one seed")[verdict.n] if verdict.n < 2 else "yes" if seen(verdict) else "no"
    return {
        "arm": arm,
        "label": verdict.claim.statement,
        "change": mean,
        "low": low,
        "high": high,
        "n": verdict.n,
        "seen": said,
    }


def covered_by(arm: Arm, current: Mapping[str, Sequence[Record]]) -> list[Row]:
    """(null - system) / (null - X-MoE) in nats a token, seed by seed; X-MoE covers all of it, the null nothing."""
    nll = {s.name: {r.seed: r.metrics["test"]["nll_per_token"] for r in current[s.name]} for s in arm.systems}
    null, few = nll[arm.null.name], nll[arm.few.name]
    rows: list[Row] = []
    for system in arm.systems:
        found = nll[system.name]
        found = {seed: found[seed] for seed in sorted(null.keys() & few.keys() & found.keys())} or found
        row: Row = {"arm": arm.name, "label": system.label, "n": len(found), "perplexity": NOT_RUN}
        if found:
            row["perplexity"] = sum(math.exp(x) for x in found.values()) / len(found)
        shares = covered(null, found, few)
        share = paired_difference(shares, dict.fromkeys(shares, 0.0))
        rows.append(row | {"change": share.mean, "low": share.low, "high": share.high})
    return rows
