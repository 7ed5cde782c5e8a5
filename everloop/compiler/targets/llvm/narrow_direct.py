"""Products of a few rows with a matrix of bfloat16 or float16 as it lies in memory: `direct` with half of the bytes.

A matrix of bfloat16 that is read row by row meets rows rounded to bfloat16, two numbers in a word. The other way, and
in float16, its numbers are widened in registers.
"""

from __future__ import annotations

import torch

from everloop.compiler.targets.llvm.bfloat import Rounded, multiply_add, on_rounded_rows
from everloop.compiler.targets.llvm.direct import HEAD, DirectWorker, Writer, dot_by, spread_by
from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.formats import FloatFormat
from everloop.compiler.targets.llvm.rounding import Widen, extended, widened
from everloop.compiler.targets.llvm.vector import Isa

SIZE = 2  # bytes of a number


class NarrowWorker(DirectWorker):
    """A worker whose products read the caller's matrices of numbers of two bytes."""

    products = "dot_words", "spread_words"
    number = SIZE


class _Words(Writer):
    """Vectors of words; a word holds two numbers."""

    def __init__(self, isa: Isa, form: FloatFormat) -> None:
        super().__init__(isa, form, "core_words")
        self.number, self._sums = SIZE, multiply_add(isa)

    def matrix_mask(self, count: str) -> str:
        numbers = ", ".join(f"i64 {n}" for n in range(2 * self.lanes))
        kind, code = f"<{2 * self.lanes} x i64>", self.code
        one = code(f"insertelement {kind} poison, i64 {count}, i64 0")
        limit = code(f"shufflevector {kind} {one}, {kind} poison, <{2 * self.lanes} x i32> zeroinitializer")
        return code(f"icmp ult {kind} <{numbers}>, {limit}")

    def read_matrix(self, place: str, mask: str = "") -> str:
        if not mask:
            return self.code.load(self.vector, place, SIZE)
        return self.code(f"bitcast {_halves(self.code, place, 2 * self.lanes, mask)} to {self.vector}")

    def read_row(self, place: str, mask: str = "") -> str:
        return self.read(place)  # behind its last number are zeros

    def fused(self, a: str, b: str, total: str) -> str:
        return self._sums(self.code, self.lanes, b, a, total)


class _Halves(Writer):
    """Vectors of numbers that are widened as they are read."""

    def __init__(self, isa: Isa, form: FloatFormat, name: str, widen: Widen) -> None:
        super().__init__(isa, form, name)
        self.number, self._widen = SIZE, widen

    @property
    def many(self) -> int:
        return self.lanes

    def read_matrix(self, place: str, mask: str = "") -> str:
        if not mask:
            return self._widen(self.code, self.code.load(f"<{self.lanes} x i16>", place, SIZE), self.lanes)
        halves = _halves(self.code, place, self.lanes, mask).rpartition(" ")[2]
        return self._widen(self.code, halves, self.lanes)


def _halves(code: Code, place: str, count: int, mask: str) -> str:
    """Numbers of 16 bits where a mask says so, zeros elsewhere, with their type before them."""
    kind, masks = f"<{count} x i16>", f"<{count} x i1>"
    name = f"@llvm.masked.load.v{count}i16.p0"
    return f"{kind} {code(f'call {kind} {name}(ptr {place}, i32 {SIZE}, {masks} {mask}, {kind} zeroinitializer)')}"


def products(isa: Isa, form: FloatFormat, storage: torch.dtype) -> str:
    """Text of `dot_words` and `spread_words`, as `dot` and `spread`, for matrices of this dtype."""
    if storage == torch.float16:
        by_dot, by_spread = (_Halves(isa, form, name, extended) for name in NarrowWorker.products)
        return "\n".join([dot_by(by_dot, isa), spread_by(by_spread, isa)])
    code = Code(f"internal void @dot_words({HEAD})")
    rest = "ptr %matrix, i64 %step, i64 %k, i64 %n, i64 %first, i64 %last"

    def call(given: str, _: Rounded) -> str:
        return f"call void @core_words({given}, {rest})"

    on_rounded_rows(code, isa, call)
    return "\n".join(
        [dot_by(_Words(isa, form), isa), code.end(), spread_by(_Halves(isa, form, "spread_words", widened), isa)]
    )
