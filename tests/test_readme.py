"""What the README says in prose is what the committed tables give."""

import csv
import re
from pathlib import Path

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
