"""What people see: looks, legends, captions, and the order of a heatmap's experts."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import figures, ranking, waterfall
from analysis.figures import Panel, category_figure, learning_curves, trend_figure
from analysis.plotting import LOOKS, Point, counts, looks_of, save, without_pictures
from analysis.ranking import ranking_figure
from analysis.routing import activation_figure, heatmaps
from analysis.routing.heatmaps import activation_heatmaps, group_heatmaps
from analysis.routing.measures import Counts
from analysis.routing.words import figure as word_figure
from analysis.routing.words.comparison import Comparison
from analysis.routing.words.figure import TwoGroups, two_group_figure
from analysis.waterfall import waterfall_figure
from experiments.kinds.curves import Curves
from experiments.kinds.routing import RoutingFigure
from experiments.kinds.table import Table
from experiments.kinds.words import WordsFigure
from experiments.report.looks import ROLES, each_role_once, looks
from experiments.system import System
from experiments.systems import dense, mhmoe, xmoe

EXPERIMENTS = [
    import_module(f"experiments.{path.stem}").PAGE
    for path in sorted((Path(__file__).parents[2] / "experiments").glob("*.py"))
    if "\nPAGE" in path.read_text(encoding="utf-8")
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved, laid out."""
    found: list[Figure] = []

    def keep(figure: Figure, path: Path) -> None:
        FigureCanvasAgg(figure).draw()
        found.append(figure)

    for module in (figures, heatmaps, activation_figure, word_figure, ranking, waterfall):
        monkeypatch.setattr(module, "save", keep)
    return found


# ---- looks ----------------------------------------------------------------------------------


def shown() -> Iterator[dict[str, System]]:
    """The labelled systems of every figure that draws systems."""
    for experiment in EXPERIMENTS:
        if isinstance(experiment, Curves):
            yield from (dict(panel) for panel in experiment.panels.values())
        if isinstance(experiment, RoutingFigure | WordsFigure):
            yield dict(experiment.systems)
        if isinstance(experiment, Table) and experiment.trend is not None:
            places = range(max(len(series) for series in experiment.trend.series.values()))
            for i in places:
                yield {label: series[i][1] for label, series in experiment.trend.series.items() if i < len(series)}
        if isinstance(experiment, Table) and experiment.task == "multilingual":
            for part in each_role_once([row.system for row in experiment.rows]):
                yield {system.label: system for system in part}


def test_a_system_has_one_colour_and_one_marker_in_all_figures():
    found: dict[str, set[tuple[str, str]]] = {}
    for systems in shown():
        for label, look in looks(systems).items():
            found.setdefault(systems[label].name, set()).add((look.colour, look.marker))
        assert looks(systems).keys() == systems.keys()  # none is left to chance
    assert len(found) > 25
    assert {name: several for name, several in found.items() if len(several) > 1} == {}


def test_roles_differ_in_colour_and_marker_and_are_dark_enough_on_white():
    assert set(ROLES.values()) <= set(LOOKS)
    assert len({look.colour for look in LOOKS}) == len({look.marker for look in LOOKS}) == len(LOOKS)
    assert max(np.dot(to_rgb(look.colour), (0.299, 0.587, 0.114)) for look in LOOKS) < 0.75


def test_of_a_role_the_second_is_hollow_the_third_half_filled_and_all_of_one_colour():
    several = {f"h = {h}": mhmoe(8, "parameters", h) for h in (2, 4, 6, 8)}
    found = looks({**several, "dense": dense()})
    assert found.keys() == {"h = 2", "h = 4", "h = 6", "dense"}
    first, second, third, _ = found.values()
    assert len({(look.colour, look.marker) for look in (first, second, third)}) == 1
    assert len({look.line if isinstance(look.line, str) else tuple(look.line) for look in (first, second, third)}) == 3
    assert second.points["markerfacecolor"] == "white" != first.points["markerfacecolor"]
    assert [look.points["fillstyle"] for look in (first, second, third)] == ["full", "full", "left"]


def test_what_has_no_role_takes_a_look_that_no_other_series_has():
    found = looks_of(["a", "X-MoE", "b"], looks({"X-MoE": xmoe(8)}))
    assert found["X-MoE"] == ROLES["xmoe"] and len(set(found.values())) == 3


# ---- texts ----------------------------------------------------------------------------------


def test_no_text_of_a_figure_has_marks_of_markdown(tmp_path: Path):
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1], [1], label="MH-MoE, `compute` (2 * 3)")
    axes.legend()
    axes.set_title("**T** of [a page](page.md)")
    save(figure, tmp_path / "f.png")
    texts = {text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)}
    assert {"MH-MoE, equal FLOPs (2 * 3)", "T of a page"} <= texts and not any("`" in text for text in texts)


