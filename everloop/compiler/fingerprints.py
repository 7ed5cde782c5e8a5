"""Arithmetic on fingerprints: a 64-bit integer for each feature, which tells how that was computed.

Two features have one fingerprint only where the same operations were applied to the same things, but for a chance of
about one in 2**64. Addition over time is addition here too, so that its order does not matter and zero adds nothing.
"""

from __future__ import annotations

from functools import lru_cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Prints = NDArray[np.uint64]
_BITS = (1 << 64) - 1
_ODD, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)


@lru_cache(4096)
def _seed(text: str) -> np.uint64:
    return np.uint64((crc32(text.encode()) + 1) * 0xD1342543DE82EF95 & _BITS)


@lru_cache(128)
def _numbers(width: int) -> Prints:
    return np.arange(1, width + 1, dtype=np.uint64) * np.uint64(0xD6E8FEB86659FD93)


def _mixed(prints: Prints) -> Prints:
    result = prints * _ODD
    result ^= result >> _SHIFT
    return result


def leaf(name: str, width: int) -> Prints:
    """Return the features of something given."""
    return _mixed(_numbers(width) + _seed(name))


@lru_cache(4096)
def constant(number: float) -> Prints:
    """Return the one feature of a number."""
    return np.zeros(1, np.uint64) if number == 0 else _mixed(np.array([number]).view(np.uint64))


def named(op: str, dtype: object) -> str:
    """Return what tells an operation from others."""
    return f"{op} to {dtype}" if op == "cast" else op


def applied(op: str, *args: Prints) -> Prints:
    """Return an element-wise operation of these features."""
    result = _mixed(args[0] + _seed(op))
    for arg in args[1:]:
        result = _mixed(result + arg)
    return result


def reduced(op: str, row: Prints) -> Prints:
    """Return the one feature of a sum or maximum over features."""
    return applied(op, _mixed(row).sum(keepdims=True))


def reduced_to(op: str, row: Prints, width: int, index: NDArray[np.int64]) -> Prints:
    """Return the features of sums or maxima over those of `row` that have one `index`."""
    total = np.zeros(width, np.uint64)
    np.add.at(total, index, _mixed(row))
    return applied(op, total)


def product(matrix: str, transposed: bool, row: Prints, width: int) -> Prints:
    """Return a row's product with a matrix of this name, of `width` features."""
    name = f"@ {matrix}" if transposed else f"@ {matrix}.T"
    return applied(name, _numbers(width), _mixed(row + _numbers(len(row))).sum(keepdims=True))
