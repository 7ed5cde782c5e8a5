"""All memory that is taken without a number in it: whoever asks for it writes every one that is read later.

Large results lie on huge pages where the system has them: small ones cost more than the arithmetic. Call these
functions by the module's name, as in `pages.fresh(...)`, so that tests can fill what they return with NaN.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

HUGE_PAGE = 2 << 20  # bytes of a huge page on the common processors
MIN_ADVISED = 4 << 20  # bytes from which asking for huge pages saves time


def fresh(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return memory with anything in it."""
    result = torch.empty(shape, dtype=dtype)
    size = result.numel() * result.element_size()
    if size >= MIN_ADVISED:
        advise = _advise()
        if advise is not None:
            begin = -(-result.data_ptr() // HUGE_PAGE) * HUGE_PAGE
            end = (result.data_ptr() + size) // HUGE_PAGE * HUGE_PAGE
            advise(begin, end - begin, mmap.MADV_HUGEPAGE)  # only advice: what it returns does not matter
    return result


def block(size: int) -> Tensor:
    """Return `size` bytes with anything in them."""
    return torch.empty(size, dtype=torch.uint8)


@lru_cache(maxsize=1)
def _advise() -> Any:
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
