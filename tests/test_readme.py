"""What the README says in prose is what the committed tables give."""

import csv
import json
import math
import re
from pathlib import Path

from analysis.statistics import paired_difference

ROOT = Path(__file__).parents[1]


def changes() -> dict[str, float]:
    """Percent above X-MoE with 8 experts, by row of Table 1 at the cpu scale."""
    rows = csv.DictReader((ROOT / "results" / "table1_perplexity.csv").read_text(encoding="utf-8").splitlines())
    return {row["label"]: float(row["change"]) for row in rows if row["scale"] == "cpu" and row["change"]}


def test_the_differences_to_x_moe_in_the_readme_are_those_of_table_1():
    prose = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    sentence = r"MH-MoE ends ([\d.]+)% above .*? at equal FLOPs and ([\d.]+)% above .*? k = h, is ([\d.]+)% below"
    found = re.search(sentence, prose)
    assert found is not None
    compute, parameters, control = (float(figure) for figure in found.groups())
    ours = changes()
    assert f"{ours['MH-MoE, 8 experts, h = 4, `compute`']:.1f}" == f"{compute:.1f}"
    assert f"{ours['MH-MoE, 8 experts, h = 4, `parameters`']:.1f}" == f"{parameters:.1f}"
    assert f"{ours['X-MoE, 8 experts, k = 4 (control)']:.1f}" == f"{-control:.1f}"


def nll(system: str) -> dict[int, float]:
    """Test nll per token of the English models at the cpu scale, by seed."""
    records = (ROOT / "results" / "runs" / "cpu").glob(f"english-{system}-seed?.json")
    found = [json.loads(path.read_bytes()) for path in records]
    return {record["seed"]: record["metrics"]["test"]["nll_per_token"] for record in found}


def test_what_more_experts_bring_in_the_readme_is_what_the_records_give():
    prose = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    found = re.search(r"X-MoE's perplexity rises by ([\d.]+)% .*? MH-MoE ends ([\d.]+)% above it at equal FLOPs", prose)
    assert found is not None
    pairs = (("xmoe_256", "xmoe_8"), ("mhmoe_256_compute", "xmoe_256"))
    percent = [100 * math.expm1(paired_difference(nll(a), nll(b)).mean) for a, b in pairs]
    assert [f"{value:.1f}" for value in percent] == list(found.groups())