def test_a_legend_gives_the_n_of_every_point_where_they_differ():
    def line(*n: int) -> list[Point]:
        return [Point(x, 0, 0, 0, of) for x, of in enumerate(n)]

    assert [counts(line(*n)) for n in ((3, 3), (5, 1, 3), (1,), ())] == ["n = 3", "n = 5, 1, 3", "n = 1", "not run"]
    assert counts(line(5, 1, 3)[::-1]) == "n = 5, 1, 3"


def _curves() -> dict[str, dict[str, list[list[dict[str, float]]]]]:
    curve = [{"tokens": 1e5 * i, "valid_nll": 6.0 / i} for i in range(1, 9)]
    return {f"{n} experts": {f"MH-MoE, equal parameters {i}": [curve] * 3 for i in range(5)} for n in (8, 32)}


def _line(n: int) -> list[Point]:
    return [Point(x, x, x - 1, x + 1, n) for x in range(6)]


def test_legends_stand_outside_the_data_and_inside_the_figure(drawn: list[Figure], tmp_path: Path):
    learning_curves(_curves(), tmp_path / "a.png", title="T")
    long = {f"MH-MoE, equal parameters {i}": [p._replace(n=1 + j) for j, p in enumerate(_line(1))] for i in range(3)}
    trend_figure([Panel("y", long)] * 5, tmp_path / "b.png", title="T", x_label="x")
    half = [
        Panel("y", {f"MH-MoE, 32 experts, h = 4, {s}, {i}": _line(3) for i in "abc"}, reference={"r": 0.0})
        for s in "xy"
    ]
    category_figure(half, [*"abcdef"], tmp_path / "c.png", title="T", x_label="x")
    effect = Comparison(
        n=(3, 2), paired=False, resamples=9, difference=-0.001, cohens_d=-0.02, d_low=-0.1, d_high=0.1, p_value=0.04
    )
    words = {name: TwoGroups([1, 2, 3], [1.5, 2.5], effect) for name in ("trained, matched pairs", "b", "c", "d")}
    two_group_figure(words, tmp_path / "d.png", title="T")
    assert len(drawn) == 4
    for figure in drawn:
        boxes = [axes.get_window_extent() for axes in figure.axes if axes.axison]
        for axes in figure.axes:
            if (legend := axes.get_legend()) is not None:
                box = legend.get_window_extent()
                assert not any(box.shrunk(0.98, 0.9).overlaps(other) for other in boxes)
                assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1


def test_a_long_title_is_wrapped_into_the_figure(drawn: list[Figure], tmp_path: Path):
    trend_figure([Panel("y", {"a": _line(3)})], tmp_path / "a.png", title="a title of many words " * 6, x_label="x")
    title = next(text for text in drawn[0].findobj(Text) if isinstance(text, Text) and "a title" in text.get_text())
    assert title.get_window_extent().x1 <= drawn[0].bbox.x1


# ---- heatmaps -------------------------------------------------------------------------------


def _counts(selections: list[list[int]]) -> Counts:
    tokens = sum(selections[0])
    return Counts(
        tokens=tokens, rows_per_token=1, top_k=1, selections=selections, probability=[], distinct=[[0, tokens]]
    )


def _cells(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axes.collections[0].get_array()) for axes in figure.axes if axes.get_title(loc="left")]


def test_the_experts_of_a_heatmap_stand_in_order_of_use_and_the_file_has_their_numbers(drawn, tmp_path: Path):
    activation_heatmaps({"t": {"s": _counts([[1, 5, 4], [8, 0, 2]])}}, tmp_path / "h.png", title="T")
    (cells,) = _cells(drawn[0])
    assert cells.tolist() == [[0.5, 0.4, 0.1], [0.8, 0.2, 0.0]]
    rows = [line.split(",")[2:] for line in (tmp_path / "h.csv").read_text().splitlines()[1:]]
    assert rows[:3] == [["1", "0", "0.1"], ["1", "1", "0.5"], ["1", "2", "0.4"]]


def test_experts_by_group_stand_behind_the_group_that_has_most_of_them(drawn, tmp_path: Path):
    groups = {"xnli_bg": _counts([[1, 2, 7, 0]]), "xnli_de": _counts([[8, 1, 0, 1]])}
    group_heatmaps({"s": groups}, tmp_path / "g.png", title="T")
    (cells,) = _cells(drawn[0])
    assert (cells / 4).tolist() == [[0.7, 0.2, 0.1, 0.0], [0.0, 0.1, 0.8, 0.1]]
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["bg", "de"]


# ---- many systems, ranked -------------------------------------------------------------------


