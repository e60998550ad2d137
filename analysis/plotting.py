"""What all figures share: how a series looks, where titles, legends and notes stand, and how a file is written.

Colours are those of Okabe and Ito 2008, which colour-blind people tell apart; every series also has its own
marker and line style, so that it reads on a slide and in grey. No state is kept: figures are drawn without pyplot.
"""

import io
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from mhmoe.io import write_atomically
from mhmoe.layers.matching import in_words

GREY = "#555555"
MOST_COLUMNS = 3  # panels in a line
STYLE = Path(__file__).with_name("figures.mplstyle")


class Look(NamedTuple):
    """How a series looks. fill: of its markers, which tells the second (hollow) and the third (half) of a kind in a
    figure from the first, with the same colour and marker."""

    colour: str
    marker: str
    line: Any
    fill: Literal["full", "none", "left"] = "full"

    def second(self) -> "Look":
        return self._replace(line=(0, (2, 1)), fill="none")

    def third(self) -> "Look":
        return self._replace(line=(0, (5, 2)), fill="left")

    @property
    def points(self) -> dict[str, Any]:
        """Arguments of a plot of points."""
        face = "white" if self.fill == "none" else self.colour
        faces = {
            "markerfacecolor": face,
            "markerfacecoloralt": "white",
            "fillstyle": "left" if self.fill == "left" else "full",
        }
        return {"color": self.colour, "marker": self.marker, "markeredgewidth": 1.5, **faces}


LOOKS = tuple(
    Look(*look)
    for look in (
        ("#000000", "o", "-"),
        ("#0072B2", "s", "--"),
        ("#56B4E9", "^", (0, (1, 1))),
        ("#D55E00", "D", "-"),
        ("#009E73", "v", "-."),
        ("#E69F00", "P", (0, (5, 1, 1, 1, 1, 1))),
        ("#CC79A7", "<", (0, (3, 1))),
    )
)
_MARKERS = [look.marker for look in LOOKS]


def looks_of(labels: Iterable[str], given: Mapping[str, Look] | None = None) -> dict[str, Look]:
    """A look for every label: the given one, or the next that is free, from the last, which few systems have.

    Raises ValueError for more series than can be told apart.
    """
    names, given = list(dict.fromkeys(labels)), given or {}
    free = [look for look in LOOKS[::-1] if look not in given.values()]
    others = [name for name in names if name not in given]
    if len(others) > len(free):
        raise ValueError(f"{len(names)} series in one figure; at most {len(LOOKS)} can be told apart: use panels")
    return {**{name: given[name] for name in names if name in given}, **dict(zip(others, free, strict=False))}


class Point(NamedTuple):
    """One x with the mean over n runs and the range (or interval) that is drawn around it."""

    x: float
    mean: float
    low: float
    high: float
    n: int


