"""results/report.html: the whole story on one page that needs nothing from elsewhere.

What was asked and run, what came out, each claim with its verdict, every page with its figures, what it cost, what it
cannot say, how to do it again. Numbers come from the pages and verdicts that were just rendered; none is typed.
"""

import csv
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from analysis.claims.ledger import HEADINGS, RULE, VERDICTS, ledger_tables, verdict_counts
from analysis.claims.rules import Verdict
from analysis.tables import Column, Row
from experiments.report.embedded_markdown import data_uri, inline_html, to_html
from experiments.report.index import COLUMNS
from experiments.report.render import written
from experiments.runner.page import Page
from experiments.scales import PAPER, Scale
from mhmoe.layers.matching import in_words

ROOT = Path(__file__).parents[2]
TABLE, FIGURE, TESTBED = "table1_perplexity", "figure4_training_curves", "testbed"
_RESULT = re.compile(r"^\| (v\d (?:Table|Figures?) [^|]+?) \| ([^|]+?) \| (.+) \|$", flags=re.MULTILINE)
_HEADLINE = (
    Column("label", "system"),
    Column("perplexity", "perplexity", ".2f"),
    Column("std", "std", ".2f"),
    Column("seeds", "seeds", ".0f"),
    Column("change", "to X-MoE", "+.1f", suffix="%"),
    Column("paper_change", "to X-MoE, paper", "+.1f", suffix="%"),
    Column("parameters", "parameters (M)", ",.2f", 1e-6),
    Column("flops_per_token", "MFLOPs a token", ",.2f", 1e-6),
)
_CONTROLS = (
    Column("arm", "arm"),
    Column("label", "known effect"),
    Column("change", "change of perplexity", "+.2f", suffix="%"),
    Column("low", "low", "+.2f", suffix="%"),
    Column("high", "high", "+.2f", suffix="%"),
    Column("n", "seeds", ".0f"),
    Column("seen", "seen"),
)
_COVERED = (
    Column("label", "system"),
    Column("change", "covers", ".0f", suffix="%"),
    Column("low", "low", ".0f", suffix="%"),
    Column("high", "high", ".0f", suffix="%"),
    Column("n", "seeds", ".0f"),
)
_COST = tuple(column for column in COLUMNS if column.key != "stale")


def write_report(
    pages: Sequence[Page], scales: Sequence[Scale], verdicts: Sequence[Verdict], rows: Sequence[Row], folder: Path
) -> dict[Path, str]:
    """report.html into the folder of the rendered pages. rows: those of the index."""
    known = {page.slug: page for page in pages}
    shown = [slug for slug in known if (folder / f"{slug}.md").is_file()]
    of_pages = [row for row in rows if "slug" in row]
    states = {slug: [row for row in of_pages if row["slug"] == slug] for slug in shown}
    ran = [scale for scale in scales if any(row["scale"] == scale.name for row in of_pages if row.get("hours"))]
    headline = _of_first_scale(folder / f"{TABLE}.csv", "perplexity")
    scale = next((row["scale"] for row in headline), "")
    figure = folder / f"{FIGURE}_{scale}.png"
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.get_template("report.html.jinja").render(
        total=rows[-1],
        scales=[scale.name for scale in ran],
        headline_scale=scale,
        headline=_table(_HEADLINE, headline),
        figure=data_uri(figure) if figure.is_file() else "",
        controls=_table(_CONTROLS, _of_first_scale(folder / f"{TESTBED}.csv", "n", "perplexity")),
        covered=_table(_COVERED, _of_first_scale(folder / f"{TESTBED}.csv", "perplexity")),
        counts=[(verdict, VERDICTS[verdict], n) for verdict, n in verdict_counts(verdicts).items()],
        by_page=_by_page(verdicts, known),
        verdicts=VERDICTS,
        headings=(HEADINGS[0], "page", "scale", *HEADINGS[1:]),
        claims=_claims(verdicts, known, folder),
        coverage=_coverage(states, folder),
        pages=[
            (slug, known[slug].title, _state(states[slug]), command(known[slug]), Markup(_page(slug, folder, shown)))
            for slug in sorted(shown, key=lambda slug: (known[slug].controls() is None, _order(slug)))
        ],
        costs=_table(_COST, [row | {"page": known[row["slug"]].title} for row in of_pages if row.get("hours")]),
        limits=_limits([*ran, PAPER]),
        rule=Markup(to_html(RULE, folder, shown, below=1)),
    )
    return written({folder / "report.html": text})


def command(page: Page) -> str:
    """What runs what a page lacks and renders it."""
    task = "" if page.task == "english" else f" TASK={page.task}"
    if found := re.match(r"(v2_)?table(\d+)_", page.slug):
        return f"make reproduce-{'v2-' if found[1] else ''}table{found[2]}{task}"
    if found := re.match(r"figure(\d+)_", page.slug):
        return f"make figure{found[1]}{task}"
    verb = "run" if page.trains else "render"
    return f".venv/bin/python -m experiments {verb} {page.slug}"


