"""Our own numbers in docs/ are those of the committed results."""

from pathlib import Path

import pytest

from docs import numbers
from experiments.compare_systems import PAGE

TEXT = "| [Switch](x) | 2021 | <!-- ours: Switch -->old<!-- --> | <!-- ours: Kimi K3 -->old<!-- --> |"


def rows(*found: tuple[str, str]) -> list[dict[str, str]]:
    return [{"scale": "cpu", "label": label, "perplexity": p, "std": "0.4", "seeds": "3"} for label, p in found]


def test_the_page_shows_what_the_committed_results_say() -> None:
    for path in numbers.PAGES:
        page = path.read_text(encoding="utf-8")
        assert numbers.with_numbers(page, numbers.rows_of()) == page, "python -m docs.numbers writes it again"
    table = (
        numbers.PAGE.read_text(encoding="utf-8")
        .partition("## One row a system")[2]
        .partition("\n\nThe shared parts")[0]
    )
    systems = [line for line in table.splitlines() if line.startswith("| [")]
    assert len(systems) > 10 and all(numbers.CELL.search(line) for line in systems)


def test_every_cell_of_the_page_has_one_row_of_the_comparison() -> None:
    labels = rows(*((row.system.label, str(i)) for i, row in enumerate(PAGE.rows)))
    cells = [cell[2] for cell in numbers.CELL.finditer(numbers.PAGE.read_text(encoding="utf-8"))]
    found = [numbers.number(cell, labels) for cell in cells]
    assert len(set(found)) == len(cells) > 10 and numbers.NOT_RUN not in found


def test_a_cell_gets_mean_spread_and_seeds_of_its_own_row_and_the_rest_of_the_page_stays() -> None:
    found = numbers.with_numbers(TEXT, rows(("Switch, k = 1", "87.125"), ("Switched", "1")))
    assert found == TEXT.replace("Switch -->old", "Switch -->87.12 ± 0.40 (n = 3, cpu)").replace("old", "not run yet")


def test_a_label_that_means_two_rows_is_refused_and_an_exact_one_is_not() -> None:
    two = rows(("MH-MoE, 2 heads", "80"), ("MH-MoE, 3 heads", "81"))
    with pytest.raises(ValueError, match="begins the labels MH-MoE, 2 heads, MH-MoE, 3 heads; name one in full"):
        numbers.number("MH-MoE", two)
    assert numbers.number("MH-MoE", [*two, *rows(("MH-MoE", "79"))]).startswith("79.00")


def test_the_scale_with_the_most_numbers_counts_and_generated_text_does_not(tmp_path: Path) -> None:
    path = tmp_path / "compare_systems.csv"
    assert numbers.rows_of(path) == []
    found = ["smoke,Switch,9,,1", "cpu,Switch,8,,1", "long,Switch,,,", "long,GShard,not run,,", "long,GLaM,stale,,"]
    path.write_text("\n".join(["scale,label,perplexity,std,seeds", *found, ""]))
    (row,) = numbers.rows_of(path)
    assert row["scale"] == "cpu" and numbers.number("Switch", [row]) == "8.00 (n = 1, cpu)"
    for more, scale in (("long,Switch,7,,1", "long"), ("cpu,GShard,9,,1", "cpu")):
        found.append(more)
        path.write_text("\n".join(["scale,label,perplexity,std,seeds", *found, ""]))
        assert {row["scale"] for row in numbers.rows_of(path)} == {scale}
