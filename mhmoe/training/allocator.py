"""Memory of the process: freed memory is kept on a CPU, and the most that was held is measured.

glibc hands large blocks back to the system as soon as they are freed, and every training step then faults all
of its activations and gradients in again, which can cost more than its arithmetic. Kept, freed memory is used
again at once, as a GPU's caching allocator does; `KeptMemory` bounds it. Nothing is kept or released, and the
functions return False, where the C library is not glibc.
"""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep what it frees from now on."""
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, -1))


def release_freed_memory() -> bool:
    """Give back what was kept so far, so that a measurement of memory starts from what is in use."""
    libc = _glibc()
    return libc is not None and bool(libc.malloc_trim(0))


def reset_peak_memory(device: torch.device) -> None:
    """Start `peak_memory` anew, where the system allows it, from what is in use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    release_freed_memory()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Most bytes held since `reset_peak_memory`: of the GPU's memory, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)  # a step that is recorded takes its memory from what is held
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, where others count KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class KeptMemory:
    """A bound on what is kept: what is freed does not always fit what is asked for next, so that a process that
    keeps it grows by more than it uses.

    Call `bound` after every step. What the process holds after the first step is what a step needs; once it holds
    `growth` times as much, all that is free is released and the next step is taken for the first.
    """

    def __init__(self, growth: float = 1.5) -> None:
        self.growth, self.needed = growth, 0

    def bound(self) -> bool:
        """True if it released. Costs a look at /proc, and a few hundredths of a second when it does."""
        try:
            held = int(Path("/proc/self/statm").read_text().split()[1])  # in pages
        except (OSError, IndexError):
            return False
        if held <= self.growth * self.needed:
            return False
        released = self.needed > 0 and release_freed_memory()
        self.needed = 0 if released else held
        return released


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return libc if libc is not None and hasattr(libc, "gnu_get_libc_version") else None