def _order(slug: str) -> tuple[int, str, int, str]:
    """v1's tables first, by number, then its figures; then v2's; then ours."""
    found = re.match(r"(v2_)?(table|figure)(\d+)", slug)
    if found is None:
        return 2, "", 0, slug
    return 1 if found[1] else 0, {"table": "", "figure": "f"}[found[2]], int(found[3]), slug


def _page(slug: str, folder: Path, anchors: Collection[str]) -> str:
    """A page without its title, which stands above it."""
    _, _, body = (folder / f"{slug}.md").read_text(encoding="utf-8").partition("\n")
    return to_html(body, folder, anchors, below=2)


def _of_first_scale(path: Path, given: str, absent: str = "") -> list[Row]:
    """The rows of a page's first scale that have a value in one column, and none in another."""
    with path.open(encoding="utf-8", newline="") as file:
        rows: list[Row] = [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]
    found = [row for row in rows if isinstance(row.get(given), float) and row.get(absent) is None]
    return [row for row in found if row["scale"] == found[0]["scale"]]


def _value(text: str) -> float | str | None:
    """A cell of a CSV file; words as people read them."""
    try:
        return float(text) if text else None
    except ValueError:
        return in_words(text)


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> tuple[list[tuple[str, bool]], list[list[str]]]:
    """Headings, each with whether numbers stand below it, and cells."""
    headings = [(c.heading, any(isinstance(row.get(c.key), int | float) for row in rows)) for c in columns]
    return headings, [[column.text(row) for column in columns] for row in rows]


def _by_page(verdicts: Sequence[Verdict], known: Mapping[str, Page]) -> list[tuple[str, str, list[int]]]:
    found = Counter((verdict.claim.slug, verdict.verdict) for verdict in verdicts if not verdict.repeats)
    slugs = sorted({verdict.claim.slug for verdict in verdicts}, key=_order)
    return [(known[slug].title, slug, [found[slug, verdict] for verdict in VERDICTS]) for slug in slugs]


def _claims(verdicts: Sequence[Verdict], known: Mapping[str, Page], folder: Path) -> list[tuple[str, list[Markup]]]:
    """Verdict, and the cells of the ledger's row after it; what could be judged first."""
    rows = [
        (verdict.verdict, slug, [cells[0], known[slug].title.partition(":")[0], scale, *cells[1:]])
        for (scale, slug), family in ledger_tables(verdicts).items()
        for verdict, cells in family
    ]
    rows.sort(key=lambda row: (list(VERDICTS).index(row[0]), _order(row[1])))
    return [(verdict, [Markup(inline_html(cell, folder, ())) for cell in cells]) for verdict, _, cells in rows]


def _state(rows: Sequence[Row]) -> str:
    """How much of a page is run, in words."""
    if any(isinstance(row["done"], str) for row in rows):
        return "counted, nothing to run"
    told = [
        f"{row['scale']}: {row['done']} of {row['done'] + row['stale'] + row['missing']} runs"
        + (f", at most {row['seeds']} seeds" if row["seeds"] else "")
        for row in rows
    ]
    return "; ".join(told) or "declared, not run"


def _coverage(states: Mapping[str, Sequence[Row]], folder: Path) -> list[tuple[str, str, Markup, str]]:
    """Each table and figure of the papers, as docs/papers.md lists them: what it shows, our page, how much is run."""
    found: list[tuple[str, str, Markup, str]] = []
    page = ROOT / "docs" / "papers.md"
    for result, shows, here in _RESULT.findall(page.read_text(encoding="utf-8") if page.is_file() else ""):
        slugs = [slug for slug in re.findall(r"results/(\w+)\.md", here) if slug in states]
        told = "; ".join(dict.fromkeys(_state(states[slug]) for slug in slugs)) or "not built"
        found.append((result, shows, Markup(inline_html(here, folder, states)), told))
    return found


def _limits(scales: Sequence[Scale]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """What was run beside what the paper ran."""
    facts = {
        "width": lambda s: f"{s.model['hidden_size']:,}",
        "blocks": lambda s: f"{s.model['num_hidden_layers']:,}",
        "width of a sub-token at h = 4": lambda s: f"{s.model['hidden_size'] // 4:,}",
        "vocabulary": lambda s: f"{s.model['vocab_size']:,}",
        "tokens a run": lambda s: f"{s.training['steps'] * s.training['batch_sequences'] * s.training['length']:,}",
    }
    return [scale.name for scale in scales], [(name, [fact(scale) for scale in scales]) for name, fact in facts.items()]
