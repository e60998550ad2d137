"""results/README.md: what is there, how much of it has been run, and what it took."""

from collections.abc import Sequence
from pathlib import Path

from analysis.tables import Column, Row, table_markdown
from experiments.report.render import written
from experiments.runner.measurements import measured
from experiments.runner.page import Page
from experiments.runner.runs import Run
from experiments.runner.store import RESULTS, Records
from experiments.scales import Scale
from mhmoe.training.record import Record

COLUMNS = (
    Column("page", "page"),
    Column("scale", "scale"),
    Column("done", "runs done"),
    Column("stale", "stale"),
    Column("missing", "missing"),
    Column("measured", "models measured"),
    Column("hours", "hours", ",.1f"),
    Column("pflops", "training PFLOPs", ",.2f"),
)
HEAD = """# All pages

Everything here but LOG.md and speed/ is rendered from the records under runs/ (`make report`); nothing is typed.
[claims.md](claims.md) is the ledger of claims and verdicts, [claims.csv](claims.csv) the same for programs,
[LOG.md](LOG.md) the diary, failures included.

Hours are those of training alone, on the devices that the records name. Pages share runs. What is measured on
finished models (scores, routing) has records of its own under measurements/.
"""
SPEED = "Speed, which benchmarks/ measures and writes"


def write_index(rows: Sequence[Row], pages: Sequence[Page], folder: Path) -> dict[Path, str]:
    """README.md, of rows that are known; pages without one are named below."""
    begun = {row.get("slug") for row in rows}
    others = {
        "Declared, not run": [(page.title, f"{page.slug}.md") for page in pages if page.slug not in begun],
        SPEED: [(page.stem, f"speed/{page.name}") for page in sorted((RESULTS / "speed").glob("*.md"))],
    }
    named = {what: ", ".join(f"[{title}]({to})" for title, to in links) for what, links in others.items() if links}
    lines = [f"\n{what}: {links}.\n" for what, links in named.items()]
    return written({folder / "README.md": "".join([HEAD, "\n", table_markdown(COLUMNS, rows), *lines])})


def index_rows(pages: Sequence[Page], scales: Sequence[Scale], results: Path = RESULTS) -> list[Row]:
    """The rows of the index; `slug` names the page, and `seeds` says over how many the most final runs are."""
    rows: list[Row] = []
    everything: dict[str, Record] = {}
    for scale in scales:
        records = Records(scale, results)
        everything |= {f"{scale.name}/{name}": record for name, record in records.by_name.items()}
        for page in sorted(pages, key=lambda page: page.controls() is None):  # first what the rest rests on
            runs = page.planned(scale, records)
            states = [records.state(run) for run in runs]
            done = [records.by_name[run.name] for run, state in zip(runs, states, strict=True) if state == "done"]
            if states.count("missing") < len(runs):
                finals = [run for run in runs if run.tests]
                rows.append(
                    {
                        "slug": page.slug,
                        "page": f"[{page.title}]({page.slug}.md)",
                        "scale": scale.name,
                        **{state: states.count(state) for state in ("done", "stale", "missing")},
                        "seeds": len({run.seed for run in finals if records.state(run) == "done"}),
                        "measured": _measured(page, [run for run in finals if not run.waits_for], records),
                        **_spent(done),
                    }
                )
    for page in pages:
        if not page.trains:
            shown = ", ".join(scale.name for scale in page.scales(scales))
            row = {"slug": page.slug, "page": f"[{page.title}]({page.slug}.md)"}
            rows.append({**row, "scale": shown, "done": "nothing to run"})
    return [*rows, {"page": "all records", "scale": "all", "done": len(everything), **_spent([*everything.values()])}]


def _measured(page: Page, finals: Sequence[Run], records: Records) -> str | None:
    """Of how many final models everything that the page needs is measured."""
    if not page.measurements:
        return None
    found = [records.by_name[run.name] for run in finals if records.state(run) == "done"]
    whole = [
        record
        for record in found
        if all(measured(measurement, record, records.results) for measurement in page.measurements)
    ]
    return f"{len(whole)} of {len(finals)}"


def _spent(records: Sequence[Record]) -> Row:
    return {
        "hours": sum(r.wall_seconds for r in records) / 3600,
        "pflops": sum(3 * r.flops_per_token * r.tokens for r in records) / 1e15,
    }
