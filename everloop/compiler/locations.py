"""Where in a cell something happens, and the error that says so."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

import torch

from everloop.errors import UnsupportedError

_PACKAGE = Path(__file__).parent.parent
_CELLS = str(_PACKAGE / "cells")
_INSIDE = (str(_PACKAGE), str(Path(torch.__file__).parent), "<frozen")


def line_of_cell() -> str:
    """Return file:line of the innermost caller outside PyTorch and the compiler."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if not is_inside(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


@lru_cache(4096)
def is_inside(file: str) -> bool:
    """Whether code is PyTorch's or the library's, whose cells do not count."""
    return file.startswith(_INSIDE) and not file.startswith(_CELLS)


def unsupported(what: str) -> UnsupportedError:
    """Return the error for an operation outside the table: it names the operation and the line of the cell."""
    return UnsupportedError(f"the compiler does not know {what} ({line_of_cell()})")
