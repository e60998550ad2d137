"""Two groups of words side by side (v1 Figure 7): distributions, medians and effect sizes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis.plotting import LOOKS, STYLE, Look, finish, legend_above, save
from analysis.routing.words.comparison import Comparison
from analysis.tables import write_csv

_VALUE = "Different experts of a word's sub-tokens, mean over MoE layers."
_BINS = 30
_SECOND = "#333333"  # a dashed outline, over the first group's filled one


class TwoGroups(NamedTuple):
    """A value for each word of two groups, and how they compare."""

    first: Sequence[float]
    second: Sequence[float]
    comparison: Comparison


def two_group_figure(
    panels: Mapping[str, TwoGroups],
    path: Path,
    *,
    title: str,
    names: tuple[str, str] = ("several senses", "one sense"),
    note: str = "",
    look: Look = LOOKS[1],
) -> None:
    """Write `path` (.png) and its .csv: the distributions of two groups of words, with medians and effect sizes.

    look: of the system; its colour fills the first group.
    """
    values = [value for panel in panels.values() for group in panel[:2] for value in group]
    low, high = min(values), max(values)
    reach = max(high - low, 1e-6)
    edges = np.linspace(low - 0.02 * reach, high + 0.02 * reach, _BINS + 1)
    rows: list[list[Any]] = []
    with style.context(STYLE):
        columns = 2 if len(panels) > 1 else 1
        lines = -(-len(panels) // columns)
        figure = Figure(figsize=(max(8.0, 6.8 * columns), 0.9 + 4.8 * lines), layout="constrained")
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, (name, panel) in zip(grid.flat[: len(panels)], panels.items(), strict=True):
            for i, group in enumerate(panel[:2]):
                colour, dashes = (look.colour, _SECOND)[i], ("-", "--")[i]
                share = np.histogram(group, edges)[0] / max(len(group), 1)
                median = float(np.median(group)) if len(group) else float("nan")
                label = f"{names[i]}: n = {len(group):,}, median {median:.2f}"
                if not i:
                    axes.stairs(share, edges, color=colour, fill=True, alpha=0.3)
                axes.stairs(share, edges, color=colour, linewidth=2.0, linestyle=dashes, label=label)
                axes.axvline(median, color=colour, linewidth=1.8, linestyle=dashes)
                rows += [
                    [name, names[i], float(a), float(b), float(s), len(group)]
                    for a, b, s in zip(edges[:-1], edges[1:], share, strict=True)
                ]
            legend_above(axes, f"{name}\n{effect_text(panel.comparison)}")
            axes.yaxis.set_major_locator(MaxNLocator(6))
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.set_xlabel("different experts")
        for axes in grid[:, 0]:
            axes.set_ylabel("share of the group's words")
        finish(figure, title, f"{_VALUE} {note} Vertical lines: medians.")
        save(figure, path)
    header = ["panel", "group", "from", "to", "share_of_words", "n"]
    write_csv(path, header, rows)


def effect_text(found: Comparison) -> str:
    """Difference of the means, effect size with interval, and p, in one line."""
    if found.difference is None:
        return "too few words to compare"
    reach = "" if found.d_low is None else f" [{found.d_low:+.2f}, {found.d_high:+.2f}]"
    size = "no spread" if found.cohens_d is None else f"d = {found.cohens_d:+.2f}{reach}"
    return f"difference {found.difference:+.3f}, {size}, p = {found.p_value:.2g}"
