"""A command ends in one line: after a mistake, without memory, without room to write, and in time."""

import ctypes
import fcntl
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mhmoe.cli import OutOfTime, exit_code, interruptible, stopped_at
from mhmoe.io import UserError, check_writable, new_folder, remove_leftovers, write_atomically


def refuse(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


TOO_LARGE = {
    "torch": lambda: torch.empty(2**45),
    "numpy": lambda: np.empty(2**48),
    "cuda": refuse(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nmore")),
    "python": refuse(MemoryError()),
    "fork": refuse(OSError(12, "Cannot allocate memory")),
    "threads": refuse(RuntimeError("can't start new thread")),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_too_little_memory_is_one_line_that_says_what_to_do(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(TOO_LARGE[case]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: memory ran out") and "run fewer jobs at once" in line
    assert "wanted" in line or case in ("python", "fork", "threads")


def test_a_fault_of_ours_is_no_mistake_of_the_users() -> None:
    with pytest.raises(RuntimeError, match="a fault"):
        exit_code(refuse(RuntimeError("a fault")))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("no file"), "error: no file"),
        (ValueError("steps=0"), "error: steps=0"),
        (PermissionError(13, "Permission denied", "/x/locks"), "error: Permission denied: /x/locks"),
        (UserError("text \ud800"), "error: text \\ud800"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_exit_code_2(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(refuse(error)) == 2
    assert capsys.readouterr().err == line + "\n"


def test_a_deadline_ends_whatever_is_done_within_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        with stopped_at(time.monotonic() + 0.1):
            time.sleep(60)

    begun = time.monotonic()
    assert exit_code(command) == 0
    assert 0.1 < time.monotonic() - begun < 5
    assert capsys.readouterr().out == "stopped at the time budget; the same command goes on from here\n"


def test_a_deadline_does_not_wait_for_a_library_that_hears_no_signal() -> None:
    begun = time.monotonic()
    with pytest.raises(OutOfTime), stopped_at(begun - 1.0):
        interruptible(lambda: ctypes.CDLL(None).sleep(20))
    assert time.monotonic() - begun < 5
    done = list[int]()
    interruptible(lambda: done.append(1))
    assert done == [1]
    with pytest.raises(UserError, match="no room"):
        interruptible(refuse(UserError("no room")))


def test_work_that_ends_in_its_own_way_is_not_disturbed() -> None:
    with stopped_at(time.monotonic()):
        time.sleep(0.3)
    with pytest.raises(OutOfTime), stopped_at(-math.inf):
        time.sleep(60)


# ---- what is written ------------------------------------------------------------------------


def test_a_place_where_nothing_can_be_written_is_one_line(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^cannot write in .*/file/cache: Not a directory; make it writable$"):
        check_writable(tmp_path / "file" / "cache")


@pytest.mark.parametrize("late", [False, True], ids=["removed before it is opened", "being removed when it is"])
def test_a_folder_that_another_process_takes_for_a_leftover_is_made_anew(
    late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, list[str]()

    def taken(**where: Any) -> str:
        made.append(make(**where))
        if len(made) == 1:
            handle = os.open(made[0], os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
            threading.Timer(0.2 * late, lambda: (shutil.rmtree(made[0]), os.close(handle))).start()
            while not late and Path(made[0]).exists():
                time.sleep(0.01)
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", taken)
    with new_folder(tmp_path / "new") as folder:
        (folder / "a").write_text("a")
    assert len(made) == 2 and (tmp_path / "new" / "a").read_text() == "a"


def test_what_is_being_written_is_not_taken_for_a_leftover(tmp_path: Path) -> None:
    with new_folder(tmp_path / "model") as new:
        (new / "weights").write_bytes(b"1")
        remove_leftovers(tmp_path)
        (new / "config").write_bytes(b"2")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config", "weights"]
    (tmp_path / ".model.writing-0").mkdir()
    (tmp_path / ".file.writing-0").touch()
    write_atomically(tmp_path / "file", b"")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model"]


@pytest.mark.parametrize("replace", [True, False])
def test_a_folder_is_replaced_or_stays_as_is_asked(tmp_path: Path, replace: bool) -> None:
    for text in ("old", "new"):
        with new_folder(tmp_path / "model", replace=replace) as new:
            (new / "file").write_text(text)
    assert (tmp_path / "model" / "file").read_text() == ("new" if replace else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
