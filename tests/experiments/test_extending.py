"""A new router, system, measurement and kind of page: a file each, nothing else edited, run at the smoke scale."""

import csv
import dataclasses
import json
import math
from pathlib import Path

import pytest

from experiments.runner.page import unique
from experiments.runner.queue import Queue
from experiments.runner.run_command import Arguments, _options
from experiments.runner.store import RESULTS
from experiments.runner.texts import OWN
from experiments.systems import xmoe
from experiments.table1_perplexity import PAGE as TABLE1
from mhmoe.io import UserError
from tests.commands import Project
from tests.mini import MINI
from tests.small_scales import SMALL_SCALES

ROUTER = '''
"""Each row goes to experts by the hash of the signs of its numbers: a null that learns nothing."""

from dataclasses import dataclass

import torch

from mhmoe.layers.routers import Router, RouterConfig


@dataclass(frozen=True, kw_only=True)
class SignRouterConfig(RouterConfig, kind="sign_router"):
    def build(self):
        return SignRouter(self)

    def parameters(self):
        return 0

    def flops_per_token(self):
        return 0


class SignRouter(Router):
    def scores(self, x):
        powers = 2 ** torch.arange(x.shape[-1], device=x.device) % 8191
        chosen = ((x > 0) * powers).sum(dim=-1) % self.config.num_experts
        return 4.0 * torch.nn.functional.one_hot(chosen, self.config.num_experts).float()
'''
SYSTEM = """
from experiments.layers import reference
from experiments.system import System
from sign_router import SignRouterConfig


def signs(num_experts):
    def layer(scale):
        moe = reference(scale, num_experts)
        router = SignRouterConfig(dim=moe.router.dim, num_experts=num_experts)
        return moe.replace(router=router)

    return System(f"signs_{num_experts}", f"Signs, {num_experts} experts", layer)
"""
MEASUREMENT = """
from dataclasses import dataclass

from analysis.results import Result
from analysis.routing.text import load_checkpoint
from experiments.runner.measurements import Measurement


@dataclass(frozen=True, kw_only=True)
class Norms(Result):
    largest: float
    names: list[str]


def measure(subject, settings):
    model, _ = load_checkpoint(subject.model)
    norms = {name: float(p.norm()) for name, p in model.named_parameters() if settings["part"] in name}
    return Norms(largest=max(norms.values()), names=sorted(norms))


LARGEST_NORM = Measurement(name="largest_norm", settings={"part": "up_proj"}, result=Norms, measure=measure)
"""
KIND = """
from dataclasses import dataclass

from analysis.tables import Column, table_markdown
from experiments.report.captions import caption_of, measured_systems
from experiments.runner.page import Page, Section

COLUMNS = (Column("label", "system"), Column("perplexity", "perplexity", ".1f"), Column("norm", "norm", ".3f"))


@dataclass(frozen=True, kw_only=True)
class NormTable(Page):
    systems: tuple

    def all_systems(self):
        return list(self.systems)

    def section(self, scale, records, folder):
        systems = {s.label: s for s in self.systems}
        found, runs = measured_systems(self.measurements[0], systems, scale, records, self.task)
        if not found:
            return None
        perplexity = {record.system: record.metrics["test"]["perplexity"] for record in runs}
        rows = [
            {"label": s.label, "perplexity": perplexity[s.name], "norm": found[s.label][1].largest}
            for s in self.systems
        ]
        return Section(table_markdown(COLUMNS, rows, caption=caption_of(runs)), COLUMNS, rows)
"""
PAGE = """
from experiments.systems import xmoe
from largest_norm import LARGEST_NORM
from norm_table import NormTable
from signs import signs

PAGE = NormTable(
    slug="norms", title="Norms", systems=(xmoe(8), signs(8)), measurements=(LARGEST_NORM,), notes=("A note.",)
)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    files = {"sign_router": ROUTER, "signs": SYSTEM, "largest_norm": MEASUREMENT, "norm_table": KIND, "norms": PAGE}
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.new(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def quick(new: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same with smaller scales."""
    project = new.copied(tmp_path_factory.mktemp("quick") / "project")
    with (project.root / "experiments" / "scales.py").open("a") as scales:
        scales.write(SMALL_SCALES)
    return project


