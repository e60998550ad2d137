"""Learning curves, trends and categories, each with its points as a CSV file beside it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from analysis.plotting import (
    GREY,
    MOST_COLUMNS,
    STYLE,
    Look,
    Point,
    counts,
    draw,
    few_ticks,
    finish,
    legend_above,
    log_range,
    looks_of,
    plain_numbers,
    reach,
    reference,
    save,
    ticks,
    y_label,
)
from analysis.plotting import (
    panels as grid_of_panels,
)
from analysis.tables import write_csv

Curve = Sequence[Mapping[str, Any]]
Looks = Mapping[str, Look]
SKIPPED = 0.15  # evaluations in this first share of a run may lie above the frame


def over_seeds(curves: Sequence[Curve]) -> list[Point]:
    """Validation perplexity against tokens: mean, lowest and highest seed, where all seeds were evaluated."""
    seeds = [
        {
            point["tokens"]: math.exp(min(point["valid_nll"], 700.0))
            for point in curve
            if point.get("valid_nll") is not None
        }
        for curve in curves
    ]
    common = sorted(set.intersection(*map(set, seeds))) if seeds else []
    values = {tokens: [seed[tokens] for seed in seeds] for tokens in common}
    return [Point(x, float(np.mean(y)), min(y), max(y), len(y)) for x, y in values.items()]


def learning_curves(
    panels: Mapping[str, Mapping[str, Sequence[Curve]]],
    path: Path,
    *,
    title: str,
    note: str = "",
    looks: Looks | None = None,
) -> None:
    """Write `path` (.png) and its .csv: validation perplexity against tokens, one panel a group.

    panels: title of the panel -> label -> curves of the seeds, as in `Record.curve`. One without curves is listed as
    "not run". looks: of the labels, alike in all panels; those without one get what is free.
    """
    points = {panel: {label: over_seeds(c) for label, c in series.items()} for panel, series in panels.items()}
    styles = looks_of((label for series in panels.values() for label in series), looks)
    drawn = [p for series in points.values() for line in series.values() for p in line]
    with style.context(STYLE):
        columns, longest = min(len(panels), MOST_COLUMNS), 1 + max(map(len, panels.values()))
        figure, grid = grid_of_panels(len(panels), columns, width=max(8.0, 6.2 * columns), legend=longest, share=True)
        all_axes = grid.flat[: len(panels)]
        for axes, (panel, series) in zip(all_axes, points.items(), strict=True):
            axes.set_yscale("log")
            axes.set_xlabel("tokens seen (millions)")
            few_ticks(axes.xaxis)
            # The legend lists the systems as they end, the highest curve first.
            for label, line in sorted(series.items(), key=lambda item: -item[1][-1].mean if item[1] else math.inf):
                end = f"{line[-1].mean:.2f} (n = {line[-1].n})" if line else "not run"
                draw(axes, line, styles[label], f"{label}: {end}", band=True, factor=1e-6)
            legend_above(axes, f"{panel}: perplexity at the end (seeds)")
        for axes in grid[:, 0]:
            y_label(axes, "validation perplexity (log scale)")
        if drawn:
            start = SKIPPED * max(p.x for p in drawn)
            top = max(p.high for p in drawn if p.x >= start)
            log_range(all_axes[0], min(p.low for p in drawn), top)
            all_axes[0].set_xlim(0, 1.02e-6 * max(p.x for p in drawn))
            if any(p.high > top for p in drawn):
                note += " The first evaluations lie above the frame."
        finish(figure, title, f"{note} Lines: mean over seeds; bands: lowest to highest seed.".strip())
        save(figure, path)
    rows = [
        [panel, label, f"{p.x:.0f}", p.n, p.mean, p.low, p.high]
        for panel, series in points.items()
        for label, line in series.items()
        for p in line
    ]
    header = ["panel", "label", "tokens", "n", "perplexity_mean", "perplexity_lowest", "perplexity_highest"]
    write_csv(path, header, rows)


class Panel(NamedTuple):
    """One panel of a trend: label -> points; `reference`: text -> height of a line, such as the paper's value."""

    y_label: str
    series: Mapping[str, Sequence[Point]]
    reference: Mapping[str, float] = MappingProxyType({})


