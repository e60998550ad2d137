"""Many systems, the best first: a line each, with every seed and their mean, and beside it what the system costs."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib import style
from matplotlib.figure import Figure

from analysis.plotting import GREY, LOOKS, STYLE, few_ticks, finish, plain_numbers, save
from analysis.tables import write_csv

STRESSED = LOOKS[3].colour


def ranking_figure(
    seeds: Mapping[str, Sequence[float]],
    costs: Mapping[str, Mapping[str, float]],
    path: Path,
    *,
    title: str,
    measure: str,
    note: str = "",
    stressed: Sequence[str] = (),
) -> None:
    """Write `path` (.png) and its .csv.

    seeds: label -> what each seed has; the lowest mean stands first. costs: axis -> label -> a number, drawn as a bar
    from zero. measure: what the seeds' axis is. stressed: labels in colour.
    """
    means = {label: fmean(values) for label, values in seeds.items()}
    ranked = sorted(means, key=lambda label: means[label])
    colours = {label: STRESSED if label in stressed else "#000000" for label in ranked}
    with style.context(STYLE):
        figure = Figure(figsize=(11.0 + 2.2 * len(costs), 2.0 + 0.36 * len(ranked)), layout="constrained")
        grid = figure.subplots(1, 1 + len(costs), sharey=True, squeeze=False, width_ratios=[2.6] + [1.0] * len(costs))[
            0
        ]
        for place, label in enumerate(ranked):
            look, values = {"color": colours[label], "linestyle": "none"}, seeds[label]
            grid[0].plot([min(values), max(values)], [place, place], color=GREY, linewidth=1.2, zorder=1)
            grid[0].plot(values, [place] * len(values), marker="|", markersize=9, **look)
            grid[0].plot([means[label]], [place], marker="o", markersize=7, **look)
        grid[0].set_xlabel(measure)
        few_ticks(grid[0].xaxis)
        for axes, (name, cost) in zip(grid[1:], costs.items(), strict=True):
            known = [(place, label) for place, label in enumerate(ranked) if label in cost]
            for place, label in known:
                axes.barh(place, cost[label], height=0.55, color=colours[label], alpha=0.55)
                axes.annotate(
                    f"{cost[label]:.3g}", (cost[label], place), (3, 0), textcoords="offset points", va="center"
                )
            axes.set_xlim(0, 1.3 * max((cost[label] for _, label in known), default=1.0))
            axes.set_xlabel("\n".join(textwrap.wrap(name, 20)))
            axes.grid(False)
            few_ticks(axes.xaxis)
        grid[0].set_yticks(range(len(ranked)), [f"{label} (n = {len(seeds[label])})" for label in ranked])
        for tick, label in zip(grid[0].get_yticklabels(), ranked, strict=True):
            tick.set_color(colours[label])
        grid[0].invert_yaxis()
        plain_numbers(grid[0].xaxis)
        finish(figure, title, note)
        save(figure, path)
    rows = [
        [place, label, means[label], min(seeds[label]), max(seeds[label]), len(seeds[label])]
        + [cost.get(label, "") for cost in costs.values()]
        for place, label in enumerate(ranked, 1)
    ]
    write_csv(path, ["place", "label", "mean", "low", "high", "n", *costs], rows)
