"""Time and memory of several contenders, measured in turns.

One round is one step of each, A B C A B C ..., so that a machine that slows down slows all of them. A round
has new random input. The figure that is reported is the median over the rounds.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mhmoe.io import UserError
from mhmoe.training.allocator import keep_freed_memory, peak_memory, reset_peak_memory

ROOT = Path(__file__).resolve().parent.parent
SLOW_STEP = 8.0
"""Seconds. A contender whose warm-up step takes longer is timed in the first round alone."""


@dataclass
class Timing:
    """`seconds` of every timed step; `memory` is what the last warm-up step took on top, in bytes."""

    seconds: list[float] = field(default_factory=list)
    memory: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"seconds": [round(s, 7) for s in self.seconds], "memory_bytes": self.memory}


def in_turns(
    steps: Mapping[str, Callable[[], object]],
    draw: Callable[[], None],
    *,
    rounds: int,
    warm_up: int = 1,
    deadline: float = float("inf"),
    label: str = "",
) -> dict[str, Timing]:
    """Time every step in every round; no round but the first begins after `deadline` (time.monotonic).

    After the warm-up, which measures memory, freed memory stays with the process: with what some machines take
    to hand gigabytes back and out again, whoever comes after a pause would pay for the others.
    """
    timings = {name: Timing() for name in steps}
    last = dict.fromkeys(steps, 0.0)
    bar = tqdm(
        total=(warm_up + rounds) * len(steps),
        desc=label,
        unit="step",
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
    )
    with bar:
        for _ in range(warm_up):
            draw()
            for name, step in steps.items():
                begun = time.perf_counter()
                timings[name].memory = memory_of(step)
                last[name] = time.perf_counter() - begun
                bar.update()
        keep_freed_memory()
        draw()
        for name, step in steps.items():
            if last[name] <= SLOW_STEP:
                step()
        for i in range(rounds):
            if i and time.monotonic() >= deadline:
                break
            draw()
            for name, step in steps.items():
                if i == 0 or last[name] <= SLOW_STEP:
                    timings[name].seconds.append(seconds_of(step))
                bar.update()
    return timings


def seconds_of(step: Callable[[], object]) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def memory_of(step: Callable[[], object]) -> int | None:
    """Bytes by which the process grows at most during a step; None where the system does not tell."""
    device = torch.device("cpu")
    reset_peak_memory(device)  # which also hands back what is free, so that it is not counted before
    before = _resident()
    told = before is not None and peak_memory(device) < 1.02 * before
    step()
    return max(peak_memory(device) - before, 0) if told and before is not None else None


def _resident() -> int | None:
    try:
        return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return None


def in_own_process(module: str, settings: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """What `python -m module settings` prints as JSON, run with so many threads."""
    return json.loads(run_with_threads([sys.executable, "-m", module, json.dumps(settings)], threads).splitlines()[-1])


def run_with_threads(command: Sequence[str], threads: int) -> str:
    """What a command prints, run with so many threads. Raises UserError if it fails.

    THP_MEM_ALLOC_ENABLE is torch's own switch for large pages, which every contender gets: in small ones,
    page faults would take a large part of every step.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "THP_MEM_ALLOC_ENABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"`{shlex.join(command)}` ended with exit code {done.returncode}; its error is above")
    return done.stdout


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def count_threads(count: int) -> str:
    return f"{count} thread" + ("s" if count != 1 else "")
