"""Several processes speak as one; a log has lines and no bars; the time left is that of finished runs."""

import dataclasses
import fcntl
import io
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch

from experiments.runner.dry_run import cost_table
from experiments.runner.jobs import gpus, run_in_jobs, useful_jobs
from experiments.runner.outlook import seconds_of, time_left, tokens_of
from experiments.runner.store import Records
from experiments.table1_perplexity import PAGE as TABLE1
from mhmoe import display as display_module
from mhmoe.display import JOB, RECORD, display
from tests import commands
from tests.forged import forged
from tests.mini import MINI, at_rate
from tests.tiny import ROOT

FIXED = at_rate(MINI, 0.01)
RECORDS = (
    '{"label": "cpu %s (run %d of 8)", "total": 2000, "done": %d, "unit": "tok", "remark": "valid %d", "over": %s}'
)


def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """A shell script in the place of Python."""
    path = tmp_path / "stub"
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


# ---- jobs -----------------------------------------------------------------------------------


def test_what_fails_in_every_job_is_said_once_and_what_differs_is_all_said(tmp_path, monkeypatch, capsys):
    stub(tmp_path, monkeypatch, 'echo "$$ done"; echo "left out"; echo "error: no memory" >&2; exit 2')
    assert run_in_jobs(3, []) == 2
    out, err = capsys.readouterr()
    assert err == "error: no memory\n"
    assert out.count(" done\n") == 3 and out.count("left out\n") == 1


def test_the_progress_of_jobs_is_lines_in_a_log(tmp_path, monkeypatch, capsys):
    lines = [RECORDS % ("a", 3, done, 70, over) for done, over in ((0, "false"), (500, "false"), (2000, "true"))]
    stub(tmp_path, monkeypatch, "".join(f"printf '\\002%s\\n' '{line}' >&2\n" for line in lines))
    assert run_in_jobs(2, []) == 0
    err = capsys.readouterr().err
    assert "\r" not in err and RECORD not in err
    assert err.count("cpu a (run 3 of 8): 0 of 2.00k tok\n") == 2
    assert err.count("cpu a (run 3 of 8): 2.00k of 2.00k tok") == 2 and err.count("; valid 70\n") == 2


@pytest.mark.slow
def test_on_a_terminal_every_job_has_a_line_of_its_own(tmp_path):
    program = tmp_path / "program.py"
    records = [RECORDS % (name, i, 500, 70, "false") for i, name in ((3, "first"), (4, "second"))]
    steps = "".join(f"printf '\\002%s\\n' '{record}' >&2; sleep 0.7\n" for record in records)
    (tmp_path / "stub").write_text(f"#!/bin/sh\n{steps}")
    (tmp_path / "stub").chmod(0o755)
    program.write_text(
        f"import sys; sys.executable = {str(tmp_path / 'stub')!r}\n"
        "from experiments.runner.jobs import run_in_jobs; run_in_jobs(2, [])\n"
    )
    shown = on_a_terminal(program)
    assert "cpu first (run 3 of 8):" in shown and "cpu second (run 4 of 8):" in shown
    assert "\x1b[A" in shown  # the cursor goes between the lines
    assert RECORD not in shown


