"""Products of rows of whole numbers with a matrix of int8 as it lies in memory: `dot` with a quarter of the bytes.

The row's numbers, from -127 to 127, become bytes first. Sums are exact, so that every instruction gives the same:
`vpdpbusd`, which wants the numbers of the matrix 128 larger, where there is AVX512-VNNI or AVX-VNNI; `sdot` where
NEON has it; on AVX2 `vpmaddubsw` of the row's sizes and the matrix with their signs, whose sums of two stay below
2^15; else products as wide as 16 or 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable

from everloop.compiler.targets.llvm.direct import ROWS, TILE, Writer, order, tree
from everloop.compiler.targets.llvm.formats import FloatFormat
from everloop.compiler.targets.llvm.rounding import each
from everloop.compiler.targets.llvm.vector import Isa

LINE = 64  # bytes of the cache that come together
UNROLL = 4  # vectors
CHUNK = 64 << 10  # bytes of rows that are made bytes at a time
_DOTS = {"avx512vnni": "vpdpbusd", "avxvnni": "vpdpbusd", "dotprod": "sdot"}
_PAIRS = {64: "avx512.pmaddw.d.512", 32: "avx2.pmadd.wd", 16: "sse2.pmadd.wd"}


def instruction(isa: Isa) -> str:
    """Return the name of what multiplies numbers of 8 bits and adds four products; nothing where none does."""
    dot = next((name for feature, name in _DOTS.items() if isa.has(feature)), "")
    return dot or ("vpmaddubsw" if isa.name == "avx2" else "")


class _Whole(Writer):
    """Vectors of sums of 32 bits; numbers of 8 bits, four in the place of each."""

    def __init__(self, isa: Isa, form: FloatFormat, name: str) -> None:
        super().__init__(isa, form, name)
        self.isa, self.floats, self.vector = isa, self.vector, f"<{self.lanes} x i32>"
        self.halves, self.small = f"<{2 * self.lanes} x i16>", f"<{4 * self.lanes} x i8>"
        self.instruction = instruction(isa)
        self.raised = 128 if self.instruction == "vpdpbusd" else 0  # by what the matrix's numbers are too large

    @property
    def declared(self) -> str:
        """What must be declared, since LLVM 22 takes operands of bytes, and these only by the declaration."""
        name, operands = f"@llvm.x86.avx512.vpdpbusd.{self.bytes * 8}", ", ".join([self.vector] * 3)
        return f"declare {self.vector} {name}({operands})\n" if self.instruction == "vpdpbusd" else ""

    def add(self, parts: list[str]) -> str:  # type: ignore[override]
        total, *rest = parts
        for part in rest:
            total = self.code(f"add {self.vector} {total}, {part}")
        return total

    def matrix(self, words: str) -> list[str]:
        """What is multiplied of four numbers of the matrix in each lane."""
        if self.instruction == "vpdpbusd":
            return [self.code(f"xor {self.vector} {words}, {each(0x80808080 - (1 << 32), self.lanes)}")]
        return [self.bytes_of(words)] if self.instruction in ("sdot", "vpmaddubsw") else self.row(words)

    def row(self, words: str) -> list[str]:
        """What is multiplied of four numbers of a row in each lane."""
        if self.instruction == "vpdpbusd":
            return [words]
        if self.instruction == "sdot":
            return [self.bytes_of(words)]
        if self.instruction == "vpmaddubsw":
            small, number = self.small, self.bytes_of(words)
            return [number, self.code(f"call {small} @llvm.abs.v{4 * self.lanes}i8({small} {number}, i1 false)")]
        if self.isa.arch != "x86_64":
            return [self.shifted(words, 24 - 8 * n, 24, 32) for n in range(4)]
        return [self.shifted(words, 8, 8, 16), self.shifted(words, 0, 8, 16)]

    def bytes_of(self, words: str) -> str:
        return self.code(f"bitcast {self.vector} {words} to {self.small}")

    def shifted(self, words: str, left: int, right: int, bits: int) -> str:
        """One of the numbers of each word of `bits` bits, as wide as these."""
        count = self.lanes * 32 // bits
        kind = f"<{count} x i{bits}>"
        value = words if bits == 32 else self.code(f"bitcast {self.vector} {words} to {kind}")
        value = self.code(f"shl {kind} {value}, splat (i{bits} {left})") if left else value
        return self.code(f"ashr {kind} {value}, splat (i{bits} {right})")

    def multiplied(self, matrix: list[str], row: list[str], total: str) -> str:
        """The sums, with those of four products added to each."""
        code, bits = self.code, self.bytes * 8
        if self.instruction == "vpdpbusd":
            args = ", ".join(f"{self.vector} {v}" for v in (total, *matrix, *row))
            return code(f"call {self.vector} @llvm.x86.avx512.vpdpbusd.{bits}({args})")
        if self.instruction == "sdot":
            args = ", ".join(f"{self.small} {v}" for v in (*matrix, *row))
            return code(f"call {self.vector} @llvm.aarch64.neon.sdot.v4i32.v16i8({self.vector} {total}, {args})")
        if self.instruction == "vpmaddubsw":
            (numbers,), (signs, sizes), small = matrix, row, self.small
            numbers = code(f"call {small} @llvm.x86.avx2.psign.b({small} {numbers}, {small} {signs})")
            pairs = code(f"call {self.halves} @llvm.x86.avx2.pmadd.ub.sw({small} {sizes}, {small} {numbers})")
            args = f"{self.halves} {pairs}, {self.halves} splat (i16 1)"
            four = code(f"call {self.vector} @llvm.x86.avx2.pmadd.wd({args})")
            return code(f"add {self.vector} {total}, {four}")
        for a, b in zip(matrix, row, strict=True):
            if self.isa.arch == "x86_64":
                name = f"@llvm.x86.{_PAIRS[self.bytes]}"
                product = code(f"call {self.vector} {name}({self.halves} {a}, {self.halves} {b})")
            else:
                product = code(f"mul {self.vector} {a}, {b}")
            total = code(f"add {self.vector} {total}, {product}")
        return total


def whole(isa: Isa, form: FloatFormat) -> str:
    """Text of `whole`: as `dot`, for a matrix of int8; the results are floats."""
    w = _Whole(isa, form, "whole")
    code, lanes, size = w.code, w.lanes, w.bytes
    places = order(lanes, 4)
    padded = code.mul(code.divide(code.add("%k", size - 1), size), size)
    most = code.add(code.divide(str(CHUNK), padded), TILE)
    chunk = code.least("%rows", most)
    memory = code(f"alloca i8, i64 {code.mul(chunk, padded)}, align 64")
    facts = code(f"alloca i8, i64 {code.mul(chunk, 8)}, align 64")  # of a row: what each sum is too large by; NaN or 0
    spare = code(f"alloca [{size} x i8], align 64")
    complete = w.rounded("%k", size)

    def as_bytes(source: str, to: str, fact: str) -> None:
        """Make bytes of a row; note its sum and whether one of its numbers is none."""
        code.clear(to, padded)

        def part(count: int) -> Callable[[str, list[str]], list[str]]:
            floats, words, small = (f"<{count} x {kind}>" for kind in ("float", "i32", "i8"))

            def body(j: str, values: list[str]) -> list[str]:
                number = code.load(floats, code.at(source, code.mul(j, 4)), 4)
                number_or_none = code(f"fmul {floats} {number}, zeroinitializer")
                is_none = code(f"fcmp uno {floats} {number}, {number}")
                number = code(f"select <{count} x i1> {is_none}, {floats} zeroinitializer, {floats} {number}")
                word = code(f"fptosi {floats} {number} to {words}")
                code.store(small, code(f"trunc {words} {word} to {small}"), code.at(to, j), 1)
                total = code(f"call i32 @llvm.vector.reduce.add.v{count}i32({words} {word})")
                add_up = f"@llvm.vector.reduce.fadd.v{count}f32"
                none = code(f"call reassoc float {add_up}(float {values[1]}, {floats} {number_or_none})")
                return [code(f"add i32 {values[0]}, {total}"), none]

            return body

        vectors = w.rounded("%k", lanes)
        values = code.loop(0, vectors, part(lanes), [("i32", "0"), ("float", "0.0")], lanes)
        values = code.loop(vectors, "%k", part(1), [("i32", values[0]), ("float", values[1])])
        code.store("i32", code(f"mul i32 {values[0]}, {w.raised}"), fact, 4)
        code.store("float", values[1], code.at(fact, 4), 4)

    def few(count: int, line: Callable[[int], str], rows: list[str]) -> list[list[str]]:
        """For each of the rows, still spread over lanes, the sums of `count` lines of the matrix."""
        total = len(rows) * count
        lines, ahead = [line(n) for n in range(count)], code.mul("%step", count)  # bytes, to the lines of the next turn

        def multiply(read: Callable[[str], str], unroll: int = 1) -> Callable[[str, list[str]], list[str]]:
            def body(k: str, sums: list[str]) -> list[str]:
                sums = list(sums)
                for at in range(0, unroll * size, size):
                    numbers = [w.row(code.load(w.vector, code.at(code.at(row, k), at), 1)) for row in rows]
                    for n in range(count):
                        place = code.at(code.at(lines[n], k), at)
                        if unroll > 1 and at % LINE == 0:
                            code.do(f"call void @llvm.prefetch.p0(ptr {code.at(place, ahead)}, i32 0, i32 3, i32 1)")
                        matrix = w.matrix(read(place))
                        for r in range(len(rows)):
                            sums[r * count + n] = w.multiplied(matrix, numbers[r], sums[r * count + n])
                return sums

            return body

        def complete_vector(place: str) -> str:
            return code.load(w.vector, place, 1)

        def end(place: str) -> str:
            code.copy(spare, place, code.sub("%k", complete))
            return code.load(w.vector, spare, 1)

        many, begin = w.rounded("%k", UNROLL * size), [(w.vector, "zeroinitializer")] * total
        sums = code.loop(0, many, multiply(complete_vector, UNROLL), begin, UNROLL * size)
        sums = code.loop(many, complete, multiply(complete_vector), [(w.vector, s) for s in sums], size)
        remain = code(f"select i1 {code.less(complete, '%k')}, i64 {code.add(complete, 1)}, i64 {complete}")
        sums = code.loop(complete, remain, multiply(end), [(w.vector, s) for s in sums])
        return [sums[r * count : (r + 1) * count] for r in range(len(rows))]

    def unit(v: str, first: str, count: str) -> None:
        begin = code.mul(v, lanes)
        last = code.sub("%n", 1)
        back = code.sub("%n", lanes)
        is_short = code.less("%n", lanes)
        j = code(f"select i1 {is_short}, i64 {begin}, i64 {code.least(begin, back)}")

        def line(n: int) -> str:
            return code.at("%matrix", code.mul(code.least(code.add(j, n), last), "%step"))

        def rows_from(of: int) -> Callable[[str, list[str]], list[str]]:
            def body(i: str, _: list[str]) -> list[str]:
                rows = [code.at(memory, code.mul(code.add(i, r), padded)) for r in range(of)]
                found = [[""] * lanes for _ in range(of)]
                most = ROWS if of == 1 else (16 if isa.registers == 32 else 8) // of
                for start in range(0, lanes, most):
                    some = min(most, lanes - start)
                    for r, sums in enumerate(few(some, lambda n, start=start: line(start + n), rows)):  # type: ignore[misc]
                        for n, total in enumerate(sums):
                            found[r][places.index(start + n)] = total
                for r in range(of):
                    store(code.add(i, r), tree(w, found[r]))
                return []

            return body

        def store(i: str, total: str) -> None:
            fact = code.at(facts, code.mul(i, 8))
            total = code(f"sub {w.vector} {total}, {w.splat('i32', code.load('i32', fact, 4))}")
            value = code(f"sitofp {w.vector} {total} to {w.floats}")
            none = w.splat("float", code.load("float", code.at(fact, 4), 4))
            value = code(f"fadd {w.floats} {value}, {none}")
            out = code.at(code.load("ptr", code.at("%out", code.mul(code.add(first, i), "%stride"))), "%to")

            def part() -> None:
                code.store(w.floats, value, spare, 4)
                code.copy(out, spare, code.mul("%n", 4))

            code.when(is_short, part)
            code.when(
                code(f"xor i1 {is_short}, true"),
                lambda: code.store(w.floats, value, code.at(out, code.mul(j, 4)), 4),
            )

        full = w.rounded(count, TILE)
        code.loop(0, full, rows_from(TILE), step=TILE)
        code.loop(full, count, rows_from(1))

    def some(c: str, _: list[str]) -> list[str]:
        first = code.mul(c, most)
        count = code.least(code.sub("%rows", first), most)

        def row(i: str, _: list[str]) -> list[str]:
            at = code.load("ptr", code.at("%in", code.mul(code.add(first, i), "%stride")))
            as_bytes(code.at(at, "%from"), code.at(memory, code.mul(i, padded)), code.at(facts, code.mul(i, 8)))
            return []

        code.loop(0, count, row)

        def each_unit(v: str, _: list[str]) -> list[str]:
            unit(v, first, count)
            return []

        code.loop("%first", "%last", each_unit)
        return []

    chunks = code.divide(code.sub(code.add("%rows", most), 1), most)
    code.when(code.less("%first", "%last"), lambda: code.loop(0, chunks, some))
    return w.declared + code.end()
