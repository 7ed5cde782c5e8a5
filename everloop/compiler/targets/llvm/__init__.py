"""The target `llvm`: a Loop becomes one native function of the processor, by LLVM text and llvmlite."""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary

import torch

from everloop.compiler.loop import Loop
from everloop.compiler.targets.llvm import bfloat
from everloop.compiler.targets.llvm.bfloat import Narrow, functions
from everloop.compiler.targets.llvm.driver import driver
from everloop.compiler.targets.llvm.formats import FORMATS, FloatFormat
from everloop.compiler.targets.llvm.launch import NativeKernel
from everloop.compiler.targets.llvm.layout import Layout, form_of, normalise
from everloop.compiler.targets.llvm.machine import (
    Library,
    doubles,
    host,
    is_available,
    module,
    narrow,
    need,
    object_code,
    runs,
    without_tiles,
)
from everloop.compiler.targets.llvm.mapping import mappings
from everloop.compiler.targets.llvm.mathematics import Lanes, operations
from everloop.compiler.targets.llvm.packing import pack
from everloop.compiler.targets.llvm.product import product, tile
from everloop.compiler.targets.llvm.quick import DividingLanes, QuickLanes
from everloop.compiler.targets.llvm.vector import Isa, named
from everloop.errors import UnsupportedError

__all__ = ["NativeKernel", "compile", "ir", "is_available", "operations", "shared_ir"]

_kernels: WeakValueDictionary[tuple[Loop, Isa, bool, frozenset[str]], NativeKernel] = WeakValueDictionary()
_shared: dict[tuple[torch.dtype, str], Library] = {}
_lock = threading.RLock()


def compile(  # noqa: A001
    loop: Loop, isa: str | None = None, is_narrow: bool = False, halves: frozenset[str] = frozenset()
) -> NativeKernel:
    """Return the kernel of `loop`; `isa` names an instruction set of this machine (None: the widest).

    is_narrow: whether its products round their factors to bfloat16, where that is quicker; halves: as of Layout.

    Raises UnsupportedError where llvmlite is not installed or the numbers are not all of one format of the table.
    """
    need()
    instructions = named(isa or host().name)
    if not runs(instructions.name):
        raise UnsupportedError(f"this processor has no {instructions.name}; it runs {host().name}")
    form, key = form_of(loop), (loop, narrow(instructions) if is_narrow else instructions, is_narrow, halves)
    kernel = _kernels.get(key)
    if kernel is not None:
        return kernel
    with _lock:
        kernel = _kernels.get(key)
        if kernel is None:
            own = narrow(instructions) if halves else instructions
            is_quick = is_narrow and form.dtype == torch.float32 and own.name == "avx512"
            lanes = (DividingLanes if doubles() else QuickLanes) if is_quick else Lanes
            layout = Layout(normalise(loop.of(form.dtype), halves), form, own, halves, lanes)
            what = repr((loop, *sorted(halves), lanes.__name__))
            code = object_code(what, str(form.dtype), own, lambda: _text(layout))
            library = Library(code, ("everloop_run",))
            shared = _common(layout.form, instructions)
            fast = _narrow(layout) if is_narrow else None
            kernel = _kernels[key] = NativeKernel(layout, lambda: _text(layout), library, shared, fast)
        return kernel


def ir(loop: Loop, isa: str) -> str:
    """Return the LLVM text of a loop for any instruction set, of this machine or not."""
    form = form_of(loop)
    return _text(Layout(normalise(loop.of(form.dtype)), form, named(isa)))


def shared_ir(dtype: torch.dtype, isa: str) -> str:
    """Return the LLVM text of the product and packing functions that all kernels share."""
    form, instructions = FORMATS[dtype], named(isa)
    sizes = [(r, v) for r in range(1, instructions.rows + 1) for v in range(1, instructions.vectors + 1)]
    tiles = [tile(instructions, form, r, v) for r, v in sizes]
    return module(instructions, "\n".join([*tiles, product(instructions, form), pack(instructions, form)]))


def _text(layout: Layout) -> str:
    return module(layout.isa, "\n".join([*mappings(layout), driver(layout)]))


def _narrow(layout: Layout) -> Narrow | None:
    """Return the product in bfloat16 for a loop; None where its products are not of a size for it."""
    isa = narrow(named(layout.isa.name))
    if not bfloat.fits(layout.loop, layout.form):
        return None
    few, many = (_narrow_library(each) for each in (without_tiles(isa), isa))
    return Narrow(few, many, isa, doubles())


def _narrow_library(isa: Isa) -> Library:
    key = (torch.bfloat16, isa.features)
    if key not in _shared:
        code = object_code("shared", "bfloat16", isa, lambda: module(isa, functions(isa)))
        _shared[key] = Library(code, ("everloop_product", "everloop_pack"))
    return _shared[key]


def _common(form: FloatFormat, isa: Isa) -> Library:
    key = (form.dtype, isa.name)
    if key not in _shared:
        code = object_code("shared", str(form.dtype), isa, lambda: shared_ir(form.dtype, isa.name))
        _shared[key] = Library(code, ("everloop_product", "everloop_pack"))
    return _shared[key]
