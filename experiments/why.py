"""Why: what MH-MoE needs to work at this scale, from the model without the layer to the best that was found.

Step by step: the size of X-MoE with two choices and as many choices, a norm behind every feed-forward layer, slow head
and merge layers that start as the identity, more choices, wider sub-tokens, routers that read the token itself. Each
step has the learning rate that X-MoE has, and no layer its own, which is higher. The goal is X-MoE with k = 2 and the
norm.
No table of the paper. Cost: cpu about two hours on two cores. Run: python -m experiments run why
"""

import dataclasses
from typing import Any

from experiments.kinds.waterfall import Waterfall
from experiments.settings import Point, Settings, with_settings
from experiments.system import System
from experiments.systems import mhmoe, null, xmoe

LEARNING_RATE = 8e-3  # what the grid gives X-MoE and MH-MoE alike
SEEDS = 3
SLOW: dict[str, Any] = {"projection_lr": 0.1, "start": "identity"}


def _step(system: System, name: str, **settings: Any) -> System:
    point = Point(settings=Settings(**settings), learning_rate=LEARNING_RATE, parts=0, choices=0)
    return dataclasses.replace(with_settings(system, point, f"why_{name}", f"{system.label}, {name}"), seeds=SEEDS)


def _heads(heads: int, top_k: int) -> System:
    return mhmoe(8, "compute", heads, top_k=top_k, like_top_k=2)


PAGE = Waterfall(
    slug="why",
    title="Why: what MH-MoE needs to work at this scale",
    steps={
        "no layer": null(),
        "MH-MoE as published: h = 4, k = 1": mhmoe(8, "compute"),
        "FLOPs of X-MoE with k = 2, and k = 2": _step(_heads(4, 2), "k2"),
        "a norm behind every feed-forward layer": _step(_heads(4, 2), "norm", norm="layer"),
        "head and merge at a tenth of the rate": _step(_heads(4, 2), "slow", norm="layer", projection_lr=0.1),
        "head and merge start as the identity": _step(_heads(4, 2), "identity", norm="layer", **SLOW),
        "k = 4": _step(_heads(4, 4), "k4", norm="layer", **SLOW),
        "h = 2: sub-tokens twice as wide": _step(_heads(2, 4), "h2_k4", norm="layer", **SLOW),
        "routers read the token": _step(_heads(2, 4), "routed", norm="layer", route_by="input", **SLOW),
    },
    beside={
        "no layer, the norm behind the other blocks' layer": _step(null(), "null", norm="layer"),
        "h = 4 with k = 8 and the norm": _step(_heads(4, 8), "k8", norm="layer", **SLOW),
    },
    goal=dataclasses.replace(_step(xmoe(8, 2), "xmoe", norm="layer"), label="X-MoE with k = 2 and the norm"),
    notes=(
        "No layer has the learning rate that the grid gives it, the normed one below that of the steps: of what lies "
        "between the two a part is the rate's.",
        "The norm stands behind the dense networks of the other blocks too, in MH-MoE as in X-MoE and in the model "
        "without the layer beside them: what it brings is not the MoE layer's alone.",
        "FLOPs stay those of X-MoE with k = 2: with more choices experts are narrower and more of them, so a step in k "
        "is one in granularity too. Steps are not corrected for their number. They were declared before any was run; "
        "when all had been seen, k = 8 was moved below them, and the normed model without the layer was added.",
    ),
)
