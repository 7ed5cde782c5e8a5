"""Working memory that is kept between calls: fresh pages cost more than the arithmetic on them."""

from __future__ import annotations

from torch import Tensor

from everloop.compiler.targets.llvm import pages

KEEP = 64 << 20  # bytes; larger blocks are given back
_free: list[Tensor] = []  # list.append and list.pop are atomic


def take(size: int) -> Tensor:
    """Return a block of at least `size` bytes, with anything in it."""
    try:
        block = _free.pop()
    except IndexError:
        return _new(size)
    return block if block.numel() >= size else _new(size)


def give_back(block: Tensor) -> None:
    """Hand a block back for another call."""
    if block.numel() <= KEEP and len(_free) < 4:
        _free.append(block)


def aligned(block: Tensor) -> int:
    """Return the first address in the block at a 64-byte boundary."""
    return -(-block.data_ptr() // 64) * 64


def _new(size: int) -> Tensor:
    return pages.block(size + 64)
