"""Figures of the routing: heatmaps, activation curves (v1 Figures 1a, 5), two groups of words (v1 Figure 7).

Every figure is a PNG with its numbers as CSV beside it. The colour map is cividis: even steps of lightness,
the same for colour-blind readers, and still in order when printed in grey.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis import figures
from analysis.render import csv_text
from analysis.routing_measures import Counts, Per, activation_curve, effective_experts, frequencies, load
from mhmoe.records import write_atomically

_MAP = colormaps["cividis"]
_MOST_NUMBERS = 12  # experts in a row whose cells still have room for a number
_ROOM = 1.35  # above the highest bar, for the legend
_FILLS = (0.38, 0.16)  # of two groups; in grey print their outlines tell them apart
_NULLS = ((0, (1, 1)), (0, (5, 1, 1, 1)))  # dashes of the thin lines
_THRESHOLDS = tuple(float(t) for t in np.logspace(-3, 1, 161))


class Panel(NamedTuple):
    """One heatmap: values [lines, experts], a name for each line, and what stands above."""

    values: npt.NDArray[np.float64]
    lines: Sequence[str]
    title: str


def activation_heatmaps(
    texts: Mapping[str, Mapping[str, Counts]],
    path: Path,
    *,
    title: str,
    note: str = "",
    per: Per = "token",
) -> None:
    """Write `path` (.png) and its .csv: how often each layer's experts are chosen.

    texts: name of the text -> system -> counts; a line of panels each, with one colour bar for all.
    per: selections per token, of which a layer makes h k, or per row, of which it makes k.
    """
    grid = [
        [
            Panel(frequencies(counts, per), _layers(counts), f"{system}\n{text}: {_effective(counts)}")
            for system, counts in systems.items()
        ]
        for text, systems in texts.items()
    ]
    bar = {"token": "selections per token", "row": "selections per sub-token or token"}[per]
    largest = max(float(panel.values.max()) for line in grid for panel in line)
    _heatmaps(grid, (largest / 50, largest), path, title=title, note=note, bar=bar, y_label="MoE layer")
    rows = [
        [text, system, str(layer + 1), str(expert), f"{value:.6g}"]
        for text, systems in texts.items()
        for system, counts in systems.items()
        for (layer, expert), value in np.ndenumerate(frequencies(counts, per))
    ]
    header = ["text", "system", "moe_layer", "expert", f"selections_per_{per}"]
    write_atomically(path.with_suffix(".csv"), csv_text([header, *rows]))


def group_heatmaps(
    systems: Mapping[str, Mapping[str, Counts]], path: Path, *, title: str, note: str = "", group: str = "language"
) -> None:
    """Write `path` (.png) and its .csv: each group's share of selections per expert; a line of panels a MoE layer.

    systems: system -> group -> counts. Colours and numbers are relative to experts that all get the same, which is 1
    for every k, h and number of experts; the CSV file has the shares themselves.
    """
    loads = {
        system: {name: load(counts) for name, counts in groups.items()} for system, groups in systems.items() if groups
    }
    layers = max(len(value) for groups in loads.values() for value in groups.values())
    grid = [
        [
            Panel(
                np.stack([value[layer] * len(value[layer]) for value in groups.values()]),
                tuple(groups),
                f"{system}\nMoE layer {layer + 1}",
            )
            for system, groups in loads.items()
        ]
        for layer in range(layers)
    ]
    reach = min(max(float(panel.values.max()) for line in grid for panel in line), 16.0)
    colours = (1 / reach, reach)  # the even share in the middle
    _heatmaps(grid, colours, path, title=title, note=note, bar=f"the {group}'s selections / even share", y_label=group)
    rows = [
        [system, name, str(layer + 1), str(expert), f"{value:.6g}"]
        for system, groups in loads.items()
        for name, values in groups.items()
        for (layer, expert), value in np.ndenumerate(values)
    ]
    header = ["system", group, "moe_layer", "expert", "share_of_selections"]
    write_atomically(path.with_suffix(".csv"), csv_text([header, *rows]))


def _layers(counts: Counts) -> list[str]:
    return [str(layer + 1) for layer in range(len(counts["selections"]))]


def _effective(counts: Counts) -> str:
    experts = np.shape(counts["selections"])[1]
    return f"{np.mean(effective_experts(counts)):.3g} of {experts} experts effective"


def _heatmaps(
    grid: Sequence[Sequence[Panel]],
    colours: tuple[float, float],
    path: Path,
    *,
    title: str,
    note: str,
    bar: str,
    y_label: str,
) -> None:
    """Panels in lines and columns, all in the colours of one bar, whose steps from lowest to highest are ratios."""
    lowest, highest = colours
    norm = LogNorm(lowest, highest, clip=True)
    columns = max(len(line) for line in grid)
    heights = [max(0.45 * max(len(panel.lines) for panel in line), 0.9) for line in grid]
    style = figures._STYLE | {"axes.grid": False, "axes.titlesize": 11.5, "axes.titlepad": 6}
    with rc_context(style):
        size = (1.6 + 3.6 * columns, 1.9 + sum(heights) + 0.95 * len(grid))
        figure = Figure(figsize=size, layout="constrained")
        all_axes = figure.subplots(len(grid), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
        for i, line in enumerate(grid):
            for j in range(columns):
                if j < len(line):
                    _heatmap(all_axes[i, j], line[j], norm)
                else:
                    all_axes[i, j].axis("off")
            all_axes[i, 0].set_ylabel(y_label)
        for j in range(columns):
            below = [axes for axes in all_axes[:, j] if axes.axison]
            below[-1].set_xlabel("expert")
        drawn = [axes for axes in all_axes.flat if axes.axison]
        aspect = max(14.0, 4 * size[1])
        colour_bar = figure.colorbar(drawn[0].collections[0], ax=drawn, label=bar, pad=0.01, aspect=aspect)
        steps = [step * 10.0**decade for decade in range(-6, 3) for step in (1, 2, 5)]
        figures._ticks(colour_bar.ax.yaxis, [step for step in steps if lowest <= step <= highest])
        colour_bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]  # the stub calls it a method
        figures._finish(figure, title, note)
        figures._save(figure, path)


def _heatmap(axes: Axes, panel: Panel, norm: Normalize) -> None:
    lines, experts = panel.values.shape
    axes.pcolormesh(panel.values, cmap=_MAP, norm=norm, edgecolors="white", linewidth=0.6 if experts <= 16 else 0)
    axes.invert_yaxis()
    axes.set_title(panel.title, loc="left")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_yticks(np.arange(lines) + 0.5, panel.lines)
    step = max(1, 2 ** int(np.ceil(np.log2(experts / 8))))
    axes.set_xticks(np.arange(0, experts, step) + 0.5, [str(e) for e in range(0, experts, step)])
    if experts <= _MOST_NUMBERS:
        for (line, expert), value in np.ndenumerate(panel.values):
            colour = "white" if norm(value) < 0.55 else "black"
            text = f"{value:.2f}".removeprefix("0") if value < 0.995 else f"{value:.1f}"
            axes.text(expert + 0.5, line + 0.5, text, ha="center", va="center", color=colour, fontsize=9.5)


def activation_curves(
    systems: Mapping[str, Sequence[Counts]],
    path: Path,
    *,
    title: str,
    note: str = "",
    thresholds: Sequence[float] = _THRESHOLDS,
    paper: Mapping[str, float] | None = None,
    nulls: Mapping[str, Mapping[str, Sequence[Counts]]] | None = None,
) -> None:
    """Write `path` (.png) and its .csv: the activation ratio against every threshold, per token and per row.

    systems: label -> counts of each seed. Lines are means over seeds, bands go from the lowest to the highest.
    nulls: name of a null ("untrained") -> the same of it; thin lines in the systems' colours, without bands.
    paper: text -> a printed ratio (0 to 1), drawn as a horizontal line in the first panel.
    """
    styles = figures._styles(systems)
    rows: list[list[str]] = []
    with rc_context(figures._STYLE):
        figure = Figure(figsize=(15.5, 5.4), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        views: tuple[tuple[Per, str], ...] = (("token", "per token"), ("row", "per routed row (sub-token or token)"))
        for axes, (per, name) in zip(panels, views, strict=True):
            largest = max((frequencies(c, per).max() for seeds in systems.values() for c in seeds), default=1.0)
            axes.set_xscale("log")
            axes.set_xlim(thresholds[0], min(thresholds[-1], max(1.0, 1.1 * float(largest))))
            axes.set_title(name, loc="left")
            axes.set_xlabel(f"threshold: selections of an expert {name.partition(' (')[0]}")
            for label, seeds in systems.items():
                if not seeds:
                    continue
                mean, low, high = _mean_low_high([activation_curve(counts, thresholds, per) for counts in seeds])
                line = {key: styles[label][key] for key in ("color", "linestyle")}
                axes.plot(thresholds, mean, label=f"{label} (n = {len(seeds)})", linewidth=2.2, **line)
                axes.fill_between(thresholds, low, high, color=line["color"], alpha=0.18, linewidth=0)
                rows += _curve_rows([label, "", per], str(len(seeds)), thresholds, mean, low, high)
            for dashes, (null, of_null) in zip(_NULLS, (nulls or {}).items(), strict=False):
                for label, seeds in of_null.items():
                    mean, low, high = _mean_low_high([activation_curve(counts, thresholds, per) for counts in seeds])
                    axes.plot(thresholds, mean, linewidth=1.2, color=styles[label]["color"], linestyle=dashes)
                    rows += _curve_rows([label, null, per], str(len(seeds)), thresholds, mean, low, high)
                axes.plot([], [], linewidth=1.2, color=figures._GREY, linestyle=dashes, label=null)
            axes.set_ylim(-0.02, 1.04)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        for text, height in (paper or {}).items():
            figures._reference(panels[0], height, text, figures._GREY)
        panels[0].set_ylabel("activation ratio\n(share of layer, expert cells above)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
        figures._finish(figure, title, f"{note} Lines: mean over seeds; bands: lowest to highest seed.".strip())
        figures._save(figure, path)
    header = ["label", "null", "per", "threshold", "ratio_mean", "ratio_lowest", "ratio_highest", "n"]
    write_atomically(path.with_suffix(".csv"), csv_text([header, *rows]))


def _mean_low_high(curves: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    """[3, thresholds], over the seeds' curves."""
    values = np.array(curves)
    return np.stack([values.mean(axis=0), values.min(axis=0), values.max(axis=0)])


