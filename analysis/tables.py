"""Rows into tables, as Markdown for people and CSV for programs.

Everything here is a function of its arguments: the same records give the same text. A cell without
records says "not run"; stale records (their fingerprint is not the declared one) never enter a number.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mhmoe.io import write_atomically
from mhmoe.layers.matching import in_words
from mhmoe.training.record import Record

NOT_RUN, STALE, NOTHING = "not run", "stale", "-"
Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column: key in the row, heading, and how a number is written (times `factor`, then `suffix`)."""

    key: str
    heading: str
    spec: str = ""
    factor: float = 1.0
    suffix: str = ""

    def text(self, row: Mapping[str, Any]) -> str:
        """The cell. Text stays as it is; None and nan are a dash."""
        value = row.get(self.key)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return NOTHING
        if isinstance(value, str) or not self.spec:
            return str(value)
        return format(value if self.factor == 1 else value * self.factor, self.spec) + self.suffix


def caption(records: Sequence[Record], *, matching: str, sources: Sequence[str]) -> list[str]:
    """What a reader must know before the numbers: scale, text, tokens a run, seeds, what equal size means."""
    if not records:
        return [f"No current records. Equal size: {matching}."]
    by_system: dict[str, list[int]] = {}
    for record in records:
        by_system.setdefault(record.system, []).append(record.seed)
    return [
        f"{setting(records, sources)}; {seeds_text(by_system.values())}.",
        f"Equal size: {matching}.",
    ]


def setting(records: Sequence[Record], sources: Sequence[str]) -> str:
    """Scale, text and tokens of runs."""

    def each(values: set[Any], spec: str = "") -> str:
        return ", ".join(format(value, spec) for value in sorted(values))

    scales, tokens = each({r.scale for r in records}), each({r.tokens for r in records}, ",")
    return f"Scale {scales}; text: {', '.join(sources)}; {tokens} tokens a run"


def seeds_text(groups: Iterable[Iterable[int]]) -> str:
    """Which seeds each of several means is over: once if they are the same, or if fewer are always the first ones."""
    found = sorted({tuple(sorted(set(seeds))) for seeds in groups} - {()}, key=lambda seeds: (-len(seeds), seeds))
    if not found:
        return "no seeds"
    texts = [", ".join(map(str, seeds)) for seeds in found]
    if len(found) == 1:
        return f"seed{'s' if len(found[0]) > 1 else ''} {texts[0]}"
    if all(seeds == found[0][: len(seeds)] for seeds in found):
        return f"seeds {texts[0]}, or the first n of them where n is less"
    return f"seeds {' or '.join(texts)}"


def filled(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """The columns in which any row has a value."""
    return [column for column in columns if any(column.text(row) != NOTHING for row in rows)]


def table_markdown(
    columns: Sequence[Column], rows: Sequence[Row], *, title: str = "", caption: Sequence[str] = ()
) -> str:
    """Title, caption lines, and the table, padded so that it also reads as plain text."""
    cells = [[column.heading for column in columns]] + [[column.text(row) for column in columns] for row in rows]
    cells = [[in_words(cell).replace("|", "\\|") for cell in line] for line in cells]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(columns))]
    numeric = [any(isinstance(row.get(c.key), int | float) for row in rows) for c in columns]
    rule = ["-" * (w - 1) + (":" if number else "-") for w, number in zip(widths, numeric, strict=True)]
    lines = [f"# {title}", ""] if title else []
    for text in caption:
        lines += [text, ""]
    for line in (cells[0], rule, *cells[1:]):
        padded = [
            cell.rjust(w) if number else cell.ljust(w) for cell, w, number in zip(line, widths, numeric, strict=True)
        ]
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join(lines) + "\n"


def table_csv(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """The same rows for programs: keys as headings, plain numbers (six significant digits), no factors."""
    return csv_text([[c.key for c in columns], *([_plain(row.get(c.key)) for c in columns] for row in rows)])


def _plain(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Beside a figure of this path, its numbers, with six digits."""
    cells = ([f"{x:.6g}" if isinstance(x, float) else str(x) for x in row] for row in rows)
    write_atomically(path.with_suffix(".csv"), csv_text([header, *cells]))


def csv_text(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as CSV with line feeds."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()
