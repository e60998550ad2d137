"""report.html: whole without anything else, with the numbers of the pages, and working in a browser."""

import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from experiments.figure4_training_curves import PAGE as FIGURE4
from experiments.paper import paper_numbers
from experiments.report import html_report
from experiments.report.command import write
from experiments.report.html_report import command, write_report
from experiments.report.index import index_rows
from experiments.table1_perplexity import PAGE as TABLE1
from experiments.testbed import PAGE as TESTBED
from tests.experiments.report.test_rendering import THREE_SEEDS, fill, ledger_rows

PAGES = [TABLE1, FIGURE4, TESTBED]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Parsed(HTMLParser):
    """Tags with their attributes; open tags must close in order."""

    VOID = ("meta", "img", "input", "br", "hr", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.VOID:  # as in <img />
            return
        assert self.open.pop() == tag, (tag, self.getpos())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    fill(folder)
    write("", None, PAGES, [THREE_SEEDS], folder, folder, report=True)
    return folder


@pytest.fixture(scope="module")
def text(folder) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def cells(row: str) -> list[str]:
    return [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td.*?>(.*?)</td>", row, flags=re.DOTALL)]


def test_the_report_is_well_formed_and_needs_nothing_from_elsewhere(text):
    page = Parsed(text)
    assert page.open == []
    names = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {TABLE1.slug, FIGURE4.slug, TESTBED.slug, "claims", "limits"} <= names
    sources = [attributes["src"] for _, attributes in page.tags if "src" in attributes]
    assert len(sources) == 2 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not any(tag == "link" for tag, _ in page.tags) and "url(" not in text and "@import" not in text
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a" and "href" in attributes]
    assert {link[1:] for link in links if link.startswith("#")} <= names
    assert {link for link in links if not link.startswith("#")} == {
        "https://arxiv.org/abs/2404.15045",
        "https://arxiv.org/abs/2411.16205",
    }


def test_the_cards_count_the_verdicts_of_the_ledger(folder, text):
    said = [row.split(" | ")[0].strip("| *") for row in ledger_rows((folder / "claims.md").read_text())]
    own = [verdict for verdict in said if "as above" not in verdict]
    kinds = ("holds", "not reproduced", "cannot tell", "not testable here", "not run")
    counted = Counter(kind for verdict in own for kind in kinds if verdict.startswith(kind))
    assert counted.total() == len(own)
    cards = {name: int(n) for n, name in re.findall(r'<div class="card [\w-]+"><b>(\d+)</b>([\w ]+)</div>', text)}
    assert cards == {
        "holds": counted["holds"],
        "not reproduced at this scale": counted["not reproduced"],
        "cannot tell": counted["cannot tell"],
        "not testable here": counted["not testable here"],
        "not run": counted["not run"],
    }
    assert cards["holds"] > 0 and cards["not run"] > 0
    (table,) = re.findall(r'<table id="ledger">.*?</table>', text, flags=re.DOTALL)
    assert len([row for row in table.split("<tr")[2:] if "<td" in row]) == len(said)


def test_the_headline_has_the_rows_of_table_1_that_were_run(folder, text):
    page = (folder / f"{TABLE1.slug}.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    ran = {row[0]: row[2] for row in rows if re.fullmatch(r"\d+\.\d\d", row[2])}
    after = text[text.index('id="came-out"') :]
    shown = [cells(row) for row in after[: after.index("</table>")].split("<tr")[2:]]
    assert {row[0]: row[1] for row in shown} == ran and len(ran) >= 8


def test_the_figure_beside_it_is_of_the_same_scale(tmp_path, folder, monkeypatch):
    copied = shutil.copytree(folder, tmp_path / "copied")
    (own,) = copied.glob("figure4_training_curves_*.png")
    (copied / "figure4_training_curves_a.png").write_bytes(b"of another scale")
    pictures = []
    monkeypatch.setattr(html_report, "data_uri", lambda path: pictures.append(path.name) or "")
    write_report(PAGES, [THREE_SEEDS], [], index_rows(PAGES, [THREE_SEEDS], copied), copied)
    assert pictures == [own.name]


def test_every_result_of_the_papers_is_in_the_coverage(text):
    rows = text[text.index('id="coverage"') : text.index('id="pages"')]
    covered = {row[0]: row[3] for row in map(cells, rows.split("<tr")[2:]) if row}
    assert {f"v1 Table {n}" for n in (*range(1, 8), 11)} <= covered.keys()
    assert {f"v2 Table {n}" for n in range(1, 6)} <= covered.keys()
    printed = {re.sub(r"^(v\d)_table(\d+).*", r"\1 Table \2", key) for key in paper_numbers() if "_table" in key}
    assert printed <= covered.keys() and len(printed) >= 5
    assert covered["v1 Table 4"] == "not built" and "at most 3 seeds" in covered["v1 Table 1"]


def test_each_page_names_the_command_that_makes_it():
    assert command(TABLE1) == "make reproduce-table1"
    assert command(FIGURE4) == "make figure4"
    assert command(TESTBED) == ".venv/bin/python -m experiments run testbed"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_sorts_filters_and_opens_what_a_link_leads_to(text, tmp_path):
    script = """<script>
    const table = document.querySelector("#came-out ~ .wide table"), head = table.tHead.rows[0].cells[1];
    const column = () => [...table.tBodies[0].rows].map((row) => row.cells[1].textContent).join(" ");
    head.click(); document.body.dataset.up = column();
    head.click(); document.body.dataset.down = column();
    const filter = document.querySelector("details .filter");
    filter.value = "holds"; filter.dispatchEvent(new Event("input"));
    const rows = [...document.querySelectorAll("#ledger tbody tr")];
    document.body.dataset.kept = rows.filter((row) => !row.hidden).every((row) => row.textContent.includes("holds"));
    document.body.dataset.hidden = rows.filter((row) => row.hidden).length;
    document.getElementById("theme").click(); document.body.dataset.theme = document.documentElement.className;
    document.body.dataset.open = document.getElementById("figure4_training_curves").open;
    </script></body>"""
    page = tmp_path / "report.html"
    page.write_text(text.replace("</body>", script), encoding="utf-8")
    address = f"{page.as_uri()}#figure4_training_curves"
    told = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--dump-dom",
            address,
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "CONSOLE" not in told.stderr  # no error of a script
    (body,) = re.findall(r"<body[^>]*>", told.stdout)
    data = dict(re.findall(r'data-(\w+)="([^"]*)"', body))
    rising = [float(number) for number in data["up"].split()]
    assert rising == sorted(rising) and len(rising) >= 8
    assert data["down"].split() == data["up"].split()[::-1]
    assert data["kept"] == "true" and int(data["hidden"]) > 0
    assert data["theme"] == "dark" and data["open"] == "true"
