"""Memory on a CPU: freed memory stays with the process, until it is given back on purpose.

glibc hands large blocks back to the system as soon as they are freed, and every training step then faults all
of its activations and gradients in again: up to half of a step's time, several times that on virtual machines.
Kept, freed memory is used again at once, as a GPU's caching allocator does. Both functions do nothing, and
return False, where the C library is not glibc.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep what it frees from now on."""
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, -1))


def release_freed_memory() -> bool:
    """Give back what was kept so far, so that a measurement of memory starts from what is in use."""
    libc = _glibc()
    return libc is not None and bool(libc.malloc_trim(0))


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return libc if libc is not None and hasattr(libc, "gnu_get_libc_version") else None
