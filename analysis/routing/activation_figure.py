"""The activation ratio against every threshold, as the papers print no threshold (v1 Figures 1a, 5)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis.plotting import GREY, STYLE, Look, finish, looks_of, save
from analysis.routing.measures import Counts, Per, activation_curve, frequencies
from analysis.tables import write_csv

_NULLS = ((0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))  # dashes of the thin lines
_THRESHOLDS = tuple(float(t) for t in np.logspace(-3, 1, 161))


def activation_curves(
    systems: Mapping[str, Sequence[Counts]],
    path: Path,
    *,
    title: str,
    note: str = "",
    thresholds: Sequence[float] = _THRESHOLDS,
    paper: Mapping[str, float] | None = None,
    nulls: Mapping[str, Mapping[str, Sequence[Counts]]] | None = None,
    looks: Mapping[str, Look] | None = None,
) -> None:
    """Write `path` (.png) and its .csv: the activation ratio against every threshold, per token and per row.

    systems: label -> counts of each seed. Lines are means over seeds, bands go from the lowest to the highest.
    nulls: name of a null ("untrained") -> the same of it; thin lines in the systems' colours, without bands.
    paper: text -> a printed ratio (0 to 1), drawn as a horizontal line in the first panel. looks: of the labels.
    """
    styles = looks_of(systems, looks)
    rows: list[list[str]] = []
    with style.context(STYLE):
        figure = Figure(figsize=(15.5, 5.8), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        views: tuple[tuple[Per, str], ...] = (("token", "per token"), ("row", "per routed row (sub-token or token)"))
        for axes, (per, name) in zip(panels, views, strict=True):
            largest = max((frequencies(c, per).max() for seeds in systems.values() for c in seeds), default=1.0)
            axes.set_xscale("log")
            axes.set_xlim(thresholds[0], min(thresholds[-1], max(1.0, 1.1 * float(largest))))
            axes.set_title(name, loc="left")
            axes.set_xlabel(f"threshold (selections of an expert {name.partition(' (')[0]})")
            for label, seeds in systems.items():
                if not seeds:
                    continue
                mean, low, high = _mean_low_high([activation_curve(counts, thresholds, per) for counts in seeds])
                look, text = styles[label], f"{label} (n = {len(seeds)})"
                axes.plot(thresholds, mean, label=text, linewidth=2.2, color=look.colour, linestyle=look.line)
                axes.fill_between(thresholds, low, high, color=look.colour, alpha=0.18, linewidth=0)
                rows += _curve_rows([label, "", per], str(len(seeds)), thresholds, mean, low, high)
            for dashes, (null, of_null) in zip(_NULLS, (nulls or {}).items(), strict=False):
                for label, seeds in of_null.items():
                    mean, low, high = _mean_low_high([activation_curve(counts, thresholds, per) for counts in seeds])
                    axes.plot(thresholds, mean, linewidth=1.2, color=styles[label].colour, linestyle=dashes)
                    rows += _curve_rows([label, null, per], str(len(seeds)), thresholds, mean, low, high)
                axes.plot([], [], linewidth=1.2, color=GREY, linestyle=dashes, label=null)
            axes.set_ylim(-0.02, 1.04)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        for text, height in (paper or {}).items():
            panels[0].axhline(height, color=GREY, linewidth=1.4, linestyle=":")
            beside = (1.01, height)
            panels[0].annotate(
                text.replace(" in ", "\nin "), beside, xycoords=("axes fraction", "data"), color=GREY, fontsize=10.5,
                va="center", annotation_clip=False,
            )  # fmt: skip
        panels[0].set_ylabel("activation ratio\n(share of layer, expert cells above)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
        finish(figure, title, f"{note} Lines: mean over seeds; bands: lowest to highest seed.".strip())
        save(figure, path)
    header = ["label", "null", "per", "threshold", "ratio_mean", "ratio_lowest", "ratio_highest", "n"]
    write_csv(path, header, rows)


def _mean_low_high(curves: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    """[3, thresholds], over the seeds' curves."""
    values = np.array(curves)
    return np.stack([values.mean(axis=0), values.min(axis=0), values.max(axis=0)])


def _curve_rows(names: Sequence[str], n: str, *columns: Sequence[float] | npt.NDArray[np.float64]) -> list[list[str]]:
    return [[*names, *(f"{value:.6g}" for value in row), n] for row in zip(*columns, strict=True)]
