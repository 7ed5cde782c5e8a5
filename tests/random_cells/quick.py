"""Compiling thousands of cells: LLVM's quickest code for most of them, kept in a folder of its own or nowhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from llvmlite import binding


@contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """Let compiled cells be kept in this folder, which the caller deletes."""
    with mock.patch.dict(os.environ, {"EVERLOOP_CACHE": str(folder)}):
        yield


@contextmanager
def unoptimised(wanted: bool = True) -> Iterator[None]:
    """Let LLVM translate as quickly as it can: a third of the time, the same plan and the same instructions of ours."""
    made = binding.Target.create_target_machine

    def quick(self: Any, *args: Any, **settings: Any) -> Any:
        return made(self, *args, **(settings | ({"opt": 0} if wanted else {})))

    with mock.patch.object(binding.Target, "create_target_machine", quick):
        yield
