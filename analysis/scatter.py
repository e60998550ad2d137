"""Many systems in one plane: a number each, which the legend explains; more than colours can tell apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from analysis.plotting import GREY, LOOKS, STYLE, Point, finish, plain_numbers, reach, save, y_label
from analysis.tables import csv_text
from mhmoe.io import write_atomically

STRESSED = LOOKS[3].colour


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
            for label, p in points.items():
                colour = STRESSED if label in stressed else "#000000"
                axes.errorbar([p.x], [p.mean], yerr=reach([p]), fmt="none", ecolor=GREY, linewidth=1.0)
                circle = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": colour}
                axes.text(p.x, p.mean, str(numbers[label]), ha="center", va="center", color=colour, bbox=circle)
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
        save(figure, path)
    rows = [
        [x_label, str(numbers[label]), label, *(f"{value:.6g}" for value in (p.x, p.mean, p.low, p.high)), str(p.n)]
        for x_label, points in panels.items()
        for label, p in sorted(points.items(), key=lambda item: numbers[item[0]])
    ]
    header = ["panel", "number", "label", "x", "mean", "low", "high", "n"]
    write_atomically(path.with_suffix(".csv"), csv_text([header, *rows]))
