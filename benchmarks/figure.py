"""The layer's speed against the number of experts, one panel a setting."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from analysis.plotting import LOOKS, STYLE, Look, Point, draw, finish, log_range, reference, save, ticks
from benchmarks.timing import count_threads
from benchmarks.verdicts import TO_DENSE, settings_of, time_per_flop
from experiments.report.looks import ROLES

Data = Mapping[str, Any]
LABELS = {
    "dense": "dense FFN",
    "dense_onednn": "dense FFN, oneDNN products",
    "mhmoe": "MH-MoE",
    "mhmoe_loop": "MH-MoE, readable loop",
    "sparse": "our SparseMoE, on sub-tokens",
    "mixtral_grouped_mm": "Mixtral block, grouped_mm",
    "mixtral_eager": "Mixtral block, eager",
}
LOOKS_OF: Mapping[str, Look] = {
    "dense_onednn": ROLES["dense"],
    "mhmoe": ROLES["compute"],
    "mhmoe_loop": ROLES["compute"].second(),
    "sparse": LOOKS[5],
    "mixtral_grouped_mm": LOOKS[6],
    "mixtral_eager": LOOKS[6].second(),
}
MAY_LEAVE_THE_FRAME = ("mixtral_eager",)


def layer_figure(data: Data, path: Path) -> None:
    """Time per FLOP, relative to the dense FFN, against the number of experts; a panel a setting."""
    settings = settings_of(data)
    names = [name for name in LABELS if name != "dense" and any(r["contender"] == name for r in data["rows"])]
    columns = max(len({precision for _, precision in settings}), 1)
    lines = -(-len(settings) // columns)
    by_thread = sorted(settings, key=lambda setting: (setting[0], setting[1] != "float32"))
    experts = sorted({row["num_experts"] for row in data["rows"]})
    with style.context(STYLE):
        figure = Figure(figsize=(3.4 + 5.4 * columns, 1.6 + 4.4 * lines), layout="constrained")
        panels = np.atleast_1d(figure.subplots(lines, columns, sharex=True, sharey=True)).flatten()
        drawn, beyond = list[float](), list[float]()
        for axes, (threads, precision) in zip(panels, by_thread, strict=False):
            axes.set_title(f"{precision}, {count_threads(threads)}", loc="left")
            axes.set_xscale("log")
            axes.set_yscale("log")
            reference(axes, 1.0, LABELS["dense"])
            for name in names:
                line = _line(data, name, threads, precision)
                heights = [height for p in line for height in (p.low, p.high)]
                (beyond if name in MAY_LEAVE_THE_FRAME else drawn).extend(heights)
                if line:
                    draw(axes, line, LOOKS_OF[name], LABELS[name], band=False)
            if precision == "float32" and not data["quick"]:
                x, y = list(TO_DENSE), list(TO_DENSE.values())
                axes.plot(x, y, "_", color="black", markersize=26, label="MH-MoE's bound")
            ticks(axes.xaxis, experts)
        top = max([*drawn, *TO_DENSE.values()])
        log_range(panels[0], min([*drawn, 1.0]), top)
        for axes in panels[::columns]:
            axes.set_ylabel("time per FLOP / dense FFN's (log)")
        for axes in panels[-columns:]:
            axes.set_xlabel("experts")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
        n = sorted({len(row["seconds"]) for row in data["rows"] if row["seconds"]})
        rounds = "-".join(map(str, dict.fromkeys((n[0], n[-1])))) if n else "0"
        note = f"{data['provenance']['device']}. Medians of n = {rounds} rounds; bars: lowest to highest."
        if max(beyond, default=0.0) > top:
            note += " Mixtral's eager block leaves the frame: the table has its times."
        finish(figure, "Forward and backward of the layer", note)
        save(figure, path)


def _line(data: Data, name: str, threads: int, precision: str) -> list[Point]:
    points: list[Point] = []
    for row in data["rows"]:
        if (row["contender"], row["threads"], row["precision"]) != (name, threads, precision):
            continue
        if row["seconds"] and (ratio := time_per_flop(data, row)) is not None:
            times = np.array(row["seconds"]) / median(row["seconds"]) * ratio
            points.append(Point(row["num_experts"], ratio, times.min(), times.max(), len(times)))
    return points
