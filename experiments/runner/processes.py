"""Several processes that share the work: torchrun shares each run among them (DDP), jobs share out the runs.

Each run or measurement is claimed by a lock on a file, so that none is done twice.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from experiments.scales import Scale
from mhmoe.io import UserError


def check_device(scale: Scale) -> None:
    """Raises UserError if this machine cannot train at the scale."""
    if scale.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"scale {scale.name} needs a CUDA device and there is none; choose SCALE=cpu or smoke, or --device cpu"
        )


def join_processes(scale: Scale) -> None:
    """Under torchrun, meet the other processes: each run is then shared out among them (DDP)."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        check_device(scale)
        # The first measures alone, for as long as that takes.
        dist.init_process_group("nccl" if scale.device == "cuda" else "gloo", timeout=timedelta(days=7))
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
def try_lock(name: str, scale: Scale, cache: Path) -> Iterator[bool]:
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
