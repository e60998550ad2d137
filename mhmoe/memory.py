"""Memory of the process: freed memory is kept on a CPU, and the most that was held is measured.

glibc hands large blocks back to the system as soon as they are freed, and every training step then faults all
of its activations and gradients in again, which can cost more than its arithmetic. Kept, freed memory is used
again at once, as a GPU's caching allocator does. `keep_freed_memory` and `release_freed_memory` do nothing,
and return False, where the C library is not glibc.
"""

import contextlib
import ctypes
import os
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
        torch.cuda.reset_peak_memory_stats(device)
        return
    release_freed_memory()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Most bytes held since `reset_peak_memory`: of the GPU's memory, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bound_kept_memory(share: float = 1 / 6) -> bool:
    """Release once the process holds more than this share of the machine's memory; True if it did.

    What is freed and kept does not always fit what is asked for next, so that a process grows by more than it
    uses. To be called between steps; costs a look at /proc, and a few hundredths of a second when it releases.
    """
    try:
        held = int(Path("/proc/self/statm").read_text().split()[1])  # in pages
    except (OSError, IndexError):
        return False
    return held > share * os.sysconf("SC_PHYS_PAGES") and release_freed_memory()


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return libc if libc is not None and hasattr(libc, "gnu_get_libc_version") else None
