"""What decides: the width of a sub-token, the number of heads, or how many experts a sub-token chooses?

With four heads a sub-token of the cpu scale has 24 numbers, with two 48, and the paper's has 192. Here two and four
heads at model widths of 96 and 192, so that two heads at 96 and four at 192 have sub-tokens alike, each with one to
eight choices, all of the FLOPs of X-MoE with k = 2 and in the settings in which mixtures work at this number of tokens
(why.py). The learning rate falls with the width, as muP has it.
No table of the paper. Cost: cpu about four core-hours. Run: python -m experiments run width_heads_choices
"""

import dataclasses
from typing import Any

from experiments.kinds.table import Row, Table
from experiments.kinds.trend import Trend
from experiments.settings import Point, Settings, with_settings
from experiments.system import System
from experiments.systems import mhmoe, null, xmoe
from experiments.why import LEARNING_RATE, SLOW

WIDTHS, HEADS, CHOICES = (96, 192), (2, 4), (1, 2, 4, 8)
LOOKS = {2: "equation", 4: "compute"}  # of a number of heads in the figure: roles that differ


def _at(width: int, system: System, **settings: Any) -> System:
    point = Point(
        settings=Settings(norm="layer", **settings), learning_rate=LEARNING_RATE * 96 / width, parts=0, choices=0
    )
    label = f"{system.label}, a norm behind the layer" + (", slow head and merge layers" if settings else "")
    return dataclasses.replace(with_settings(system, point, f"{system.name}_norm", label), seeds=1)


def _null(width: int) -> System:
    system = null()
    model = {"hidden_size": width}
    return _at(width, dataclasses.replace(system, name=f"null_w{width}", label=f"no layer, width {width}", model=model))


NULLS = {width: _null(width) for width in WIDTHS}
XMOE = {width: _at(width, xmoe(8, 2, width=width)) for width in WIDTHS}
SERIES: dict[tuple[int, int], dict[int, System]] = {
    (width, heads): {
        k: dataclasses.replace(
            _at(width, mhmoe(8, "compute", heads, top_k=k, like_top_k=2, width=width), **SLOW), role=LOOKS[heads]
        )
        for k in CHOICES
    }
    for width in WIDTHS
    for heads in HEADS
}
LABELS = {
    (width, heads): f"width {width}, h = {heads}: sub-tokens of {width // heads}" for width in WIDTHS for heads in HEADS
}

PAGE = Table(
    slug="width_heads_choices",
    title="Width of sub-tokens, heads and choices: which of them decides?",
    rows=[
        Row(system=system, reference=XMOE[width].name)
        for width in WIDTHS
        for system in (
            NULLS[width],
            XMOE[width],
            *(system for (at, _), series in SERIES.items() if at == width for system in series.values()),
        )
    ],
    trend=Trend(
        x_label="choices k of a sub-token (of a token, for X-MoE)",
        series={
            **{f"width {width}, X-MoE": [(2, XMOE[width])] for width in WIDTHS},
            **{LABELS[at]: list(series.items()) for at, series in SERIES.items()},
        },
        panels=("gain",),
        log_x=True,
        nulls={
            **{f"width {width}, X-MoE": {2: NULLS[width]} for width in WIDTHS},
            **{LABELS[at]: dict.fromkeys(CHOICES, NULLS[at[0]]) for at in SERIES},
        },
    ),
    notes=("Changes are relative to X-MoE with k = 2 of the same width.",),
)
