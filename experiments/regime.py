"""The regime: what the layer is worth against the number of training tokens, as published and tuned.

No table of the paper, whose models see 21 to 250 billion tokens. Systems of Table 1 at a 24th, a 6th, all and four
times the tokens of the scale: 0.5, 2, 12 and 48 million at `long`, the last being two epochs. Each has the learning
rate that it has for all of them. One seed but for the scale's own number of tokens.
Cost: long about 5 PFLOPs, 900M tokens. Run: python -m experiments run regime --scale long --device auto
"""

import dataclasses

from experiments.changed_systems import for_steps
from experiments.kinds.table import Row, Table
from experiments.kinds.trend import Trend
from experiments.system import System
from experiments.systems import mhmoe
from experiments.testbed import PUBLISHED, TUNED
from experiments.tuning import tuned

SHARES = (1 / 24, 1 / 6, 1.0, 4.0)
NULLS = {"published": PUBLISHED.null, "tuned": TUNED.null}
SYSTEMS: dict[str, dict[str, System]] = {
    "published": {
        "Dense": PUBLISHED.dense,
        "X-MoE": PUBLISHED.few,
        "MH-MoE, equal FLOPs": mhmoe(8, "compute"),
        "MH-MoE, equal parameters": mhmoe(8, "parameters"),
    },
    "tuned": {
        "Dense": TUNED.dense,
        "X-MoE": TUNED.few,
        "MH-MoE, equal FLOPs": tuned("mhmoe_{}_compute"),
        "MH-MoE, equal parameters": tuned("mhmoe_{}_parameters"),
    },
}


def _at(system: System, share: float) -> System:
    return for_steps(system if share == 1 else dataclasses.replace(system, seeds=1), round(share, 4))


NULL_AT = {arm: {share: _at(null, share) for share in SHARES} for arm, null in NULLS.items()}
SERIES = {
    f"{label}, {arm}": [(share, _at(system, share)) for share in SHARES]
    for arm, systems in SYSTEMS.items()
    for label, system in systems.items()
}

PAGE = Table(
    slug="regime",
    title="The regime: what the layer is worth against the number of tokens",
    only=("smoke", "long"),
    rows=[
        Row(system=system, reference=NULL_AT[arm][share].name)
        for share in SHARES
        for arm in SYSTEMS
        for system in (NULL_AT[arm][share], *(_at(each, share) for each in SYSTEMS[arm].values()))
    ],
    trend=Trend(
        x_label="training tokens (million)",
        of_tokens=True,
        series=SERIES,
        panels=("gain",),
        log_x=True,
        nulls={f"{label}, {arm}": NULL_AT[arm] for arm, systems in SYSTEMS.items() for label in systems},
    ),
    notes=("Changes are relative to the model without the layer, of the same arm and number of tokens.",),
)
