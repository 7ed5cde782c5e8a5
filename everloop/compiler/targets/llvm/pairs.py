"""Rows rounded to bfloat16, each two neighbouring rows in one row of words: factors of dot products over the rows."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from everloop.compiler.targets.llvm import pages, threads
from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.machine import Library, host, module, narrow, object_code
from everloop.compiler.targets.llvm.rounding import bits_at, interleaved, joined, rounded_halves
from everloop.compiler.targets.llvm.team import shared
from everloop.compiler.targets.llvm.vector import Isa

MIN_PARALLEL = 1 << 20  # numbers that pay for waking a second thread
NAMES = ("source", "step", "rows", "columns", "out", "threads", "parallel", "number", "team")
SLOT = {name: n for n, name in enumerate(NAMES)}
_SIZES = {torch.float32: 4, torch.bfloat16: 2}


def in_pairs(*parts: Tensor) -> Tensor:
    """Return words [N / 2, n] of neighbours in rows [N, n], rounded to bfloat16; behind an odd row is a zero.

    parts: the rows, in one tensor or several of one dtype, float32 or bfloat16, with adjacent features.
    """
    if any(len(part) % 2 for part in parts[:-1]):
        parts = (torch.cat(parts),)
    out = pages.fresh((sum(-(-len(part) // 2) for part in parts), parts[0].shape[1]), torch.int32)
    begin = 0
    for rows in parts:
        _pair(rows, out[begin:])
        begin += len(rows) // 2
    return out


def _pair(rows: Tensor, out: Tensor) -> None:
    assert rows.stride(1) == 1 or rows.shape[1] == 1
    size, (count, columns) = _SIZES[rows.dtype], rows.shape
    pool = threads.pool()
    team = torch.get_num_threads() if rows.numel() >= MIN_PARALLEL and pool.parallel else 1
    block = (ctypes.c_int64 * len(NAMES))(
        rows.data_ptr(), rows.stride(0) * size, count, columns, out.data_ptr(), team, pool.parallel, pool.number,
        pool.team,
    )  # fmt: skip
    _run(size)(ctypes.addressof(block))


@lru_cache
def _run(size: int) -> Callable[[int], None]:
    isa = narrow(host())
    code = object_code("pairs", str(size), isa, lambda: module(isa, pairs(isa, size)))
    library = Library(code, ("everloop_pairs",))
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library.address["everloop_pairs"])
    run.code = library  # type: ignore[attr-defined]  # which lives as long as what runs it
    return run


def pairs(isa: Isa, size: int) -> str:
    """Text of `everloop_pairs(args)`, for numbers of `size` bytes."""
    return "\n".join([_share(isa, size), shared("everloop_pairs", "share", SLOT)])


def _argument(code: Code, name: str, kind: str = "i64") -> str:
    return code.slot("%args", SLOT[name], kind)


def _share(isa: Isa, size: int) -> str:
    """The pairs of one thread of a team."""
    code, lanes = Code("internal void @share(ptr %args, i64 %thread, i64 %of)"), isa.lanes(4)
    source, out = (_argument(code, name, "ptr") for name in ("source", "out"))
    step, rows, columns = (_argument(code, name) for name in ("step", "rows", "columns"))
    count = code.divide(code.add(rows, 1), 2)
    begin, end = (code.divide(code.mul(t, count), "%of") for t in ("%thread", code.add("%thread", 1)))
    whole = code.mul(code.divide(columns, lanes), lanes)

    def halves(place: str) -> str:
        """A vector of numbers of bfloat16."""
        if size == 2:
            return code.load(f"<{lanes} x i16>", place, 2)
        return rounded_halves(code, code.load(f"<{lanes} x float>", place, 4), lanes, isa)

    def pair(p: str, _: list[str]) -> list[str]:
        even = code.at(source, code.mul(code.mul(p, 2), step))
        has_odd = code.less(code.add(code.mul(p, 2), 1), rows)
        odd = code(f"select i1 {has_odd}, ptr {code.at(even, step)}, ptr {even}")
        to = code.at(out, code.mul(code.mul(p, columns), 4))

        def vectors(j: str, _: list[str]) -> list[str]:
            at, kind = code.mul(j, size), f"<{lanes} x i16>"
            low, high = halves(code.at(even, at)), halves(code.at(odd, at))
            high = code(f"select i1 {has_odd}, {kind} {high}, {kind} zeroinitializer")
            words = interleaved(code, low, high, lanes)
            code.store(f"<{lanes} x i32>", words, code.at(to, code.mul(j, 4)), 4)
            return []

        def one(j: str, _: list[str]) -> list[str]:
            at = code.mul(j, size)
            low, high = (bits_at(code, code.at(row, at), size) for row in (even, odd))
            high = code(f"select i1 {has_odd}, i32 {high}, i32 0")
            code.store("i32", joined(code, low, high), code.at(to, code.mul(j, 4)), 4)
            return []

        code.loop(0, whole, vectors, step=lanes)
        code.loop(whole, columns, one)
        return []

    code.loop(begin, end, pair)
    return code.end()
