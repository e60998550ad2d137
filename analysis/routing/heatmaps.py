"""Heatmaps of the routing (v1 Figures 1a, 5), each a PNG with its numbers as CSV beside it.

Which number an expert has means nothing, so experts stand in an order that can be read; the CSV file has the numbers.
The colour map is cividis: even steps of lightness, the same for colour-blind readers, and in order in grey print.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from analysis.plotting import STYLE, finish, save, ticks
from analysis.routing.measures import Counts, effective_experts, frequencies, load
from analysis.tables import write_csv

_MAP = colormaps["cividis"]
_MOST_NUMBERS = 12  # experts in a row whose cells still have room for a number
_WIDTH = 13.0


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
) -> None:
    """Write `path` (.png) and its .csv: how often each layer's experts are chosen, from the most to the least.

    texts: name of the text -> system -> counts; a panel each, one below the other, with one colour bar for all.
    """
    grid = [
        [
            Panel(
                -np.sort(-frequencies(counts), axis=1),
                [str(layer + 1) for layer in range(len(counts.selections))],
                f"{system}, {text}: {_effective(counts)}",
            )
        ]
        for text, systems in texts.items()
        for system, counts in systems.items()
    ]
    largest = max(float(panel.values.max()) for line in grid for panel in line)
    labels = "experts of the layer, from the most to the least chosen", "MoE layer"
    _heatmaps(grid, (largest / 50, largest), path, title=title, note=note, bar="selections per token", labels=labels)
    rows = [
        [text, system, layer + 1, expert, float(value)]
        for text, systems in texts.items()
        for system, counts in systems.items()
        for (layer, expert), value in np.ndenumerate(frequencies(counts))
    ]
    header = ["text", "system", "moe_layer", "expert", "selections_per_token"]
    write_csv(path, header, rows)


def group_heatmaps(
    systems: Mapping[str, Mapping[str, Counts]], path: Path, *, title: str, note: str = "", group: str = "language"
) -> None:
    """Write `path` (.png) and its .csv: each group's share of selections per expert; a line of panels a system.

    systems: system -> group -> counts. Colours and numbers are relative to experts that all get the same, which is 1
    for every k, h and number of experts; the CSV file has the shares themselves. Experts stand in the order of the
    group that has most of them, and among those of a group by how much that is.
    """
    loads = {
        system: {name: load(counts) for name, counts in groups.items()} for system, groups in systems.items() if groups
    }
    grid = [
        [
            Panel(
                _by_busiest(np.stack([value[layer] * len(value[layer]) for value in groups.values()])),
                _without_common(list(groups)),
                f"{system}: MoE layer {layer + 1}",
            )
            for layer in range(len(next(iter(groups.values()))))
        ]
        for system, groups in loads.items()
    ]
    farthest = min(max(float(panel.values.max()) for line in grid for panel in line), 16.0)
    colours = (1 / farthest, farthest)  # the even share in the middle
    labels = f"experts of the layer, by the {group} that has most of them", group
    _heatmaps(grid, colours, path, title=title, note=note, bar=f"the {group}'s selections / even share", labels=labels)
    rows = [
        [system, name, layer + 1, expert, float(value)]
        for system, groups in loads.items()
        for name, values in groups.items()
        for (layer, expert), value in np.ndenumerate(values)
    ]
    header = ["system", group, "moe_layer", "expert", "share_of_selections"]
    write_csv(path, header, rows)


def _by_busiest(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[groups, experts] with the first group's experts first, those that it has most of before the others."""
    return values[:, np.lexsort((-values.max(axis=0), values.argmax(axis=0)))]


def _without_common(names: Sequence[str]) -> list[str]:
    """Names without the data set's, if they all begin with the same one: "bg" of "xnli_bg"."""
    same = len({name.partition("_")[0] for name in names}) == 1 < len(names)
    return [name.partition("_")[2] if same else name for name in names]


def _effective(counts: Counts) -> str:
    return f"{np.mean(effective_experts(counts)):.3g} of {counts.num_experts} experts effective"


def _heatmaps(
    grid: Sequence[Sequence[Panel]],
    colours: tuple[float, float],
    path: Path,
    *,
    title: str,
    note: str,
    bar: str,
    labels: tuple[str, str],
) -> None:
    """Panels in lines and columns, all in the colours of one bar, whose steps from lowest to highest are ratios."""
    lowest, highest = colours
    norm = LogNorm(lowest, highest, clip=True)
    columns = max(len(line) for line in grid)
    heights = [max(0.3 * max(len(panel.lines) for panel in line), 0.8) for line in grid]
    with style.context([STYLE, {"axes.grid": False, "axes.titlesize": 13, "axes.titlepad": 6}]):
        size = (_WIDTH, 1.9 + sum(heights) + 0.85 * len(grid))
        figure = Figure(figsize=size, layout="constrained")
        all_axes = figure.subplots(len(grid), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
        for i, line in enumerate(grid):
            for j in range(columns):
                if j < len(line):
                    _heatmap(all_axes[i, j], line[j], norm, named=j == 0)
                else:
                    all_axes[i, j].axis("off")
            all_axes[i, 0].set_ylabel(labels[1])
        for j in range(columns):
            below = [axes for axes in all_axes[:, j] if axes.axison]
            below[-1].set_xlabel(labels[0])
        drawn = [axes for axes in all_axes.flat if axes.axison]
        aspect = max(14.0, 3 * size[1])
        colour_bar = figure.colorbar(drawn[0].collections[0], ax=drawn, label=bar, pad=0.01, aspect=aspect)
        steps = [step * 10.0**decade for decade in range(-6, 3) for step in (1, 2, 5)]
        ticks(colour_bar.ax.yaxis, [step for step in steps if lowest <= step <= highest])
        colour_bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]  # the stub calls it a method
        finish(figure, title, note)
        save(figure, path)


def _heatmap(axes: Axes, panel: Panel, norm: Normalize, *, named: bool) -> None:
    lines, experts = panel.values.shape
    axes.pcolormesh(panel.values, cmap=_MAP, norm=norm, edgecolors="white", linewidth=0.6 if experts <= 64 else 0)
    axes.invert_yaxis()
    axes.set_title(panel.title, loc="left")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_yticks(np.arange(lines) + 0.5, panel.lines if named else [""] * lines)
    step = max(1, 2 ** int(np.ceil(np.log2(experts / 12))))
    places = [1, *range(step, experts + 1, step)] if step > 1 else range(1, experts + 1)
    axes.set_xticks(np.array(places) - 0.5, [str(place) for place in places])
    if experts <= _MOST_NUMBERS:
        for (line, expert), value in np.ndenumerate(panel.values):
            colour = "white" if norm(value) < 0.55 else "black"
            text = f"{value:.2f}".removeprefix("0") if value < 0.995 else f"{value:.1f}"
            axes.text(expert + 0.5, line + 0.5, text, ha="center", va="center", color=colour, fontsize=10.5)
