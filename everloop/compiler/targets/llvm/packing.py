"""Copies a matrix into panels: whole blocks by vector transposition or vector copies, the borders number by number."""

from __future__ import annotations

from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.formats import FloatFormat
from everloop.compiler.targets.llvm.product import panel_width
from everloop.compiler.targets.llvm.vector import Isa


def pack(isa: Isa, form: FloatFormat) -> str:
    """Text of `everloop_pack`: vectors of columns first to last - 1.

    The number (k, j) is at source + k * by_k + j * by_j.
    """
    lanes, size = isa.lanes(form.size), form.size
    vector, scalar = f"<{lanes} x {form.scalar}>", form.scalar
    head = "ptr %source, i64 %by_k, i64 %by_j, i64 %k, i64 %n, ptr %packed, i64 %first, i64 %last"
    code = Code(f"void @everloop_pack({head})")
    along_k = code.equal("%by_k", size)
    along_j = code.equal("%by_j", size)
    blocks = code.divide("%k", lanes)
    all_vectors = code.divide(code.add("%n", lanes - 1), lanes)

    def column(v: str, _: list[str]) -> list[str]:
        j = code.mul(v, lanes)
        to, stride = place(code, isa, size, v, all_vectors, "%k")
        source = code.at("%source", code.mul(j, "%by_j"))
        left = code.least(code.sub("%n", j), lanes)
        full = code.equal(left, lanes)

        def transposed() -> str:
            def block(b: str, _: list[str]) -> list[str]:
                k = code.mul(b, lanes)
                corner = code.at(source, code.mul(k, "%by_k"))
                rows = [code.load(vector, code.at(corner, code.mul("%by_j", c)), size) for c in range(1, lanes)]
                rows.insert(0, code.load(vector, corner, size))
                for r, row in enumerate(transpose(code, rows, vector, lanes)):
                    code.store(vector, row, code.at(to, code.mul(code.add(k, r), stride)), 4)
                return []

            code.loop(0, blocks, block)
            return code.mul(blocks, lanes)

        def copied() -> str:
            def line(k: str, _: list[str]) -> list[str]:
                value = code.load(vector, code.at(source, code.mul(k, "%by_k")), size)
                code.store(vector, value, code.at(to, code.mul(k, stride)), 4)
                return []

            code.loop(0, "%k", line)
            return "%k"

        def whole() -> str:
            return code.either(along_k, "i64", transposed, lambda: code.either(along_j, "i64", copied, lambda: "0"))

        done = code.either(full, "i64", whole, lambda: "0")

        def rest(k: str, _: list[str]) -> list[str]:
            place, start = code.at(to, code.mul(k, stride)), code.at(source, code.mul(k, "%by_k"))
            code.store(vector, "zeroinitializer", place, 4)

            def one(c: str, _: list[str]) -> list[str]:
                number = code.load(scalar, code.at(start, code.mul(c, "%by_j")), size)
                code.store(scalar, number, code.at(place, code.mul(c, size)), size)
                return []

            code.loop(0, left, one)
            return []

        code.loop(done, "%k", rest)
        return []

    code.loop("%first", "%last", column)
    return code.end()


def place(code: Code, isa: Isa, size: int, v: str, all_vectors: str, depth: str) -> tuple[str, str]:
    """Return where the vector `v` of columns begins in panels of `depth` lines, and the bytes from line to line."""
    panel = code.divide(v, isa.vectors)
    first = code.mul(panel, isa.vectors)
    stride = code.mul(code.least(code.sub(all_vectors, first), isa.vectors), isa.bytes)
    start = code.at("%packed", code.mul(code.mul(panel, depth), panel_width(isa, size) * size))
    return code.at(start, code.mul(code.sub(v, first), isa.bytes)), stride


def transpose(code: Code, rows: list[str], vector: str, lanes: int) -> list[str]:
    """Transpose a square of vectors: log2(lanes) rounds that exchange blocks of 1, 2, 4... numbers."""
    width = 1
    while width < lanes:
        new = list(rows)
        for r in range(lanes):
            if r & width:
                continue
            a, b = rows[r], rows[r + width]
            low = [i if not i & width else lanes + i - width for i in range(lanes)]
            high = [i + width if not i & width else lanes + i for i in range(lanes)]
            for place, pattern in ((r, low), (r + width, high)):
                mask = ", ".join(f"i32 {i}" for i in pattern)
                new[place] = code(f"shufflevector {vector} {a}, {vector} {b}, <{lanes} x i32> <{mask}>")
        rows = new
        width *= 2
    return rows
