"""A page of texts: a table a text, what is not measured is said, and other rows at the paper scale."""

import dataclasses
from pathlib import Path

import pytest

from analysis.texts import TextLoss, TextLosses
from experiments.kinds import testbed
from experiments.kinds.texts import TEXT_LOSSES, TextRow, TextsTable
from experiments.report.render import render, verdicts
from experiments.runner.measurements import save as save_measured
from experiments.runner.store import Records
from experiments.scales import PAPER
from experiments.systems import dense, mhmoe, null, xmoe
from experiments.testbed import PUBLISHED
from experiments.v2 import above
from tests.fake_records import PROVENANCE
from tests.forged import forged, save
from tests.mini import MINI, at_rate

SCALE = dataclasses.replace(at_rate(MINI, 0.01), seeds=(1, 2, 3))
AT = ("v2_table1_no_shared_expert", "100000")
ROWS = [
    TextRow(system=dense(), paper=[(*AT, "dense", i) for i in range(3)]),
    TextRow(system=xmoe(8), paper=[(*AT, "smoe", i) for i in range(3)]),
    TextRow(system=null()),
]
PAGE = TextsTable(
    slug="texts",
    title="Texts",
    texts={"books": "RedPajama", "Wikipedia": "Wikipedia", "web": "C4"},
    rows=ROWS,
    as_printed=[TextRow(system=mhmoe(8, "parameters")), TextRow(system=mhmoe(8, "compute"))],
    reference=1,
    measurements=(TEXT_LOSSES,),
    claims=[
        *above(ROWS[0], ROWS[1], arm="published", table="v2 Table 1"),
        *above(ROWS[1], TextRow(system=mhmoe(8, "compute")), arm="published", table="v2 Table 1"),
    ],
)
TESTBED = testbed.Testbed(slug="testbed", title="Testbed", arms=[dataclasses.replace(PUBLISHED, many=None, others=())])
LOSSES = {"dense": 4.6, "xmoe_8": 4.4, "null": 4.9}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """All runs, and what was measured on the models of two systems."""
    for run in PAGE.runs(SCALE, SCALE.seeds, Records(SCALE, tmp_path)):
        record = forged(run, LOSSES[run.system.name])
        save(record, tmp_path)
        if run.system.name != "null":
            own = 0.001 * (run.seed % 2) if run.system.name == "dense" else 0.0
            nll = LOSSES[run.system.name] + 0.01 * run.seed + own
            save_measured(TEXT_LOSSES, record, losses(nll), PROVENANCE, tmp_path)
    return tmp_path


def losses(nll: float) -> TextLosses:
    each = {name: nll + more for name, more in (("books", 0.0), ("Wikipedia", 0.1), ("web", 0.2))}
    return TextLosses(
        texts={
            name: TextLoss(nll_per_token=value, bits_per_byte=value / 3, tokens=10, documents=2)
            for name, value in each.items()
        }
    )


def test_every_text_has_its_table_with_changes_of_ours_and_of_the_paper(results: Path) -> None:
    found = PAGE.section(SCALE, Records(SCALE, results), results)
    assert found is not None
    rows = {(row["text"], row["system"]): row for row in found.rows}
    assert len(rows) == len(found.rows) == 9
    assert rows["books", "dense"]["change"] == pytest.approx(100 * 0.2214, rel=1e-2)  # e^0.2
    assert rows["web", "dense"]["paper"] == 16.21 and rows["web", "xmoe_8"]["paper"] == 14.35
    assert rows["web", "dense"]["paper_change"] == pytest.approx(100 * (16.21 / 14.35 - 1))
    assert rows["web", "xmoe_8"]["perplexity"] > rows["books", "xmoe_8"]["perplexity"]
    assert rows["books", "xmoe_8"]["change"] is None and rows["books", "dense"]["seeds"] == 3


def test_what_was_not_measured_is_said(results: Path) -> None:
    text = "".join(render(PAGE, [SCALE], results, results).values())
    line = next(line for line in text.splitlines() if line.startswith("| no layer"))
    assert "not measured" in line and "nan" not in text
    assert "### books (the paper's: RedPajama)" in text and "### Sizes, and `test` of the training text" in text


def test_a_claim_is_asked_only_where_its_systems_are(results: Path) -> None:
    found = verdicts([PAGE, TESTBED], [SCALE], results)
    assert len(found) == 1 + 3 and {verdict.verdict for verdict in found} == {"holds"}
    assert (found[0].claim.paper, found[1].claim.paper) == (None, (12.13, 10.90))
    assert PAGE.claims_at(PAPER) == []


def test_the_paper_scale_has_rows_of_its_own(tmp_path: Path) -> None:
    assert [row.system.name for row in PAGE.rows_at(PAPER)] == ["mhmoe_8_parameters", "mhmoe_8_compute"]
    runs = PAGE.runs(PAPER, PAPER.seeds, Records(PAPER, tmp_path))
    assert {run.system.name for run in runs} == {"mhmoe_8_parameters", "mhmoe_8_compute"}
    assert PAGE.section(PAPER, Records(PAPER, tmp_path), tmp_path) is None
