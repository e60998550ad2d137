"""Tables and figures show the records they are given, and say so where there are none."""

import csv
import dataclasses
import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analysis import figures
from analysis.figures import Panel, learning_curves, over_seeds, trend_figure
from analysis.perplexity import PERPLEXITY_COLUMNS, RowSpec, perplexity_table
from analysis.plotting import Point
from analysis.tables import Column, caption, filled, table_csv, table_markdown
from mhmoe.io import UserError
from tests.fake_records import record

ROWS = [
    RowSpec(system="dense", label="Dense", paper=16.0),
    RowSpec(system="moe", label="MoE | 8", paper=12.0),
]
RUNS = {
    "dense": [record("dense", s, 4.5) for s in range(3)],
    "moe": [record("moe", s, 4.4) for s in range(2)],
}


def cells(text):
    return list(csv.DictReader(io.StringIO(text)))


def change(ours, theirs):
    """In percent, of the means over common seeds."""
    by_seed = [{r.seed: r.metrics["test"]["perplexity"] for r in runs} for runs in (ours, theirs)]
    common = sorted(by_seed[0].keys() & by_seed[1].keys())
    mean, reference = (np.mean([of[seed] for seed in common]) for of in by_seed)
    return 100 * (mean / reference - 1)


def test_a_row_is_the_mean_and_spread_of_its_records():
    dense, moe = perplexity_table(ROWS, RUNS, reference="dense")
    values = [r.metrics["test"]["perplexity"] for r in RUNS["moe"]]
    assert (moe["perplexity"], moe["std"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert (moe["seeds"], moe["parameters"], moe["learning_rate"]) == ("2", 2_000_000, 0.004)
    assert moe["tokens_per_second"] == pytest.approx(10_000)
    assert moe["paper_difference"] == pytest.approx(100 * (moe["perplexity"] / 12 - 1))
    assert moe["change"] == pytest.approx(change(RUNS["moe"], RUNS["dense"]))
    assert (moe["paper_change"], dense["change"]) == (pytest.approx(-25.0), None)


def test_changing_a_record_changes_its_row_alone():
    before = perplexity_table(ROWS, RUNS)
    after = perplexity_table(ROWS, RUNS | {"moe": [record("moe", 0, 4.0), RUNS["moe"][1]]})
    assert before[0] == after[0]
    assert after[1]["perplexity"] < before[1]["perplexity"]


def test_a_row_without_records_prints_not_run():
    table = table_markdown(PERPLEXITY_COLUMNS, perplexity_table(ROWS, {"dense": RUNS["dense"]}, reference="dense"))
    assert "not run" in table.splitlines()[3]
    assert "not run" not in table.splitlines()[2]
    assert "nan" not in table


def test_a_column_without_any_value_is_left_out():
    columns, rows = (Column("a", "A"), Column("b", "B"), Column("c", "C")), [{"a": 1, "b": None, "c": None}, {"c": 2}]
    assert [column.key for column in filled(columns, rows)] == ["a", "c"]


def test_a_stale_record_is_shown_as_stale_and_enters_no_number():
    dense, moe = perplexity_table(ROWS, {"dense": RUNS["dense"][:2]}, {"dense": 1, "moe": 2}, reference="moe")
    assert moe["perplexity"] == "stale"
    assert dense["seeds"] == "2 (1 stale)"
    assert dense["perplexity"] == perplexity_table(ROWS, {"dense": RUNS["dense"][:2]})[0]["perplexity"]
    assert dense["change"] is None
    assert cells(table_csv(PERPLEXITY_COLUMNS, [moe]))[0]["perplexity"] == "stale"


def test_one_seed_has_no_standard_deviation_in_any_file():
    rows = perplexity_table(ROWS[:1], {"dense": RUNS["dense"][:1]})
    assert cells(table_csv(PERPLEXITY_COLUMNS, rows))[0]["std"] == ""
    assert "nan" not in table_markdown(PERPLEXITY_COLUMNS, rows)


def test_records_that_disagree_on_what_the_system_is_are_refused():
    odd = dataclasses.replace(record("dense", 9), parameters=3)
    with pytest.raises(UserError, match="records of dense disagree on parameters: 3, 2000000"):
        perplexity_table(ROWS, {"dense": [*RUNS["dense"], odd]})
    with pytest.raises(UserError, match="mixes records"):
        perplexity_table(ROWS, {"dense": [*RUNS["dense"], record("dense", 9, scale="gpu")]})
    with pytest.raises(UserError, match="both are dense, seed 0"):
        perplexity_table(ROWS, {"dense": [*RUNS["dense"], RUNS["dense"][0]]})


def test_markdown_is_aligned_and_escapes_what_would_break_it():
    rows = [
        {"name": "a|b", "value": 1234567},
        {"name": "c", "value": None},
        {"name": "d", "value": 5_000_000},
    ]
    columns = [Column("name", "name"), Column("value", "value", ",.2f", 1e-6, " M")]
    assert table_markdown(columns, rows, title="T", caption=["One.", "Two."]) == (
        "# T\n\nOne.\n\nTwo.\n\n"
        "| name |  value |\n"
        "| ---- | -----: |\n"
        "| a\\|b | 1.23 M |\n"
        "| c    |      - |\n"
        "| d    | 5.00 M |\n"
    )
    assert table_csv(columns, rows) == "name,value\na|b,1234567\nc,\nd,5000000\n"


def test_the_caption_says_scale_text_tokens_seeds_and_matching():
    text = " ".join(caption(RUNS["dense"], matching="parameters", sources=["Wikipedia", "books"]))
    assert text == ("Scale cpu; text: Wikipedia, books; 1,000,000 tokens a run; seeds 0, 1, 2. Equal size: parameters.")
    assert "No current records" in caption([], matching="parameters", sources=[])[0]


def test_the_caption_says_which_seeds_where_systems_have_other_ones():
    def seeds(**of: list[int]) -> str:
        runs = [record(system, seed) for system, several in of.items() for seed in several]
        return caption(runs, matching="r", sources=["s"])[0].partition("a run; ")[2]

    assert seeds(dense=[1], moe=[1]) == "seed 1."
    assert seeds(dense=[2, 1, 3], moe=[1, 2]) == "seeds 1, 2, 3, or the first n of them where n is less."
    assert seeds(dense=[1, 2], moe=[2, 3], other=[5]) == "seeds 1, 2 or 2, 3 or 5."


def test_a_curve_is_the_mean_and_range_of_its_seeds_where_all_were_evaluated():
    curves = [record("a", 0, curve=[5.0, 4.0]).curve, record("a", 1, curve=[5.2, 4.2]).curve]
    first, last = over_seeds(curves)
    assert (last.low, last.high, last.n) == (pytest.approx(np.exp(4.0)), pytest.approx(np.exp(4.2)), 2)
    assert last.mean == pytest.approx((np.exp(4.0) + np.exp(4.2)) / 2)
    assert first.x == 500_000
    assert over_seeds([curves[0], curves[1][:1]]) == [first]
    assert over_seeds([]) == []


def panels():
    runs = {
        label: [record("a", s, curve=np.linspace(6, final, 12).tolist()).curve for s in range(3)]
        for label, final in (("Dense", 4.5), ("MoE", 4.3))
    }
    return {"8 experts": runs, "32 experts": {"Dense": runs["Dense"], "MoE": []}}


def test_the_same_curves_give_the_same_files(tmp_path):
    for name in ("first", "second"):
        learning_curves(panels(), tmp_path / f"{name}.png", title="Curves")
    for suffix in ("png", "csv"):
        assert (tmp_path / f"first.{suffix}").read_bytes() == (tmp_path / f"second.{suffix}").read_bytes()
    with Image.open(tmp_path / "first.png") as image:
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert "Software" not in image.info


def test_the_points_of_a_figure_stand_beside_it(tmp_path):
    learning_curves(panels(), tmp_path / "curves.png", title="Curves")
    rows = cells((tmp_path / "curves.csv").read_text())
    assert len(rows) == 3 * 12  # the series that was not run has no points
    end = rows[11]
    assert (end["panel"], end["label"], end["tokens"], end["n"]) == ("8 experts", "Dense", "1000000", "3")
    assert float(end["perplexity_mean"]) == pytest.approx(np.exp(4.5), rel=1e-5)


def test_another_curve_gives_another_picture(tmp_path):
    learning_curves(panels(), tmp_path / "a.png", title="Curves")
    changed = panels()
    changed["32 experts"]["MoE"] = changed["8 experts"]["MoE"]
    learning_curves(changed, tmp_path / "b.png", title="Curves")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_a_figure_of_nothing_is_still_a_figure(tmp_path):
    learning_curves({"8 experts": {"Dense": []}}, tmp_path / "none.png", title="Nothing yet")
    trend_figure([Panel("y", {"Dense": []})], tmp_path / "trend.png", title="Nothing yet", x_label="x")
    for name in ("none", "trend"):
        with Image.open(tmp_path / f"{name}.png") as image:
            image.verify()


@pytest.mark.parametrize("count", [1, 3, 4, 5, 6])
def test_every_panel_of_a_trend_has_its_lines_and_no_other_place_is_drawn(count: int, tmp_path, monkeypatch):
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    series = {"MoE": [Point(1, 5.9, 4.0, 8.0, 3), Point(2, 6.0, 5.0, 7.0, 3)], "Dense": [Point(1, 6.0, 6.0, 6.0, 1)]}
    trend_figure([Panel(f"y{i}", series) for i in range(count)], tmp_path / "t.png", title="T", x_label="x")
    shown = [axes for axes in drawn[0].axes if axes.axison]
    assert [axes.get_ylabel() for axes in shown] == [f"y{i}" for i in range(count)]
    for axes in shown:
        lines = {
            str(line.get_label()): np.asarray(line.get_xdata()).tolist()
            for line in axes.lines
            if not str(line.get_label()).startswith("_")
        }
        assert lines == {"MoE (n = 3)": [1, 2], "Dense (n = 1)": [1]}


def test_a_trend_writes_its_points_and_draws_without_an_interval_where_there_is_none(tmp_path):
    series = {"MoE": [Point(96, 5.9, 4.0, 8.0, 3), Point(24, 11.6, float("nan"), float("nan"), 1)]}
    panels = [Panel("y", series), Panel("z", {"Dense": []}, reference={"paper": 3.0})]
    trend_figure(panels, tmp_path / "t.png", title="T", x_label="x", log_x=True)
    assert cells((tmp_path / "t.csv").read_text())[0] == {
        "panel": "y", "label": "MoE", "x": "24", "mean": "11.6", "low": "nan", "high": "nan", "n": "1",
    }  # fmt: skip


def test_a_figure_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*taken\.png"):
        learning_curves(panels(), tmp_path / "taken.png", title="Curves")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]


def test_more_series_than_can_be_told_apart_are_refused(tmp_path):
    with pytest.raises(ValueError, match="8 series in one figure; at most 7"):
        learning_curves({"p": {str(i): [] for i in range(8)}}, tmp_path / "x.png", title="Too many")


def test_a_row_with_a_reference_of_its_own_is_compared_with_that_one():
    rows = [*ROWS, RowSpec(system="dense2", label="Dense, twice", reference="moe")]
    runs = RUNS | {"dense2": [dataclasses.replace(r, system="dense2") for r in RUNS["dense"]]}
    dense, moe, twice = perplexity_table(rows, runs, reference="dense")
    assert twice["change"] == pytest.approx(change(RUNS["dense"], RUNS["moe"]))
    assert moe["change"] == pytest.approx(change(RUNS["moe"], RUNS["dense"]))
    assert dense["change"] is None


def test_a_change_is_over_the_seeds_that_both_have():
    odd = [dataclasses.replace(r, seed=r.seed + 100) for r in RUNS["dense"]]
    _, moe = perplexity_table(ROWS, RUNS | {"dense": odd}, reference="dense")
    assert moe["change"] is None and moe["perplexity"] > 0