@pytest.mark.parametrize("kind", ["quick", pytest.param("new", marks=pytest.mark.slow)])
def test_a_page_of_a_new_kind_with_a_new_system_router_and_measurement_is_run_and_rendered(
    kind: str, own: Path, request: pytest.FixtureRequest, tmp_path: Path
):
    """At the smoke scale as it is, and at a smaller one."""
    project, page = request.getfixturevalue(kind).copied(tmp_path / "project"), own / "norms.py"
    ended = project.run("run", str(page), "--scale", "smoke")
    assert ended.code == 0 and "records go to results-own/norms" in ended.out, ended.err
    results = project.root / "results-own" / "norms"
    records = {path.stem: json.loads(path.read_bytes()) for path in (results / "runs" / "smoke").glob("*.json")}
    assert set(records) == {"english-xmoe_8-seed1", "english-signs_8-seed1"}
    router = records["english-signs_8-seed1"]["config"]["model"]["moe"]["router"]
    assert router["kind"] == "sign_router"
    rendered = project.run("render", str(page), "--scale", "smoke")
    assert rendered.code == 0 and rendered.out.startswith("# Norms\n") and "A note." in rendered.out, rendered.err
    rows = list(csv.DictReader((results / "smoke" / "norms.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == ["X-MoE, 8 experts", "Signs, 8 experts"]
    for row, name in zip(rows, ("english-xmoe_8-seed1", "english-signs_8-seed1"), strict=True):
        assert float(row["perplexity"]) == pytest.approx(records[name]["metrics"]["test"]["perplexity"], rel=1e-4)
        assert float(row["norm"]) > 0
    again = project.run("run", str(page), "--scale", "smoke")
    assert again.code == 0 and "nothing to run: all 2 records" in again.out
    assert not (project.root / "results").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "is not a file"),
        ("x = 1\n", "declares no PAGE"),
        ("import nothing_of_this_name\n", "cannot be imported: ModuleNotFoundError: No module named"),
        ("PAGE = 3\n", "declares no PAGE"),
    ],
)
def test_a_file_without_a_page_is_refused_in_one_line(text: str | None, reason: str, new: Project, tmp_path: Path):
    if text is not None:
        (tmp_path / "page.py").write_text(text)
    ended = new.run("run", str(tmp_path / "page.py"), "--scale", "smoke")
    assert ended.code == 2 and reason in ended.err and ended.err.count("\n") == 1


def test_pages_of_ones_own_share_no_folder_that_is_not_named_and_repeat_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MHMOE_DATA", raising=False)
    one, both = TABLE1, Queue.of([dataclasses.replace(TABLE1, slug=slug) for slug in ("a", "b")])
    several = Arguments(slugs=("a.py", "b.py"), scale="mini")
    with pytest.raises(UserError, match=r"a\.py is a page of your own.*--results"):
        _options(both, MINI, several)
    assert _options(both, MINI, dataclasses.replace(several, results=tmp_path)).results == tmp_path
    alone = Arguments(slugs=("a.py",), scale="mini")
    with pytest.raises(UserError, match=r"--again repeats committed runs, and a\.py, a page of your own, has none"):
        _options(one, MINI, dataclasses.replace(alone, again=True))
    assert _options(one, MINI, alone).results == OWN / one.slug
    named = dataclasses.replace(alone, results=RESULTS)
    options = _options(one, MINI, named)
    line = named.for_jobs(one, MINI, options)
    assert options.results == RESULTS and line[line.index("--results") + 1] == str(RESULTS), "and so do its jobs"


