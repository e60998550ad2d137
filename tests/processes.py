"""Several processes that have met over gloo and run one function, each with what it found."""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.commands import Command, program

CODE = "import sys; from tests.processes import begin; begin(*sys.argv[1:])"


def start(work: Callable[..., Any], folder: Path, processes: int, *arguments: object) -> list[Command]:
    """`work(folder, *arguments)` in each of them, with texts for arguments."""
    folder.mkdir(exist_ok=True)
    (folder / "meet").unlink(missing_ok=True)
    place = (work.__module__, work.__qualname__, folder, *arguments)
    environment = {"WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    return [program(CODE, *place, RANK=str(rank), **environment) for rank in range(processes)]


def together(work: Callable[..., Any], folder: Path, processes: int, *arguments: object) -> list[Any]:
    """What each of them found, in their order."""
    commands = start(work, folder, processes, *arguments)
    try:
        ended = [command.wait() for command in commands]
        assert not any(each.code for each in ended), "\n".join(each.err for each in ended)
    finally:
        for command in commands:
            command.process.kill()
    return [torch.load(folder / f"rank{rank}") for rank in range(processes)]


def begin(module: str, work: str, folder: str, *arguments: str) -> None:
    """What one of them does."""
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    found = getattr(importlib.import_module(module), work)(Path(folder), *arguments)
    torch.save(found, Path(folder) / f"rank{rank}")
    dist.destroy_process_group()
