"""What README.md, CONTRIBUTING.md and docs/ say is so: code runs, commands exist, numbers are the records'."""

import csv
import functools
import json
import math
import pkgutil
import re
import shlex
import statistics
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import tyro
from scipy import stats

import mhmoe
from analysis.routing import inspect
from analysis.routing.words import word_list
from analysis.statistics import paired_difference
from analysis.zero_shot import scoring
from benchmarks.__main__ import benchmark
from docs import assemble, notebook
from experiments.__main__ import app
from experiments.paper import paper_numbers
from experiments.runner.page import Page
from experiments.runner.store import Records
from experiments.scales import SCALES, SMOKE
from experiments.systems import mhmoe as mhmoe_system
from experiments.systems import xmoe
from mhmoe.__main__ import app as library_app
from mhmoe.layers import config as layer_configs

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", *DOCS]
# Of the tuned arm, as Table 1 calls them.
CUT_UP = "fine-grained X-MoE, 8 experts cut up, FLOPs of k = 2, tuned"
AT_EQUAL_FLOPS = "MH-MoE, FLOPs and parameters of X-MoE with 8 experts and k = 2, tuned"
AT_EQUAL_PARAMETERS = "MH-MoE, parameters of X-MoE with 8 experts and k = 2, tuned"
TABLE1 = list(csv.DictReader((ROOT / "results" / "table1_perplexity.csv").read_text(encoding="utf-8").splitlines()))
CLAIMS = list(csv.DictReader((ROOT / "results" / "claims.csv").read_text(encoding="utf-8").splitlines()))


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", read(page), flags=re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# ---- code -----------------------------------------------------------------------------------

# The blocks of the README stand by themselves; those of a page of docs/ go on from those before them.
TOGETHER = [(f"README.md {i}", [block]) for i, block in enumerate(blocks(README, "python"), 1)]
# Those of the page that is a notebook too run there: test_notebook.py.
TOGETHER += [(name(page), found) for page in DOCS if (found := blocks(page, "python")) and page != notebook.PAGE]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to write into; kinds of configs that a page adds are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layer_configs, "_KINDS", dict(layer_configs._KINDS))
    return tmp_path


@pytest.mark.parametrize("code", [code for _, code in TOGETHER], ids=[where for where, _ in TOGETHER])
def test_python_runs_and_prints_what_stands_beside_it(code: list[str], elsewhere: Path, capsys):
    namespace: dict[str, Any] = {"__name__": "a_page"}
    for block in code:
        exec(compile(block, "a page", "exec"), namespace)
        said = re.findall(r"^print\(.*\)  # (.*)$", block, flags=re.MULTILINE)
        assert capsys.readouterr().out.splitlines() == said
        if "loss.backward()" in block:
            parameters = dict(namespace["model"].named_parameters())
            routers = [p.grad for name, p in parameters.items() if "router" in name and p.requires_grad]
            assert namespace["loss"].isfinite() and routers and all(grad is not None for grad in routers)
    for page in (value for value in namespace.values() if isinstance(value, Page)):
        planned = page.planned(SMOKE, Records(SMOKE, elsewhere))
        assert [run.system.name for run in planned] == [system.name for system in page.all_systems()]


def test_the_tutorials_build_a_layer_a_model_somebody_elses_and_every_kind_of_addition():
    code = "\n".join(block for _, code in TOGETHER for block in code)
    built = ("MultiHeadMoE(", "MHMoEForCausalLM(", "match(", "LlamaForCausalLM(", "train(", "(RouterConfig", "System(")
    for part in (*built, "PAGE = Table(", "(Page)", "Measurement("):
        assert part in code, part


# ---- commands, links and paths --------------------------------------------------------------


def parsed(function: Callable[..., object]) -> Callable[[list[str]], object]:
    """Parses arguments as the command does, and does nothing with them."""

    @functools.wraps(function)
    def nothing(*_: object, **__: object) -> None: ...

    return lambda arguments: tyro.cli(nothing, args=arguments)


PARSERS = {
    **{f"mhmoe {command}": parsed(spec.target) for command, spec in library_app._subcommands.items()},  # pyright: ignore
    **{f"experiments {command.replace('_', '-')}": parsed(spec.target) for command, spec in app._subcommands.items()},  # pyright: ignore
    "analysis.routing.inspect": parsed(inspect.run),
    "analysis.routing.words.word_list": parsed(word_list.run),
    "analysis.zero_shot": lambda arguments: tyro.cli(scoring.Arguments, args=arguments),
    "benchmarks": parsed(benchmark),
}


def module_commands() -> list[tuple[str, str]]:
    """(page, what follows `-m`) of every command in a bash block."""
    found: list[tuple[str, str]] = []
    for page in PAGES:
        for line in "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines():
            if command := re.search(r"python (?:\S+=\S+ )*-m (.*)|torchrun .* -m (.*)", line.partition("  #")[0]):
                found.append((name(page), command[1] or command[2]))
    return found


COMMANDS = module_commands()