def _curve_rows(names: Sequence[str], n: str, *columns: Sequence[float] | npt.NDArray[np.float64]) -> list[list[str]]:
    return [[*names, *(f"{value:.6g}" for value in row), n] for row in zip(*columns, strict=True)]


class TwoGroups(NamedTuple):
    """A value for each word of two groups, and what group_comparison.compare says of them."""

    first: Sequence[float]
    second: Sequence[float]
    comparison: Mapping[str, Any]


def two_group_figure(
    panels: Mapping[str, TwoGroups],
    path: Path,
    *,
    title: str,
    names: tuple[str, str] = ("several senses", "one sense"),
    x_label: str = "different experts of a word's sub-tokens, mean over MoE layers",
    note: str = "",
    bins: int = 30,
) -> None:
    """Write `path` (.png) and its .csv: the distributions of two groups of words, with medians and effect sizes."""
    values = [value for panel in panels.values() for group in panel[:2] for value in group]
    low, high = min(values), max(values)
    reach = max(high - low, 1e-6)
    edges = np.linspace(low - 0.02 * reach, high + 0.02 * reach, bins + 1)
    rows: list[list[str]] = []
    with rc_context(figures._STYLE):
        figure = Figure(figsize=(max(7.5, 5.4 * len(panels)), 5.4), layout="constrained")
        all_axes = np.atleast_1d(figure.subplots(1, len(panels), sharex=True, sharey=True))
        for axes, (name, panel) in zip(all_axes, panels.items(), strict=True):
            axes.set_title(f"{name}\n{effect_text(panel.comparison)}", loc="left", fontsize=12)
            for i, group in enumerate(panel[:2]):
                colour = figures._COLOURS[1 + i]
                share = np.histogram(group, edges)[0] / max(len(group), 1)
                axes.stairs(share, edges, color=colour, fill=True, alpha=_FILLS[i])
                median = float(np.median(group)) if len(group) else float("nan")
                label = f"{names[i]}: n = {len(group):,}, median {median:.2f}"
                axes.stairs(share, edges, color=colour, linewidth=2.0, linestyle=("-", "--")[i], label=label)
                axes.axvline(median, ymax=1 / _ROOM, color=colour, linewidth=1.8, linestyle=("-", "--")[i])
                rows += [
                    [name, names[i], f"{a:.6g}", f"{b:.6g}", f"{s:.6g}", str(len(group))]
                    for a, b, s in zip(edges[:-1], edges[1:], share, strict=True)
                ]
            axes.legend(loc="upper left")
            axes.yaxis.set_major_locator(MaxNLocator(6))
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            top = max(patch.get_data().values.max() for patch in axes.patches) if axes.patches else 1.0
            axes.set_ylim(0, max(axes.get_ylim()[1], _ROOM * top))
        all_axes[0].set_ylabel("share of the group's words")
        figure.align_labels()
        figures._finish(figure, title, f"{x_label[0].upper()}{x_label[1:]}. {note} Vertical lines: medians.")
        for axes in all_axes:
            axes.set_xlabel("different experts")
        figures._save(figure, path)
    header = ["panel", "group", "from", "to", "share_of_words", "n"]
    write_atomically(path.with_suffix(".csv"), csv_text([header, *rows]))


def effect_text(comparison: Mapping[str, Any]) -> str:
    """Difference of the means, effect size with interval, and p, in one line."""
    if comparison.get("difference") is None:
        return "too few words to compare"
    d, low, high = (comparison[name] for name in ("cohens_d", "d_low", "d_high"))
    size = "no spread" if d is None else f"d = {d:+.2f}" + ("" if low is None else f" [{low:+.2f}, {high:+.2f}]")
    return f"difference {comparison['difference']:+.3f}, {size}, p = {comparison['p_value']:.2g}"
