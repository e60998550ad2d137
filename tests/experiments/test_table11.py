"""Table 11's page: every cell ours beside the printed one, and errata that follow from numbers."""

import copy
import dataclasses
from typing import Any

import pytest

from experiments.kinds.printed_sizes import cost_rows, printed_rows
from experiments.kinds.sizes import size_rows
from experiments.layers import HEADS, reference, table11_layer
from experiments.paper import paper_numbers
from experiments.report.errata import ERRATA
from experiments.report.render import render
from experiments.scales import CPU, PAPER, SMOKE
from experiments.systems import mhmoe
from experiments.table11_parameters import PAGE as TABLE11


def test_every_cell_of_the_language_tasks_is_within_a_million_and_the_multimodal_ones_are_not_made_up() -> None:
    rows = printed_rows(TABLE11.models, PAPER)
    language = [row for row in rows if row["task"] != "multimodal"]
    assert len(language) == 13 + 5 and all(abs(row["worst"]) < 1 for row in language)
    multimodal = [row for row in rows if row["task"] == "multimodal"]
    assert len(multimodal) == 5 and not any("sum_ours" in row for row in multimodal)
    printed = paper_numbers()["v1_table11_parameters_millions"]["multimodal"]
    assert [row["sum_paper"] for row in multimodal] == [
        printed["dense"],
        *(printed[kind][n][2] for kind in ("xmoe", "mhmoe") for n in ("8", "32")),
    ]


def test_numbers_of_experts_that_the_table_has_are_as_printed_and_others_are_solved() -> None:
    assert mhmoe(8, "parameters").layer(PAPER) == table11_layer(8)
    layer = mhmoe(12, "parameters").layer(PAPER)
    assert layer is not None and layer.parameters() == pytest.approx(reference(PAPER, 12).parameters(), rel=0.01)


def test_a_system_is_compared_with_the_x_moe_whose_size_it_has_whatever_its_name() -> None:
    system = mhmoe(32, "compute")
    named, renamed = size_rows([system, dataclasses.replace(system, name="another")], CPU)
    assert renamed == named and named["parameter_ratio"] == pytest.approx(1, abs=0.01)


def test_the_parts_of_the_cost_are_those_of_the_paper() -> None:
    d, experts = PAPER.model["hidden_size"], 8
    rows = {row["label"]: row for row in cost_rows([experts], PAPER)}
    smoe, control, equation = (rows[x] for x in ("SMoE", f"SMoE, k = {HEADS} (control)", "MH-MoE, `equation`"))
    assert smoe["of_experts"] == 2 * 8 * d * d and smoe["around"] == 0  # two matrices of d times 4d
    assert control["of_experts"] == HEADS * smoe["of_experts"]
    assert equation["around"] == 2 * 2 * d * d  # head and merge layer
    assert equation["of_experts"] < smoe["of_experts"] < equation["of_experts"] + equation["around"]
    assert rows["MH-MoE, `compute`"]["ratio"] == pytest.approx(1, abs=0.01)
    for row in rows.values():
        assert row["flops"] == row["router"] + row["of_experts"] + row["around"]
    assert rows["MH-MoE, `parameters`"]["parameters"] == pytest.approx(reference(PAPER, 8).parameters(), rel=1e-3)


CHANGES: list[tuple[str, tuple[Any, ...], Any]] = [
    ("Table 7", ("v1_table7_mlp_layers", "1"), [10.28, 53.0, 68.7, 51.1]),
    ("Section 4.3, XNLI", ("v1_table3_xnli_zero_shot", "mhmoe_8", 1), 99.0),
    ("Section 4.3, captions", ("v1_table4_vision_language", "mhmoe_8", 5), 40.0),
    ("Tables 2 and 3", ("v1_table3_xnli_zero_shot", "dense", 14), 40.0),
    ("Table 11, multimodal", ("v1_table11_parameters_millions", "multimodal", "xmoe", "32", 1), 2000),
    ("Table 9, Eq. 16, 23", ("v1_table11_parameters_millions", "english", "mhmoe", "8", 1), 300),
]


def test_an_erratum_is_no_row_that_finds_nothing_wrong() -> None:
    table11 = paper_numbers()["v1_table11_parameters_millions"]
    cells = [table11[task][kind] for task in ("english", "multilingual", "multimodal") for kind in ("xmoe", "mhmoe")]
    assert all(others + experts == whole for models in cells for others, experts, whole in models.values())
    assert not any("sum of the two" in erratum.statement for erratum in ERRATA)
    english = paper_numbers()["v1_table2_english_zero_shot"]  # where v1 says that MH-MoE is the best on all
    for n in ("8", "32"):
        pairs = zip(english[f"mhmoe_{n}"][:-1], english[f"xmoe_{n}"][:-1], strict=True)
        assert all(ours > theirs for ours, theirs in pairs)


def test_the_errata_say_what_was_read_in_the_texts() -> None:
    of = {(erratum.where, erratum.statement): erratum.finding() for erratum in ERRATA}
    frequency = of["Table 9", 'the "SMoE frequency", 2, is the value of k']
    assert "its 67 B d^2 for v1 are 67 with k = 1 and 130 with k = 2." in frequency
    cost = of["Appendix D", "MH-MoE costs less than SMoE"]
    assert "N/h where the 2 d of head and merge layer (Eq. 14, 17) belong" in cost
    (captions,) = [finding for (where, _), finding in of.items() if where == "Section 4.3, captions"]
    assert captions == "Table 4's numbers give 4.2%, 9.6% and 8.0%"


@pytest.mark.parametrize(("where", "path", "value"), CHANGES, ids=[change[0] for change in CHANGES])
def test_a_changed_number_changes_the_finding(where: str, path: Any, value: Any, monkeypatch) -> None:
    (erratum,) = [e for e in ERRATA if e.where == where]
    before = erratum.finding()
    numbers = copy.deepcopy(paper_numbers())
    place = numbers
    for key in path[:-1]:
        place = place[key]
    assert place[path[-1]] != value
    place[path[-1]] = value
    for module in ("report.errata", "layers"):
        monkeypatch.setattr(f"experiments.{module}.paper_numbers", lambda: numbers)
    assert erratum.finding() != before


@pytest.mark.parametrize("scales", [(SMOKE,), (SMOKE, PAPER)], ids=len)
def test_the_page_has_every_model_every_matching_and_every_erratum_whatever_is_rendered(scales, tmp_path) -> None:
    page = render(TABLE11, scales, tmp_path, tmp_path)[tmp_path / "table11_parameters.md"]
    lines = page.splitlines()
    assert sum(line.startswith("| english ") for line in lines) == 13
    for words in ("as printed", "equal parameters", "equal FLOPs"):
        assert sum(f"MH-MoE, {words} " in line for line in lines) == 6  # 8 to 256 experts
    for erratum in ERRATA:
        assert any(erratum.statement in line and erratum.finding() in line for line in lines)
    assert "## Scale smoke" not in page