@pytest.mark.parametrize("command", [c for _, c in COMMANDS], ids=[f"{page} {c}" for page, c in COMMANDS])
def test_a_command_in_the_documents_takes_the_arguments_that_stand_there(command: str):
    module, *arguments = shlex.split(command)
    if module in ("experiments", "mhmoe"):
        module, *arguments = f"{module} {arguments[0]}", *arguments[1:]
    if module.startswith("tests."):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    else:
        PARSERS[module](arguments)


def test_an_argument_that_does_not_exist_is_found(capsys):
    with pytest.raises(SystemExit):
        PARSERS["experiments run"](["table1", "--size", "cpu"])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_and_every_path_of_a_page_leads_to_a_file(page: Path):
    text = read(page)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    assert [link for link in links if not (page.parent / link.partition("#")[0]).exists()] == []
    top = "mhmoe|baselines|analysis|experiments|results|benchmarks|tests|docs"
    paths = re.findall(rf"`((?:{top})/[\w./*-]*)`", text)
    assert [path for path in paths if not list(ROOT.glob(path.rstrip("/")))] == []


def test_the_readme_is_short_and_its_first_screen_has_a_command_a_table_and_a_figure():
    lines = read(README).splitlines()
    first = "\n".join(lines[:40])
    assert len(lines) <= 120
    assert "make reproduce-table1" in first and "|---|" in first and "![" in first


# ---- the site -------------------------------------------------------------------------------


def test_every_page_has_a_place_in_the_navigation_and_links_within_the_site():
    navigation = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    places = assemble.sources()
    assert set(navigation) <= places.keys()
    assert [name(page) for page in DOCS if page.relative_to(ROOT / "docs").as_posix() not in navigation] == []
    for place, path in places.items():
        if path.suffix == ".md":
            assemble.with_links_of_the_site(read(path), place, path)


def test_a_link_to_a_file_of_the_repository_is_one_of_the_site_or_refused():
    def moved(link: str) -> str:
        return assemble.with_links_of_the_site(f"[x]({link})", "how/layer.md", ROOT / "docs" / "how" / "layer.md")

    assert moved("../../results/claims.md") == "[x](../results/claims.md)"
    assert moved("../tutorials/layer.md") == "[x](../tutorials/layer.md)"
    assert moved("https://arxiv.org") == "[x](https://arxiv.org)" and moved("#rule") == "[x](#rule)"
    with pytest.raises(ValueError, match=r"^docs/how/layer\.md links to \.\./\.\./Makefile, which is no page"):
        moved("../../Makefile")


def test_a_block_with_a_command_gets_what_it_prints_and_other_commands_are_refused():
    page = "Say:\n\n```console\n$ make\n```\n\nEnd."
    assert assemble.with_outputs(page, lambda command: f"<{command}>") == page.replace("$ make", "$ make\n<make>")
    with pytest.raises(ValueError, match="is not run for a page"):
        assemble.printed("python -m experiments run table1")


def test_make_says_nothing_of_the_make_that_asks_it(monkeypatch):
    monkeypatch.setenv("MAKELEVEL", "1")
    monkeypatch.setenv("MAKEFLAGS", "w")
    assert assemble.printed("make").startswith("  make help")


def test_a_picture_opens_in_full_unless_it_is_a_link_already():
    page = "![a](b.png) [![c](d.png)](e)"
    assert assemble.with_pictures_to_open(page) == "[![a](b.png)](b.png) [![c](d.png)](e)"


def test_every_command_is_in_the_reference_of_commands():
    reference = read(ROOT / "docs" / "reference" / "commands.md")
    assert [command for command in PARSERS if f"$ python -m {command} --help" not in reference] == []


def test_every_public_name_is_in_the_reference_of_the_library():
    names = read(ROOT / "docs" / "reference" / "library.md").partition("## Modules")[0]
    assert {*re.findall(r"^::: mhmoe\.(\w+)$", names, flags=re.MULTILINE), "READING_ORDER"} == set(mhmoe.__all__)


def test_every_name_in_the_references_exists():
    names = [line[4:] for page in DOCS for line in read(page).splitlines() if line.startswith("::: ")]
    assert len(names) > 60
    for each in names:
        pkgutil.resolve_name(each)  # imports it, and raises if it is not there


def test_every_symbol_of_the_package_is_in_the_glossary():
    symbols = [line.split("|")[0].strip() for line in (mhmoe.__doc__ or "").splitlines() if line.count("|") == 2][1:]
    glossary = re.findall(r"^\| (.*?) \|", read(ROOT / "docs" / "glossary.md"), flags=re.MULTILINE)
    assert len(symbols) > 8 and set(symbols) <= set(glossary)


# ---- numbers --------------------------------------------------------------------------------


