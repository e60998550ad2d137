"""The figure of a waterfall: from one value to another, each step a bar that goes on where the last ended."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure

from analysis.plotting import GREY, LOOKS, STYLE, Point, finish, plain_numbers, save
from analysis.tables import write_csv

DOWN, UP = LOOKS[4].colour, LOOKS[3].colour  # better, worse
_LINES: tuple[Any, ...] = (":", "--", "-.", (0, (6, 2, 1, 2, 1, 2)))


def waterfall_figure(
    steps: Sequence[tuple[str, Point | None]],
    path: Path,
    *,
    title: str,
    x_label: str,
    note: str = "",
    levels: Mapping[str, float] | None = None,
) -> None:
    """Write `path` (.png) and its .csv. steps: what was changed, and the value then with its range over runs; None
    where it is not known, and the next bar goes on from the last that is. A value of one run is a hollow point.
    levels: at most four values to compare with, by name.
    """
    with style.context(STYLE):
        names = [label if point else f"{label} (not run)" for label, point in steps]
        width_of_names = 0.1 * max(map(len, names), default=0)
        figure = Figure(figsize=(6.0 + width_of_names, 1.6 + 0.5 * len(steps)), layout="constrained")
        axes = figure.subplots()
        last: tuple[int, float] | None = None
        for place, (_, point) in enumerate(steps):
            if point is None:
                continue
            if last is not None:
                before, value = last
                width = point.mean - value
                axes.barh(place, width, left=value, height=0.6, color=UP if width > 0 else DOWN)
                axes.plot([value, value], [before, place], color=GREY, linewidth=1.0)
            axes.plot([point.low, point.high], [place, place], color="black", linewidth=1.4)
            face = "white" if point.n == 1 else "black"
            axes.plot(point.mean, place, color="black", marker="o", markersize=5, markerfacecolor=face)
            beyond = (point.high, 6, "left") if last is not None and point.mean > last[1] else (point.low, -6, "right")
            x, shift, side = beyond  # on the side of the point where the bar is not
            axes.annotate(
                f"{point.mean:.2f}", (x, place), xytext=(shift, 0), textcoords="offset points", va="center", ha=side
            ).set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.0})  # over the levels' lines
            last = place, point.mean
        levels = levels or {}
        for (label, level), line in zip(levels.items(), _LINES[: len(levels)], strict=True):
            axes.axvline(level, color=GREY, linewidth=1.4, linestyle=line, label=f"{label}: {level:.2f}", zorder=0.5)
        if levels:
            axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0))
        axes.set_yticks(range(len(steps)), names)
        axes.invert_yaxis()
        axes.use_sticky_edges = False  # else a bar that begins at the lowest value leaves no room there
        axes.margins(x=0.15)  # for the numbers
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(x_label)
        plain_numbers(axes.xaxis)
        finish(figure, title, note)
        save(figure, path)
    known = [[label, *point[1:]] for label, point in steps if point is not None]
    write_csv(path, ["label", "mean", "low", "high", "n"], known)
