"""Several processes that share the work: torchrun shares each run among them (DDP), jobs share out the runs.

Each run or measurement is claimed by a lock on a file, so that none is done twice.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from experiments.schema import Scale
from mhmoe.records import UserError


def check_device(scale: Scale) -> None:
    """Raises UserError if this machine cannot train at the scale."""
    if scale.device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"scale {scale.name} needs a CUDA device and there is none; choose SCALE=cpu or smoke")


def join_processes(scale: Scale) -> None:
    """Under torchrun, meet the other processes: each run is then shared out among them (DDP)."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        check_device(scale)
        dist.init_process_group("nccl" if scale.device == "cuda" else "gloo")
        if scale.device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def is_past(deadline: float) -> bool:
    """For all processes that share a run at once: one that went on alone would wait for the others for ever."""
    past = time.monotonic() >= deadline
    if dist.is_initialized():
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        anywhere = torch.tensor(float(past), device=device)
        dist.all_reduce(anywhere, dist.ReduceOp.MAX)
        past = bool(anywhere)
    return past


@contextmanager
def claimed(name: str, scale: Scale, cache: Path) -> Iterator[bool]:
    """Whether this process has a piece of work to itself; the claim ends with the process at the latest."""
    if dist.is_initialized():  # these processes share each run, and nobody else may be at work
        dist.barrier()
        yield True
        dist.barrier()
        return
    folder = cache / "locks" / scale.name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def run_in_jobs(jobs: int, arguments: list[str]) -> int:
    """`python -m experiments` with these arguments in so many processes that share the runs and the cores.

    Returns the worst exit code. A process that was killed is told of at once; the others go on.
    """
    threads = max((os.cpu_count() or jobs) // jobs, 1)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "experiments", *arguments]
    children = [subprocess.Popen(command, env=environment) for _ in range(jobs)]
    killed: set[int] = set()
    try:
        while any(child.poll() is None for child in children):
            time.sleep(0.2)
            for child in children:
                if (child.poll() or 0) < 0 and child.pid not in killed:
                    killed.add(child.pid)
                    why = ", perhaps because memory ran out" if child.returncode == -signal.SIGKILL else ""
                    tqdm.write(
                        f"one of {jobs} processes was stopped by signal {-child.returncode}{why}; the others go on",
                        file=sys.stderr,
                    )
        return max(abs(child.returncode) for child in children)
    finally:
        for child in children:
            if child.poll() is None:
                child.terminate()
