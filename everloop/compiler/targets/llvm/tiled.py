"""The product over whole sequences by the tiles of AMX: C = A B + bias or C += A B, in bfloat16 with sums in float32.

B is packed first, by all threads, or comes packed from an earlier call. Then each thread makes rows of C: it rounds
some of A, which stay in its cache, or reads them where they lie, and multiplies them panel by panel.
"""

from __future__ import annotations

from collections.abc import Callable

from everloop.compiler.targets.llvm import tiles
from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.layout import HALF
from everloop.compiler.targets.llvm.packing import transpose
from everloop.compiler.targets.llvm.product import panel_width
from everloop.compiler.targets.llvm.rounding import (
    WORDS,
    each,
    rounded_halves,
    side_by_side,
    words_of,
)
from everloop.compiler.targets.llvm.team import shared
from everloop.compiler.targets.llvm.tiles import BYTES, LINE, PAIR, TILE, first_bits, read_line
from everloop.compiler.targets.llvm.vector import Isa

ONES = 0x3F803F80  # a word of two ones of bfloat16

# The argument block, one 8-byte slot each. Strides are in bytes; a_k: 0 where the numbers of a row are adjacent.
NAMES = (
    "a", "a_row", "a_k", "b", "b_k", "b_column", "packed", "c", "c_row", "bias", "sums", "add", "rows", "columns", "k",
    "step_rows", "step_k", "threads", "work", "work_step", "parallel", "number", "team",
)  # fmt: skip
SLOT = {name: n for n, name in enumerate(NAMES)}


def tiled(isa: Isa, of_a: int, of_b: int, of_c: int) -> str:
    """Text of `everloop_tiles_pack(args)` and `everloop_tiles(args)`, for bytes of a number of A, B and C."""
    parts = [
        tiles.functions(), tiles.pack(isa, of_b), _pack_share(isa), _rows_along(isa, of_a), _rows_across(isa, of_a),
        _finish(isa, of_c), _product_share(isa, of_a, of_c),
    ]  # fmt: skip
    for name, share in (("everloop_tiles_pack", "pack_share"), ("everloop_tiles", "product_share")):
        parts.append(shared(name, share, SLOT))
    return "\n".join(parts)


def _argument(code: Code, name: str, kind: str = "i64") -> str:
    return code.slot("%args", SLOT[name], kind)


def _parts(code: Code, count: str) -> tuple[str, str]:
    """Return the first of `count` things that are this thread's, and the one behind its last."""
    first, last = (code.divide(code.mul(t, count), "%of") for t in ("%thread", code.add("%thread", 1)))
    return first, last


def _pack_share(isa: Isa) -> str:
    code, lanes = Code("internal void @pack_share(ptr %args, i64 %thread, i64 %of)"), isa.lanes(4)
    b, packed = (_argument(code, name, "ptr") for name in ("b", "packed"))
    by_k, by_j, k, n = (_argument(code, name) for name in ("b_k", "b_column", "k", "columns"))
    first, last = _parts(code, code.divide(code.add(n, lanes - 1), lanes))
    args = f"ptr {b}, i64 {by_k}, i64 {by_j}, i64 {k}, i64 {n}, ptr {packed}, i64 {first}, i64 {last}"
    code.do(f"call void @everloop_pack({args})")
    return code.end()


def _rows_along(isa: Isa, size: int) -> str:
    """Rounds rows of A with adjacent numbers."""
    code = Code("internal void @rows_along(ptr %a, i64 %a_row, i64 %rows, i64 %k, ptr %to, i64 %step)")

    def row(r: str, _: list[str]) -> list[str]:
        place = tiles.place_of(code, tiles.Rows("%to", "%step", "%rows"), r)
        tiles.write_row(code, isa, size, code.at("%a", code.mul(r, "%a_row")), place, "%k")
        return []

    code.loop(0, "%rows", row)
    return code.end()


