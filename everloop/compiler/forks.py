"""A forked process inherits the memory of its parent's thread pool but not the threads: using the pool deadlocks.

PyTorch uses the pool in matrix products and in element-wise operations on more than 32768 numbers, unless it has one
thread, as in the workers of its own data loaders. So a forked process sets one thread when it first runs a layer of
this library; one that never does keeps its number of threads.
"""

from __future__ import annotations

import os

import torch

_loaded_in = os.getpid()
_is_prepared = False


def is_forked() -> bool:
    """Return whether this process was forked since the library was loaded."""
    return os.getpid() != _loaded_in


def prepare() -> None:
    """Set one thread, once, in a forked process."""
    global _is_prepared
    if not _is_prepared and is_forked():
        _is_prepared = True
        if torch.get_num_threads() > 1:
            torch.set_num_threads(1)