COMPARED = """
from analysis.claims.rules import Claim
from experiments.kinds.table import Row, Table
from experiments.systems import xmoe
from signs import signs

PAGE = Table(
    slug="compared", title="Compared", rows=(Row(system=xmoe(8)), Row(system=signs(8))), reference="xmoe_8",
    claims=(Claim(statement="signs lie below", source="this page", better="signs_8", worse="xmoe_8"),),
)
"""


@pytest.mark.parametrize(
    ("old", "new_text", "said"),
    [
        ('better="signs_8"', 'better="sings_8"', "the claim 'signs lie below' names 'sings_8', which is no system of"),
        ('reference="xmoe_8"', 'reference="xmoe"', "reference names 'xmoe', which is no system of the page; choose"),
    ],
)
def test_a_page_that_names_a_system_it_has_not_is_refused_before_it_trains(
    old: str, new_text: str, said: str, own: Path, new: Project, tmp_path: Path
):
    page = own / f"wrong_{tmp_path.name}.py"
    page.write_text(COMPARED.replace(old, new_text))
    ended = new.run("run", str(page), "--scale", "smoke")
    assert ended.code == 2 and said in ended.err and ended.err.count("\n") == 1
    assert not (new.root / "results-own" / "compared").exists()


def test_two_systems_of_one_name_are_refused_whichever_of_label_and_layer_differs():
    known, same_label = xmoe(8), dataclasses.replace(xmoe(8), layer=xmoe(16).layer)
    assert unique([known, xmoe(8), xmoe(16)]) == [known, xmoe(16)]
    for other in (same_label, dataclasses.replace(known, label="mine")):
        with pytest.raises(UserError, match="two systems that differ are named 'xmoe_8'; give each a name of its own"):
            unique([known, other])


def test_a_claim_of_ones_own_page_is_judged_by_its_records(own: Path, quick: Project, tmp_path: Path):
    project, page = quick.copied(tmp_path / "project"), own / "compared.py"
    page.write_text(COMPARED)
    ended = project.run("run", str(page), "--scale", "smoke", "--seeds", "1", "2")
    assert ended.code == 0, ended.err
    folder = project.root / "results-own" / "compared"
    nll = {
        path.stem: json.loads(path.read_bytes())["metrics"]["test"]["nll_per_token"]
        for path in (folder / "runs" / "smoke").glob("*.json")
    }
    mean = sum(nll[f"english-signs_8-seed{n}"] - nll[f"english-xmoe_8-seed{n}"] for n in (1, 2)) / 2
    rendered = project.run("render", str(page), "--scale", "smoke")
    assert rendered.code == 0 and rendered.out.startswith("# Compared\n"), rendered.err
    ledger = (folder / "smoke" / "compared_claims.md").read_text()
    assert "signs lie below" in (folder / "smoke" / "compared_claims.csv").read_text()
    assert f"| signs lie below | {100 * math.expm1(mean):+.2f}% [" in ledger and ledger in rendered.out
    checked = project.run("render", str(page), "--scale", "smoke", "--check")
    assert checked.code == 0 and "4 files are what the records give" in checked.out, checked.err


def test_a_config_that_miscounts_itself_gives_no_record(own: Path, quick: Project, tmp_path: Path):
    project, router = quick.copied(tmp_path / "project"), tmp_path / "miscounted.py"
    text = ROUTER.replace("sign_router", "miscounted").replace("return 0", "return 7", 1)
    system = SYSTEM.replace("from sign_router", "from miscounted").replace("signs_", "miscounted_")
    page = COMPARED.replace("from signs import signs\n", "").replace("signs_8", "miscounted_8")
    router.write_text(text)
    own_page = tmp_path / "page.py"
    own_page.write_text(system + page)
    ended = project.run("run", str(own_page), "--scale", "smoke", "--systems", "miscounted_8")
    assert ended.code == 2 and "english-miscounted_8-seed1: the configs count" in ended.out + ended.err
    assert not list((project.root / "results-own").rglob("english-*.json"))
