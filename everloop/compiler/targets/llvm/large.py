"""One product of two large matrices, C = A B + bias or C += A B: blocks, packed panels, register tiles, threads.

The blocking is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008). A thread
works on a block of C of its own and packs what it needs itself, so that threads never wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable

from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.formats import FloatFormat
from everloop.compiler.targets.llvm.packing import pack
from everloop.compiler.targets.llvm.product import MultiplyAdd, panel_width
from everloop.compiler.targets.llvm.rounding import each, rounded_halves
from everloop.compiler.targets.llvm.vector import Isa

HALF = 2  # bytes of a number of bfloat16
ONES = 0x3F803F80  # a word of two ones of bfloat16
AHEAD = 16  # steps of k that the panel is prefetched ahead

# The argument block, one 8-byte slot each. Strides are in bytes; `step_*` are the sides of a block in the cache.
NAMES = (
    "a", "a_row", "a_k", "b", "b_k", "b_column", "c", "c_row", "bias", "sums", "add", "rows", "columns", "k",
    "step_rows", "step_columns", "step_k", "down", "across",
    "threads", "work", "work_step", "parallel", "number", "team",
)  # fmt: skip
SLOT = {name: n for n, name in enumerate(NAMES)}


def large(isa: Isa, form: FloatFormat, multiply_add: MultiplyAdd | None = None, is_low: bool = False) -> str:
    """Text of `everloop_large(args)` and what it calls; multiply_add as of `product.tile`.

    is_low: whether it writes C in bfloat16, each number once.
    """
    sizes = [(r, v) for r in range(1, isa.rows + 1) for v in range(1, isa.vectors + 1)]
    tiles = [_tile(isa, form, r, v, multiply_add, is_low) for r, v in sizes]
    parts = [pack(isa, form), _pack_columns(isa, form), _sum_rows(isa, form, multiply_add)]
    number = HALF if is_low else form.size
    return "\n".join([*tiles, *parts, _tiles(isa, form, number), _block(isa, form, number), _region(), _start()])


def _argument(code: Code, name: str, kind: str = "i64") -> str:
    return code.slot("%args", SLOT[name], kind)


def _tile(isa: Isa, form: FloatFormat, rows: int, vectors: int, multiply_add: MultiplyAdd | None, is_low: bool) -> str:
    """Text of the function that makes a tile of C, or adds it to what `old` points at; `lanes` of the last vector."""
    count, scalar, size = isa.lanes(form.size), form.scalar, form.size
    vector, step = f"<{count} x {scalar}>", vectors * isa.bytes
    head = "ptr %a, i64 %a_row, i64 %a_k, ptr %panel, i64 %k, ptr %c, i64 %c_row, ptr %old, i64 %old_row, i64 %lanes"
    code = Code(f"internal void @large_tile_{rows}_{vectors}({head})")
    sources = [code.at("%a", code.mul("%a_row", r)) if r else "%a" for r in range(rows)]
    outs = [code.at("%c", code.mul("%c_row", r)) if r else "%c" for r in range(rows)]
    width = isa.bytes * HALF // size if is_low else isa.bytes  # of a vector of C
    for out in outs:  # the tile is stored behind the loop
        for line in range(-(-vectors * width // 64)):
            code.do(f"call void @llvm.prefetch.p0(ptr {code.at(out, 64 * line)}, i32 1, i32 3, i32 1)")
    spare = 16 if isa.registers == 32 else 8
    # What is rounded is summed in the same order in every tile, so that other rows around it change nothing.
    sets = next(s for s in (4, 2, 1) if s * rows * vectors <= spare or s == 1) if not is_low else 1
    unroll = 4

    def multiply(steps: int) -> Callable[[str, list[str]], list[str]]:
        def body(_: str, values: list[str]) -> list[str]:
            sums, at, panel = values[:-2], values[-2], values[-1]
            for u in range(steps):
                if rows > 1:
                    for line in range(-(-step // 64)):
                        ahead = code.at(panel, (u + AHEAD) * step + 64 * line)
                        code.do(f"call void @llvm.prefetch.p0(ptr {ahead}, i32 0, i32 3, i32 1)")
                columns = [code.load(vector, code.at(panel, u * step + v * isa.bytes), 4) for v in range(vectors)]
                for r in range(rows):
                    one = code.load(scalar, code.at(sources[r], at), size)
                    one = code(f"insertelement {vector} poison, {scalar} {one}, i64 0")
                    one = code(f"shufflevector {vector} {one}, {vector} poison, <{count} x i32> zeroinitializer")
                    for v in range(vectors):
                        n = ((u % sets) * rows + r) * vectors + v
                        if multiply_add:
                            sums[n] = multiply_add(code, count, one, columns[v], sums[n])
                            continue
                        args = f"{vector} {one}, {vector} {columns[v]}, {vector} {sums[n]}"
                        sums[n] = code(f"call {vector} @llvm.fmuladd.v{count}{form.suffix}({args})")
                at = code.add(at, "%a_k")
            return [*sums, at, code.at(panel, steps * step)]

        return body

    carried = [(vector, "zeroinitializer")] * (sets * rows * vectors) + [("i64", "0"), ("ptr", "%panel")]
    whole = code.sub("%k", code(f"and i64 %k, {unroll - 1}"))
    values = code.loop(0, whole, multiply(unroll), carried, unroll)
    kinds = [kind for kind, _ in carried]
    values = code.loop(whole, "%k", multiply(1), list(zip(kinds, values, strict=True)))
    numbers = f"<{count} x i64> <{', '.join(f'i64 {n}' for n in range(count))}>"
    limit = code(f"insertelement <{count} x i64> poison, i64 %lanes, i64 0")
    limit = code(f"shufflevector <{count} x i64> {limit}, <{count} x i64> poison, <{count} x i32> zeroinitializer")
    mask = code(f"icmp slt {numbers}, {limit}")
    masked = f"i32 {size}, <{count} x i1> {mask}"

    def total(r: int, v: int) -> str:
        parts = [values[(s * rows + r) * vectors + v] for s in range(sets)]
        while len(parts) > 1:
            parts = [code(f"fadd {vector} {a}, {b}") for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def finish(with_old: bool) -> None:
        for r in range(rows):
            old = code.at("%old", code.mul("%old_row", r)) if r else "%old"
            for v in range(vectors):
                last, place = v == vectors - 1, f"v{count}{form.suffix}.p0"
                value, to = total(r, v), code.at(outs[r], v * width)
                if with_old:
                    at = code.at(old, v * isa.bytes)
                    before = (
                        code(f"call {vector} @llvm.masked.load.{place}(ptr {at}, {masked}, {vector} zeroinitializer)")
                        if last
                        else code.load(vector, at, size)
                    )
                    value = code(f"fadd {vector} {before}, {value}")
                kind, number = vector, size
                if is_low:
                    kind, number, place = f"<{count} x i16>", HALF, f"v{count}i16.p0"
                    value = rounded_halves(code, value, count, isa)
                if last:
                    lanes = f"i32 {number}, <{count} x i1> {mask}"
                    code.do(f"call void @llvm.masked.store.{place}({kind} {value}, ptr {to}, {lanes})")
                else:
                    code.store(kind, value, to, number)

    def yes() -> str:
        finish(True)
        return "0"

    def no() -> str:
        finish(False)
        return "0"

    code.either(code("icmp ne ptr %old, null"), "i64", yes, no)
    return code.end()


def _tiles(isa: Isa, form: FloatFormat, number: int) -> str:
    """All tiles of a block of A times a packed block of B: a panel stays in the nearest cache for all rows.

    number: bytes of a number of C.
    """
    width, lanes, size = panel_width(isa, form.size), isa.lanes(form.size), form.size
    head = (
        "ptr %a, i64 %a_row, i64 %a_k, ptr %packed, ptr %c, i64 %c_row, ptr %old, i64 %old_row, "
        "i64 %rows, i64 %columns, i64 %k"
    )
    code = Code(f"internal void @large_tiles({head})")
    panel_count = code.divide(code.add("%columns", width - 1), width)
    tile_count = code.divide(code.add("%rows", isa.rows - 1), isa.rows)
    is_new = code("icmp eq ptr %old, null")

    def one_panel(p: str, _: list[str]) -> list[str]:
        begin = code.mul(p, width)
        panel = code.at("%packed", code.mul(code.mul(begin, "%k"), size))
        left = code.least(code.sub("%columns", begin), width)
        vectors = code.divide(code.add(left, lanes - 1), lanes)
        last = code.sub(left, code.mul(code.sub(vectors, 1), lanes))
        shift, shift_out = code.mul(begin, size), code.mul(begin, number)

        def one_tile(t: str, _: list[str]) -> list[str]:
            row = code.mul(t, isa.rows)
            count = code.least(code.sub("%rows", row), isa.rows)
            source = code.at("%a", code.mul(row, "%a_row"))
            out = code.at(code.at("%c", code.mul(row, "%c_row")), shift_out)
            before = code.at(code.at("%old", code.mul(row, "%old_row")), shift)
            before = code(f"select i1 {is_new}, ptr null, ptr {before}")
            which = code.add(code.mul(code.sub(count, 1), isa.vectors), code.sub(vectors, 1))
            names = {
                (r, v): code.fresh(f"case{r}_{v}_") for r in range(1, isa.rows + 1) for v in range(1, isa.vectors + 1)
            }
            after, wrong = code.fresh("after"), code.fresh("wrong")
            choices = " ".join(f"i64 {(r - 1) * isa.vectors + v - 1}, label {name}" for (r, v), name in names.items())
            code.do(f"switch i64 {which}, label {wrong} [ {choices} ]")
            for (r, v), name in names.items():
                code.label(name)
                code.do(
                    f"call void @large_tile_{r}_{v}(ptr {source}, i64 %a_row, i64 %a_k, ptr {panel}, i64 %k, "
                    f"ptr {out}, i64 %c_row, ptr {before}, i64 %old_row, i64 {last})"
                )
                code.do(f"br label {after}")
            code.label(wrong)
            code.do("unreachable")
            code.label(after)
            return []

        code.loop(0, tile_count, one_tile)
        return []

    code.loop(0, panel_count, one_panel)
    return code.end()


def _sum_rows(isa: Isa, form: FloatFormat, multiply_add: MultiplyAdd | None) -> str:
    """Adds to `sums` each row of a block of A, whose rows lie side by side: the block is then near for the tiles.

    Of words, both numbers of each.
    """
    scalar, size, lanes = form.scalar, form.size, isa.lanes(form.size)
    code = Code("internal void @large_sum_rows(ptr %a, i64 %a_k, i64 %rows, i64 %k, ptr %sums)")

    def added(kind: str, total: str, value: str) -> str:
        if multiply_add is None:
            return code(f"fadd {kind} {total}, {value}")
        if kind != scalar:
            ones = code(f"bitcast <{lanes} x i32> {each(ONES, lanes)} to {kind}")
            return multiply_add(code, lanes, value, ones, total)
        bits = code(f"bitcast {scalar} {value} to i32")
        for half in (code(f"shl i32 {bits}, 16"), code(f"and i32 {bits}, -65536")):
            total = code(f"fadd {scalar} {total}, {code(f'bitcast i32 {half} to {scalar}')}")
        return total

    def some(kind: str, count: int, step: int) -> Callable[[str, list[str]], list[str]]:
        def add_up(r: str, _: list[str]) -> list[str]:
            begin = code.mul(r, size)
            source, place = code.at("%a", begin), code.at("%sums", begin)

            def one_k(k: str, sums: list[str]) -> list[str]:
                at = code.at(source, code.mul(k, "%a_k"))
                values = [code.load(kind, code.at(at, v * step), size) for v in range(count)]
                return [added(kind, s, value) for s, value in zip(sums, values, strict=True)]

            for v, total in enumerate(code.loop(0, "%k", one_k, [(kind, "zeroinitializer")] * count)):
                to = code.at(place, v * step)
                code.store(kind, code(f"fadd {kind} {code.load(kind, to, size)}, {total}"), to, size)
            return []

        return add_up

    begin, vector = "0", f"<{lanes} x {scalar}>"
    for kind, count, step in ((vector, 4, isa.bytes), (vector, 1, isa.bytes), (scalar, 1, size)):
        unit = count * step // size
        end = code.mul(code.divide("%rows", unit), unit)
        code.loop(begin, end, some(kind, count, step), step=unit)
        begin = end
    return code.end()


def _pack_columns(isa: Isa, form: FloatFormat) -> str:
    """Packs a block of B: whole panels at once where its columns lie side by side, else vector by vector."""
    width, lanes, size = panel_width(isa, form.size), isa.lanes(form.size), form.size
    vector = f"<{lanes} x {form.scalar}>"
    code = Code("internal void @large_pack_columns(ptr %b, i64 %b_k, i64 %b_column, i64 %k, i64 %columns, ptr %packed)")
    panels = code.divide("%columns", width)
    panels = code(f"select i1 {code.equal('%b_column', size)}, i64 {panels}, i64 0")

    def one_panel(p: str, _: list[str]) -> list[str]:
        source = code.at("%b", code.mul(p, width * size))
        to = code.at("%packed", code.mul(code.mul(p, "%k"), width * size))

        def one_k(k: str, _: list[str]) -> list[str]:
            origin, place = code.at(source, code.mul(k, "%b_k")), code.at(to, code.mul(k, width * size))
            values = [code.load(vector, code.at(origin, v * isa.bytes), size) for v in range(isa.vectors)]
            for v, value in enumerate(values):
                code.store(vector, value, code.at(place, v * isa.bytes), size)
            return []

        code.loop(0, "%k", one_k)
        return []

    code.loop(0, panels, one_panel)
    first, last = code.mul(panels, isa.vectors), code.divide(code.add("%columns", lanes - 1), lanes)
    code.do(
        "call void @everloop_pack(ptr %b, i64 %b_k, i64 %b_column, i64 %k, i64 %columns, ptr %packed, "
        f"i64 {first}, i64 {last})"
    )
    return code.end()


def _block(isa: Isa, form: FloatFormat, number: int) -> str:
    """A thread's block of C, number `n` of down * across; `number` bytes of a number of C."""
    high, size, width = isa.rows, form.size, panel_width(isa, form.size)
    code = Code("internal void @large_block(ptr %args, i64 %n, ptr %work)")
    integers = {name: _argument(code, name) for name in (
        "a_row", "a_k", "b_k", "b_column", "c_row", "rows", "columns", "k",
        "step_rows", "step_columns", "step_k", "down", "across",
    )}  # fmt: skip
    a, b, c, bias, sums = (_argument(code, name, "ptr") for name in ("a", "b", "c", "bias", "sums"))
    row_number = code.divide("%n", integers["across"])
    column_number = code.sub("%n", code.mul(row_number, integers["across"]))

    def share(number: str, parts: str, total: str, unit: int) -> tuple[str, str]:
        units = code.divide(code.add(total, unit - 1), unit)
        ends = [code.divide(code.mul(n, units), parts) for n in (number, code.add(number, 1))]
        begin, end = (code.mul(e, unit) for e in ends)
        return begin, code.least(end, total)

    top, bottom = share(row_number, integers["down"], integers["rows"], high)
    left, right = share(column_number, integers["across"], integers["columns"], width)
    has_bias = code(f"icmp ne ptr {bias}, null")
    has_sums = code(f"icmp ne ptr {sums}, null")
    is_new = code.equal(_argument(code, "add"), 0)

    def some_columns(j: str, _: list[str]) -> list[str]:
        columns = code.least(code.sub(right, j), integers["step_columns"])
        shift = code.mul(j, size)
        from_b = code.at(b, code.mul(j, integers["b_column"]))
        counts = code(f"and i1 {has_sums}, {code.equal(j, 0)}")

        def some_k(k: str, _: list[str]) -> list[str]:
            depth = code.least(code.sub(integers["k"], k), integers["step_k"])
            source = code.at(from_b, code.mul(k, integers["b_k"]))
            code.do(
                f"call void @large_pack_columns(ptr {source}, i64 {integers['b_k']}, i64 {integers['b_column']}, "
                f"i64 {depth}, i64 {columns}, ptr %work)"
            )
            is_first = code(f"and i1 {is_new}, {code.equal(k, 0)}")
            start = code(f"select i1 {has_bias}, ptr {code.at(bias, shift)}, ptr null")

            def some_rows(i: str, _: list[str]) -> list[str]:
                rows = code.least(code.sub(bottom, i), integers["step_rows"])
                corner = code.at(code.at(a, code.mul(i, integers["a_row"])), code.mul(k, integers["a_k"]))
                out = code.at(code.at(c, code.mul(i, integers["c_row"])), code.mul(j, number))
                call = f"call void @large_sum_rows(ptr {corner}, i64 {integers['a_k']}, i64 {rows}, i64 {depth}, ptr "
                code.when(counts, lambda: code.do(f"{call}{code.at(sums, code.mul(i, size))})"))
                old = code(f"select i1 {is_first}, ptr {start}, ptr {out}")
                old_step = code(f"select i1 {is_first}, i64 0, i64 {integers['c_row']}")
                code.do(
                    f"call void @large_tiles(ptr {corner}, i64 {integers['a_row']}, i64 {integers['a_k']}, ptr %work, "
                    f"ptr {out}, i64 {integers['c_row']}, ptr {old}, i64 {old_step}, i64 {rows}, i64 {columns}, "
                    f"i64 {depth})"
                )
                return []

            _stride(code, top, bottom, integers["step_rows"], some_rows)
            return []

        _stride(code, "0", integers["k"], integers["step_k"], some_k)
        return []

    _stride(code, left, right, integers["step_columns"], some_columns)
    return code.end()


