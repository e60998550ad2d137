"""Numbers in docs/: from committed results or from the code that counts them, never by hand.

A cell is `<!-- ours: LABEL -->TEXT<!-- -->`. TEXT is test perplexity, mean and standard deviation over n seeds, of the
row of results/compare_systems.csv whose label begins so, at the scale there that has the most of a laptop's and above;
"not run yet" where there is none. Between `<!-- plan: 32xV100 8xH100 -->` and `<!-- -->` stands what v1's models
need of such GPUs, and between `<!-- glance: NAME -->` and `<!-- -->` a table of differences (glance.py).

    python -m docs.numbers          writes the pages again; `docs.assemble` does so on its way to the site
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from analysis import tables
from docs import glance
from experiments.runner.dry_run import gpu_table
from experiments.runner.gpus import GPUs
from experiments.runner.plan import final_runs
from experiments.runner.store import Records
from experiments.scales import PAPER
from experiments.systems import dense, mhmoe, xmoe
from mhmoe.io import write_atomically

ROOT = Path(__file__).parents[1]
PAGE, PLAN_PAGE = ROOT / "docs" / "systems.md", ROOT / "docs" / "how" / "many_devices.md"
PAGES = (PAGE, PLAN_PAGE, ROOT / "docs" / "results.md")
RESULTS = ROOT / "results" / "compare_systems.csv"
SCALES = ("paper", "gpu", "long", "cpu")
CELL = re.compile(r"(<!-- ours: (.+?) -->)(.*?)(<!-- -->)")
GLANCE = re.compile(r"(<!-- glance: (\w+) -->\n)(.*?)(<!-- -->)", flags=re.DOTALL)
PLAN = re.compile(r"(<!-- plan: (.+?) -->\n)(.*?)(<!-- -->)", flags=re.DOTALL)
NOT_RUN = "not run yet"
NO_NUMBER = (tables.NOT_RUN, tables.STALE, tables.NOTHING)

Rows = Sequence[dict[str, str]]


def rows_of(path: Path = RESULTS) -> Rows:
    """Rows of the scale with the most numbers, of several the largest; none where nothing was run."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        found = [row for row in csv.DictReader(file) if row.get("perplexity", "") not in ("", *NO_NUMBER)]
    return max(([row for row in found if row["scale"] == scale] for scale in SCALES), key=len)


def number(label: str, rows: Rows) -> str:
    """Raises ValueError where several rows begin with the label and none is it."""
    begins = [row for row in rows if re.match(rf"{re.escape(label)}(\W|$)", row["label"], flags=re.IGNORECASE)]
    exact = [row for row in begins if row["label"].casefold() == label.casefold()]
    chosen = exact or begins
    if not chosen:
        return NOT_RUN
    if len(chosen) > 1:
        raise ValueError(f"{label!r} begins the labels {', '.join(row['label'] for row in chosen)}; name one in full")
    (row,) = chosen
    spread = f" ± {float(row['std']):.2f}" if row.get("std") else ""
    return f"{float(row['perplexity']):.2f}{spread} (n = {row.get('seeds') or 1}, {row['scale']})"


def with_numbers(text: str, rows: Rows) -> str:
    with_cells = CELL.sub(lambda found: f"{found[1]}{number(found[2], rows)}{found[4]}", text)
    glances = glance.tables(tuple(found[2] for found in GLANCE.finditer(text)))
    with_glances = GLANCE.sub(lambda found: f"{found[1]}\n{glances[found[2]]}\n{found[4]}", with_cells)
    return PLAN.sub(lambda found: f"{found[1]}\n{plan(found[2].split())}\n{found[4]}", with_glances)


def plan(machines: Sequence[str]) -> str:
    """Table 11's models of no and 8 experts on such GPUs, each with the other reading of MH-MoE's size."""
    systems = (dense(), xmoe(8), mhmoe(8, "parameters"), mhmoe(8, "compute"), xmoe(256))
    records = Records(PAPER)
    runs = [run for system in systems for run in final_runs(PAPER, "english", system, PAPER.seeds, records)]
    return gpu_table(runs, [GPUs.parse(text) for text in machines])


if __name__ == "__main__":
    for page in PAGES:
        write_atomically(page, with_numbers(page.read_text(encoding="utf-8"), rows_of()))
