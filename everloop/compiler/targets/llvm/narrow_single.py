"""Single steps of bfloat16 or float16: matrices are read where they are, the few other numbers are converted."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from everloop.compiler.loop import Loop, Product
from everloop.compiler.targets.llvm import memory
from everloop.compiler.targets.llvm.bfloat import MOST, dots
from everloop.compiler.targets.llvm.driver import driver
from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.layout import Layout, form_of, normalise, round_up, shape
from everloop.compiler.targets.llvm.machine import Library, halving, host, module, narrow, object_code
from everloop.compiler.targets.llvm.mapping import mappings
from everloop.compiler.targets.llvm.narrow_direct import NarrowWorker, products
from everloop.compiler.targets.llvm.rounding import (
    extended,
    round_numbers,
    shorten_numbers,
    widen_numbers,
    widened,
)
from everloop.compiler.targets.llvm.single import Single, SingleKernel, has_whole
from everloop.compiler.targets.llvm.vector import Isa, named
from everloop.errors import UnsupportedError

ENTRY = 3  # slots: where numbers are in bfloat16, where in float32, and how many

_kernels: WeakValueDictionary[tuple[Loop, Isa, torch.dtype], NarrowStepKernel] = WeakValueDictionary()
_lock = threading.RLock()


def compile(  # noqa: A001
    loop: Loop, isa: str | None = None, storage: torch.dtype = torch.bfloat16
) -> NarrowStepKernel:
    """Return the kernel of one step of a loop of float32 whose tensors are all of `storage`; `isa` as of `single`."""
    instructions = named(isa or host().name)
    form, key = form_of(loop), (loop, _instructions(instructions, storage), storage)
    widest = max((shape(s)[0] for s in loop.stages if isinstance(s, Product)), default=0)
    if has_whole(loop) or form.dtype != torch.float32 or widest > MOST:
        raise UnsupportedError(f"a single step of {storage} with a matrix of int8, or rows of more than {MOST} numbers")
    with _lock:
        kernel = _kernels.get(key)
        if kernel is None:
            layout = Layout(normalise(loop), form, key[1])
            what = f"{'narrow' if storage == torch.bfloat16 else storage} single {loop!r}"
            code = object_code(what, str(form.dtype), layout.isa, lambda: text(layout, storage))
            kernel = _kernels[key] = NarrowStepKernel(layout, Library(code, ("everloop_narrow",)), storage)
        return kernel


def _instructions(isa: Isa, storage: torch.dtype) -> Isa:
    """Return an instruction set with what this processor has beside it for a dtype."""
    if storage == torch.bfloat16:
        return narrow(isa)
    found = halving(isa)
    if found is None:
        raise UnsupportedError(f"this processor has no instructions of {isa.name} that convert {storage}")
    return found


def text(layout: Layout, storage: torch.dtype = torch.bfloat16) -> str:
    """Return the LLVM text of a single step."""
    parts = [
        products(layout.isa, layout.form, storage),
        *mappings(layout),
        driver(layout, NarrowWorker),
        _narrow(layout, storage),
    ]
    return module(layout.isa, "\n".join(parts))


def _narrow(layout: Layout, storage: torch.dtype) -> str:
    """Text of `everloop_narrow(args)`: widens, runs the step, rounds. The tables of what stand behind the arguments."""
    code, lanes = Code("void @everloop_narrow(ptr %args)"), layout.isa.lanes(4)
    table = code.at("%args", 8 * layout.total_slots)
    given, made = (code.slot(table, n) for n in range(2))
    entries = code.at(table, 16)

    def widen(n: str, _: list[str]) -> list[str]:
        entry = code.at(entries, code.mul(n, 8 * ENTRY))
        short, wide, count = code.slot(entry, 0, "ptr"), code.slot(entry, 1, "ptr"), code.slot(entry, 2)
        widen_numbers(code, short, wide, count, lanes, widened if storage == torch.bfloat16 else extended)
        return []

    def narrow(n: str, _: list[str]) -> list[str]:
        entry = code.at(entries, code.mul(n, 8 * ENTRY))
        wide, short, count = code.slot(entry, 1, "ptr"), code.slot(entry, 0, "ptr"), code.slot(entry, 2)
        (round_numbers if storage == torch.bfloat16 else shorten_numbers)(code, wide, short, count, lanes)
        return []

    code.loop(0, given, widen)
    code.do("call void @everloop_run(ptr %args)")
    code.loop(given, code.add(given, made), narrow)
    return code.end()


class NarrowStepKernel(SingleKernel):
    """A compiled step of numbers of two bytes."""

    entry = "everloop_narrow"

    def __init__(self, layout: Layout, library: Library, storage: torch.dtype) -> None:
        super().__init__(layout, library)
        self.storage = storage
        most = len(layout.loop.buffers) + len(layout.loop.states)
        self.block = ctypes.c_int64 * (layout.total_slots + 2 + ENTRY * most)

    @property
    def description(self) -> str:
        how = (self.storage == torch.bfloat16 and dots(self.layout.isa)) or "widened in registers"
        storage = str(self.storage).removeprefix("torch.")
        return f"{self.layout.isa.name}, matrices of {storage} where they are ({how})"

    def over(self, batch: int, fixed: Mapping[str, Tensor], vary: Sequence[str]) -> NarrowSingle:
        return NarrowSingle(self, batch, fixed, vary)


class NarrowSingle(Single):
    """One step of some rows over vectors and matrices of two bytes a number that stay where they are."""

    def __init__(self, kernel: NarrowStepKernel, batch: int, fixed: Mapping[str, Tensor], vary: Sequence[str]) -> None:
        super().__init__(kernel, batch, fixed, vary)
        layout = kernel.layout
        count = {b.name: b.width for b in layout.loop.buffers if b.kind == "vector"}
        count |= {b.name: b.width * batch for b in layout.loop.buffers if b.kind == "sequence"}
        for state in layout.loop.states:
            count |= dict.fromkeys((f"first {state.name}", f"final {state.name}"), state.width * batch)
        vectors = [name for name in fixed if name in count and name not in vary]
        given = vectors + [name for name in vary if name in count and not name.startswith("final ")]
        made = [name for name in vary if name.startswith("final ")]
        block, base = self._block, layout.total_slots
        block[base], block[base + 1] = len(given), len(made)
        self._staged: list[tuple[int, int, int]] = []  # slot of the argument, of the entry, numbers
        places = {}
        for n, name in enumerate([*given, *made]):
            places[name] = entry = base + 2 + ENTRY * n
            block[entry + 2] = count[name]
            self._staged.append((layout.slots[name], entry, count[name]))
        for name in vectors:
            block[places[name]] = fixed[name].data_ptr()
        self._slots = tuple(places.get(name, layout.slots[name]) for name in vary)
        self._wide = sum(round_up(4 * number, 64) for _, _, number in self._staged) + 64

    def _another(self) -> tuple[memoryview, int, int, Tensor]:
        block, start, most, work = super()._another()
        place = memory.aligned(work) + round_up(super()._work_bytes(most), 64)
        for slot, entry, number in self._staged:
            block[slot] = block[entry + 1] = place
            place += round_up(4 * number, 64)
        return block, start, most, work

    def _work_bytes(self, most: int) -> int:
        return super()._work_bytes(most) + self._wide
