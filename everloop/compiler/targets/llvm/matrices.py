"""Calls the product of large matrices: looks at strides, divides C among threads, makes one native call."""

from __future__ import annotations

import ctypes
import threading
from functools import lru_cache

import torch
from torch import Tensor

from everloop.compiler.targets.llvm import memory, threads
from everloop.compiler.targets.llvm.formats import FORMATS
from everloop.compiler.targets.llvm.large import NAMES, SLOT, large
from everloop.compiler.targets.llvm.layout import round_up
from everloop.compiler.targets.llvm.machine import Library, host, module, need, object_code, runs
from everloop.compiler.targets.llvm.product import MultiplyAdd, panel_width
from everloop.compiler.targets.llvm.vector import Isa, named

MIN_PARALLEL = 3e6  # operations that pay for waking a second thread
# The sides of a block in the cache: tiles, panels, and how deep it sums. Where the rows of A lie side by side, a
# tile takes one cache line from each of its k, so there must be few enough of them to stay near.
HIGH, WIDE = 24, 16
DEEP, DEEP_ACROSS = 704, 128
MOST_LOW = DEEP

_lock = threading.Lock()


class Products:
    """The product of large matrices for one dtype and instruction set.

    multiply_add: as of `product.tile`; of words of two numbers each, a dot product.
    is_low: whether it writes results in bfloat16, of rows of `a` that lie side by side and at most `MOST_LOW` of `b`.
    """

    def __init__(
        self, dtype: torch.dtype, isa: Isa, multiply_add: MultiplyAdd | None = None, is_low: bool = False
    ) -> None:
        self.dtype, self.isa, self.form, self._multiply_add = dtype, isa, FORMATS[dtype], multiply_add
        self._is_low, self._tile = is_low, (isa.rows, panel_width(isa, self.form.size))
        code = object_code("large" + " words" * bool(multiply_add) + " low" * is_low, str(dtype), isa, self.ir)
        self._library = Library(code, ("everloop_large",))
        self._run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._library.address["everloop_large"])
        self._block = ctypes.c_int64 * len(NAMES)

    def ir(self) -> str:
        """Return the LLVM text."""
        return module(self.isa, large(self.isa, self.form, self._multiply_add, self._is_low))

    def __call__(
        self,
        out: Tensor,
        a: Tensor,
        b: Tensor,
        bias: Tensor | None = None,
        sums: Tensor | None = None,
        *,
        add: bool = False,
    ) -> None:
        """Write a @ b + bias to `out`; add the sums of the rows of `a` to `sums`, where a.T is row-major.

        a [m, k], b [k, n] of any strides, out [m, n] with adjacent columns, bias [n], sums [m].
        add: add a @ b to `out`, without a bias.
        """
        (rows, k), columns = a.shape, b.shape[1]
        if not rows or not columns or not k:
            if not add:
                out.zero_() if bias is None else out.copy_(bias)
            return
        size = self.form.size
        (a_row, a_k), (b_k, b_column) = a.stride(), b.stride()
        team = 1
        if 2 * rows * columns * k >= MIN_PARALLEL and threads.pool().parallel:
            team = torch.get_num_threads()
        down, across, *steps = _division(*self._tile, rows, columns, k, team, a_k != 1)
        assert not self._is_low or (steps[2] >= k and not add), "what is rounded is summed in one go"
        work_step = round_up(steps[1] * steps[2] * size + 8192, 4096) + 64
        kept = memory.take(work_step * team)
        block = self._block(
            a.data_ptr(), a_row * size, a_k * size, b.data_ptr(), b_k * size, b_column * size,
            out.data_ptr(), out.stride(0) * out.element_size(),
            0 if bias is None else bias.data_ptr(), 0 if sums is None else sums.data_ptr(), add,
            rows, columns, k, *steps, down, across, min(team, down * across), memory.aligned(kept), work_step,
        )  # fmt: skip
        if team > 1:
            pool = threads.pool()
            block[SLOT["parallel"]], block[SLOT["number"]], block[SLOT["team"]] = pool.parallel, pool.number, pool.team
        self._run(ctypes.addressof(block))
        memory.give_back(kept)


@lru_cache(maxsize=1024)
def _division(high: int, width: int, rows: int, columns: int, k: int, team: int, is_across: bool) -> tuple[int, ...]:
    """Return (blocks down, blocks across, and the sides of a block in the cache: rows, columns, k).

    A tile of C has `high` rows, a panel `width` columns.
    """
    tiles, panels = -(-rows // high), -(-columns // width)

    def cost(down: int) -> float:
        """Tiles of the largest block, and what packing its panels costs in tiles."""
        wide = min(-(-panels // (team // down)), columns / width)  # what is behind the last column is not computed
        return -(-tiles // down) * wide + wide

    down = min(range(1, team + 1), key=cost)
    parts = -(-k // (DEEP_ACROSS if is_across else DEEP))
    return down, team // down, min(HIGH, tiles) * high, min(WIDE, panels) * width, round_up(-(-k // parts), 16)


_products: dict[tuple[torch.dtype, str], Products] = {}


def products(dtype: torch.dtype, isa: str | None = None) -> Products:
    """Return the product for a dtype; `isa` names an instruction set of this machine (None: the widest)."""
    need()
    instructions = named(isa or host().name)
    assert runs(instructions.name), instructions.name
    key = (dtype, instructions.name)
    found = _products.get(key)
    if found is None:
        with _lock:
            found = _products.setdefault(key, Products(dtype, instructions))
    return found