def _rows_across(isa: Isa, size: int) -> str:
    """Rounds rows of A whose numbers stand below each other, adds each up, and turns squares of them on their sides.

    A line of 32 rows is one of the cache.
    """
    code = Code("internal void @rows_across(ptr %a, i64 %a_k, i64 %rows, i64 %k, ptr %to, i64 %step, ptr %sums)")
    lanes, many = isa.lanes(4), isa.lanes(HALF)
    vector, squares, halves, pairs = (
        f"<{count} x {kind}>" for count, kind in ((lanes, "float"), (lanes, "i32"), (many, "i16"), (many, "bfloat"))
    )
    ones = code(f"bitcast {squares} {each(ONES, lanes)} to {pairs}")
    # Of 32 rows the instructions that interleave take every other four.
    rows_of = [[8 * (n // 4) + n % 4 + high for n in range(lanes)] for high in (0, 4)]
    has_sums = code("icmp ne ptr %sums, null")

    def some(m: str, _: list[str]) -> list[str]:
        source, count = code.at("%a", code.mul(m, size)), code.least(code.sub("%rows", m), many)
        there, block = first_bits(code, count), code.at("%to", code.mul(code.divide(m, TILE), "%step"))

        def square(s: str, values: list[str]) -> list[str]:
            first = code.mul(s, LINE)

            def line(n: int) -> str:
                k = code.add(first, n)
                bits = code(f"select i1 {code.less(k, '%k')}, i32 {there}, i32 0")
                value = read_line(code, isa, size, code.at(source, code.mul(k, "%a_k")), bits)
                return code(f"bitcast {squares} {value} to {halves}")

            lines, totals = [line(n) for n in range(LINE)], []
            for rows, total in zip(rows_of, values, strict=True):
                order = ", ".join(f"i32 {row + other}" for row in rows for other in (0, many))
                turned = []
                for even, odd in zip(lines[::2], lines[1::2], strict=True):
                    mixed = code(f"shufflevector {halves} {even}, {halves} {odd}, <{many} x i32> <{order}>")
                    numbers = code(f"bitcast {halves} {mixed} to {pairs}")
                    name = "@llvm.x86.avx512bf16.dpbf16ps.512"
                    total = code(f"call {vector} {name}({vector} {total}, {pairs} {numbers}, {pairs} {ones})")
                    turned.append(code(f"bitcast {halves} {mixed} to {squares}"))
                totals.append(total)
                tile = code.at(block, code.mul(s, BYTES))
                for row, value in zip(rows, transpose(code, turned, squares, lanes), strict=True):
                    below = code.at(tile, "%step") if row >= TILE else tile
                    code.store(squares, value, code.at(below, row % TILE * 4 * WORDS), 4)
            return totals

        depth = code.divide(words_of(code, "%k"), WORDS)
        totals = code.loop(0, depth, square, [(vector, "zeroinitializer")] * 2)
        order = sorted(range(2 * lanes), key=[*rows_of[0], *rows_of[1]].__getitem__)

        def add_up() -> None:
            for n in range(2):
                part = ", ".join(f"i32 {lane}" for lane in order[n * lanes : (n + 1) * lanes])
                value = code(f"shufflevector {vector} {totals[0]}, {vector} {totals[1]}, <{lanes} x i32> <{part}>")
                mask = masked(code, lanes, code.sub(count, n * lanes))
                to = code.at("%sums", code.mul(code.add(m, n * lanes), 4))
                value = code(f"fadd {vector} {value}, {load_masked(code, lanes, to, mask)}")
                store_masked(code, vector, 4, value, to, mask)

        code.when(has_sums, add_up)
        return []

    code.loop(0, code.add("%rows", many - 1), some, step=many)
    return code.end()


def masked(code: Code, lanes: int, count: str) -> str:
    """Return which lanes are below `count`."""
    kind = f"<{lanes} x i64>"
    limit = code(f"shufflevector {kind} {code(f'insertelement {kind} poison, i64 {count}, i64 0')}, {kind} poison, "
                 f"<{lanes} x i32> zeroinitializer")  # fmt: skip
    return code(f"icmp slt {kind} <{', '.join(f'i64 {n}' for n in range(lanes))}>, {limit}")


def load_masked(code: Code, lanes: int, place: str, mask: str) -> str:
    kind = f"<{lanes} x float>"
    args = f"ptr {place}, i32 4, <{lanes} x i1> {mask}, {kind} zeroinitializer"
    return code(f"call {kind} @llvm.masked.load.v{lanes}f32.p0({args})")


def store_masked(code: Code, kind: str, size: int, value: str, place: str, mask: str) -> None:
    lanes, scalar = kind[1:-1].split(" x ")
    name = f"@llvm.masked.store.v{lanes}{scalar.replace('float', 'f32')}.p0"
    code.do(f"call void {name}({kind} {value}, ptr {place}, i32 {size}, <{lanes} x i1> {mask})")


def _finish(isa: Isa, size: int) -> str:
    """Writes a block of sums to C, `columns` numbers of each row: with a bias, or added to what is there."""
    head = "ptr %sums, i64 %step, i64 %rows, ptr %c, i64 %c_row, ptr %bias, i64 %columns, i1 %is_first"
    code, lanes = Code(f"internal void @finish({head})"), isa.lanes(4)
    vector, kind = f"<{lanes} x float>", f"<{lanes} x i16>" if size == HALF else f"<{lanes} x float>"
    has_bias = code("icmp ne ptr %bias, null")

    def block(j: str, count: int, masks: list[str]) -> None:
        """Columns from j on, in `count` vectors."""
        places = [code.add(j, n * lanes) for n in range(count)]

        def start(n: int) -> str:
            at = code.at("%bias", code.mul(places[n], 4))
            there = (lambda: load_masked(code, lanes, at, masks[n])) if masks else (lambda: code.load(vector, at, 4))
            return code.either(has_bias, vector, there, lambda: "zeroinitializer")

        starts = [start(n) for n in range(count)]

        def row(old: bool) -> Callable[[str, list[str]], list[str]]:
            def body(r: str, _: list[str]) -> list[str]:
                source, to = code.at("%sums", code.mul(r, "%step")), code.at("%c", code.mul(r, "%c_row"))
                values = []
                for n, at in enumerate(places):
                    value = code.load(vector, code.at(source, code.mul(at, 4)), 4)
                    other, out = starts[n], code.at(to, code.mul(at, size))
                    if old:
                        other = load_masked(code, lanes, out, masks[n]) if masks else code.load(vector, out, 4)
                    values.append(code(f"fadd {vector} {value}, {other}"))
                out = code.at(to, code.mul(j, size))
                if size == HALF and count == 2:
                    both = side_by_side(code, values[0], values[1], lanes, isa)
                    code.store(f"<{lanes} x i32>", both, out, 2)
                    return []
                for n, value in enumerate(values):
                    value = rounded_halves(code, value, lanes, isa) if size == HALF else value
                    to = code.at(out, n * lanes * size)
                    if masks:
                        store_masked(code, kind, size, value, to, masks[n])
                    else:
                        code.store(kind, value, to, size)
                return []

            return body

        code.when("%is_first", lambda: code.loop(0, "%rows", row(False)))
        if size == 4:
            code.when(code("xor i1 %is_first, true"), lambda: code.loop(0, "%rows", row(True)))

    def whole(j: str, _: list[str]) -> list[str]:
        block(j, 2, [])
        return []

    def rest(j: str, _: list[str]) -> list[str]:
        block(j, 1, [masked(code, lanes, code.sub("%columns", j))])
        return []

    full = code.mul(code.divide("%columns", 2 * lanes), 2 * lanes)
    code.loop(0, full, whole, step=2 * lanes)
    code.loop(full, code.add("%columns", lanes - 1), rest, step=lanes)
    return code.end()


def _product_share(isa: Isa, of_a: int, of_c: int) -> str:
    """The rows of C of one thread of a team."""
    code, lanes = Code("internal void @product_share(ptr %args, i64 %thread, i64 %of)"), isa.lanes(4)
    a, packed, c, bias, sums = (_argument(code, name, "ptr") for name in ("a", "packed", "c", "bias", "sums"))
    a_row, a_k, c_row, rows, columns, k, high, deep = (
        _argument(code, name) for name in ("a_row", "a_k", "c_row", "rows", "columns", "k", "step_rows", "step_k")
    )
    work = code.at(_argument(code, "work", "ptr"), code.mul("%thread", _argument(code, "work_step")))
    result = code(f"alloca [{PAIR * 2 * TILE * 4} x i8], align 64")
    top, bottom = (code.mul(end, PAIR) for end in _parts(code, code.divide(code.add(rows, PAIR - 1), PAIR)))
    bottom = code.least(bottom, rows)
    is_along, is_new = code.equal(a_k, 0), code.equal(_argument(code, "add"), 0)
    by_k = code(f"select i1 {is_along}, i64 {of_a}, i64 {a_k}")
    words = words_of(code, k)
    panels = code.divide(code.add(columns, panel_width(isa, 4) - 1), panel_width(isa, 4))
    has_bias, has_sums = (code(f"icmp ne ptr {place}, null") for place in (bias, sums))

    def some_k(begin: str, _: list[str]) -> list[str]:
        depth = code.least(code.sub(k, begin), deep)
        part_words = words_of(code, depth)
        step = code.mul(part_words, 4 * TILE)
        is_first = code(f"and i1 {is_new}, {code.equal(begin, 0)}")

        def some_rows(i: str, _: list[str]) -> list[str]:
            count = code.least(code.sub(bottom, i), high)
            corner = code.at(code.at(a, code.mul(i, a_row)), code.mul(begin, by_k))

            def along() -> str:
                args = f"ptr {corner}, i64 {a_row}, i64 {count}, i64 {depth}, ptr {work}, i64 {step}"
                code.do(f"call void @rows_along({args})")
                return "0"

            def across() -> str:
                total = code(f"select i1 {has_sums}, ptr {code.at(sums, code.mul(i, 4))}, ptr null")
                args = f"ptr {corner}, i64 {a_k}, i64 {count}, i64 {depth}, ptr {work}, i64 {step}, ptr {total}"
                code.do(f"call void @rows_across({args})")
                return "0"

            code.either(is_along, "i64", along, across)

            def write(block: tiles.Sums) -> None:
                line = str(4 * TILE * block.columns)
                code.do(block.text(result, line))
                j, row = code.mul(block.block, lanes), code.add(i, block.row)
                out = code.at(code.at(c, code.mul(row, c_row)), code.mul(j, of_c))
                start = code(f"select i1 {has_bias}, ptr {code.at(bias, code.mul(j, 4))}, ptr null")
                left = code.least(code.sub(columns, j), lanes * block.columns)
                args = f"ptr {out}, i64 {c_row}, ptr {start}, i64 {left}, i1 {is_first}"
                code.do(f"call void @finish(ptr {result}, i64 {line}, i64 {block.count}, {args})")

            part = tiles.Rows(work, step, count)
            matrix = tiles.Panels(packed, words, columns, code.divide(begin, 2), part_words)
            tiles.by_panels(code, isa, part, matrix, ("0", panels, "0"), write)
            return []

        _stride(code, top, bottom, high, some_rows)
        return []

    _stride(code, "0", k, deep, some_k)
    return code.end()


def _stride(code: Code, begin: str, end: str, step: str, body: Callable[[str, list[str]], list[str]]) -> None:
    """For index = begin, begin + step, ... below end, with a step known at run time."""
    count = code.divide(code.sub(code.add(code.sub(end, begin), step), 1), step)
    code.loop(0, count, lambda n, values: body(code.add(begin, code.mul(n, step)), values))
