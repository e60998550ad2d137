"""What is chosen by where a tensor lies: on a graphics card nothing may make the host wait for numbers.

A CPU gains from reading them (shapes that recur, rows that are left out). On a card the host would stand still until
all earlier work is done, so what runs there has shapes that the host knows beforehand.
"""

import functools
import importlib.util

import torch
from torch import Tensor

TRITON_IS_THERE = importlib.util.find_spec("triton") is not None


def on_card(x: Tensor) -> bool:
    """Whether the CUDA path is taken."""
    return x.device.type == "cuda"


def triton_runs(x: Tensor) -> bool:
    """Whether our Triton kernels multiply such rows: Triton is there, the card is one of 2020 or later."""
    known = x.dtype in (torch.bfloat16, torch.float16, torch.float32)
    return on_card(x) and known and x.shape[0] > 0 and TRITON_IS_THERE and capability(x.device) >= (8, 0)


def grouped_mm_is_fast(x: Tensor) -> bool:
    """Whether F.grouped_mm has a kernel for this type and card. Else it makes the host wait, and loops."""
    return x.dtype == torch.bfloat16 and capability(x.device)[0] in (9, 10)


@torch.compiler.assume_constant_result
@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    """Of a card; of anything else (0, 0)."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def numbers_may_be_read(index: Tensor) -> bool:
    """False where there are none, or one run stands for others: a graph is being made, or a function transformed."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return type(index) is Tensor and not index.is_meta and not (traced or transformed())


def transformed() -> bool:
    """Whether torch.func or vmap is at work."""
    return torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]  # no other name
