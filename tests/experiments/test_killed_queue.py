"""A queue of three pages, whose first process is killed again and again while its jobs go on, ends as if never."""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import Project
from tests.experiments.test_cli import numbers

PAGES = {"table96": ("dense()", "xmoe(8)"), "table97": ("dense()", "null()"), "table98": ("null()", "xmoe(8, top_k=2)")}
PAGE = '''"""Two systems."""

from experiments.kinds.table import Row, Table
from experiments.systems import dense, null, xmoe

PAGE = Table(slug="{name}_two", title="Two", rows=({rows}))
'''
SHORTER = """
SCALES["smoke"] = dataclasses.replace(SMOKE, training={**SMOKE.training, "steps": 30})
"""
COMMAND = ("run-all", *PAGES, "--scale", "smoke")


def at_work(project: Project) -> list[int]:
    """The processes that run in the project's folder."""
    found = list[int]()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            folder = (process / "cwd").readlink()
        except OSError:  # it has ended, or is somebody else's
            continue
        if folder == project.root and "Z" not in (process / "stat").read_text().rpartition(")")[2].split()[:1]:
            found.append(int(process.name))
    return found


@dataclasses.dataclass(frozen=True)
class Watched:
    """A project at whose files is looked while others write them."""

    project: Project

    def records(self, count: int) -> Callable[[], bool]:
        return lambda: len(list(self.project.results.glob("runs/smoke/*.json"))) >= count

    def begun(self, what: str) -> Callable[[], bool]:
        return lambda: any(self.project.root.glob(f".cache/{what}"))


@pytest.mark.slow
def test_a_queue_whose_parent_is_killed_at_five_moments_ends_with_the_records_of_one_left_alone(tmp_path: Path) -> None:
    whole = Project.new(tmp_path / "whole")
    with (whole.root / "experiments" / "scales.py").open("a") as scales:
        scales.write(SHORTER)
    for name, systems in PAGES.items():
        rows = ", ".join(f"Row(system={system})" for system in systems)
        (whole.root / "experiments" / f"{name}_two.py").write_text(PAGE.format(name=name, rows=rows))
    cut = whole.copied(tmp_path / "cut")
    ended = whole.run(*COMMAND, OMP_NUM_THREADS="1")
    assert ended.code == 0, ended.err

    watched = Watched(cut)
    moments = (watched.begun("packed/*"), watched.begun("locks/smoke/*"), *map(watched.records, (1, 2, 3)))
    for reached in moments:
        killed = cut.start(*COMMAND, "--jobs", "2").kill_when(reached)
        assert killed.code == -9, "it ended before the moment came"
    last = cut.run(*COMMAND, "--jobs", "2")  # beside the jobs of those killed, which may be at work yet
    assert last.code == 0, last.err
    assert "run " in last.err and " of 4" in last.err, "the progress of the whole queue is shown"

    assert len(numbers(whole, "smoke")) == 4 and numbers(cut, "smoke") == numbers(whole, "smoke")
    until = time.monotonic() + 120
    while at_work(cut) and time.monotonic() < until:
        time.sleep(0.5)
    assert at_work(cut) == [], "a job that nobody hears ends"
    assert numbers(cut, "smoke") == numbers(whole, "smoke")
    listed = [(project.results / "runs" / "smoke" / "SHA256SUMS").read_text() for project in (whole, cut)]
    assert [line.split()[1] for line in listed[0].splitlines()] == [line.split()[1] for line in listed[1].splitlines()]
    assert not [name for name in cut.files() if "writing" in name or name.endswith(".pt")]
    assert cut.run("render", "--scale", "smoke").code == 0
    assert os.listdir(cut.results / "smoke")
