"""python -m tests.gpu: every test that needs a graphics card, as a table of what passed. `make check-gpu` calls it.

It needs torch, transformers, triton, jaxtyping, pytest and hypothesis, nothing else: a plain copy of the tree will do.
The project's own settings of pytest are left out, as they name plugins that such a machine may not have.
"""

import os
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


class Table:
    """One line a test: its claim, what became of it, how long it took."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, float]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or (report.when == "setup" and not report.passed):
            outcome = {"passed": "pass", "failed": "FAIL", "skipped": "skipped"}[report.outcome]
            self.rows.append((report.nodeid.partition("::")[2], outcome, report.duration))

    def print(self) -> None:
        width = max((len(name) for name, _, _ in self.rows), default=10)
        print(f"\n{'test':<{width}}  result   seconds")
        for name, outcome, seconds in self.rows:
            print(f"{name:<{width}}  {outcome:<7} {seconds:8.1f}")


def main() -> int:
    os.environ.setdefault("MHMOE_TRITON", "1")
    os.environ.setdefault("MHMOE_TUNE", "0")  # tuning would take longer than all tests
    table, begun = Table(), time.monotonic()
    settings = ["-c", str(FOLDER / "pytest.ini"), "--rootdir", str(FOLDER), "--confcutdir", str(FOLDER)]
    code = pytest.main([*settings, "-p", "no:cacheprovider", "-q", str(FOLDER), *sys.argv[1:]], plugins=[table])
    table.print()
    counts = {outcome: sum(row[1] == outcome for row in table.rows) for outcome in ("pass", "FAIL", "skipped")}
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()), f"in {time.monotonic() - begun:.0f} s")
    if counts["skipped"] and not counts["pass"]:
        print("NOT CHECKED: no CUDA card is visible to torch here")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
