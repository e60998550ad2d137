"""Where a command computes: on which device, in which precision, and with which other processes."""

import os
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist

from mhmoe.io import UserError


def device_named(name: str) -> torch.device:
    """cpu, cuda, or auto for CUDA where there is any; under torchrun this process's card. Raises UserError if it is
    none of them or not there."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={name!r} is not known; choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device='cuda' is not there; choose auto or cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def best_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """bfloat16 on cards, and on CPUs that have matrix units for it (AMX)."""
    if device.type == "cuda":
        return "bfloat16"
    try:
        return "bfloat16" if "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8") else "float32"
    except OSError:
        return "float32"


def processes() -> int:
    """How many torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def meet(device: torch.device) -> int:
    """This process's number; under torchrun it meets the others first."""
    if processes() > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return int(os.environ.get("RANK", "0"))
