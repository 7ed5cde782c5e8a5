"""PyTorch's own thread pool: GOMP_parallel of the libgomp that is loaded in this process."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from everloop.compiler import forks


@dataclass(frozen=True)
class Pool:
    """Addresses of the functions that start a team, number its threads and call Linux; zeros where there is one."""

    parallel: int
    number: int
    team: int
    syscall: int
    note: str


_FORKED = "one thread: this process was forked, and the threads of its pool were not"


def _loaded() -> list[str]:
    """Paths of the libgomp copies mapped into this process, PyTorch's own first."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    fields = (line.split(maxsplit=5) for line in maps.read_text().splitlines() if "libgomp" in line)
    found = dict.fromkeys(f[5] for f in fields if len(f) == 6 and Path(f[5]).name.startswith("libgomp"))
    home = str(Path(torch.__file__).parent)
    return sorted(found, key=lambda path: (not path.startswith(home), path))


@lru_cache(maxsize=1)
def _find() -> Pool:
    for path in _loaded():
        library = ctypes.CDLL(path)  # loaded already: this gives the same copy
        if hasattr(library, "GOMP_parallel"):
            names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
            parallel, number, team = (_address(library, name) for name in names)
            return Pool(parallel, number, team, _address(ctypes.CDLL(None), "syscall"), f"threads of {Path(path).name}")
    return Pool(0, 0, 0, 0, "one thread: PyTorch's libgomp is not loaded in this process")


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


def pool() -> Pool:
    """Return the pool that is safe to use now."""
    if forks.is_forked():
        forks.prepare()
        return Pool(0, 0, 0, 0, _FORKED)
    return _find()