def test_the_table_of_the_readme_is_table_1_of_the_committed_records():
    labels = {  # as published, tuned
        "no layer": ("no layer", "no layer, tuned"),
        "Dense": ("Dense", "Dense, FLOPs of X-MoE with k = 2, tuned"),
        "X-MoE": ("X-MoE, 8 experts", "X-MoE, 8 experts, k = 2, tuned"),
        "X-MoE, k = 4 (control)": ("X-MoE, 8 experts, k = 4 (control)", "X-MoE, 8 experts, k = 4 (control), tuned"),
        "fine-grained X-MoE": ("fine-grained X-MoE, 8 x 4 experts, k = 4", CUT_UP),
        "MH-MoE, equal parameters": ("MH-MoE, 8 experts, h = 4, `parameters`", AT_EQUAL_PARAMETERS),
        "MH-MoE, equal FLOPs": ("MH-MoE, 8 experts, h = 4, `compute`", AT_EQUAL_FLOPS),
    }
    table = read(README).partition("| Table 1, 12M tokens, 8 experts |")[2].partition("\n\n")[0]
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    rows = {row["label"]: row for row in TABLE1 if row["scale"] == "long"}

    def percent(row: dict[str, str], key: str) -> str:
        return f"{float(row[key]):+.1f}%" if row[key] else "-"

    def cells(row: dict[str, str]) -> list[str]:
        if not row["seeds"]:
            return ["-", "-"]
        spread = f" ± {float(row['std']):.2f}" if row["std"] else ""
        return [f"{float(row['perplexity']):.2f}{spread} ({row['seeds']})", percent(row, "change")]

    expected = [
        [label, *cells(rows[first]), *cells(rows[second]), percent(rows[first], "paper_change")]
        for label, (first, second) in labels.items()
        if any(rows[name]["seeds"] for name in (first, second))
    ]
    assert shown == expected, "\n".join("| " + " | ".join(line) + " |" for line in expected)


def test_every_result_of_both_papers_has_a_page_or_says_what_it_needs():
    papers = read(ROOT / "docs" / "papers.md")
    rows = dict(re.findall(r"^\| (v[12] [^|]+?) \| [^|]+ \| ([^|]+) \|$", papers, flags=re.MULTILINE))
    tables = [f"v1 Table {n}" for n in (*range(1, 8), 11)] + [f"v2 Table {n}" for n in range(1, 6)]
    shown = [f"v1 Figure {n}" for n in ("1a", 4, 5, 6, 7, 9)] + ["v1 Figures 8, 10"]
    assert set(rows) == {*tables, *shown}
    for text in rows.values():
        assert "results/" in text or re.search("not built yet: (needs|.*missing)", text), text


def test_the_readme_links_to_the_page_of_every_table_and_figure():
    declared = [path.stem for kind in ("table", "figure") for path in (ROOT / "experiments").glob(f"{kind}[0-9]*_*.py")]
    assert len(declared) > 10
    assert [slug for slug in declared if f"(results/{slug}.md)" not in read(README)] == []


PROSE = " ".join(read(ROOT / "docs" / "results.md").split())


def test_how_far_mh_moe_comes_from_the_null_in_the_results_is_what_the_testbed_gives():
    rows = csv.DictReader((ROOT / "results" / "testbed.csv").read_text(encoding="utf-8").splitlines())
    covered = {row["label"]: row for row in rows if row["scale"] == "cpu" and row["perplexity"]}
    for label, systems in (
        ("equal FLOPs", ("MH-MoE, 8 experts, h = 4, `compute`", AT_EQUAL_FLOPS)),
        ("equal parameters", ("MH-MoE, 8 experts, h = 4, `parameters`", AT_EQUAL_PARAMETERS)),
    ):
        for system in systems:
            mean, low, high = (f"{float(covered[system][column]):.0f}" for column in ("change", "low", "high"))
            assert f"{mean}% [{low}, {high}] at {label}" in PROSE


def test_the_known_effects_in_the_results_are_those_that_the_testbed_sees():
    rows = csv.DictReader((ROOT / "results" / "testbed.csv").read_text(encoding="utf-8").splitlines())
    seen = {(row["arm"], row["label"][:17]): row["seen"] for row in rows if row["scale"] == "cpu" and row["seen"]}
    both = [seen["tuned", label] for label in ("X-MoE, 8 experts,", "X-MoE, 32 experts")]
    assert (
        both == ["yes", "yes"]
        and "the known effects are seen on the same 2M tokens, that of 32 experts by ten" in PROSE
    )
    assert len(nll("xmoe_32_tuned")) >= 10
    to_dense, to_8 = difference("xmoe_8", "dense"), difference("xmoe_32", "xmoe_8")
    assert verdict("xmoe_8", "dense") == verdict("xmoe_32", "xmoe_8") == "cannot tell" and to_dense[2] < 0 < to_8[0]
    assert (
        "X-MoE is seen below Dense there, without correction; its table does not tell it, and 32 experts are no"
        in PROSE
    )
    published = [row for row in CLAIMS if (row["page"], row["scale"]) == ("table1_perplexity", "cpu")]
    decided = [
        row["first"] for row in published if row["arm"] == "published" and row["verdict"] in ("holds", "not reproduced")
    ]
    assert decided == ["xmoe_8_k4"] and "So of that column the control alone has a verdict for or against" in PROSE


def test_the_only_zero_shot_difference_in_the_results_is_that_of_the_ledger():
    ledger = read(ROOT / "results" / "claims.md")
    claim = "has higher mean accuracy than Dense on nine English tasks |"
    rows = [row for row in ledger.splitlines() if claim in row and not row.startswith("| not run")]
    verdict, _, ours, n, *_, documents, _, _, _ = (cell.strip() for cell in rows[-1].strip("|").split(" | "))
    low, high = (float(bound) for bound in documents.strip("[]").split(", "))
    assert verdict == "cannot tell" and n == "3" and low < 0 < high
    assert f"{float(ours.split()[0]):.2f} points above Dense's over three seeds, which is not significant" in PROSE