def test_a_ranking_shows_the_best_first_with_every_seed_and_what_it_costs(drawn: list[Figure], tmp_path: Path) -> None:
    seeds = {"theirs": {1: 93.0, 2: 91.0}, "ours": {1: 90.0, 2: 91.0, 3: 99.0}}  # the third is hard for all
    costs = {"FLOPs": {"ours": 2.0, "theirs": 4.0}, "seconds": {"theirs": 3.0}}  # ours was not timed
    ranking_figure(seeds, costs, tmp_path / "a.png", title="Title", measure="perplexity", stressed=["ours"])
    ranked, flops, seconds = drawn[0].axes
    labels = ranked.get_yticklabels()
    assert [label.get_text() for label in labels] == ["ours (n = 3)", "theirs (n = 2)"]
    assert [to_rgb(label.get_color()) for label in labels] == [to_rgb(ranking.STRESSED), to_rgb("#000000")]
    assert labels[0].get_window_extent().y0 > labels[1].get_window_extent().y1  # the best on top
    points = [sorted(np.atleast_1d(line.get_xdata())) for line in ranked.get_lines()]
    assert points == [[90, 99], [90, 91, 99], [90.5], [91, 93], [91, 93], [92]]  # range, seeds, mean
    bars: list[list[Any]] = [[*axes.patches] for axes in (flops, seconds)]
    assert [bar.get_width() for bar in bars[0]] == [2.0, 4.0]
    assert [(bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in bars[1]] == [(3.0, 1.0)]
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        "place,label,mean,low,high,n,FLOPs,seconds",
        "1,ours,90.5,90,91,2,2,",
        "2,theirs,92,91,93,2,4,3",
    ]


@pytest.mark.parametrize("systems", [1, 2, 20])
def test_the_title_of_a_ranking_does_not_run_into_its_labels(drawn: list[Figure], tmp_path: Path, systems: int) -> None:
    label = "MH-MoE, FLOPs and parameters of X-MoE with {} experts, tuned"
    seeds = {label.format(8 + i): {1: 1.0 + i} for i in range(systems)}
    title = "Systems of the field at equal FLOPs: test perplexity and what they cost"
    ranking_figure(seeds, {"x": dict.fromkeys(seeds, 1.0)}, tmp_path / "a.png", title=title, measure="perplexity")
    (figure,) = drawn
    above = next(text for text in figure.findobj(Text) if isinstance(text, Text) and title in text.get_text())
    for label in figure.axes[0].get_yticklabels():
        assert not label.get_window_extent().overlaps(above.get_window_extent())
        assert label.get_window_extent().x0 >= 0


# ---- a waterfall, and none drawn ------------------------------------------------------------


@pytest.mark.parametrize("label", ["c", "head and merge layers learn at a tenth of the rate of all others"])
def test_the_numbers_of_a_waterfall_stand_inside_it(drawn: list[Figure], tmp_path: Path, label: str) -> None:
    steps = [
        ("a", Point(0, 95, 93, 96, 5)),
        ("b", Point(0, 94, 93.5, 94.5, 5)),
        (label, None),
        ("d", Point(0, 89, 89, 89, 1)),
    ]
    waterfall_figure(steps, tmp_path / "w.png", title="T", x_label="x")
    (axes,) = drawn[0].axes
    frame = axes.get_window_extent()
    assert len(axes.texts) == 3
    for text in axes.texts:
        box = text.get_window_extent()
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1


def test_without_pictures_a_figure_leaves_its_numbers_alone(tmp_path: Path) -> None:
    def draw(folder: Path) -> list[str]:
        trend_figure([Panel("y", {"a": _line(3)})], folder / "a.png", title="T", x_label="x")
        return sorted(path.name for path in folder.iterdir())

    for folder in (tmp_path / "with", tmp_path / "without"):
        folder.mkdir()
    assert draw(tmp_path / "with") == ["a.csv", "a.png"]
    with without_pictures():
        assert draw(tmp_path / "without") == ["a.csv"]
    assert (tmp_path / "with" / "a.csv").read_bytes() == (tmp_path / "without" / "a.csv").read_bytes()


def test_a_waterfall_leaves_room_for_the_number_of_its_lowest_value(drawn: list[Figure], tmp_path: Path) -> None:
    steps = [(label, Point(0.0, y, y, y, 1)) for label, y in (("begin", 95.0), ("lowest", 83.0), ("end", 89.0))]
    waterfall.waterfall_figure(steps, tmp_path / "a.png", title="Title", x_label="perplexity")
    (axes,) = drawn[0].axes
    assert axes.get_xlim()[0] <= 83.0 - 0.1 * (95.0 - 83.0)


@pytest.mark.parametrize("longest", [20, 52, 60, 80])
def test_legends_over_places_are_whole_and_leave_panels_their_width(
    longest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    series = {f"{letter}{'e' * (longest - 8)}": [Point(0, 1.0, 0.5, 1.5, 3)] for letter in "abcde"}
    category_figure([Panel("y", series)], ["de", "en"], tmp_path / "c.png", title="T", x_label="x")
    (figure,) = drawn
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend is not None and legend.get_window_extent().x1 <= figure.bbox.x1
    assert axes.get_window_extent().width > 0.8 * figure.bbox.width
