"""Rows times a packed matrix, by register tiles: compiled once for a dtype and instruction set, shared by all kernels.

A packed matrix is [panel][k][panel width]; the last panel is only as wide as it must be, in whole vectors. Every other
step takes the panels from the last to the first: those that the step before has left in the cache come first then.
"""

from __future__ import annotations

from collections.abc import Callable

from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.formats import FloatFormat
from everloop.compiler.targets.llvm.vector import Isa

PREFETCH = 16  # steps of k ahead


def panel_width(isa: Isa, size: int) -> int:
    """Columns of a full panel."""
    return isa.vectors * isa.lanes(size)


def packed_bytes(isa: Isa, size: int, inner: int, width: int) -> int:
    """Bytes of a packed matrix with `inner` numbers a column and `width` columns."""
    lanes = isa.lanes(size)
    return -(-width // lanes) * lanes * inner * size


MultiplyAdd = Callable[[Code, int, str, str, str], str]  # (code, lanes, number, columns, sum) -> new sum


def tile(isa: Isa, form: FloatFormat, rows: int, vectors: int, multiply_add: MultiplyAdd | None = None) -> str:
    """Text of the function for `rows` rows and a panel of `vectors` vectors: products stay in registers along k.

    multiply_add: what it does with a number of a row, in all lanes, and numbers of the matrix; None: what it says.
    Row r reads from the pointer at table + r * stride plus `from`, and writes to the one at out + r * stride plus `to`.
    """
    lanes, scalar, size = isa.lanes(form.size), form.scalar, form.size
    vector = f"<{lanes} x {scalar}>"
    head = "ptr %in, i64 %from, ptr %out, i64 %to, i64 %stride, ptr %panel, i64 %k"
    code = Code(f"internal void @tile_{rows}_{vectors}({head})")
    spare = 16 if isa.registers == 32 else 8
    sets = next(s for s in (4, 2, 1) if s * rows * vectors <= spare or s == 1)
    unroll = 4 if rows * vectors <= spare else 2
    step = vectors * isa.bytes
    tables = [code.mul("%stride", r) if r else "0" for r in range(rows)]
    sources = [code.at(code.load("ptr", code.at("%in", t)), "%from") for t in tables]

    def multiply(count: int) -> Callable[[str, list[str]], list[str]]:
        def body(k: str, values: list[str]) -> list[str]:
            sums, panel = values[:-1], values[-1]
            for u in range(count):
                at = code.add(k, u)
                if rows > 1:
                    for line in range(-(-step // 64)):
                        ahead = code.at(panel, (u + PREFETCH) * step + 64 * line)
                        code.do(f"call void @llvm.prefetch.p0(ptr {ahead}, i32 0, i32 3, i32 1)")
                columns = [code.load(vector, code.at(panel, u * step + v * isa.bytes), 4) for v in range(vectors)]
                for r in range(rows):
                    number = code(f"getelementptr {scalar}, ptr {sources[r]}, i64 {at}")
                    number = code(f"insertelement {vector} poison, {scalar} {code.load(scalar, number, size)}, i64 0")
                    number = code(f"shufflevector {vector} {number}, {vector} poison, <{lanes} x i32> zeroinitializer")
                    for v in range(vectors):
                        n = ((u % sets) * rows + r) * vectors + v
                        if multiply_add:
                            sums[n] = multiply_add(code, lanes, number, columns[v], sums[n])
                            continue
                        args = f"{vector} {number}, {vector} {columns[v]}, {vector} {sums[n]}"
                        sums[n] = code(f"call {vector} @llvm.fmuladd.v{lanes}{form.suffix}({args})")
            return [*sums, code.at(panel, count * step)]

        return body

    carried = [(vector, "zeroinitializer")] * (sets * rows * vectors) + [("ptr", "%panel")]
    whole = code.sub("%k", code(f"and i64 %k, {unroll - 1}"))
    values = code.loop(0, whole, multiply(unroll), carried, unroll)
    kinds = [kind for kind, _ in carried]
    values = code.loop(whole, "%k", multiply(1), list(zip(kinds, values, strict=True)))
    for r in range(rows):
        out = code.at(code.load("ptr", code.at("%out", tables[r])), "%to")
        for v in range(vectors):
            parts = [values[(s * rows + r) * vectors + v] for s in range(sets)]
            while len(parts) > 1:
                parts = [code(f"fadd {vector} {a}, {b}") for a, b in zip(parts[::2], parts[1::2], strict=True)]
            code.store(vector, parts[0], code.at(out, v * isa.bytes), 4)
    return code.end()


def product(isa: Isa, form: FloatFormat, name: str = "void @everloop_product") -> str:
    """Text of `everloop_product`: panels first to last - 1 for all rows, a panel in the cache meanwhile.

    name: another linkage and name for it; back: 1 for panels from the last to the first.
    """
    width = panel_width(isa, form.size)
    lanes = isa.lanes(form.size)
    head = (
        "ptr %in, i64 %from, ptr %out, i64 %to, i64 %stride, i64 %rows, "
        "ptr %packed, i64 %k, i64 %n, i64 %first, i64 %last, i64 %back"
    )
    code = Code(f"{name}({head})")
    tiles = code.divide(code.add("%rows", isa.rows - 1), isa.rows)

    is_back = code("icmp ne i64 %back, 0")
    ends = code.sub(code.add("%first", "%last"), 1)

    def panels(n: str, _: list[str]) -> list[str]:
        p = code(f"select i1 {is_back}, i64 {code.sub(ends, n)}, i64 {n}")
        begin = code.mul(p, width)
        panel = code.at("%packed", code.mul(code.mul(begin, "%k"), form.size))
        left = code.divide(code.add(code.sub("%n", begin), lanes - 1), lanes)
        vectors = code.least(left, isa.vectors)
        to = code.add("%to", code.mul(begin, form.size))

        def row_tiles(number: str, values: list[str]) -> list[str]:
            row = values[0]
            remaining = code.sub(tiles, number)
            rest = code.sub("%rows", row)
            count = code.divide(code.sub(code.add(rest, remaining), 1), remaining)
            offset = code.mul(row, "%stride")
            source, out = code.at("%in", offset), code.at("%out", offset)
            which = code.add(code.mul(code.sub(count, 1), isa.vectors), code.sub(vectors, 1))
            names = {
                (r, v): code.fresh(f"case{r}_{v}_") for r in range(1, isa.rows + 1) for v in range(1, isa.vectors + 1)
            }
            after, wrong = code.fresh("after"), code.fresh("wrong")
            choices = " ".join(f"i64 {(r - 1) * isa.vectors + v - 1}, label {name}" for (r, v), name in names.items())
            code.do(f"switch i64 {which}, label {wrong} [ {choices} ]")
            for (r, v), name in names.items():
                code.label(name)
                args = f"ptr {source}, i64 %from, ptr {out}, i64 {to}, i64 %stride, ptr {panel}, i64 %k"
                code.do(f"call void @tile_{r}_{v}({args})")
                code.do(f"br label {after}")
            code.label(wrong)
            code.do("unreachable")
            code.label(after)
            return [code.add(row, count)]

        code.loop(0, tiles, row_tiles, [("i64", "0")])
        return []

    code.loop("%first", "%last", panels)
    return code.end()
