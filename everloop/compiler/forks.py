"""A forked process has the memory of its parent's thread pool, but not the threads: whatever asks them waits for ever.

PyTorch asks them too: in products, and in everything element by element over 32768 numbers. With one thread it does
not, as in the workers of its own data loaders. So a forked process takes one thread when it first runs a layer of this
library; one that never does keeps what it has.
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
