"""One command in several processes that share out the runs, shown as one: a line a job, each failure once."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from typing import IO, Any

import torch
from tqdm import tqdm

from mhmoe.display import JOB, RECORD, Display, display

END_SECONDS = 10.0  # that a process has to end in when it is asked to


def is_spoken_for() -> bool:
    """Whether this process is a job of another, or not the first of torchrun's: what it says is said already."""
    return JOB in os.environ or os.environ.get("RANK", "0") != "0"


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """Those that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return named[:count] if any(named) else [str(number) for number in range(count)]


def useful_jobs(jobs: int, runs: int) -> int:
    """At most one job a core and a run, which is said."""
    if (useful := max(min(jobs, cores(), runs), 1)) < jobs:
        print(f"jobs={jobs} is more than {cores()} cores and {runs} runs can use; going on with {useful}")
    return useful


def run_in_jobs(jobs: int, arguments: Sequence[str]) -> int:
    """`python -m experiments` with these arguments in so many processes that share the runs, the cores and the GPUs.

    What several of them say is shown once. Returns the worst exit code. A process that was killed is told of at
    once; the others go on. When this process is asked to end, they end first.
    """
    threads = max(cores() // jobs, 1)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), JOB: str(jobs), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "experiments", *arguments]
    devices = gpus()
    said: queue.SimpleQueue[tuple[int, IO[str], str]] = queue.SimpleQueue()
    children: list[subprocess.Popen[str]] = []
    readers: list[threading.Thread] = []
    screen = _Screen()
    killed: set[int] = set()
    try:
        for job in range(jobs):
            mine = environment
            if len(devices) > 1:
                mine = {**environment, "CUDA_VISIBLE_DEVICES": devices[job % len(devices)]}
            with _asked_later():  # else one that was begun, and is not known yet, would go on alone
                child = subprocess.Popen(
                    command, env=mine, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
                )
                children.append(child)
            for pipe, target in ((child.stdout, sys.stdout), (child.stderr, sys.stderr)):
                assert pipe is not None
                readers.append(threading.Thread(target=_read, args=(job, pipe, target, said), daemon=True))
                readers[-1].start()
        while any(reader.is_alive() for reader in readers) or not said.empty():
            with contextlib.suppress(queue.Empty):
                screen.show(*said.get(timeout=0.2))
            for child in children:
                if (child.poll() or 0) < 0 and child.pid not in killed:
                    killed.add(child.pid)
                    why = ", perhaps because memory ran out" if child.returncode == -signal.SIGKILL else ""
                    tqdm.write(
                        f"one of {jobs} processes was stopped by signal {-child.returncode}{why}; the others go on",
                        file=sys.stderr,
                    )
        return max(abs(child.wait()) for child in children)
    finally:
        screen.close()
        _end(children)
        for reader in readers:  # which close the pipes; a child's own children may hold them
            reader.join(1.0)


def _read(job: int, pipe: IO[str], target: IO[str], said: "queue.SimpleQueue[tuple[int, IO[str], str]]") -> None:
    with pipe:
        for line in pipe:
            said.put((job, target, line.rstrip("\n")))


@contextlib.contextmanager
def _asked_later() -> Generator[None]:
    """Whoever asks this process to end in the block is heard after it."""
    if threading.current_thread() is not threading.main_thread():  # which alone hears of it
        yield
        return
    asked: list[int] = []
    earlier = {n: signal.signal(n, lambda number, _: asked.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        for number in asked[:1]:
            signal.raise_signal(number)


def _end(children: Sequence["subprocess.Popen[str]"]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()
    for child in children:
        try:
            child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class _Screen:
    """What the jobs say, each line once, and below it what each is at."""

    def __init__(self) -> None:
        self.displays: dict[int, Display] = {}
        self.said: dict[str, int] = {}  # by which job

    def show(self, job: int, target: IO[str], line: str) -> None:
        if line.startswith(RECORD):
            self._progress(job, json.loads(line.removeprefix(RECORD)))
        elif self.said.setdefault(line, job) == job:
            tqdm.write(line, file=target)

    def close(self) -> None:
        for shown in self.displays.values():
            shown.end()

    def _progress(self, job: int, record: dict[str, Any]) -> None:
        label, total, done, unit, remark, over = record.values()
        if (shown := self.displays.get(job)) is None or shown.label != label:
            if shown is not None:
                shown.end()
            shown = self.displays[job] = display(label, total, done=done, unit=unit, line=job)
        shown.update(done - shown.done)
        shown.note(remark)
        if over:
            self.displays.pop(job).end()
