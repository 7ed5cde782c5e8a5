"""Random numbers of sequences, whichever process has them: drawn for a whole batch, cut to some of its rows.

with rows_of_batch(Rows(start=4, stop=8, total=16)):
    model.loss(batch.rows(4, 8))  # with the masks that these sequences have where one process has all 16
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The sequences from `start` to before `stop` of a batch of `total`."""

    start: int
    stop: int
    total: int


_rows: ContextVar[Rows | None] = ContextVar("rows", default=None)


@contextmanager
def rows_of_batch(rows: Rows | None) -> Iterator[None]:
    """In this context the sequences of a call are these rows of a larger batch; None: they are all there are."""
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


def is_whole_batch() -> bool:
    """Return whether the sequences of a call are all there are; a graph that is being made takes them so."""
    return torch.compiler.is_compiling() or _rows.get() is None


def drawn(draw: Callable[..., Tensor], shape: tuple[int, ...], axis: int = -2) -> Tensor:
    """Return what `draw` draws for a shape with B sequences on `axis`, or n rows of each, [B * n]."""
    rows = None if torch.compiler.is_compiling() else _rows.get()
    if rows is None:
        return draw(*shape)
    axis %= len(shape)
    each = shape[axis] // (rows.stop - rows.start)
    whole = draw(*shape[:axis], each * rows.total, *shape[axis + 1 :])
    return whole.narrow(axis, each * rows.start, shape[axis]).contiguous()
