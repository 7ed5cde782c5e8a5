"""A compiled loop that can be called: fills the argument block, chooses threads, makes one native call a sequence."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from everloop.compiler.compact import Compact
from everloop.compiler.loop import Buffer, Loop, Product
from everloop.compiler.targets.llvm import memory, threads
from everloop.compiler.targets.llvm.layout import SLOT, Layout, is_row_total, shape
from everloop.compiler.targets.llvm.machine import Library
from everloop.errors import OptionError, unknown

Rows = Mapping[str, Tensor | None]

WORTH = 3e6  # operations in a call that pay for waking a second thread
LARGE = 256 << 10  # bytes of packed matrices from which a step is long enough to meet at barriers
FEW = 4  # rows a thread: fewer use the register tiles badly


class Kernel:
    """One native call runs the whole sequence. `ir` is its LLVM text, `threads_note` says which threads it uses."""

    def __init__(self, layout: Layout, ir: Callable[[], str], library: Library, shared: Library) -> None:
        self.loop: Loop = layout.loop
        self.dtype = layout.form.dtype
        self.isa = layout.isa.name
        self._ir = ir
        self._layout = layout
        self._keep = (library, shared)
        self._run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library.address["everloop_run"])
        self._product, self._packer = shared.address["everloop_product"], shared.address["everloop_pack"]
        self._block = ctypes.c_int64 * layout.total_slots
        widest = max([b.width for b in self.loop.buffers], default=0)
        self._zeros = torch.zeros(widest, dtype=self.dtype)
        self._operations = sum(
            2 * shape(s)[0] * shape(s)[1] if isinstance(s, Product) else 4 * s.width * len(s.body)
            for s in self.loop.stages
        )
        slots = layout.slots
        self._given = [(b, slots[b.name]) for b in self.loop.buffers if b.kind not in ("state", "scratch")]
        widths = {b.of: b.width for b in self.loop.buffers if b.of} | {s.name: s.width for s in self.loop.states}
        self._first, self._final, self._restart = (
            [(n, slots[f"{role} {n}"], width) for n, width in widths.items() if f"{role} {n}" in slots]
            for role in ("first", "final", "restart")
        )
        self._totals = {s.name for s in self.loop.states} if self.loop.is_gradient else set()

    @property
    def ir(self) -> str:
        """The kernel's LLVM text; what all kernels share is `shared_ir`."""
        return self._ir()

    @property
    def threads_note(self) -> str:
        """Which threads a call uses, or why only one."""
        return threads.pool().note

    def team(self, T: int, B: int) -> tuple[int, bool]:
        """Return (threads a call asks for, whether they split columns instead of rows)."""
        count = torch.get_num_threads()
        if count == 1 or B == 0 or T * B * self._operations < WORTH or not threads.pool().parallel:
            return 1, False
        size = self._layout.packed_size
        if size >= LARGE and FEW * count > B:
            return count, True
        return max(1, min(count, B)), False

    def __call__(
        self,
        T: int,
        B: int,
        buffers: Mapping[str, Tensor],
        *,
        first: Rows | None = None,
        final: Rows | None = None,
        restart: Rows | None = None,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        reverse: bool = False,
        compact: Compact | None = None,
    ) -> None:
        """Run T steps of B sequences over `buffers` (all of the loop's buffers but states and scratch).

        Rows of every step and sequence are [T, B, n] or, where `compact` orders the sequences of these `lengths`
        in this direction, also [N, n].

        Missing `first` and `restart` rows are zeros, missing `final` rows are not written. In a gradient loop
        `restart` of a carried gradient is written: the sum of what its resets cut off.
        """
        block = self._block()
        self._fill(block, T, B, buffers, first or {}, final or {}, restart or {}, reset, compact)
        kept: Tensor | None = None
        if compact is not None:
            kept = compact.table
            block[SLOT["order"]], block[SLOT["ends"]] = kept.data_ptr(), kept.data_ptr() + 8 * B
            block[SLOT["starts"]] = kept.data_ptr() + 16 * B
        elif lengths is not None:
            assert (lengths.shape, lengths.dtype) == ((B,), torch.int64), "lengths: int64 [B]"
            ends, order = torch.sort(lengths, descending=True)
            kept = torch.cat((order, ends))
            block[SLOT["order"]] = kept.data_ptr()
            block[SLOT["ends"]] = kept.data_ptr() + 8 * B
        block[SLOT["reverse"]] = int(reverse)
        layout = self._layout
        size = layout.packed_size + 4096  # prefetching looks past the end
        block[SLOT["pack"]] = int(B > 0 and T > 0)
        count, columns = self.team(T, B)
        memory_block = memory.take(size + layout.work_bytes(B, count, columns))
        start = memory.aligned(memory_block)
        block[SLOT["packed"]], block[SLOT["work"]] = start, start + -(-size // 64) * 64
        self._use_threads(block, count, columns)
        self._run(ctypes.addressof(block))
        memory.give_back(memory_block)

    def prepare(
        self,
        T: int,
        B: int,
        buffers: Mapping[str, Tensor],
        vary: Sequence[str],
        *,
        first: Rows | None = None,
        final: Rows | None = None,
        restart: Rows | None = None,
        reset: Tensor | None = None,
        reverse: bool = False,
    ) -> Prepared:
        """Pack the matrices now and return a call that takes only the addresses of what `vary` names.

        A name is that of a buffer, "first NAME", "final NAME" or "reset"; the tensors given here show the strides.
        """
        block = self._block()
        self._fill(block, T, B, buffers, first or {}, final or {}, restart or {}, reset)
        block[SLOT["reverse"]] = int(reverse)
        slots = {**self._layout.slots, "reset": SLOT["reset"]}
        for name in vary:
            if name not in slots:
                raise OptionError(unknown("buffer", name, slots))
        kept = (buffers, first, final, restart, reset)
        return Prepared(self, block, T, B, tuple(slots[name] for name in vary), kept)

    def _use_threads(self, block: ctypes.Array[ctypes.c_int64], count: int, columns: bool) -> None:
        block[SLOT["threads"]], block[SLOT["columns"]] = count, int(columns)
        if count > 1:
            pool = threads.pool()
            block[SLOT["parallel"]], block[SLOT["number"]] = pool.parallel, pool.number
            block[SLOT["team"]], block[SLOT["yield"]] = pool.team, pool.give_way

    def _fill(
        self,
        block: ctypes.Array[ctypes.c_int64],
        T: int,
        B: int,
        buffers: Mapping[str, Tensor],
        first: Rows,
        final: Rows,
        restart: Rows,
        reset: Tensor | None,
        compact: Compact | None = None,
    ) -> None:
        block[0], block[1] = T, B
        block[SLOT["product"]], block[SLOT["packer"]] = self._product, self._packer
        for buffer, slot in self._given:
            tensor = buffers[buffer.name]
            if tensor.dim() == 2 and buffer.kind in ("sequence", "previous", "emit"):
                assert compact is not None, f"{buffer}: rows without an order"
                block[slot], block[slot + 3] = self._rows(tensor, len(compact), buffer.width)
                continue
            address, by_outer, by_inner = self._place(buffer, tensor, T, B)
            block[slot], block[slot + 1], block[slot + 2] = address, by_outer, by_inner
        zeros = self._zeros.data_ptr()
        for name, slot, width in self._first:
            rows = first.get(name)
            block[slot], block[slot + 1] = (zeros, 0) if rows is None else self._rows(rows, B, width)
        for name, slot, width in self._final:
            rows = final.get(name)
            block[slot], block[slot + 1] = (0, 0) if rows is None else self._rows(rows, B, width)
        for name, slot, width in self._restart:
            vector = restart.get(name)
            if vector is not None:
                assert (vector.shape, vector.dtype) == ((width,), self.dtype), f"{name}: {tuple(vector.shape)}"
                assert vector.is_contiguous(), name
            block[slot] = vector.data_ptr() if vector is not None else (0 if name in self._totals else zeros)
        if reset is not None:
            assert (reset.shape, reset.dtype) == ((T, B), torch.bool), "reset: bool [T, B]"
            block[SLOT["reset"]] = reset.data_ptr()
            block[SLOT["reset_t"]], block[SLOT["reset_b"]] = reset.stride()

    def _rows(self, tensor: Tensor, B: int, width: int) -> tuple[int, int]:
        assert (tensor.shape, tensor.dtype) == ((B, width), self.dtype), f"{tuple(tensor.shape)}, not {(B, width)}"
        assert tensor.stride(1) == 1 or width == 1 or B == 0, "features are adjacent"
        return tensor.data_ptr(), tensor.stride(0) * self._layout.form.size

    def _place(self, buffer: Buffer, tensor: Tensor, T: int, B: int) -> tuple[int, int, int]:
        """Check a tensor against its buffer; return its address and two strides in bytes."""
        size, width = self._layout.form.size, buffer.width
        shape: tuple[int, ...]
        if buffer.kind in ("sequence", "previous", "emit"):
            shape, strides = (T, B, width), tensor.stride()[:2]
        elif buffer.kind == "row" or is_row_total(buffer):
            shape, strides = (B, width), (0, *tensor.stride()[:1])
        elif buffer.kind == "matrix":
            shape, strides = (buffer.height, width), tensor.stride()
        else:
            shape, strides = (width,), (0, 0)
        assert (tensor.shape, tensor.dtype) == (shape, self.dtype), f"{buffer}: {tuple(tensor.shape)}, {tensor.dtype}"
        adjacent = buffer.kind == "matrix" or width == 1 or tensor.numel() == 0 or tensor.stride(-1) == 1
        assert adjacent, f"{buffer}: features are adjacent"
        return tensor.data_ptr(), strides[0] * size, strides[1] * size


class Prepared:
    """A kernel with packed matrices and a filled argument block, for many calls of one shape (single steps)."""

    def __init__(
        self, kernel: Kernel, block: ctypes.Array[ctypes.c_int64], T: int, B: int, slots: tuple[int, ...], kept: object
    ) -> None:
        self._kernel, self._block, self._slots, self._kept = kernel, block, slots, kept
        self._team = kernel.team(T, B)
        layout = kernel._layout
        self._packed = torch.empty(layout.packed_size + 4096 + 64, dtype=torch.uint8)
        self._work = layout.work_bytes(B, self._team[0], self._team[1]) + 64
        self._size = ctypes.sizeof(block)
        self._free: list[tuple[ctypes.Array[ctypes.c_int64], int, Tensor]] = []  # one a call at the same time
        self.repack()

    def repack(self) -> None:
        """Read the matrices again, after their numbers have changed."""
        block = self._kernel._block.from_buffer_copy(self._block)
        self._block[SLOT["packed"]] = block[SLOT["packed"]] = memory.aligned(self._packed)
        work = torch.empty(self._work, dtype=torch.uint8)
        block[0] = block[1] = 0
        block[SLOT["pack"]], block[SLOT["work"]], block[SLOT["threads"]] = 1, memory.aligned(work), 1
        for name in self._kernel._layout.sums:
            block[self._kernel._layout.slots[name]] = 0
        self._kernel._run(ctypes.addressof(block))

    def __call__(self, *addresses: int) -> None:
        """Run once; `addresses` are those of the varying tensors, in their order."""
        try:
            item = self._free.pop()
        except IndexError:
            item = self._another()
        block, start, _ = item
        for slot, address in zip(self._slots, addresses, strict=True):
            block[slot] = address
        if self._team[0] > 1:
            count = min(self._team[0], torch.get_num_threads()) if threads.pool().parallel else 1
            self._kernel._use_threads(block, count, self._team[1] and count > 1)
        self._kernel._run(start)
        self._free.append(item)

    def _another(self) -> tuple[ctypes.Array[ctypes.c_int64], int, Tensor]:
        block = self._kernel._block.from_buffer_copy(self._block)
        work = torch.empty(self._work, dtype=torch.uint8)
        block[SLOT["work"]], block[SLOT["threads"]] = memory.aligned(work), 1
        return block, ctypes.addressof(block), work