def trend_figure(
    panels: Sequence[Panel],
    path: Path,
    *,
    title: str,
    x_label: str,
    note: str = "",
    log_x: bool = False,
    looks: Looks | None = None,
) -> None:
    """Write `path` (.png) and its .csv: one or more quantities against the same x, a tick at every x.

    Bars reach from low to high; the note should say what they are. A label looks alike in all panels, as in `looks`.
    """
    styles = looks_of((label for panel in panels for label in panel.series), looks)
    places = sorted({p.x for panel in panels for line in panel.series.values() for p in line})
    with style.context(STYLE):
        columns = 2 if len(panels) == 4 else min(len(panels), MOST_COLUMNS)
        longest = max(len(panel.series) + len(panel.reference) for panel in panels)
        figure, grid = grid_of_panels(len(panels), columns, width=max(8.6, 6.2 * columns), legend=longest)
        for axes, panel in zip(grid.flat[: len(panels)], panels, strict=True):
            axes.set_xlabel(x_label)
            y_label(axes, panel.y_label)
            axes.set_xscale("log" if log_x else "linear")
            for label, line in panel.series.items():
                draw(axes, sorted(line), styles[label], f"{label} ({counts(line)})", band=False)
            for text, height in panel.reference.items():
                reference(axes, height, text)
            ticks(axes.xaxis, places)
            plain_numbers(axes.yaxis)
            legend_above(axes)
        finish(figure, title, note)
        save(figure, path)
    series = [(panel.y_label, label, line) for panel in panels for label, line in panel.series.items()]
    rows = [[y_label, label, *p] for y_label, label, line in series for p in sorted(line)]
    write_csv(path, ["panel", "label", "x", "mean", "low", "high", "n"], rows)


WIDEST_OF_TWO = 52
"""Characters of a label, of which two stand beside each other above a panel."""


def category_figure(
    panels: Sequence[Panel],
    categories: Sequence[str],
    path: Path,
    *,
    title: str,
    x_label: str,
    note: str = "",
    looks: Looks | None = None,
) -> None:
    """Write `path` (.png) and its .csv: points with bars over named places; a point's x is the category's number.

    panels: one below the other, on one scale; a label stands in one of them. looks: of the labels.
    """
    series = {label: line for panel in panels for label, line in panel.series.items()}
    styles: dict[str, Look] = {}
    for panel in panels:  # a panel has looks enough, all together may not
        given = {label: look for label, look in (looks or {}).items() if label in panel.series}
        styles |= looks_of(panel.series, given)
    with style.context(STYLE):
        size = (max(13.0, 0.9 * len(categories)), 0.8 + 4.4 * len(panels))
        figure = Figure(figsize=size, layout="constrained")
        all_axes = figure.subplots(len(panels), sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, panel in zip(all_axes, panels, strict=True):
            y_label(axes, panel.y_label)
            for i, (label, line) in enumerate(panel.series.items()):
                shift = 0.7 * ((i + 0.5) / len(panel.series) - 0.5)  # beside each other, not over each other
                x, mean = (np.array([p[j] for p in line], dtype=float) for j in range(2))
                axes.errorbar(
                    x + shift, mean, yerr=reach(line), label=f"{label} ({counts(line)})", linestyle="none", capsize=3,
                    linewidth=1.4, **styles[label].points,
                )  # fmt: skip
            for text, height in panel.reference.items():
                axes.axhline(height, color=GREY, linewidth=1.4, label=text)
            axes.grid(axis="x", visible=False)
            _, labels = axes.get_legend_handles_labels()
            legend_above(axes, columns=2 if max(map(len, labels), default=0) <= WIDEST_OF_TWO else 1)
            axes.set_xticks(range(len(categories)), categories)
        all_axes[-1].set_xlabel(x_label)
        finish(figure, title, note)
        save(figure, path)
    rows = [[label, categories[int(p.x)], *p[1:]] for label, line in series.items() for p in line]
    write_csv(path, ["label", x_label, "mean", "low", "high", "n"], rows)
