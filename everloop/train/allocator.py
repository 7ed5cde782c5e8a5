"""The memory that one training step frees and the next one takes: kept by the process, where the C library can."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt
MOST = 2**31 - 1  # bytes at the end of the heap that are given back: never
LARGEST = 32 << 20  # bytes from which memory is mapped by itself; glibc takes no more


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed, for as long as the process lives; return False where there is another library.

    Memory that was given back comes again as pages of zeros, one fault of the processor each.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(MMAP_THRESHOLD, LARGEST) and library.mallopt(TRIM_THRESHOLD, MOST))
