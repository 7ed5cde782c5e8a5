"""A compiled loop that can be called: fills the argument block, chooses threads, makes one native call a sequence."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from everloop.compiler.kernel import Rows
from everloop.compiler.loop import Loop, Product
from everloop.compiler.targets.llvm import memory, pages, threads
from everloop.compiler.targets.llvm.bfloat import Narrow
from everloop.compiler.targets.llvm.kept import kept
from everloop.compiler.targets.llvm.layout import SLOT, Layout, is_row_total, round_up, shape
from everloop.compiler.targets.llvm.machine import Library
from everloop.compiler.targets.llvm.quick import QuickLanes
from everloop.compiler.time_axis import TimeAxis

MIN_PARALLEL = 3e6  # operations in a call that pay for waking a second thread
MIN_BARRIER = 256 << 10  # bytes of packed matrices from which a step is long enough to meet at barriers
MIN_ROWS = 4  # rows a thread: fewer use the register tiles badly
MEMORY_BOUND = 640 << 10  # bytes of packed matrices from which a step of up to six rows lasts as long as reading them
_REVERSE, _PACK, _ORDER, _ENDS, _STARTS, _WORK, _PACKED, _PRODUCT, _PACKER = (
    SLOT[name] for name in ("reverse", "pack", "order", "ends", "starts", "work", "packed", "product", "packer")
)
STEPS, ROW, MATRIX, VECTOR = 1, 2, 3, 4  # forms: [T, B, n] or compact, [B, n], [m, n], [n]
_PACK_ARGUMENTS = (ctypes.c_void_p, *[ctypes.c_int64] * 4, ctypes.c_void_p, *[ctypes.c_int64] * 2)
_numbers = itertools.count()  # of kernels
SHORT = (torch.bfloat16, torch.float16, torch.int8)  # dtypes of matrices besides that of a kernel
FORMS = {"sequence": STEPS, "previous": STEPS, "emit": STEPS, "row": ROW, "matrix": MATRIX}


class NativeKernel:
    """One native call runs the whole sequence. Matrices may come in a dtype of fewer bits, as those of int8 do."""

    def __init__(
        self,
        layout: Layout,
        ir: Callable[[], str],
        library: Library,
        shared: Library,
        narrow: Narrow | None = None,
    ) -> None:
        self.loop: Loop = layout.loop
        self.dtype = layout.form.dtype
        self.isa = layout.isa.name
        self._ir = ir
        self._layout = layout
        self._matrices = tuple(dict.fromkeys(name for name, _ in layout.packed))
        self._keep = (library, shared)
        self._narrow = narrow
        self._number = next(_numbers)
        self._run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library.address["everloop_run"])
        self._product, self._packer = shared.address["everloop_product"], shared.address["everloop_pack"]
        self._block = ctypes.c_int64 * layout.total_slots
        self._packed_bytes = round_up(layout.packed_size + 4096, 64)  # prefetching looks past the end
        widest = max([b.width for b in self.loop.buffers], default=0)
        self._zeros = torch.zeros(widest, dtype=self.dtype)
        self._operations = sum(
            2 * shape(s)[0] * shape(s)[1] if isinstance(s, Product) else 4 * s.width * len(s.body)
            for s in self.loop.stages
        )
        slots, self._size, self._halves = layout.slots, layout.form.size, layout.halves
        given = [b for b in self.loop.buffers if b.kind not in ("state", "scratch")]
        # (name, slot, form of its shape, width, height, bytes of a number)
        self._given = [(b.name, slots[b.name], FORMS.get(b.kind) or (ROW if is_row_total(b) else VECTOR), b.width,
                        b.height, layout.number(b)) for b in given]  # fmt: skip
        self._of_halves = {b.of for b in self.loop.buffers if b.of and b.name in layout.halves}
        widths = {b.of: b.width for b in self.loop.buffers if b.of} | {s.name: s.width for s in self.loop.states}
        self._first, self._final, self._restart = (
            [(n, slots[f"{role} {n}"], width) for n, width in widths.items() if f"{role} {n}" in slots]
            for role in ("first", "final", "restart")
        )
        self._totals = {s.name for s in self.loop.states} if self.loop.is_gradient else set()

    @property
    def source(self) -> str:
        """The kernel's LLVM text; what all kernels share is `shared_ir`."""
        return self._ir()

    @property
    def description(self) -> str:
        """Its instruction set and dtype, and which threads a call uses, or why only one."""
        products = f"; products in the loop: {self._narrow.description}" if self._narrow else ""
        quick = "; exp, sigmoid and tanh to 15 bits" if issubclass(self._layout.lanes, QuickLanes) else ""
        return f"{self.isa}, {self.dtype}{products}{quick}; threads: {threads.pool().note}"

    def team(self, T: int, B: int, valid: int | None = None) -> tuple[int, bool]:
        """Return (threads a call asks for, whether they split columns instead of rows).

        valid: rows of all T * B that are no padding (None: all).
        """
        rows = T * B if valid is None else valid
        count = torch.get_num_threads()
        if count == 1 or rows * self._operations < MIN_PARALLEL or not threads.pool().parallel:
            return 1, False
        size = self._layout.packed_size
        if size >= MIN_BARRIER and MIN_ROWS * count > B:
            return count, True
        # Of a ragged batch few rows are left in the end, and each thread would read the whole matrix for its own.
        if valid is not None and size >= MEMORY_BOUND and valid < self._layout.isa.rows * count * T:
            return count, True
        return max(1, min(count, B)), False

    def __call__(
        self,
        time: TimeAxis,
        buffers: Mapping[str, Tensor],
        *,
        first: Rows | None = None,
        final: Rows | None = None,
        restart: Rows | None = None,
    ) -> None:
        """Run all steps of all sequences, as the contract of kernels says."""
        block, T, B, compact, valid = self._block(), time.steps, time.batch, time.compact, None
        first, restart = (self._in_halves(rows) for rows in (first or {}, restart or {}))
        if compact is not None:
            valid, start = len(compact), compact.table.data_ptr()
            block[_ORDER], block[_ENDS], block[_STARTS] = start, start + 8 * B, start + 16 * B
        elif time.lengths is not None:
            valid, start = time.rows, time.ranks.data_ptr()
            block[_ORDER], block[_ENDS] = start, start + 8 * B
        block[_REVERSE] = time.reverse
        block[_PACK] = B > 0 and T > 0
        count, columns = self.team(T, B, valid)
        block[_PRODUCT], block[_PACKER] = self._product, self._packer
        rows = B if columns else -(-B // count)
        if self._narrow and self._narrow.is_quicker(rows, self._layout.packed_size):
            own = self._narrow.compiled_for(rows).address
            block[_PRODUCT], block[_PACKER] = own["everloop_product"], own["everloop_pack"]
        known = self._kept(block[_PACKER], buffers) if block[_PACK] else None
        if known is None:
            buffers = self._in_own_dtype(buffers)
        self._fill(block, time, buffers, first, final or {}, restart)
        packed = self._packed_bytes if known is None else 0
        work = memory.take(packed + self._layout.work_bytes(B, count, columns))
        block[_PACKED] = start = memory.aligned(work)
        block[_WORK] = start + packed
        if known is not None:
            block[_PACKED], block[_PACK] = memory.aligned(known), 0
        self._use_threads(block, count, columns)
        self._run(ctypes.addressof(block))
        memory.give_back(work)

    def _kept(self, packer: int, buffers: Mapping[str, Tensor]) -> Tensor | None:
        """Return the matrices as the product takes them, where they are kept between calls: if they are converted."""
        matrices = [buffers[name] for name in self._matrices]
        if self._narrow is None and all(matrix.dtype is self.dtype for matrix in matrices):
            return None
        return kept.get((self._number, packer), matrices, lambda: self._pack(packer, self._in_own_dtype(buffers)))

    def _in_own_dtype(self, buffers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the buffers with matrices of fewer bits in the dtype of the kernel, which holds what they hold."""
        short = [name for name in self._matrices if buffers[name].dtype in SHORT]
        return {**buffers, **{name: buffers[name].to(self.dtype) for name in short}} if short else buffers

    def _pack(self, packer: int, buffers: Mapping[str, Tensor]) -> Tensor:
        made, size = pages.block(self._packed_bytes + 64), self._layout.form.size
        pack = ctypes.CFUNCTYPE(None, *_PACK_ARGUMENTS)(packer)
        for stage in self.loop.stages:
            if isinstance(stage, Product):
                offset = self._layout.packed[stage.matrix.name, stage.transposed]
                matrix, (inner, width) = buffers[stage.matrix.name], shape(stage)
                down, across = (stride * size for stride in matrix.stride())
                by_k, by_j = (down, across) if stage.transposed else (across, down)
                vectors = -(-width // self._layout.isa.lanes(size))
                pack(matrix.data_ptr(), by_k, by_j, inner, width, memory.aligned(made) + offset, 0, vectors)
        return made

    def _use_threads(self, block: ctypes.Array[ctypes.c_int64], count: int, columns: bool) -> None:
        block[SLOT["threads"]], block[SLOT["columns"]] = count, int(columns)
        if count > 1:
            pool = threads.pool()
            block[SLOT["parallel"]], block[SLOT["number"]] = pool.parallel, pool.number
            block[SLOT["team"]], block[SLOT["syscall"]] = pool.team, pool.syscall

    def _fill(
        self,
        block: ctypes.Array[ctypes.c_int64],
        time: TimeAxis,
        buffers: Mapping[str, Tensor],
        first: Rows,
        final: Rows,
        restart: Rows,
    ) -> None:
        T, B, compact, reset = time.steps, time.batch, time.compact, time.reset
        block[0], block[1] = T, B
        for name, slot, form, width, height, size in self._given:
            tensor = buffers[name]
            shape, strides = tensor.shape, tensor.stride()
            block[slot] = tensor.data_ptr()
            if form == STEPS:
                if len(shape) == 3:
                    fits = shape == (T, B, width)
                    block[slot + 1], block[slot + 2] = strides[0] * size, strides[1] * size
                else:
                    fits = compact is not None and shape == (len(compact), width)
                    block[slot + 3] = strides[0] * size
            elif form == VECTOR:
                fits = shape == (width,)
            elif form == ROW:
                fits = shape == (B, width)
                block[slot + 2] = strides[0] * size
            else:
                fits = shape == (height, width)
                block[slot + 1], block[slot + 2] = strides[0] * size, strides[1] * size
            fits = fits and tensor.dtype in ((self.dtype, *SHORT) if form == MATRIX else (self._dtype_of(name),))
            assert fits, f"{name}: {tuple(shape)}, {tensor.dtype}"
            adjacent = strides[-1] == 1 or form == MATRIX or width == 1 or tensor.numel() == 0
            assert adjacent, f"{name}: features are adjacent"
        zeros = self._zeros.data_ptr()
        for name, slot, width in self._first:
            rows, kind = first.get(name), self._dtype_of(name)
            block[slot], block[slot + 1] = (zeros, 0) if rows is None else self._rows(rows, B, width, kind)
        for name, slot, width in self._final:
            rows = final.get(name)
            if rows is not None:
                block[slot], block[slot + 1] = self._rows(rows, B, width, self.dtype)
        for name, slot, width in self._restart:
            vector, kind = restart.get(name), self._dtype_of(name)
            if vector is not None:
                assert (vector.shape, vector.dtype) == ((width,), kind), f"{name}: {tuple(vector.shape)}"
                assert vector.is_contiguous(), name
            block[slot] = vector.data_ptr() if vector is not None else (0 if name in self._totals else zeros)
        if reset is not None:
            assert (reset.shape, reset.dtype) == ((T, B), torch.bool), "reset: bool [T, B]"
            block[SLOT["reset"]] = reset.data_ptr()
            block[SLOT["reset_t"]], block[SLOT["reset_b"]] = reset.stride()

    def _in_halves(self, rows: Rows) -> Rows:
        """Return rows by state, those in bfloat16 that continue a sequence which is."""
        if not self._of_halves:
            return rows
        low = {name: rows[name] for name in self._of_halves if rows.get(name) is not None}
        return {**rows, **{name: tensor.to(torch.bfloat16) for name, tensor in low.items() if tensor is not None}}

    def _dtype_of(self, name: str) -> torch.dtype:
        """Return the dtype of a buffer, or of rows before the first step of a state."""
        return torch.bfloat16 if name in self._halves or name in self._of_halves else self.dtype

    def _rows(self, tensor: Tensor, B: int, width: int, dtype: torch.dtype) -> tuple[int, int]:
        shape, strides = tensor.shape, tensor.stride()
        fits = shape == (B, width) and tensor.dtype is dtype
        assert fits, f"{tuple(shape)} {tensor.dtype}, not {(B, width)} {dtype}"
        assert strides[1] == 1 or width == 1 or B == 0, "features are adjacent"
        return tensor.data_ptr(), strides[0] * tensor.itemsize
