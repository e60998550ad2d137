"""Our own numbers in docs/systems.md: from the committed results of compare_systems, never by hand.

A cell is `<!-- ours: LABEL -->TEXT<!-- -->`. TEXT is test perplexity, mean and standard deviation over n seeds, of the
row of results/compare_systems.csv whose label begins so, at the scale there that is the largest of a laptop's and
above; "not run yet" where there is none.

    python -m docs.numbers          writes the page again; `docs.assemble` does so on its way to the site
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from mhmoe.io import write_atomically

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "systems.md"
RESULTS = ROOT / "results" / "compare_systems.csv"
SCALES = ("paper", "gpu", "long", "cpu")
CELL = re.compile(r"(<!-- ours: (.+?) -->)(.*?)(<!-- -->)")
NOT_RUN = "not run yet"

Rows = Sequence[dict[str, str]]


def rows_of(path: Path = RESULTS) -> Rows:
    """Rows of the scale to show; none where nothing was run."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        found = [row for row in csv.DictReader(file) if row.get("perplexity")]
    return next((own for scale in SCALES if (own := [row for row in found if row["scale"] == scale])), [])


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
    return CELL.sub(lambda found: f"{found[1]}{number(found[2], rows)}{found[4]}", text)


if __name__ == "__main__":
    write_atomically(PAGE, with_numbers(PAGE.read_text(encoding="utf-8"), rows_of()))