def _stride(code: Code, begin: str, end: str, step: str, body: Callable[[str, list[str]], list[str]]) -> None:
    """For index = begin, begin + step, ... below end, with a step known at run time."""
    count = code.divide(code.sub(code.add(code.sub(end, begin), step), 1), step)
    code.loop(0, count, lambda n, values: body(code.add(begin, code.mul(n, step)), values))


def _region() -> str:
    """What each thread of a parallel region runs; the team may be smaller than asked for."""
    code = Code("internal void @large_region(ptr %args)")
    numbers = [code(f"call i32 {_argument(code, name, 'ptr')}()") for name in ("number", "team")]
    number, team = (code(f"sext i32 {n} to i64") for n in numbers)
    _blocks(code, number, team)
    return code.end()


def _blocks(code: Code, number: str, team: str) -> None:
    total = code.mul(_argument(code, "down"), _argument(code, "across"))
    work = code.at(_argument(code, "work", "ptr"), code.mul(number, _argument(code, "work_step")))

    def block(n: str, _: list[str]) -> list[str]:
        code.do(f"call void @large_block(ptr %args, i64 {n}, ptr {work})")
        return []

    _stride(code, number, total, team, block)


def _start() -> str:
    code = Code("void @everloop_large(ptr %args)")
    threads = _argument(code, "threads")

    def many() -> str:
        start = _argument(code, "parallel", "ptr")
        code.do(f"call void {start}(ptr @large_region, ptr %args, i32 {code(f'trunc i64 {threads} to i32')}, i32 0)")
        return "0"

    def alone() -> str:
        _blocks(code, "0", "1")
        return "0"

    code.either(code(f"icmp sgt i64 {threads}, 1"), "i64", many, alone)
    return code.end()
