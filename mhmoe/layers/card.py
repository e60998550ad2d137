"""What is chosen by where a tensor lies: on a graphics card nothing may make the host wait for numbers.

A CPU gains from reading them (shapes that recur, rows that are left out). On a card the host would stand still until
all earlier work is done, so what runs there has shapes that the host knows beforehand.
"""

import functools
import importlib.util
import os
import shutil

import torch
from torch import Tensor

_COMPILER = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
WANTED = os.environ.get("MHMOE_TRITON") == "1"  # faster for some layers, slower for others: results/speed/card.md
TRITON_IS_THERE = WANTED and importlib.util.find_spec("triton") is not None and _COMPILER is not None
"""And the C compiler, without which it launches nothing."""

GROUPED_MM_RUNS_ON = (90, 100, 103)
"""What F.grouped_mm has a kernel for, in bfloat16: Hopper, and Blackwell for data centres (torch 2.10 and later)."""


def on_card(x: Tensor) -> bool:
    """Whether the CUDA path is taken."""
    return x.device.type == "cuda"


def triton_runs(x: Tensor) -> bool:
    """Whether our Triton kernels multiply such rows: Triton is there, the card is one of 2020 or later."""
    known = x.dtype in (torch.bfloat16, torch.float16, torch.float32)
    return on_card(x) and known and x.shape[0] > 0 and TRITON_IS_THERE and capability(x.device) >= 80


def grouped_mm_is_fast(x: Tensor) -> bool:
    """Whether F.grouped_mm has a kernel for this type and card. Else it makes the host wait, and loops."""
    return x.dtype == torch.bfloat16 and capability(x.device) in GROUPED_MM_RUNS_ON


def capability(device: torch.device) -> int:
    """Compute capability of a card times ten (90: H100); of anything else 0."""
    return _capability(device.index or 0) if device.type == "cuda" else 0


@torch.compiler.assume_constant_result
def _capability(index: int) -> int:
    return _asked(index)


@functools.cache
def _asked(index: int) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


def numbers_may_be_read(index: Tensor) -> bool:
    """False where there are none, or one run stands for others: a graph is being made, or a function transformed."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return type(index) is Tensor and not index.is_meta and not (traced or transformed())


def transformed() -> bool:
    """Whether torch.func or vmap is at work."""
    return torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]  # no other name
