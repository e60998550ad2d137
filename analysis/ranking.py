"""Many systems, the best first: a line each, with every seed and their mean, and beside it what the system costs."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib import style
from matplotlib.figure import Figure

from analysis.plotting import GREY, LOOKS, STYLE, few_ticks, finish, save
from analysis.statistics import over_common_seeds
from analysis.tables import write_csv

STRESSED = LOOKS[3].colour


def ranking_figure(
    seeds: Mapping[str, Mapping[int, float]],
    costs: Mapping[str, Mapping[str, float]],
    path: Path,
    *,
    title: str,
    measure: str,
    note: str = "",
    stressed: Sequence[str] = (),
) -> None:
    """Write `path` (.png) and its .csv.

    seeds: label -> what each seed has; the lowest mean over the seeds that all have stands first, and the file is of
    these. costs: axis -> label -> a number, drawn as a bar from zero. measure: what the seeds' axis is. stressed:
    labels in colour.
    """
    common = over_common_seeds(seeds)
    means = {label: fmean(values.values()) for label, values in common.items()}
    ranked = sorted(means, key=lambda label: means[label])
    colours = {label: STRESSED if label in stressed else "#000000" for label in ranked}
    with style.context(STYLE):
        figure = Figure(figsize=(11.0 + 2.2 * len(costs), 2.0 + 0.36 * len(ranked)), layout="constrained")
        widths = [2.6] + [1.0] * len(costs)
        ranks, *bars = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
        for place, label in enumerate(ranked):
            look, values = {"color": colours[label], "linestyle": "none"}, [*seeds[label].values()]
            ranks.plot([min(values), max(values)], [place, place], color=GREY, linewidth=1.2, zorder=1)
            ranks.plot(values, [place] * len(values), marker="|", markersize=9, **look)
            ranks.plot([means[label]], [place], marker="o", markersize=7, **look)
        ranks.set_xlabel(measure)
        ranks.set_yticks(range(len(ranked)), [f"{label} (n = {len(seeds[label])})" for label in ranked])
        for tick, label in zip(ranks.get_yticklabels(), ranked, strict=True):
            tick.set_color(colours[label])
        ranks.invert_yaxis()
        for axes, (name, cost) in zip(bars, costs.items(), strict=True):
            known = {place: cost[label] for place, label in enumerate(ranked) if label in cost}
            for place, value in known.items():
                axes.barh(place, value, height=0.55, color=colours[ranked[place]], alpha=0.55)
                axes.annotate(f"{value:.3g}", (value, place), (3, 0), textcoords="offset points", va="center")
            axes.set_xlim(0, 1.3 * max(known.values(), default=1.0))
            axes.set_xlabel("\n".join(textwrap.wrap(name, 20)))
            axes.grid(False)
        for axes in (ranks, *bars):
            few_ticks(axes.xaxis)
        finish(figure, title, note)
        save(figure, path)
    rows = [
        [place, label, means[label], min(common[label].values()), max(common[label].values()), len(common[label])]
        + [cost.get(label, "") for cost in costs.values()]
        for place, label in enumerate(ranked, 1)
    ]
    write_csv(path, ["place", "label", "mean", "low", "high", "n", *costs], rows)
