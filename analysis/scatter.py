"""Many systems in one plane: a number each, which the legend explains; more than colours can tell apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.plotting import GREY, LOOKS, STYLE, Point, finish, plain_numbers, reach, save, y_label
from analysis.tables import write_csv

STRESSED = LOOKS[3].colour
APART = 21.0  # points between the middles of two numbers


def asides(places: Sequence[NDArray[np.float64]], left: float, right: float) -> list[float]:
    """How far each place's number moves sideways, in points, so that none covers another: the least that will do
    between the bounds, the lowest place first."""
    taken: list[NDArray[np.float64]] = []
    found = [0.0] * len(places)
    for i in sorted(range(len(places)), key=lambda i: places[i][1]):
        for step in range(2 * len(places)):
            aside = APART * ((step + 1) // 2) * (1 if step % 2 else -1)
            moved = places[i] + np.array([aside, 0.0])
            if left < moved[0] < right and all(np.hypot(*(moved - other)) >= APART for other in taken):
                break
        taken.append(moved)
        found[i] = aside
    return found


def scatter_figure(
    panels: Mapping[str, Mapping[str, Point]],
    path: Path,
    *,
    title: str,
    height: str,
    note: str = "",
    stressed: Sequence[str] = (),
) -> None:
    """Write `path` (.png) and its .csv: a panel for each quantity (label of its axis -> label -> point).

    height: what the y-axis is. stressed: labels in colour. A label has one number in all panels, by its mean there.
    """
    means = {label: p.mean for points in panels.values() for label, p in points.items()}
    numbers = {label: i for i, label in enumerate(sorted(means, key=lambda label: means[label]), 1)}
    with style.context(STYLE):
        height_of_legend = 1.4 + 0.24 * len(numbers)
        figure = Figure(figsize=(4.6 * len(panels) + 6.2, max(6.2, height_of_legend)), layout="constrained")
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (x_label, points) in zip(grid, panels.items(), strict=True):
            axes.set_xlabel(x_label)
            for p in points.values():
                axes.errorbar([p.x], [p.mean], yerr=reach([p]), fmt="none", ecolor=GREY, linewidth=1.0)
            if points:
                axes.update_datalim(np.array([[p.x, h] for p in points.values() for h in (p.low, p.high)]))
                axes.margins(0.08)
                axes.autoscale_view()
            plain_numbers(axes.xaxis)
            plain_numbers(axes.yaxis)
        y_label(grid[0], height)
        counted = {label: p.n for points in panels.values() for label, p in points.items()}
        texts = [f"{number}  {label} (n = {counted[label]})" for label, number in numbers.items()]
        handles = [grid[0].plot([], [], linestyle="none", label=text)[0] for text in texts]
        figure.legend(handles=handles, loc="outside right center", handlelength=0, handletextpad=0, fontsize=11)
        finish(figure, title, note)
        figure.draw_without_rendering()  # now it is known how far points lie apart
        for axes, points in zip(grid, panels.values(), strict=True):
            in_points = 72 / figure.dpi
            places = [in_points * axes.transData.transform((p.x, p.mean)) for p in points.values()]
            bounds = axes.get_window_extent()
            moved = asides(places, in_points * bounds.x0 + APART / 2, in_points * bounds.x1 - APART / 2)
            for (label, p), aside in zip(points.items(), moved, strict=True):
                colour = STRESSED if label in stressed else "#000000"
                number = axes.annotate(
                    str(numbers[label]),
                    (p.x, p.mean),
                    (aside, 0.0),
                    textcoords="offset points",
                    ha="center",
                    va="center",
                    color=colour,
                    bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": colour},
                    arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6} if aside else None,
                )
                number.set_in_layout(False)
        save(figure, path)
    rows = [
        [x_label, numbers[label], label, *p]
        for x_label, points in panels.items()
        for label, p in sorted(points.items(), key=lambda item: numbers[item[0]])
    ]
    write_csv(path, ["panel", "number", "label", "x", "mean", "low", "high", "n"], rows)
