"""Figures that read on a slide and in grey, each with its points as a CSV file beside it.

Colours are those of Okabe and Ito 2008, which colour-blind people tell apart; every series also
has its own line style and marker. No state is kept: figures are drawn without pyplot.
"""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.render import csv_text
from mhmoe.records import write_atomically

Curve = Sequence[Mapping[str, Any]]
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LINES = ("-", "--", "-", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "#555555"
_MOST_COLUMNS = 3  # panels in a line
_STYLE: Any = {
    "font.size": 13,
    "axes.titlesize": 14,
    "legend.fontsize": 11.5,
    "legend.title_fontsize": 11.5,
    "legend.handlelength": 3.2,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
}


class Point(NamedTuple):
    """One x with the mean over n runs and the range (or interval) that is drawn around it."""

    x: float
    mean: float
    low: float
    high: float
    n: int


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
    paper_lines: Mapping[str, Mapping[str, float]] | None = None,
    skip: float = 0.1,
) -> None:
    """Write `path` (.png) and its .csv: validation perplexity against tokens, one panel a group.

    panels: title of the panel -> label -> curves of the seeds, as in `Record.curve`. A label has one
    colour in all panels; one without curves is listed as "not run". paper_lines: panel -> label ->
    the paper's value. skip: evaluations in this first share of the run may lie above the frame.
    """
    points = {panel: {label: over_seeds(c) for label, c in series.items()} for panel, series in panels.items()}
    styles = _styles(label for series in panels.values() for label in series)
    drawn = [p for series in points.values() for line in series.values() for p in line]
    lines = [value for values in (paper_lines or {}).values() for value in values.values()]
    with rc_context(_STYLE):
        columns = min(len(panels), _MOST_COLUMNS)
        figure, grid = _panels(len(panels), columns, width=max(8.0, 6.2 * columns), share=True)
        all_axes = grid.flat[: len(panels)]
        for axes, (panel, series) in zip(all_axes, points.items(), strict=True):
            axes.set_yscale("log")
            axes.set_title(panel, loc="left")
            axes.set_xlabel("tokens seen (millions)")
            # The legend lists the systems as they end, the highest curve first.
            for label, line in sorted(series.items(), key=lambda item: -item[1][-1].mean if item[1] else math.inf):
                end = f"{line[-1].mean:.2f} (n = {line[-1].n})" if line else "not run"
                _draw(axes, line, styles[label], f"{label}: {end}", band=True, factor=1e-6)
            for label, value in (paper_lines or {}).get(panel, {}).items():
                _reference(axes, value, f"paper, {label}: {value:g}", styles[label]["color"])
            axes.legend(title="Perplexity at the end (seeds)", alignment="left", loc="upper right")
        for axes in grid[:, 0]:
            axes.set_ylabel("validation perplexity (log scale)")
        if drawn:
            start = skip * max(p.x for p in drawn)
            top = max(p.high for p in drawn if p.x >= start)
            _log_range(all_axes[0], min([p.low for p in drawn] + lines), max([top, *lines]))
            all_axes[0].set_xlim(0, 1.02e-6 * max(p.x for p in drawn))
        _finish(figure, title, f"{note} Lines: mean over seeds; bands: lowest to highest seed.".strip())
        _save(figure, path)
    rows = [
        [panel, label, f"{p.x:.0f}", str(p.n), *(f"{value:.6g}" for value in (p.mean, p.low, p.high))]
        for panel, series in points.items()
        for label, line in series.items()
        for p in line
    ]
    header = ["panel", "label", "tokens", "n", "perplexity_mean", "perplexity_lowest", "perplexity_highest"]
    write_atomically(path.with_suffix(".csv"), csv_text([header, *rows]))


class Panel(NamedTuple):
    """One panel of a trend: label -> points; `reference`: text -> height of a line, such as the paper's value."""

    y_label: str
    series: Mapping[str, Sequence[Point]]
    log_y: bool = False
    reference: Mapping[str, float] = MappingProxyType({})


def trend_figure(
    panels: Sequence[Panel], path: Path, *, title: str, x_label: str, note: str = "", log_x: bool = False
) -> None:
    """Write `path` (.png) and its .csv: one or more quantities against the same x, a tick at every x.

    Bars reach from low to high; the note should say what they are. A label looks alike in all panels.
    """
    styles = _styles(label for panel in panels for label in panel.series)
    places = sorted({p.x for panel in panels for line in panel.series.values() for p in line})
    with rc_context(_STYLE):
        columns = 2 if len(panels) == 4 else min(len(panels), _MOST_COLUMNS)
        figure, grid = _panels(len(panels), columns, width=max(8.6, 5.2 * columns))
        for axes, panel in zip(grid.flat[: len(panels)], panels, strict=True):
            axes.set_xlabel(x_label)
            axes.set_ylabel(panel.y_label)
            axes.set_xscale("log" if log_x else "linear")
            axes.set_yscale("log" if panel.log_y else "linear")
            for label, line in panel.series.items():
                n = sorted({p.n for p in line})
                text = f"n = {'-'.join(str(x) for x in dict.fromkeys((n[0], n[-1])))}" if n else "not run"
                _draw(axes, sorted(line), styles[label], f"{label} ({text})", band=False)
            for text, height in panel.reference.items():
                _reference(axes, height, text, _GREY)
            _ticks(axes.xaxis, places)
            heights = [h for line in panel.series.values() for p in line for h in p[1:4] if math.isfinite(h)]
            if panel.log_y and heights:
                heights += panel.reference.values()
                _log_range(axes, min(heights), max(heights))
            axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), frameon=False)  # above: it hides no point
        _finish(figure, title, note)
        _save(figure, path)
    rows = [
        [panel.y_label, label, *(f"{value:.6g}" for value in (p.x, p.mean, p.low, p.high)), str(p.n)]
        for panel in panels
        for label, line in panel.series.items()
        for p in sorted(line)
    ]
    write_atomically(path.with_suffix(".csv"), csv_text([["panel", "label", "x", "mean", "low", "high", "n"], *rows]))


