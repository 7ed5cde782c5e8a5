"""Rows times a matrix packed in bfloat16: the product of narrow loops, by tiles of AMX, dot products, or in registers.

Rows come as float32 and are rounded to bfloat16, pairs of neighbours in a word of 32 bits; sums are float32. A packed
matrix is that of `product`, with words in the place of numbers and k rounded up to whole tiles: half as large. All ways
compute the same sums, in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from everloop.compiler.loop import Loop, Product
from everloop.compiler.targets.llvm import tiles
from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.formats import FORMATS, FloatFormat
from everloop.compiler.targets.llvm.layout import shape
from everloop.compiler.targets.llvm.machine import Library
from everloop.compiler.targets.llvm.product import MultiplyAdd, product, tile
from everloop.compiler.targets.llvm.rounding import WORDS, each, pack_rounded, round_row, words_of
from everloop.compiler.targets.llvm.vector import Isa

ROWS = 256  # rows that are rounded at a time, where they are not long
FEW = 2  # rows for which tiles are slower than vectors, which read a matrix from afar sooner
IN_CACHE = 512 << 10  # bytes of matrices that one row reads as soon in float32
MOST = 4096  # numbers in a row
STACK = 256 << 10  # bytes of rounded rows, a small part of the stack of any thread
# Of an instruction set: LLVM's name of its dot product of two numbers of bfloat16, and whose it is.
_DOTS = {
    "avx512bf16": ("llvm.x86.avx512bf16.dpbf16ps.512", "AVX512-BF16"),
    "bf16": ("llvm.aarch64.neon.bfdot.v4f32.v8bf16", "NEON (bfdot)"),
}
_FORM = FORMATS[torch.float32]
_HEAD = (
    "ptr %in, i64 %from, ptr %out, i64 %to, i64 %stride, i64 %rows, "
    "ptr %packed, i64 %k, i64 %n, i64 %first, i64 %last, i64 %back"
)


@dataclass(frozen=True)
class Narrow:
    """The product in bfloat16, and when it is quicker than that in float32.

    few, many: what multiplies few rows, without AMX, and more.
    is_double: whether a dot product of two has the throughput of a multiplication, as on Zen 5 but not on Intel's.
    """

    few: Library
    many: Library
    isa: Isa
    is_double: bool

    @property
    def description(self) -> str:
        if self.isa.has("amx-bf16"):
            return "tiles of AMX and dot products of AVX512-BF16"
        how = dots(self.isa) or "bfloat16 widened in registers"
        return how + f", up to {FEW} rows a thread" * (not self.is_double)

    def compiled_for(self, rows: int) -> Library:
        """What multiplies so many rows of a thread."""
        return self.few if rows <= FEW else self.many

    def is_quicker(self, rows: int, packed: int) -> bool:
        """Whether it is for `rows` rows of a thread and matrices that take so many bytes in float32."""
        if rows <= FEW:
            return packed >= IN_CACHE
        return self.isa.has("amx-bf16") or self.is_double


def fits(loop: Loop, form: FloatFormat) -> bool:
    """Whether the products of a loop are of a size for it."""
    sizes = [shape(s)[0] for s in loop.stages if isinstance(s, Product)]
    return form is _FORM and bool(sizes) and min(sizes) >= 2 * WORDS and max(sizes) <= MOST


def functions(isa: Isa) -> str:
    """Text of `everloop_product` and `everloop_pack`, by the best instructions of `isa`."""
    if isa.has("amx-bf16"):
        return "\n".join([tiles.functions(), _by_tiles(isa), tiles.pack(isa)])
    sizes = [(r, v) for r in range(1, isa.rows + 1) for v in range(1, isa.vectors + 1)]
    own = [tile(isa, _FORM, r, v, multiply_add(isa)) for r, v in sizes]
    return "\n".join([*own, product(isa, _FORM, "internal void @core"), _by_vectors(isa), pack_rounded(isa)])


def multiply_add(isa: Isa) -> MultiplyAdd:
    """Return what adds to sums the products of both numbers in each word."""
    name = next((name for feature, (name, _) in _DOTS.items() if isa.has(feature)), None)
    return _widened if name is None else partial(_dot_of_two, name)


def dots(isa: Isa) -> str:
    """Return whose instructions multiply and add both numbers in each word; nothing where there are none."""
    return next((f"dot products of {whose}" for feature, (_, whose) in _DOTS.items() if isa.has(feature)), "")


def _dot_of_two(name: str, code: Code, lanes: int, number: str, columns: str, total: str) -> str:
    kind, pairs = f"<{lanes} x float>", f"<{2 * lanes} x bfloat>"
    a, b = (code(f"bitcast {kind} {v} to {pairs}") for v in (number, columns))
    return code(f"call {kind} @{name}({kind} {total}, {pairs} {a}, {pairs} {b})")


def _widened(code: Code, lanes: int, number: str, columns: str, total: str) -> str:
    kind, words = f"<{lanes} x float>", f"<{lanes} x i32>"
    factors = []
    for value in (number, columns):
        bits = code(f"bitcast {kind} {value} to {words}")
        low = code(f"shl {words} {bits}, {each(16, lanes)}")
        high = code(f"and {words} {bits}, {each(-65536, lanes)}")
        factors.append([code(f"bitcast {words} {part} to {kind}") for part in (low, high)])
    for a, b in zip(*factors, strict=True):
        total = code(f"call {kind} @llvm.fmuladd.v{lanes}f32({kind} {a}, {kind} {b}, {kind} {total})")
    return total


@dataclass(frozen=True)
class Rounded:
    """`count` rows from `first` on, which lie rounded in `memory`: bytes and words of one."""

    first: str
    count: str
    memory: str
    size: str
    words: str


Write = Callable[[str, Rounded, str], None]  # (source, rows, number of one) rounds it


def _in_chunks(code: Code, isa: Isa, body: Callable[[Rounded], None], write: Write, padding: int = 0) -> None:
    """Run body for some rows at a time, for which there is memory, and for `padding` more."""
    words = words_of(code, "%k")
    size = code.mul(words, 4)
    pairs = code.divide(code.divide(str(STACK), size), tiles.PAIR)  # at least one of two tiles
    most = code.least(code.mul(pairs, tiles.PAIR), ROWS)
    memory = code(f"alloca i8, i64 {code.mul(code.add(code.least('%rows', most), padding), size)}, align 64")

    def chunk(n: str, _: list[str]) -> list[str]:
        first = code.mul(n, most)
        count = code.least(code.sub("%rows", first), most)
        rows = Rounded(first, count, memory, size, words)

        def row(r: str, _: list[str]) -> list[str]:
            place = code.at("%in", code.mul(code.add(first, r), "%stride"))
            write(code.at(code.load("ptr", place), "%from"), rows, r)
            return []

        code.loop(0, count, row)
        body(rows)
        return []

    code.loop(0, code.divide(code.sub(code.add("%rows", most), 1), most), chunk)


def on_rounded_rows(code: Code, isa: Isa, call: Callable[[str, Rounded], str]) -> None:
    """Do `call` for some rows at a time, rounded to words.

    call: of "ptr %in, i64 %from, ptr %out, i64 %to, i64 %stride, i64 %rows" of these.
    """
    table = code(f"alloca i8, i64 {16 * ROWS}, align 16")  # where a rounded row is, and where its result goes

    def body(rows: Rounded) -> None:
        def row(r: str, _: list[str]) -> list[str]:
            entry = code.at(table, code.mul(r, 16))
            code.store("ptr", code.at(rows.memory, code.mul(r, rows.size)), entry)
            out = code.load("ptr", code.at("%out", code.mul(code.add(rows.first, r), "%stride")))
            code.store("ptr", out, code.at(entry, 8))
            return []

        code.loop(0, rows.count, row)
        code.do(call(f"ptr {table}, i64 0, ptr {code.at(table, 8)}, i64 %to, i64 16, i64 {rows.count}", rows))

    def write(source: str, rows: Rounded, r: str) -> None:
        round_row(code, source, code.at(rows.memory, code.mul(r, rows.size)), "%k", rows.words, isa)

    _in_chunks(code, isa, body, write)


def _by_vectors(isa: Isa) -> str:
    """The product by register tiles, which `core` has for words."""
    code = Code(f"void @everloop_product({_HEAD})")

    def call(given: str, rows: Rounded) -> str:
        return f"call void @core({given}, ptr %packed, i64 {rows.words}, i64 %n, i64 %first, i64 %last, i64 %back)"

    on_rounded_rows(code, isa, call)
    return code.end()


def _by_tiles(isa: Isa) -> str:
    """The product by AMX, into rows that lie equally far apart."""
    code = Code(f"void @everloop_product({_HEAD})")
    start = code.load("ptr", "%out")
    last = code.load("ptr", code.at("%out", code.mul(code.least(code.sub("%rows", 1), 1), "%stride")))
    step = code.sub(*(code(f"ptrtoint ptr {out} to i64") for out in (last, start)))

    def in_tiles(rows: Rounded) -> tiles.Rows:
        return tiles.Rows(rows.memory, code.mul(rows.size, tiles.TILE), rows.count)

    def write(source: str, rows: Rounded, r: str) -> None:
        tiles.write_row(code, isa, 4, source, tiles.place_of(code, in_tiles(rows), r), "%k")

    def body(rows: Rounded) -> None:
        def store(sums: tiles.Sums) -> None:
            row = code.mul(code.add(rows.first, sums.row), step)
            to = code.add(code.add(row, "%to"), code.mul(sums.block, 4 * tiles.TILE))
            code.do(sums.text(code.at(start, to), step))

        matrix = tiles.Panels("%packed", rows.words, "%n", "0", rows.words)
        tiles.by_panels(code, isa, in_tiles(rows), matrix, ("%first", "%last", "%back"), store)

    _in_chunks(code, isa, body, write, tiles.TILE)
    return code.end()
