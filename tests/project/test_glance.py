"""Tables of differences in docs/results.md: what stands in a cell."""

import csv
import dataclasses
import json
import math
import statistics
from pathlib import Path

import pytest
from scipy import stats

from docs.glance import GLANCES, Difference, Glance, Where, cell, final, glance_markdown, ledger
from experiments.runner.store import Records
from experiments.scales import CPU

ROOT = Path(__file__).parents[2]
ROW = Difference("X-MoE to Dense", "xmoe_8", "dense")
HERE = Where("2M tokens", "cpu", "{}")


@pytest.fixture(scope="module")
def records():
    wanted = {("english", name) for name in ("xmoe_8", "dense", "null")}
    return [record for record in final(Records(CPU)) if (record.task, record.system) in wanted]


def test_a_cell_is_the_paired_difference_of_test_losses_with_its_interval(records):
    found: dict[str, dict[int, float]] = {"xmoe_8": {}, "dense": {}}
    for system, of_system in found.items():
        for path in (ROOT / "results" / "runs" / "cpu").glob(f"english-{system}-seed*.json"):
            record = json.loads(path.read_bytes())
            of_system[record["seed"]] = record["metrics"]["test"]["nll_per_token"]
    seeds = sorted(found["xmoe_8"].keys() & found["dense"].keys())
    differences = [found["xmoe_8"][seed] - found["dense"][seed] for seed in seeds]
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(seeds))
    reach = stats.t.ppf(0.975, len(seeds) - 1) * error
    percent = [100 * math.expm1(x) for x in (mean, mean - reach, mean + reach)]
    assert cell(HERE, ROW, records, {}) == "{:+.1f}% [{:.1f}, {:.1f}] ({})".format(*percent, len(seeds))


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        ("holds", " **holds**"),
        ("not reproduced", " **not reproduced**"),
        ("cannot tell", " not told"),
        ("not testable here", " not testable"),
    ],
)
def test_a_cell_ends_with_the_ledgers_verdict_on_just_that_claim(records, verdict: str, word: str):
    plain = cell(HERE, ROW, records, {})
    assert cell(HERE, ROW, records, {("cpu", "english", "xmoe_8", "dense"): {"verdict": verdict}}) == plain + word
    for other in (("long", "english", "xmoe_8", "dense"), ("cpu", "english", "dense", "xmoe_8")):
        assert cell(HERE, ROW, records, {other: {"verdict": verdict}}) == plain


def test_a_cell_of_fewer_than_two_common_seeds_says_so(records):
    one = [record for record in records if record.system == "dense" or record.seed == 1]
    assert cell(HERE, ROW, one, {}) == "one seed"
    assert cell(HERE, dataclasses.replace(ROW, first="xmoe_9"), records, {}) == "-"


def test_the_paper_s_percent_stands_beside_the_row_whose_claim_has_it(records):
    judged = {("cpu", "english", "xmoe_8", "dense"): {"paper_first": "15", "paper_second": "20"}}
    page = glance_markdown(Glance((HERE,), (ROW, Difference("x", "xmoe_8", "null")), True), {"cpu": records}, judged)
    assert [line.split("|")[2].strip() for line in page.splitlines() if line.startswith("| x") or "X-MoE" in line] == [
        "-25.0%",
        "-",
    ]


def test_a_claim_that_names_the_systems_in_the_other_order_says_the_opposite(tmp_path: Path):
    lines = ["scale,task,first,second,quantity,verdict,paper_first", "cpu,english,dense,xmoe_8,test perplexity,holds,1"]
    (tmp_path / "claims.csv").write_text("\n".join(lines))
    known = ledger(tmp_path / "claims.csv")
    assert known["cpu", "english", "dense", "xmoe_8"]["verdict"] == "holds"
    assert known["cpu", "english", "xmoe_8", "dense"] == {"verdict": "not reproduced"}


def test_the_ledger_s_table_for_programs_has_a_verdict_of_each_claim_on_test_perplexity():
    text = (ROOT / "results" / "claims.csv").read_text(encoding="utf-8")
    rows = [*csv.DictReader(text.splitlines())]
    counted = (ROOT / "results" / "claims.md").read_text(encoding="utf-8").partition("\n**")[2]
    assert counted.startswith(f"{sum(row['repeats'] == '' for row in rows)} claims: ")
    verdicts = [row["verdict"] for row in rows if row["repeats"] == ""]
    words = {"not reproduced": "not reproduced at this scale"}
    assert all(f" {verdicts.count(word)} {words.get(word, word)}" in counted for word in set(verdicts))


def test_the_systems_of_every_row_are_of_records_or_of_claims():
    known = {name for _, _, *pair in ledger() for name in pair} | {r.system for r in final(Records(CPU))}
    for name, glance in GLANCES.items():
        for row in glance.rows:
            forms = [tuple(column.form.format(side) for side in (row.first, row.second)) for column in glance.columns]
            assert any({*pair} <= known for pair in forms), (name, row.label)
