"""What the README says in prose is what the committed tables give, and its code runs as it stands."""

import csv
import json
import math
import re
from pathlib import Path

import pytest

from analysis.statistics import paired_difference

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
NAMES = [(re.findall(r"(?:layer|model|xmoe) = .*", block) or ["?"])[0][:40] for block in BLOCKS]


@pytest.mark.parametrize("block", BLOCKS, ids=NAMES)
def test_a_block_of_python_runs_by_itself_and_prints_what_stands_beside_it(block: str, capsys):
    namespace = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    said = re.findall(r"^print\(.*\)  # (.*)$", block, flags=re.MULTILINE)
    assert printed[: len(said)] == said
    if (loss := namespace.get("loss")) is not None:
        parameters = dict(namespace["model"].named_parameters())  # pyright: ignore[reportAttributeAccessIssue]
        routers = [p.grad for name, p in parameters.items() if "router" in name and p.requires_grad]
        assert loss.isfinite() and routers and all(grad is not None for grad in routers)  # pyright: ignore


def test_the_readme_builds_a_layer_a_model_and_somebody_elses():
    assert len(BLOCKS) >= 4
    for name in ("MultiHeadMoE(", "MHMoEForCausalLM(", "match(", "LlamaForCausalLM("):
        assert sum(name in block for block in BLOCKS) >= 1, name


def test_every_link_of_the_readme_leads_to_a_file():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []


def test_every_result_of_both_papers_has_a_page_or_says_what_it_needs():
    rows = dict(re.findall(r"^\| (v[12] [^|]+?) \| [^|]+ \| ([^|]+) \|$", README, flags=re.MULTILINE))
    tables = [f"v1 Table {n}" for n in (*range(1, 8), 11)] + [f"v2 Table {n}" for n in range(1, 6)]
    shown = [f"v1 Figure {n}" for n in ("1a", 4, 5, 6, 7, 9)] + ["v1 Figures 8, 10"]
    assert set(rows) == {*tables, *shown}
    for text in rows.values():
        assert "results/" in text or re.search("not built yet: (needs|.*missing)", text), text


def changes() -> dict[str, float]:
    """Percent above X-MoE with 8 experts, by row of Table 1 at the cpu scale."""
    rows = csv.DictReader((ROOT / "results" / "table1_perplexity.csv").read_text(encoding="utf-8").splitlines())
    return {row["label"]: float(row["change"]) for row in rows if row["scale"] == "cpu" and row["change"]}


def test_the_differences_to_x_moe_in_the_readme_are_those_of_table_1():
    prose = " ".join(README.split())
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
    prose = " ".join(README.split())
    found = re.search(r"X-MoE's perplexity rises by ([\d.]+)% .*? MH-MoE ends ([\d.]+)% above it at equal FLOPs", prose)
    assert found is not None
    pairs = (("xmoe_256", "xmoe_8"), ("mhmoe_256_compute", "xmoe_256"))
    percent = [100 * math.expm1(paired_difference(nll(a), nll(b)).mean) for a, b in pairs]
    assert [f"{value:.1f}" for value in percent] == list(found.groups())