def panels(n: int, columns: int, *, width: float, legend: int, share: bool = False) -> tuple[Figure, Any]:
    """A figure of that width in inches with room for a legend of so many lines above each panel, and its grid of
    axes; those beyond the first n stay empty."""
    lines = -(-n // columns)
    figure = Figure(figsize=(width, 0.8 + lines * (4.6 + 0.25 * legend)), layout="constrained")
    grid = figure.subplots(lines, columns, sharey=share, sharex=share, squeeze=False)
    for axes in grid.flat[n:]:
        axes.set_axis_off()
    return figure, grid


def draw(axes: Axes, line: Sequence[Point], look: Look, label: str, *, band: bool, factor: float = 1.0) -> None:
    """A line with a band or bars from low to high. factor: of x."""
    x, mean, low, high = (np.array([p[i] for p in line], dtype=float) for i in range(4))
    x = x * factor
    every = max(1, len(line) // 8) if band else 1
    first = _MARKERS.index(look.marker) % every  # so that the markers of close curves do not hide each other
    shown: Any = (first, every)
    axes.plot(x, mean, label=label, linewidth=2.2, markersize=6.5, markevery=shown, linestyle=look.line, **look.points)
    if band:
        axes.fill_between(x, low, high, color=look.colour, alpha=0.18, linewidth=0)
    else:
        axes.errorbar(x, mean, yerr=reach(line), fmt="none", ecolor=look.colour, capsize=4, linewidth=1.6)


def reach(line: Sequence[Point]) -> Any:
    """[2, points]: how far the bars reach below and above the means; 0 where there is no interval."""
    below_and_above = [[p.mean - p.low for p in line], [p.high - p.mean for p in line]]
    return np.nan_to_num(np.array(below_and_above, dtype=float).clip(min=0))


def reference(axes: Axes, height: float, text: str) -> None:
    """A dotted line that the legend explains."""
    axes.axhline(height, color=GREY, linewidth=1.4, linestyle=":", label=text)


def legend_above(axes: Axes, title: str = "", columns: int = 1) -> None:
    """Above the panel, where it hides nothing; its title stands for the panel's."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), title=title or None, alignment="left", ncols=columns)


def counts(line: Sequence[Point]) -> str:
    """ "n = 3", or the n of every point from left to right: "n = 5, 1, 3"; "not run" without points."""
    n = [p.n for p in sorted(line)]
    shown = n[:1] if len(set(n)) == 1 else n
    return f"n = {', '.join(map(str, shown))}" if n else "not run"


def log_range(axes: Axes, low: float, high: float) -> None:
    """Plain numbers as ticks: a range of less than a factor of ten has no power of ten to label."""
    low, high = low / 1.05, high * 1.05
    steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9) if high < 4 * low else (1, 1.5, 2, 3, 4, 6, 8)
    steps = (1, 1.1, 1.2, 1.3, 1.5, *range(2, 10), 6.5, 7.5, 8.5, 9.5) if high < 2 * low else steps
    steps = steps if high < 20 * low else (1, 2, 5)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    axes.set_ylim(low, high)
    ticks(axes.yaxis, [x for d in decades for s in steps if low <= (x := s * 10.0**d) <= high])


def ticks(axis: Axis, places: Sequence[float]) -> None:
    axis.set_major_locator(FixedLocator(list(places)))
    axis.set_minor_locator(NullLocator())
    plain_numbers(axis)


def few_ticks(axis: Axis) -> None:
    axis.set_major_locator(MaxNLocator(5))
    plain_numbers(axis)


def plain_numbers(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def y_label(axes: Axes, text: str) -> None:
    """In lines of about one length, none longer than a panel is high."""
    lines = -(-len(text) // 40)
    axes.set_ylabel("\n".join(textwrap.wrap(text, -(-len(text) // lines) + 4)))


def finish(figure: Figure, title: str, note: str) -> None:
    """Title above, note below, both at the left; the layout makes room for them."""
    width = figure.get_size_inches()[0]
    above = "\n".join(textwrap.wrap(title, int(6.6 * width)))
    figure.suptitle(above, x=0.01, ha="left", fontsize=16, fontweight="bold")
    text = "\n".join(textwrap.wrap(note, int(12.2 * width)))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=11, color=GREY)


_DRAWING = ContextVar("drawing", default=True)


@contextmanager
def without_pictures() -> Iterator[None]:
    """Figures write the numbers that they show and no picture, which takes most of the time."""
    token = _DRAWING.set(False)
    try:
        yield
    finally:
        _DRAWING.reset(token)


def save(figure: Figure, path: Path) -> None:
    """The same bytes for the same figure: matplotlib's version is left out of the file."""
    if not _DRAWING.get():
        return
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(without_markdown(text.get_text()))
    buffer = io.BytesIO()
    figure.set_dpi(150)
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def without_markdown(text: str) -> str:
    """Without the marks of code, stress and links, which labels have for the tables they also stand in."""
    return re.sub(r"`+|\*\*", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", in_words(text)))
