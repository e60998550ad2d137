"""Figure 6: perplexity and HellaSwag from 8 to 256 experts.

Paper (v1, Section 5.1, Figure 6): both improve with more experts, and MH-MoE gains more; X-MoE's accuracy on
HellaSwag saturates at 64 experts and MH-MoE's does not. Here HellaSwag is read as the advantage of the right ending
over the wrong ones, which moves where accuracy is near chance. MH-MoE stands at X-MoE's sizes: with as many experts
(`parameters`), or with as many FLOPs, where it has about five times as many (`compute`). That one saturates and the
other does not is a difference between two gains, and judged as one too. How many of its experts a model uses stands
beside.
Three seeds at 8, 32, 64 and 256 experts and one between; 16 takes the learning rate of 8, more than 32 that of 32.
Cost: cpu about an hour and a half beyond Table 1 on two cores, and two and a half minutes a model for HellaSwag.
Run: make figure6 SCALE=cpu
"""

import dataclasses
from collections.abc import Callable

from analysis.claims.measured import MeasuredClaim, Side
from analysis.claims.rules import Claim
from analysis.zero_shot.scores import Score, mean_advantage
from experiments.changed_systems import with_lr_of
from experiments.claims import higher, lower
from experiments.kinds.routing import EXPERT_ACTIVATION
from experiments.kinds.score_table import ZERO_SHOT_HELLASWAG
from experiments.kinds.table import Row, Table
from experiments.kinds.trend import Trend
from experiments.system import System
from experiments.systems import mhmoe, xmoe
from experiments.tuning import tuned

SEEDS = {8: 3, 16: 1, 32: 3, 64: 3, 128: 1, 256: 3}
TUNED_AS = {16: 8, 64: 32, 128: 32, 256: 32}
LATE = "declared after the first seed's perplexities"
SOURCE, FOLLOW_UP = "v1 Section 5.1", "v1 Section 5.1, at v2's sizes"
ADVANTAGE = mean_advantage([Score("HellaSwag", "hellaswag")])


def _published(experts: int, of: Callable[[int], System]) -> System:
    seeds = SEEDS[experts]
    if experts in TUNED_AS:
        return with_lr_of(of(experts), of(TUNED_AS[experts]), seeds=seeds)
    return dataclasses.replace(of(experts), seeds=seeds)


SERIES: dict[str, dict[int, System]] = {
    "X-MoE": {n: _published(n, xmoe) for n in SEEDS},
    "MH-MoE, equal parameters": {n: _published(n, lambda n: mhmoe(n, "parameters")) for n in SEEDS},
    "MH-MoE, equal FLOPs": {n: _published(n, lambda n: mhmoe(n, "compute")) for n in SEEDS},
    "X-MoE, tuned": {n: tuned("xmoe_{}", n, SEEDS[n]) for n in SEEDS},
    "MH-MoE, equal parameters, tuned": {n: tuned("mhmoe_{}_parameters", n, SEEDS[n]) for n in SEEDS},
    "MH-MoE, equal FLOPs, tuned": {n: tuned("mhmoe_{}_compute", n, SEEDS[n]) for n in SEEDS},
}


def _claims(label: str, of: dict[int, System]) -> list[Claim | MeasuredClaim]:
    matching = of[8].matching
    source = FOLLOW_UP if matching == "compute" else SOURCE
    sized = "{} of the size of X-MoE with {} experts" if matching else "{} with {} experts"
    names = {n: sized.format(label, n) for n in of}
    perplexity = [
        lower(f"{names[more]} has lower perplexity than with {fewer}", source, of[more], of[fewer], control="experts")
        for fewer, more in ((32, 64), (64, 256))
    ]
    saturates = higher(
        f"{names[256]} gives HellaSwag's right endings a greater advantage than with 64",
        source if matching else f"the contrary of {source}: X-MoE saturates",
        ZERO_SHOT_HELLASWAG,
        (of[256], ADVANTAGE),
        (of[64], ADVANTAGE),
        control="experts",
    )
    if not matching:
        return [*perplexity, saturates]
    # More experts bring MH-MoE more gains, v1 says of perplexity; X-MoE alone saturating implies it of HellaSwag.
    xmoe = SERIES["X-MoE, tuned" if of[8].arm == "tuned" else "X-MoE"]
    over = (of[64].name, xmoe[64].name)
    return [
        *perplexity,
        saturates,
        dataclasses.replace(
            perplexity[-1],
            statement=f"{names[256]} lowers perplexity against 64 by more than X-MoE does",
            source=f"{source}; {LATE}",
            worse=xmoe[256].name,
            over=over,
        ),
        dataclasses.replace(
            saturates,
            statement=f"{names[256]} adds more to HellaSwag's advantage against 64 than X-MoE does",
            source=f"implied by {source}; {LATE}",
            lower=Side(system=xmoe[256].name, quantity=ADVANTAGE),
            over=over,
        ),
    ]


PAGE = Table(
    slug="figure6_scaling_experts",
    title="Figure 6: from 8 to 256 experts",
    rows=[
        Row(system=system, reference=SERIES["X-MoE, tuned"][8].name if system.arm == "tuned" else None)
        for series in SERIES.values()
        for system in series.values()
    ],
    reference="xmoe_8",
    trend=Trend(
        x_label="experts of the X-MoE of equal size",
        series={label: list(series.items()) for label, series in SERIES.items()},
        panels=("perplexity", "hellaswag", "effective", "collapsed", "speed", "memory"),
        log_x=True,
    ),
    measurements=(ZERO_SHOT_HELLASWAG, EXPERT_ACTIVATION),
    claims=[claim for label, series in SERIES.items() for claim in _claims(label, series)],
    notes=("16 experts take the learning rate of 8, and 64 and more that of 32. Whether 8 differ from 32: Table 1.",),
)
