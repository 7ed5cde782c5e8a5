"""Calls the product over whole sequences by the tiles of AMX: looks at strides, divides work, makes native calls."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from everloop.compiler.targets.llvm import memory, pages, threads
from everloop.compiler.targets.llvm.layout import HALF, round_up
from everloop.compiler.targets.llvm.machine import Library, host, module, narrow, object_code
from everloop.compiler.targets.llvm.tiled import NAMES, SLOT, tiled
from everloop.compiler.targets.llvm.tiles import LINE, PAIR, TILE

MIN_PARALLEL = 3e6  # operations that pay for waking a second thread
NEAR = 1 << 20  # bytes of B that stay in the cache while C is written row by row, which memory takes best
FEW = 2 * PAIR  # rows of C at a time then
CACHED = 512 << 10  # bytes of rows of A that stay there, where B does not
DEEP, DEEP_ACROSS = 4096, 1024  # numbers that are summed at a time, of rows of A whose numbers are adjacent or not
SIZES = {torch.float32: 4, torch.bfloat16: HALF}


class Tiled:
    """The product for dtypes of A, B and C, each float32 or bfloat16."""

    def __init__(self, a: torch.dtype, b: torch.dtype, c: torch.dtype) -> None:
        self._isa, self._sizes = narrow(host()), (SIZES[a], SIZES[b], SIZES[c])
        code = object_code("tiled", str(self._sizes), self._isa, self.ir)
        self._library = Library(code, ("everloop_tiles_pack", "everloop_tiles"))
        self._pack, self._run = (
            ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address) for address in self._library.address.values()
        )
        self._block = ctypes.c_int64 * len(NAMES)

    def ir(self) -> str:
        """Return the LLVM text."""
        return module(self._isa, tiled(self._isa, *self._sizes))

    def __call__(
        self,
        out: Tensor,
        a: Tensor,
        b: Tensor,
        bias: Tensor | None = None,
        sums: Tensor | None = None,
        *,
        packed: Tensor | None = None,
        add: bool = False,
    ) -> None:
        """Write a @ b + bias to `out`; add the sums of the rows of `a` to `sums`, where a.T is row-major.

        a [m, k] whose rows or columns have adjacent numbers, b [k, n], out [m, n] with adjacent columns, bias [n] and
        sums [m] of float32. packed: what `packed` made of b; add: add a @ b to `out` of float32, without a bias.
        """
        (rows, k), columns = a.shape, b.shape[1]
        if not rows or not columns or not k:
            if not add:
                out.zero_() if bias is None else out.copy_(bias)
            return
        of_a, _, of_c = self._sizes
        a_row, a_k = a.stride()
        is_across = sums is not None or (a_k != 1 and k > 1)
        parts = 1 if of_c == HALF else -(-k // (DEEP_ACROSS if is_across else DEEP))
        deep = round_up(-(-k // parts), LINE)
        most = FEW if deep * columns * HALF <= NEAR and not is_across else CACHED // (HALF * deep)
        high = min(max(most // PAIR, 1) * PAIR, round_up(rows, PAIR))
        block, team = self._arguments(b, rows)
        size, work_step = (0 if packed is not None else _packed_bytes(b)), round_up(high * deep * HALF, 64) + 64
        taken = memory.take(size + work_step * team)
        start = memory.aligned(taken)
        values = {
            "a": a.data_ptr(), "a_row": a_row * of_a, "a_k": a_k * of_a * is_across,
            "packed": start if packed is None else memory.aligned(packed), "c": out.data_ptr(),
            "c_row": out.stride(0) * of_c, "bias": 0 if bias is None else bias.data_ptr(),
            "sums": 0 if sums is None else sums.data_ptr(), "add": add, "step_rows": high, "step_k": deep,
            "work": start + size, "work_step": work_step,
        }  # fmt: skip
        for name, value in values.items():
            block[SLOT[name]] = value
        if packed is None:
            self._pack(ctypes.addressof(block))
        self._run(ctypes.addressof(block))
        memory.give_back(taken)

    def packed(self, b: Tensor) -> Tensor:
        """Return b as the product reads it, to be kept."""
        made = pages.block(_packed_bytes(b) + 64)
        block, _ = self._arguments(b, TILE)
        block[SLOT["packed"]] = memory.aligned(made)
        self._pack(ctypes.addressof(block))
        return made

    def _arguments(self, b: Tensor, rows: int) -> tuple[ctypes.Array[ctypes.c_int64], int]:
        """Return a block with what is known of b and of the threads, and how many these are."""
        block, pool, (k, columns), of_b = self._block(), threads.pool(), b.shape, self._sizes[1]
        team = torch.get_num_threads() if 2 * rows * columns * k >= MIN_PARALLEL and pool.parallel else 1
        values = {
            "b": b.data_ptr(), "b_k": b.stride(0) * of_b, "b_column": b.stride(1) * of_b, "rows": rows,
            "columns": columns, "k": k, "threads": team, "parallel": pool.parallel, "number": pool.number,
            "team": pool.team,
        }  # fmt: skip
        for name, value in values.items():
            block[SLOT[name]] = value
        return block, team


@lru_cache
def tiled_product(a: torch.dtype, b: torch.dtype, c: torch.dtype) -> Tiled:
    """Return the product for these dtypes."""
    return Tiled(a, b, c)


def _packed_bytes(b: Tensor) -> int:
    (k, columns) = b.shape
    return HALF * round_up(columns, TILE) * round_up(k, LINE)
