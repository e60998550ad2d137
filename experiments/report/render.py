"""Records into results/: tables, figures, the ledger. Reads committed records and nothing else.

results/<stem>.md, .csv and .png hold every committed scale; the smoke scale is a check of the machinery, so
its records and pages stay out of git, under results/smoke.
"""

from collections.abc import Hashable, Sequence
from pathlib import Path

from analysis.claims.controls import together
from analysis.claims.judge import judge
from analysis.claims.ledger import ledger_csv, ledger_markdown
from analysis.claims.rules import Verdict
from analysis.tables import Column, csv_text, table_csv
from experiments.report.captions import current_runs, measured_values
from experiments.runner.page import Page, unique
from experiments.runner.store import RESULTS, Records
from experiments.scales import Scale
from mhmoe.io import write_atomically
from mhmoe.layers.matching import in_words

SCALE = Column("scale", "scale")


def render(page: Page, scales: Sequence[Scale], folder: Path, results: Path = RESULTS) -> dict[Path, str]:
    """Write a page's files; returns those that are text, for printing and comparing."""
    possible = page.scales(scales)
    found = {scale.name: page.section(scale, Records(scale, results), folder) for scale in possible}
    sections = {name: section for name, section in found.items() if section is not None}
    parts = [f"# {page.title}\n", *(f"## Scale {name}\n\n{section.markdown}" for name, section in sections.items())]
    if not sections:
        declared = ", ".join(scale.name for scale in possible)
        parts.append(f"Not run at {'any of the scales ' if len(possible) > 1 else 'scale '}{declared}.\n")
    parts += [f"{note}\n" for note in page.notes]
    columns = next((section.columns for section in sections.values()), None)
    rows = [{"scale": name, **row} for name, section in sections.items() for row in section.rows]
    files = {
        folder / f"{page.slug}.md": in_words("\n".join(parts)),
        folder / f"{page.slug}.csv": csv_text([]) if columns is None else table_csv((SCALE, *columns), rows),
    }
    return written(files)


def written(files: dict[Path, str]) -> dict[Path, str]:
    """The texts, each of which is at its place then."""
    for path, text in files.items():
        write_atomically(path, text)
    return files


def verdicts(pages: Sequence[Page], scales: Sequence[Scale], results: Path = RESULTS) -> list[Verdict]:
    """A verdict on every claim, by the current records alone."""
    found: dict[str, list[Verdict]] = {page.slug: [] for page in pages}
    for scale in scales:
        records = Records(scale, results)
        judged: dict[Hashable, Verdict] = {}
        for page in pages:
            claims = page.claims_at(scale)
            if claims and records.by_name and page.is_for(scale):
                testbeds = [p for p in pages if p.task == page.task and p.controls() is not None]
                systems = unique([system for p in (page, *testbeds) for system in p.all_systems()])
                current = current_runs(systems, scale, records, page.task)
                runs = [record for of_system in current.values() for record in of_system]
                values = measured_values(page.measurements, current, results)
                labels = {system.name: in_words(system.label) for system in systems}
                controls = together([has for p in testbeds if (has := p.controls())], labels)
                new = judge(claims, runs, scale.name, values, controls=controls, judged=judged)
                judged |= {verdict.claim.question: verdict for verdict in new if verdict.n >= 2}
                found[page.slug] += new
    return [verdict for of_page in found.values() for verdict in of_page]


def write_ledger(
    found: Sequence[Verdict], pages: Sequence[Page], folder: Path, stem: str = "claims"
) -> dict[Path, str]:
    """The ledger, of verdicts that are known, for people and for programs."""
    titles = {page.slug: page.title for page in pages}
    return written({folder / f"{stem}.md": ledger_markdown(found, titles), folder / f"{stem}.csv": ledger_csv(found)})
