"""A loop run for one step, again and again, over matrices that stay where they are: the least work a call can have."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Mapping, Sequence
from time import perf_counter
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from everloop.compiler.loop import Loop, Product
from everloop.compiler.targets.llvm import memory, pages, threads
from everloop.compiler.targets.llvm.direct import DirectWorker, dot, spread
from everloop.compiler.targets.llvm.driver import driver
from everloop.compiler.targets.llvm.layout import SLOT, Layout, form_of, normalise, shape
from everloop.compiler.targets.llvm.machine import Library, dotted, host, module, object_code
from everloop.compiler.targets.llvm.mapping import mappings
from everloop.compiler.targets.llvm.vector import named
from everloop.compiler.targets.llvm.whole import instruction, whole
from everloop.errors import UnsupportedError

MIN_PARALLEL = 1e6  # operations in a step that pay for a second thread
AWAKE = 5e-4  # seconds after a step in which PyTorch's threads still wait for more; later they must be woken, slowly
CAUTION = 100  # times as long as a second thread was in the way, there is none

_kernels: WeakValueDictionary[tuple[Loop, str], SingleKernel] = WeakValueDictionary()
_lock = threading.RLock()


def compile(loop: Loop, isa: str | None = None) -> SingleKernel:  # noqa: A001
    """Return the kernel of one step of `loop`; `isa` names an instruction set of this machine (None: the widest)."""
    form = form_of(loop)
    if has_whole(loop) and form.dtype != torch.float32:
        raise UnsupportedError(f"a single step with matrices of int8 computes in float32; got {form.dtype}")
    key = (loop, isa or host().name)
    with _lock:
        kernel = _kernels.get(key)
        if kernel is None:
            layout = Layout(normalise(loop), form, dotted(named(key[1])) if has_whole(loop) else named(key[1]))
            code = object_code("single " + repr(loop), str(form.dtype), layout.isa, lambda: text(layout))
            kernel = _kernels[key] = SingleKernel(layout, Library(code, ("everloop_run",)))
        return kernel


def text(layout: Layout) -> str:
    """Return the LLVM text of a single step."""
    products = [dot(layout.isa, layout.form), spread(layout.isa, layout.form)]
    products += [whole(layout.isa, layout.form)] if has_whole(layout.loop) else []
    return module(layout.isa, "\n".join([*products, *mappings(layout), driver(layout, DirectWorker)]))


def has_whole(loop: Loop) -> bool:
    """Whether products of a loop are of whole numbers of 8 bits."""
    return any(isinstance(s, Product) and s.matrix.dtype == torch.int8 for s in loop.stages)


class SingleKernel:
    """A compiled step."""

    entry = "everloop_run"

    def __init__(self, layout: Layout, library: Library) -> None:
        self.layout, self._keep = layout, library
        self.run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library.address[self.entry])
        self.block = ctypes.c_int64 * layout.total_slots
        self.zeros = torch.zeros(max(s.width for s in layout.loop.states), dtype=layout.form.dtype)
        self.operations = sum(
            2 * shape(s)[0] * shape(s)[1] if isinstance(s, Product) else 4 * s.width * len(s.body)
            for s in layout.loop.stages
        )

    @property
    def description(self) -> str:
        """Its instruction set and dtype, and what multiplies matrices of int8."""
        products = instruction(self.layout.isa) or "wider products"
        whole = f", matrices of int8 where they are ({products})" * has_whole(self.layout.loop)
        return f"{self.layout.isa.name}, {self.layout.form.dtype}{whole}"

    def over(self, batch: int, fixed: Mapping[str, Tensor], vary: Sequence[str]) -> Single:
        """Return a call of one step over `fixed` vectors and matrices, as the contract of kernels says."""
        return Single(self, batch, fixed, vary)


class Single:
    """One step of some rows over vectors and matrices that stay where they are. Threads may call it at once."""

    def __init__(self, kernel: SingleKernel, batch: int, fixed: Mapping[str, Tensor], vary: Sequence[str]) -> None:
        layout, self._kernel, self._batch = kernel.layout, kernel, batch
        size, slots = layout.form.size, layout.slots
        block = self._block = kernel.block()
        block[0], block[1] = 1, batch
        for buffer in layout.loop.buffers:
            if buffer.kind == "sequence":
                block[slots[buffer.name] + 2] = buffer.width * size
            elif buffer.kind in ("vector", "matrix"):
                tensor = fixed[buffer.name]
                block[slots[buffer.name]] = tensor.data_ptr()
                for n, stride in enumerate(tensor.stride() if buffer.kind == "matrix" else ()):
                    block[slots[buffer.name] + 1 + n] = stride * tensor.itemsize
        for state in layout.loop.states:
            starts, ends = slots[f"first {state.name}"], slots[f"final {state.name}"]
            block[starts], block[starts + 1] = kernel.zeros.data_ptr(), 0
            if f"first {state.name}" in vary:
                block[starts + 1] = state.width * size
            block[ends + 1] = state.width * size
        self._slots = tuple(slots[name] for name in vary)
        self._is_long = batch * kernel.operations >= MIN_PARALLEL
        self._last, self._alone, self._alone_until = 0.0, math.inf, 0.0  # seconds
        self._free: list[tuple[memoryview, int, int, Tensor]] = []  # one a call at the same time

    def __call__(self, *addresses: int) -> None:
        """Run one step; `addresses` are those of the varying tensors, in their order."""
        try:
            item = self._free.pop()
        except IndexError:
            item = self._another()
        block, start, most, _ = item
        for slot, address in zip(self._slots, addresses, strict=False):
            block[slot] = address
        if self._is_long:
            self._run_long(block, start, most)
        else:
            self._kernel.run(start)
        self._free.append(item)

    def _run_long(self, block: memoryview, start: int, most: int) -> None:
        """Take more than one thread in a row of steps without pauses, unless others keep the processor busy."""
        begin = perf_counter()
        is_awake = begin - self._last < AWAKE and begin > self._alone_until and threads.pool().parallel
        count = min(most, torch.get_num_threads()) if is_awake else 1
        block[SLOT["threads"]], block[SLOT["columns"]] = count, count > 1
        self._kernel.run(start)
        self._last = end = perf_counter()
        if count == 1:
            self._alone = min(self._alone, end - begin)
        elif end - begin > 2 * self._alone:
            self._alone_until = end + CAUTION * (end - begin)

    def _another(self) -> tuple[memoryview, int, int, Tensor]:
        block, pool = self._kernel.block.from_buffer_copy(self._block), threads.pool()
        most = torch.get_num_threads() if self._is_long else 1
        work = pages.block(self._work_bytes(most) + 64)
        block[SLOT["work"]], block[SLOT["threads"]] = memory.aligned(work), 1
        block[SLOT["parallel"]], block[SLOT["number"]] = pool.parallel, pool.number
        block[SLOT["team"]], block[SLOT["syscall"]] = pool.team, pool.syscall
        return memoryview(block).cast("B").cast("q"), ctypes.addressof(block), most, work

    def _work_bytes(self, most: int) -> int:
        layout = self._kernel.layout
        return max(layout.work_bytes(self._batch, 1, False), layout.work_bytes(self._batch, most, True))
