"""`render --check`: what is compared, and whose a file is."""

from pathlib import Path

import pytest

from experiments.report.command import compare
from mhmoe.io import UserError

KNOWN = ("testbed", "testbed_generated")


def test_a_file_is_of_the_page_whose_whole_slug_its_name_begins_with(tmp_path: Path) -> None:
    ours, committed = tmp_path / "ours", tmp_path / "committed"
    for folder in (ours, committed):
        folder.mkdir()
        (folder / "testbed.md").write_text("same")
    (committed / "testbed_generated.md").write_text("of another page")
    compare(["testbed"], KNOWN, ours, committed, [])
    (committed / "testbed_gpu.csv").write_text("of records that are gone")
    with pytest.raises(UserError, match=r"testbed_gpu\.csv come from no record"):
        compare(["testbed"], KNOWN, ours, committed, [])
    with pytest.raises(UserError, match=r"testbed_generated\.md, testbed_gpu\.csv come from no record"):
        compare(KNOWN, KNOWN, ours, committed, [])