def category_figure(
    panel: Panel, categories: Sequence[str], path: Path, *, title: str, x_label: str, note: str = ""
) -> None:
    """Write `path` (.png) and its .csv: points with bars over named places; a point's x is the category's number."""
    styles = _styles(panel.series)
    with rc_context(_STYLE):
        figure = Figure(figsize=(max(8.6, 0.85 * len(categories)), 5.6), layout="constrained")
        axes = figure.subplots()
        axes.set_xlabel(x_label)
        axes.set_ylabel(panel.y_label)
        for i, (label, line) in enumerate(panel.series.items()):
            shift = 0.6 * ((i + 0.5) / len(panel.series) - 0.5)  # beside each other, not over each other
            x, mean, low, high = (np.array([p[j] for p in line], dtype=float) for j in range(4))
            reach = np.nan_to_num(np.stack([mean - low, high - mean]).clip(min=0))
            colour, marker = styles[label]["color"], styles[label]["marker"]
            text = f"{label} (n = {line[0].n})" if line else f"{label} (not run)"
            axes.errorbar(x + shift, mean, yerr=reach, fmt=marker, color=colour, capsize=3, linewidth=1.4, label=text)
        for text, height in panel.reference.items():
            axes.axhline(height, color=_GREY, linewidth=1.2, label=text)
        axes.set_xticks(range(len(categories)), categories)
        axes.grid(axis="x", visible=False)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        _finish(figure, title, note)
        _save(figure, path)
    rows = [
        [label, categories[int(p.x)], *(f"{value:.6g}" for value in (p.mean, p.low, p.high)), str(p.n)]
        for label, line in panel.series.items()
        for p in line
    ]
    write_atomically(path.with_suffix(".csv"), csv_text([["label", x_label, "mean", "low", "high", "n"], *rows]))


def _panels(n: int, columns: int, *, width: float, share: bool = False) -> tuple[Figure, Any]:
    """A figure of that width in inches, and its grid of axes; those beyond the first n stay empty."""
    lines = -(-n // columns)
    figure = Figure(figsize=(width, 5.6 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharey=share, sharex=share, squeeze=False)
    for axes in grid.flat[n:]:
        axes.set_axis_off()
    return figure, grid


def _styles(labels: Any) -> dict[str, dict[str, Any]]:
    names = list(dict.fromkeys(labels))
    if len(names) > len(_COLOURS):
        raise ValueError(f"{len(names)} series in one figure; at most {len(_COLOURS)} can be told apart: use panels")
    return {
        name: {"color": colour, "linestyle": line, "marker": marker}
        for name, colour, line, marker in zip(names, _COLOURS, _LINES, _MARKERS, strict=False)
    }


def _draw(
    axes: Axes,
    line: Sequence[Point],
    style: Mapping[str, Any],
    label: str,
    *,
    band: bool,
    factor: float = 1.0,
) -> None:
    x, mean, low, high = (np.array([p[i] for p in line], dtype=float) for i in range(4))
    x = x * factor
    every = max(1, len(line) // 8) if band else 1
    offset = _MARKERS.index(style["marker"])  # so that the markers of close curves do not hide each other
    axes.plot(x, mean, label=label, linewidth=2.2, markersize=6.5, markevery=(offset % every, every), **style)
    if band:
        axes.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
    else:
        reach = np.nan_to_num(np.stack([mean - low, high - mean]).clip(min=0))
        axes.errorbar(x, mean, yerr=reach, fmt="none", ecolor=style["color"], capsize=4, linewidth=1.6)


def _reference(axes: Axes, height: float, text: str, colour: str) -> None:
    axes.axhline(height, color=colour, linewidth=1.2, linestyle=":")
    axes.annotate(
        text, (0.01, height), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
        color=colour, fontsize=10.5,
    )  # fmt: skip


def _log_range(axes: Axes, low: float, high: float) -> None:
    """Plain numbers as ticks: a range of less than a factor of ten has no power of ten to label."""
    low, high = low / 1.05, high * 1.05
    steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9) if high < 4 * low else (1, 1.5, 2, 3, 4, 6, 8)
    steps = steps if high < 20 * low else (1, 2, 5)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    axes.set_ylim(low, high)
    _ticks(axes.yaxis, [x for d in decades for s in steps if low <= (x := s * 10.0**d) <= high])


def _ticks(axis: Axis, places: Sequence[float]) -> None:
    axis.set_major_locator(FixedLocator(list(places)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def _finish(figure: Figure, title: str, note: str) -> None:
    """Title above, note below, both at the left; the layout makes room for them."""
    width = figure.get_size_inches()[0]
    figure.suptitle(title, x=0.01, ha="left", fontsize=16, fontweight="bold")
    text = "\n".join(textwrap.wrap(note, int(13.5 * width)))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=10, color=_GREY)


def _save(figure: Figure, path: Path) -> None:
    """The same bytes for the same figure: matplotlib's version is left out of the file."""
    buffer = io.BytesIO()
    figure.set_dpi(150)
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