def on_a_terminal(program: Path) -> str:
    """What a program shows whose standard error is a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))  # 30 lines of 100 characters
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, program], stderr=theirs, stdout=theirs, env=environment):
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += (more := os.read(ours, 4096))
            except OSError:  # the other end is closed
                break
            if not more:
                break
    os.close(ours)
    return shown.decode()


@pytest.mark.parametrize("when", ["when they run", "while one begins"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_jobs_end_with_the_process_that_started_them(number, when, tmp_path):
    at_once = (
        "import os, subprocess; begin = subprocess.Popen.__init__\n"
        "def begun(*given, **more): begin(*given, **more); os.kill(os.getpid(), NUMBER)\n"
        "subprocess.Popen.__init__ = begun\n"
    ).replace("NUMBER", str(int(number)))
    (tmp_path / "stub").write_text(f"#!/bin/sh\ntouch {tmp_path}/$$.pid\nexec sleep 100\n")
    (tmp_path / "stub").chmod(0o755)
    program = (
        "import signal, sys; from experiments.__main__ import _end; signal.signal(signal.SIGTERM, _end)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the tests run in the background
        "from mhmoe.cli import exit_code; from experiments.runner.jobs import run_in_jobs\n"
        f"sys.executable = {str(tmp_path / 'stub')!r}\n"
        + at_once * (when == "while one begins")
        + "sys.exit(exit_code(lambda: run_in_jobs(2, []), interrupted='interrupted'))\n"
    )
    parent = commands.program(program)
    assert parent.process.pid is not None
    if when == "when they run":
        while len(list(tmp_path.glob("*.pid"))) < 2:
            assert parent.process.is_alive()
            time.sleep(0.02)
        os.kill(parent.process.pid, number)
    ended = parent.wait()
    assert (ended.code, ended.err) == (130, "interrupted\n")
    for path in tmp_path.glob("*.pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.stem), 0)


def test_there_are_no_more_jobs_than_cores_and_runs_and_that_is_said(monkeypatch, capsys):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    assert [useful_jobs(jobs, 24) for jobs in (1, 4)] == [1, 4]
    assert capsys.readouterr().out == ""
    assert useful_jobs(100_000, 24) == 4 and useful_jobs(3, 2) == 2 and useful_jobs(2, 0) == 1
    assert "jobs=100000 is more than 4 cores and 24 runs can use; going on with 4" in capsys.readouterr().out


# ---- display --------------------------------------------------------------------------------


def test_a_log_has_the_begin_the_end_and_a_line_now_and_then(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(display_module.time, "monotonic", lambda: now)
    monkeypatch.delenv(JOB, raising=False)
    with display("smoke a (run 1 of 3)", 6000, done=1000) as shown:
        for now in (10.0, 29.0, 40.0, 50.0):
            shown.update(1000)
            if now == 29.0:
                shown.note("valid perplexity 9.00")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "smoke a (run 1 of 3): 1.00k of 6.00k tok"
    assert lines[1:] == [
        "smoke a (run 1 of 3): 4.00k of 6.00k tok, 75 tok/s, 00:26 left; valid perplexity 9.00",
        "smoke a (run 1 of 3): 5.00k of 6.00k tok, 80 tok/s; valid perplexity 9.00",
    ]


def test_what_is_brief_leaves_no_line_in_a_log(monkeypatch, capsys):
    monkeypatch.delenv(JOB, raising=False)
    with display("packing", None, brief=True) as shown:
        shown.update(5)
    with display("training", 5, quiet=True) as shown:
        shown.update(5)
    assert capsys.readouterr() == ("", "")


def test_a_job_tells_the_process_that_started_it(monkeypatch):
    monkeypatch.setenv(JOB, "2")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with display("a", 10, unit="step") as shown:
        shown.note("nothing yet")
        shown.update(4)
    written = sys.stderr.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    first, last = (json.loads(line.removeprefix(RECORD)) for line in written.splitlines())
    assert first == {"label": "a", "total": 10, "done": 0, "unit": "step", "remark": "", "over": False}
    assert last == {"label": "a", "total": 10, "done": 4, "unit": "step", "remark": "nothing yet", "over": True}


# ---- time -----------------------------------------------------------------------------------


def test_the_time_left_is_that_of_finished_runs_of_the_same_system_or_of_all(tmp_path, monkeypatch):
    monkeypatch.delenv(JOB, raising=False)
    runs = TABLE1.runs(FIXED, (1, 2), Records(FIXED, tmp_path))
    dense, other = runs[0], runs[1]
    finished = [
        dataclasses.replace(forged(run), wall_seconds=seconds, tokens=tokens_of(run))
        for run, seconds in ((dense, 60.0), (runs[2], 120.0))
    ]
    assert seconds_of(dense, finished) == pytest.approx(60) and seconds_of(other, finished) is None
    assert time_left([dense, other], finished) == "02:30"  # the other as long as the mean of the two
    monkeypatch.setenv(JOB, "2")
    assert time_left([dense, other], finished) == "01:15"
    assert time_left([dense], []) == ""


def test_what_a_card_took_is_not_said_of_a_cpu_nor_the_reverse(tmp_path):
    dense = TABLE1.runs(FIXED, (1,), Records(FIXED, tmp_path))[0]
    on_card = dataclasses.replace(dense, scale=dataclasses.replace(FIXED, device="cuda"))
    record = dataclasses.replace(forged(dense), wall_seconds=60.0, tokens=tokens_of(dense))
    of_card = dataclasses.replace(record, wall_seconds=2.0, provenance={**record.provenance, "device": "NVIDIA H200"})
    assert seconds_of(dense, [of_card]) is None and time_left([dense], [of_card]) == ""
    assert (
        seconds_of(dense, [of_card, record]) == pytest.approx(60) and time_left([dense], [of_card, record]) == "01:00"
    )
    assert seconds_of(on_card, [record, of_card]) == pytest.approx(2)
    assert "time unknown" in cost_table([dense], Records(FIXED, tmp_path), [of_card])


@pytest.mark.parametrize(
    ("given", "own"), [("2,3", ["2", "3"]), ("GPU-1f, GPU-2e", ["GPU-1f", "GPU-2e"]), (None, ["0", "1"])]
)
def test_jobs_get_the_gpus_that_the_command_has(monkeypatch, given, own):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert gpus() == own