def test_that_the_mean_accuracy_lies_below_chance_is_what_its_table_shows():
    table = read(ROOT / "results" / "table2_english_zero_shot.md").partition("### Bits per byte")[0]
    (average,) = (line for line in table.splitlines() if line.startswith("| average"))
    _, _, _, _, chance, _, *systems = (cell.strip() for cell in average.strip("|").split(" | "))
    scored = [float(cell.split()[0]) for cell in systems if not cell.startswith("not run")]
    assert len(scored) >= 8 and max(scored) < float(chance)
    assert "the mean of nine English tasks lies below chance for every system" in PROSE


def test_where_the_systems_of_the_field_end_in_the_results_is_where_their_page_has_them():
    text = (ROOT / "results" / "compare_systems.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["scale"] == "cpu"]

    def of(begin: str) -> float:
        (found,) = [float(row["change"]) for row in rows if row["label"].startswith(begin)]
        return found

    near = ("Mixtral", "Grok-1", "DeepSeekMoE", "GLaM", "GShard", "Hierarchical", "Jamba")
    furthest = max(abs(of(name)) for name in near)
    assert f"end within {math.ceil(10 * furthest) / 10:.1f}% of it on average, and three seeds" in PROSE
    bounds = [difference(f"{name.lower().replace('-', '')}_tuned", "xmoe_8_tuned")[1:] for name in near]
    assert all(low < 0 < high for low, high in bounds)
    reach = max(abs(bound) for both in bounds for bound in both)
    assert f"tell none of them from it, with intervals that reach as far as {reach:.1f}%" in PROSE
    sentence = "Multi-Head LatentMoE ends {:.1f}% above, barely told and without correction, LatentMoE {:.1f}%, "
    sentence += "the densely gated mixture {:.1f}%, LatentMoE with the norm of Kimi K3 {:.1f}% and Switch {:.1f}%."
    low = difference("multi_head_latentmoe_tuned", "xmoe_8_tuned")[1]
    assert 0 < low < 0.1
    assert (
        sentence.format(
            *map(of, ("Multi-Head LatentMoE", "LatentMoE, width", "Densely gated", "LatentMoE with", "Switch"))
        )
        in PROSE
    )


def test_what_many_jobs_trained_on_one_card_is_told_as_it_was_timed():
    runs = json.loads((ROOT / "results" / "speed" / "queue_on_card.json").read_text(encoding="utf-8"))["runs"]
    begun = [datetime.fromisoformat(run["started"]).timestamp() for run in runs]
    ended = [at + run["wall_seconds"] for at, run in zip(begun, runs, strict=True)]
    tokens = sum(run["tokens"] for run in runs) / 1e6
    sentence = f"trained {len(runs)} runs of the `cpu` scale, {tokens:.0f}M tokens, in {max(ended) - min(begun):.0f} s"
    assert sentence in " ".join(read(ROOT / "docs" / "how" / "many_devices.md").split())


def test_what_the_layers_page_says_of_the_kernels_is_what_the_card_showed():
    rows = json.loads((ROOT / "results" / "speed" / "card.json").read_text(encoding="utf-8"))["rows"]
    ms = {(row["layer"], row["path"]): statistics.median(row["seconds"]) for row in rows}
    memory = {(row["layer"], row["path"]): row["memory"] for row in rows}
    kernels, torchs = "kernels, recomputed", "torch"
    text = " ".join(read(ROOT / "docs" / "how" / "layer.md").split())
    for experts in (8, 64):
        layer = f"SwiGLU on sub-tokens, k = 2, {experts}"
        assert ms[layer, kernels] < ms[layer, torchs]
    assert "faster than torch's products where a sub-token has two SwiGLU experts of 8 or 64" in text
    assert all(ms[layer, kernels] > ms[layer, torchs] for layer, path in ms if "MH-MoE" in layer and path == torchs)
    assert "slower for MH-MoE's one GELU expert" in text
    wide = "MH-MoE at equal parameters, 8"
    assert round(memory[wide, torchs] / memory[wide, kernels]) == 5 and "a fifth of the memory" in text


def test_what_heads_do_to_other_methods_in_the_results_is_what_their_page_says():
    rows = csv.DictReader((ROOT / "results" / "compare_combinations.csv").read_text(encoding="utf-8").splitlines())
    headed = [row for row in rows if row["scale"] == "cpu" and "with heads" in row["label"] and row["change"]]
    changes = {r["label"]: float(r["change"]) for r in headed if not r["label"].startswith("X-MoE with SwiGLU")}
    (switch,) = [changes.pop(label) for label in [*changes] if label.startswith("Switch")]
    assert f"Put around [{len(changes) + 1} other routers and mixtures](../results/compare_combinations.md)" in PROSE
    low, high = min(changes.values()), max(changes.values())
    sentence = f"raised the perplexity of all but Switch, by {low:.1f}% to {high:.1f}%"
    assert low > 0 and f"heads, with the settings found for MH-MoE, {sentence}" in PROSE
    assert f"to one expert, they lowered by {-switch:.1f}%" in PROSE


def test_what_the_results_say_in_short_is_in_the_records():
    for ours, theirs, sentence in (
        ("mhmoe_8_compute_n0_tuned", "xmoe_8_there_tuned", "Splitting alone costs {:.1f}% [{:.1f}, {:.1f}]."),
        ("mhmoe_8_compute_tuned", "xmoe_8_tuned", "stays behind X-MoE: by {:.1f}% [{:.1f}, {:.1f}] with 8 experts"),
        ("xmoe_swiglu_heads_tuned", "xmoe_swiglu_tuned", "with heads ends {:.1f}% [{:.1f}, {:.1f}] above X-MoE with"),
    ):
        assert sentence.format(*difference(ours, theirs)) in PROSE


def test_what_the_results_say_of_parts_is_what_the_records_give():
    assert (
        verdict("mhmoe_8_compute_n0_tuned", "xmoe_8_there_tuned") == "not reproduced" and "**Splitting alone" in PROSE
    )
    for ours, theirs in (
        ("mhmoe_8_parameters_n0_tuned", "mhmoe_8_parameters_tuned"),
        ("mhmoe_8_compute_h1_tuned", "xmoe_8_there_tuned"),
    ):
        _, low, high = difference(ours, theirs)
        assert low < 0 < high and "start as the identity cost nothing that is seen" in PROSE
    for depth in (2, 3):
        assert difference(f"mhmoe_8_parameters_n{depth}_tuned", "mhmoe_8_parameters_tuned")[1] > 0
        assert (
            difference(f"mhmoe_8_parameters_n{depth}_tuned", "null_tuned")[1] < 0 and "that they end no better" in PROSE
        )
    v2 = [row for row in CLAIMS if row["page"] in ("v2_table4_head_merge_layers", "v2_table5_head_or_merge")]
    judged = [row for row in v2 if row["scale"] == "cpu" and row["verdict"] not in ("not run", "cannot tell")]
    assert [row["statement"].partition(":")[0] for row in judged] == ["books"] and judged[0]["verdict"] == "holds"
    assert "on books it holds that they help at equal FLOPs; the ledger tells none of it on `test`" in PROSE
    for ours, theirs in (("h2", "smoe"), ("h2_shared", "smoe_shared"), ("h2_bitnet", "smoe_bitnet")):
        assert difference(f"v2_mhmoe_{ours}_tuned", f"v2_{theirs}_tuned")[0] > 0
        assert difference(f"v2_mhmoe_{ours.replace('h2', 'h3')}_tuned", f"v2_{theirs}_tuned")[1] > 0
    assert (
        difference("v2_mhmoe_h2_bitnet_tuned", "v2_null_bitnet_tuned")[1]
        < 0
        < (difference("v2_mhmoe_h2_bitnet_tuned", "v2_null_bitnet_tuned")[2])
    )
    assert "On average it ends above SMoE in each of the three, with three heads clearly, and with ternary" in PROSE
    printed = [
        paper_numbers()["v2_table1_no_shared_expert"]["100000"][name][0] for name in ("mhmoe_h2", "mhmoe_h3", "smoe")
    ]
    two, three = (100 * (1 - value / printed[-1]) for value in printed[:-1])
    assert f"v2 prints it {two:.1f}% and {three:.1f}% below SMoE (RedPajama, Table 1)" in PROSE


def test_what_further_heads_cost_tuned_models_is_what_the_records_give():
    found = [difference(f"mhmoe_8_compute_h{heads}_tuned", "mhmoe_8_compute_tuned") for heads in (4, 6, 8, 12)]
    assert sorted(found) == found and all(low > 0 for _, low, _ in found) and "**More heads cost**, and of" in PROSE
    to_null = [difference(f"mhmoe_8_compute_h{heads}_tuned", "null_tuned") for heads in (4, 6, 8, 12)]
    assert all(low < 0 < high for _, low, high in to_null) and "of four and more none is told from no layer" in PROSE


def test_what_the_results_say_of_masked_images_and_text_is_in_the_records():
    def found(ours: str, theirs: str) -> tuple[float, ...]:
        return difference(ours, theirs, task="multimodal")

    assert all(found(ours, "null")[1] < 0 < found(ours, "null")[2] for ours in ("xmoe_8", "mhmoe_8_compute"))
    assert found("mhmoe_8_parameters", "null")[1] > 0
    assert "as published no mixture is seen to beat no layer, and MH-MoE at equal parameters ends above it" in PROSE
    twice = {
        ours: 2 * p_value(f"{ours}_tuned_lr", "null_tuned_lr", "multimodal") for ours in ("xmoe_8", "mhmoe_8_compute")
    }
    assert min(twice.values()) > 0.05 > 2 * p_value("mhmoe_8_parameters_tuned_lr", "null_tuned_lr", "multimodal") > 0.04
    assert "then X-MoE and MH-MoE at equal FLOPs are not told from no layer, MH-MoE at equal parameters barely" in PROSE
    ledger = read(ROOT / "results" / "claims.md")
    told = re.findall(
        r"^\| (.*?) \| [^|]*tuned has lower perplexity than [^|]* in masked images and text \|", ledger, re.M
    )
    assert sum("does not beat the null" in verdict for verdict in told) == len(told) - told.count("not run") >= 3
    runs = (ROOT / "results" / "runs" / "cpu").glob("multimodal-null_tuned_lr-seed[123].json")
    of_null = [json.loads(path.read_bytes())["metrics"]["test"]["perplexity"] for path in runs]
    assert f"its three seeds end between {min(of_null):.1f} and {max(of_null):.1f}, two of them" in PROSE

    def rows(page: str) -> list[dict[str, str]]:
        text = (ROOT / "results" / f"{page}.csv").read_text(encoding="utf-8")
        return [row for row in csv.DictReader(text.splitlines()) if row["scale"] == "cpu"]

    rates = {row["label"]: row for row in rows("rates_multimodal")}
    ours, twice = (float(rates[label]["MH-MoE, equal FLOPs"]) for label in ("as elsewhere", "twice the learning rate"))
    best = min(float(row["X-MoE"]) for row in rates.values())
    assert f"seed 1 of MH-MoE ends at {twice:.1f} and not {ours:.1f}, at half its" in PROSE
    assert f"where X-MoE's best of half, whole and twice its rate is {best:.1f} (" in PROSE and twice < best < ours
    for name, changed, begin in (
        ("no layer", "half the learning rate", "half its rate no layer ends at"),
        ("Dense", "twice the learning rate", "at twice its rate Dense at"),
    ):
        there, here = (float(rates[label][name]) for label in (changed, "as elsewhere"))
        assert f"{begin} {there:.1f} and not {here:.1f}," in PROSE and there < here
    answered = rows("table4_visual_questions")
    changes = [
        100 * (float(row["hidden"]) - float(row["accuracy"])) for row in answered if row["trained"] == "pre-trained"
    ]
    assert f"changes the share of right answers by {min(changes):.1f} to +{max(changes):.1f} points" in PROSE
    null, *tuned = (row for row in answered if row["trained"] == "fine-tuned")
    assert len(tuned) == 4 and null["label"] == "no layer, tuned"
    all_of_null, others_of_null = (100 * float(null[column]) for column in ("accuracy", "other"))
    assert f"{all_of_null:.1f}% with the image and {others_of_null:.1f}% of colour and shape, and no" in PROSE
    for column, sentence in (
        ("accuracy", "answer {:.1f}% to {:.1f}% of 2,000 questions rightly with the image"),
        ("hidden", "with the image and {:.1f}% to {:.1f}% without"),
        ("other", "questions of colour and shape, {:.1f}% to {:.1f}% against"),
        ("other_hidden", "against {:.1f}% to {:.1f}%; what is answered by yes or no"),
    ):
        values = [100 * float(row[column]) for row in tuned]
        assert sentence.format(min(values), max(values)) in PROSE
    assert all(
        abs(float(row["yes_no"]) - float(row["yes_no_hidden"])) < 0.01 for row in tuned
    )  # from the question alone
    told = re.findall(r"^\| ([\w* ]+) \| [^|]*(?:questions|answers) [^|]*\| .*\| Table 4 \| cpu \|$", ledger, re.M)
    assert sorted(told) == ["**holds**"] * 3 + ["cannot tell"] * 6
    gaps = re.findall(r"patches with texture reach .*?\| [-+.\d]+ experts \[([-+.\d]+), ([-+.\d]+)\] \| 3 ", ledger)
    reach = max(abs(float(bound)) for both in gaps for bound in both)
    assert len(gaps) == 2 and f"three seeds see no difference, to {reach:.2f} of an expert ([Figure 8]" in PROSE


def test_what_the_searchs_second_round_found_is_told_as_its_page_has_it():
    text = (ROOT / "results" / "tuning.csv").read_text(encoding="utf-8")
    best = {(r["label"], r["round"]): r["best_full"] for r in csv.DictReader(text.splitlines()) if r["scale"] == "cpu"}
    begins = ("no layer", "Dense", "X-MoE", "fine-grained", "MH-MoE, FLOPs", "MH-MoE, parameters")
    sentence = "no layer {:.1f}, Dense {:.1f}, X-MoE {:.1f}, fine-grained X-MoE {:.1f}, MH-MoE {:.1f} at equal FLOPs "
    sentence += "and {:.1f} at equal parameters"
    for number, begin in (("2", "over two seeds: "), ("1", "the first round's were ")):
        found = [
            value for name in begins for (label, n), value in best.items() if label.startswith(name) and n == number
        ]
        assert begin + sentence.format(*map(float, found)) in PROSE
    drawn = [math.exp(statistics.fmean(nll(f"mhmoe_8_compute_t{n}", "valid").values())) for n in (42, 45)]
    assert f"the best of the points that were drawn ends at {min(drawn):.1f}." in PROSE


def test_what_the_readme_says_of_tuned_mh_moe_is_what_the_records_give():
    text = " ".join(read(README).split())
    found = "{:.1f}% [{:.1f}, {:.1f}]"
    assert (
        f"tuned it ends {found.format(*difference('mhmoe_8_compute_tuned', 'xmoe_8_tuned'))} above X-MoE, and" in text
    )
    split = found.format(*difference("mhmoe_8_compute_n0_tuned", "xmoe_8_there_tuned"))
    assert f"splitting alone costs {split}" in text
    _, low, high = difference("mhmoe_8_compute", "null")
    assert low < 0 < high and "On 2M tokens MH-MoE as published is not told from no layer on `test`;" in text
    printed = [paper_numbers()["v2_table1_no_shared_expert"]["100000"][name][0] for name in ("mhmoe_h2", "smoe")]
    assert f"; v2 prints {100 * (1 - printed[0] / printed[1]):.1f}% below)" in text


def test_what_the_results_say_of_mh_moe_as_published_and_no_layer_is_in_the_records():
    _, low, high = difference("mhmoe_8_compute", "null")
    on_valid = difference("mhmoe_8_compute", "null", split="valid")
    assert low < 0 < high
    assert f"by {-on_valid[0]:.1f}% [{-on_valid[2]:.1f}, {-on_valid[1]:.1f}]): of the distance" in PROSE


def test_what_the_results_say_of_tuned_models_in_fourteen_languages_is_in_the_records():
    assert difference("dense_tuned", "null_tuned", task="multilingual")[1] > 0
    _, low, high = difference("xmoe_8_tuned", "null_tuned", task="multilingual")
    assert low < 0 < high and "Dense ends above no layer and X-MoE is not told from it: so these" in PROSE


def test_pairing_helps_among_mixtures_and_tuned_not_against_dense():
    """Half the width of the interval, over that of two samples with as many seeds each."""

    def gained(ours: str, theirs: str) -> float:
        both = [nll(system) for system in (ours, theirs)]
        common = sorted(set.intersection(*(set(of) for of in both)))
        a, b = ([of[seed] for seed in common] for of in both)
        interval = paired_difference(*(dict(zip(common, of, strict=True)) for of in (a, b)))
        apart = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
        return (interval.high - interval.low) / (apart.high - apart.low)

    assert gained("mhmoe_8_parameters", "xmoe_8") < 0.9
    assert gained("mhmoe_8_parameters_tuned", "xmoe_8_tuned") < 0.9 and gained("xmoe_32_tuned", "xmoe_8_tuned") < 0.9
    assert gained("xmoe_8_tuned", "dense_tuned") > 1 and gained("xmoe_8_tuned", "null_tuned") > 1
    assert "Among mixtures it is, as published and tuned; tuned against Dense or no layer it is not" in " ".join(
        read(ROOT / "docs" / "how" / "ledger.md").split()
    )


def test_seeds_that_were_added_after_a_look_are_told_as_the_records_have_them():
    text = " ".join(read(ROOT / "docs" / "how" / "ledger.md").split())
    for seeds, sentence in ((5, "{:.1f}% [{:.1f}, {:+.1f}] over five"), (10, "{:.1f}% [{:.1f}, {:.1f}] over ten")):
        assert sentence.format(*difference("xmoe_32_tuned", "xmoe_8_tuned", seeds)) in text
    for ours, sentence in (
        ("compute", "{:.1f}% [{:.1f}, {:.1f}] above X-MoE at"),
        ("parameters", "and {:.1f}% [{:.1f}, {:.1f}]"),
    ):
        found = difference(f"mhmoe_8_{ours}_tuned", "xmoe_8_tuned", seeds=3, scale="long")
        assert sentence.format(*found) in text
    for seeds, sentence in ((3, "+{:.1f}% [{:.1f}, {:.1f}] over three"), (5, "+{:.1f}% [{:.1f}, {:.1f}] over five")):
        assert sentence.format(*difference("xmoe_32", "xmoe_8", seeds)) in text
    assert "X-MoE with 32 experts is {:.1f}% [{:.1f}, {:.1f}] worse".format(*difference("xmoe_32", "xmoe_8")) in PROSE


def test_what_six_times_the_tokens_bring_in_the_results_is_what_the_records_give():
    readme = " ".join(read(README).split())
    for ours, theirs, sentence in (
        ("xmoe_8", "dense", "X-MoE ends {:.1f}% below Dense as published"),
        ("xmoe_32", "xmoe_8", "32 experts end {:.1f}% below 8, and"),
        ("xmoe_8_tuned", "dense_tuned", "and {:.1f}% tuned at equal"),
        ("xmoe_32_tuned", "xmoe_8_tuned", "below 8, and {:.1f}% tuned. There"),
    ):
        assert sentence.format(-difference(ours, theirs, scale="long")[0]) in readme
    assert (
        difference("mhmoe_8_compute", "null", scale="long")[2] < 0 and "MH-MoE as published beats no layer too" in PROSE
    )
    assert difference("mhmoe_32_compute", "mhmoe_8_compute", scale="long")[0] > 0
    rates = {
        row["label"]: float(row["learning_rate"]) for row in TABLE1 if row["scale"] == "long" and row["learning_rate"]
    }
    of_32, of_8 = (rates[f"MH-MoE, {experts} experts, h = 4, `compute`"] for experts in (32, 8))
    assert of_32 == 2 * of_8 and "at the rate that the grid gives it, twice that of 8." in PROSE
    to_32 = difference("mhmoe_32_compute", "xmoe_32", scale="long")
    assert to_32[1] > difference("mhmoe_8_compute", "xmoe_8", scale="long")[2]
    assert "32 experts do MH-MoE no good there: it is not below the one with 8, and further behind X-MoE" in PROSE
    above = [difference(f"mhmoe_8_compute{arm}", f"xmoe_8{arm}", scale="long") for arm in ("", "_tuned")]
    both = ["{:.1f}% [{:.1f}, {:.1f}]".format(*of) for of in above]
    assert f'it ends {both[0]} above it as published and {both[1]} tuned (both "not reproduced"' in readme
    below = -difference("mhmoe_8_compute_tuned", "dense_tuned", scale="long")[0]
    assert f"behind X-MoE, by {above[0][0]:.1f}% as published and by {above[1][0]:.1f}% tuned, both" in PROSE
    assert f"Tuned it ends {below:.1f}% below Dense, not told" in PROSE
    pairs = [(f"mhmoe_8_{size}{arm}", f"xmoe_8{arm}") for size in ("compute", "parameters") for arm in ("", "_tuned")]
    assert [verdict(*pair, scale="long") for pair in pairs] == ["not reproduced"] * 4
    assert above[1][0] < above[0][0] / 2 and "Tuned, it is less than half as far behind X-MoE" in PROSE
    rows = [*csv.DictReader((ROOT / "results" / "regime_long.csv").read_text(encoding="utf-8").splitlines())]
    gains = {(row["label"], row["x"]): float(row["mean"]) for row in rows}
    assert (
        all(gains[label, "12"] > gains[label, "2"] for label, _ in gains)
        and "**On 12M tokens** every layer is worth more than there on 2M" in PROSE
    )
    few = [float(row["mean"]) for row in rows if row["x"] == "0.5" and row["label"].endswith(", tuned")]
    assert len(few) == 4 and max(few) < 0 and "half a million tokens no tuned system reaches" in PROSE


def difference(
    ours: str, theirs: str, seeds: int = 99, scale: str = "cpu", task: str = "english", split: str = "test"
) -> tuple[float, ...]:
    """In percent of perplexity, paired by seed over the first so many, with its interval."""
    both = (nll(system, split, scale, task) for system in (ours, theirs))
    found = paired_difference(*({s: x for s, x in of.items() if s <= seeds} for of in both))
    return tuple(100 * math.expm1(x) for x in (found.mean, found.low, found.high))


def p_value(ours: str, theirs: str, task: str) -> float:
    return paired_difference(*(nll(system, task=task) for system in (ours, theirs))).p_value


def verdict(first: str, second: str, scale: str = "cpu") -> str:
    """The ledger's, of two systems' perplexity on `test` in English."""
    (found,) = [
        row["verdict"]
        for row in CLAIMS
        if (row["scale"], row["task"], row["first"], row["second"]) == (scale, "english", first, second)
        and (row["quantity"], row["repeats"]) == ("test perplexity", "")
    ]
    return found


def nll(system: str, split: str = "test", scale: str = "cpu", task: str = "english") -> dict[int, float]:
    """Nll per token of a system's models at a scale, by seed."""
    records = (ROOT / "results" / "runs" / scale).glob(f"{task}-{system}-seed*.json")
    found = [json.loads(path.read_bytes()) for path in records]
    return {record["seed"]: record["metrics"][split]["nll_per_token"] for record in found}


def test_what_more_experts_bring_in_the_results_is_what_the_records_give():
    found = re.search(r"X-MoE's perplexity rises by ([\d.]+)% .*? MH-MoE ends ([\d.]+)% above it at equal FLOPs", PROSE)
    assert found is not None
    pairs = (("xmoe_256", "xmoe_8"), ("mhmoe_256_compute", "xmoe_256"))
    percent = [100 * math.expm1(paired_difference(nll(a), nll(b)).mean) for a, b in pairs]
    assert [f"{value:.1f}" for value in percent] == list(found.groups())
    ours, theirs = (system.layer(SCALES["cpu"]) for system in (mhmoe_system(256, "compute"), xmoe(256)))
    assert ours is not None and theirs is not None
    assert f"{ours.flops_per_token() / theirs.flops_per_token():.1f} times the FLOPs of X-MoE's layer" in PROSE


def test_what_a_choice_tells_of_the_language_in_the_results_is_what_its_figure_has():
    rows = csv.DictReader((ROOT / "results" / "figure1_expert_activation.csv").read_text(encoding="utf-8").splitlines())
    bits = {row["label"]: float(row["bits"]) for row in rows if (row["scale"], row["router"]) == ("cpu", "trained")}
    found = [bits[label] for label in ("X-MoE, k = 1", "X-MoE, k = 4", "MH-MoE, h = 4", "MH-MoE, h = 4, equal FLOPs")]
    sentence = "tells {:.1f} bits of the language that is read ({:.1f} with k = h), one of MH-MoE with as many experts "
    assert (sentence + "{:.1f}, at equal FLOPs {:.1f};").format(*found) in PROSE
