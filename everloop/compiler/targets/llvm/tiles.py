"""Products by the tiles of AMX: what those in a loop and those over whole sequences share.

Tiles 0 to 3 are sums, 4 and 5 rows, 6 and 7 columns of the matrix. In memory a tile is one KB of 16 lines: of 16 rows
each 32 numbers of bfloat16, or of 16 columns each two numbers of a word; the next numbers of the same rows or columns
follow. So tiles are read as they lie, and fetched ahead by the processor. Behind the last numbers are zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.rounding import WORDS, pack_rounded, side_by_side
from everloop.compiler.targets.llvm.vector import Isa

TILE = 16  # rows of a tile, and columns of sums
LINE = 2 * WORDS  # numbers in a row of a tile
BYTES = 4 * WORDS * TILE  # of a tile
PAIR = 2 * TILE
COLUMNS = {True: 2, False: 4}  # tiles of columns for two tiles of rows and for one: as many as there are sums


@dataclass(frozen=True)
class Rows:
    """`count` rows in tiles, `step` bytes from some tile to the one of the next 16 rows."""

    memory: str
    step: str
    count: str


@dataclass(frozen=True)
class Panels:
    """A matrix of n columns in tiles, each of `words`; from word `begin` on, `depth` words are summed over."""

    packed: str
    words: str
    n: str
    begin: str
    depth: str


@dataclass(frozen=True)
class Sums:
    """A block of sums: `count` rows from `row` on, tiles of columns from number `block` on.

    text: the call that writes it, to follow "ptr out, i64 bytes from row to row".
    """

    row: str
    count: str
    block: str
    columns: int
    text: Callable[[str, str], str]


def functions() -> str:
    """Text of the functions that `by_panels` and its callers use."""
    sizes = [(2, 2), (2, 1), (1, 4), (1, 1)]
    return "\n".join([_configure(), *(_sums(rows, columns) for rows, columns in sizes)])


def _configure() -> str:
    """Sets the sizes of tiles for up to two tiles of rows."""
    code = Code("internal void @tiles_configure(i64 %count)")
    config = code("alloca [64 x i8], align 64")
    code.clear(config, 64)
    code.store("i8", 1, config, 1)
    upper = code.least("%count", TILE)
    lower = code.sub("%count", upper)
    is_single = code.equal(lower, 0)
    lower = code(f"select i1 {is_single}, i64 {upper}, i64 {lower}")
    rows = {0: upper, 1: upper, 2: lower, 3: lower, 4: upper, 5: lower, 6: str(TILE), 7: str(TILE)}
    for tile, number in rows.items():
        code.store("i16", 4 * TILE, code.at(config, 16 + 2 * tile), 2)
        code.store("i8", code(f"trunc i64 {number} to i8"), code.at(config, 48 + tile), 1)
    code.do(f"call void @llvm.x86.ldtilecfg(ptr {config})")
    return code.end()


def _sums(rows: int, columns: int) -> str:
    """Writes the sums of one or two tiles of rows and some tiles of columns, over k tiles of numbers."""
    head = "ptr %a, i64 %a_step, ptr %b, i64 %b_step, i64 %k, ptr %out, i64 %out_step"
    code = Code(f"internal void @tiles_{rows}_{columns}({head})")
    tiles = {(r, c): 2 * r + c for r in range(rows) for c in range(columns)}
    a, b = ([code.at(f"%{name}", code.mul(f"%{name}_step", n) if n else 0) for n in range(count)]
            for name, count in (("a", rows), ("b", columns)))  # fmt: skip
    for tile in tiles.values():
        code.do(f"call void @llvm.x86.tilezero(i8 {tile})")

    def step(s: str, _: list[str]) -> list[str]:
        along = code.mul(s, BYTES)
        for r in range(rows):
            code.do(f"call void @llvm.x86.tileloadd64(i8 {4 + r}, ptr {code.at(a[r], along)}, i64 {4 * WORDS})")
        for c in range(columns):
            of = 6 + c % 2
            code.do(f"call void @llvm.x86.tileloadd64(i8 {of}, ptr {code.at(b[c], along)}, i64 {4 * WORDS})")
            for r in range(rows):
                code.do(f"call void @llvm.x86.tdpbf16ps(i8 {tiles[r, c]}, i8 {4 + r}, i8 {of})")
        return []

    code.loop(0, "%k", step)
    for (r, c), tile in tiles.items():
        out = code.at(code.at("%out", code.mul("%out_step", TILE * r) if r else 0), 4 * TILE * c)
        code.do(f"call void @llvm.x86.tilestored64(i8 {tile}, ptr {out}, i64 %out_step)")
    return code.end()


def pack(isa: Isa, size: int = 4) -> str:
    """Text of `everloop_pack`, as that of `rounding`, into tiles."""
    return pack_rounded(replace(isa, vectors=1), size)


def place_of(code: Code, rows: Rows, row: str) -> str:
    """Return where a row begins, in a tile that it shares with others."""
    block = code.divide(row, TILE)
    at = code.mul(code.sub(row, code.mul(block, TILE)), 4 * WORDS)
    return code.at(code.at(rows.memory, code.mul(block, rows.step)), at)


def write_row(code: Code, isa: Isa, size: int, source: str, to: str, k: str) -> None:
    """Write a row of k numbers of `size` bytes to tiles, rounded."""
    words, full = f"<{WORDS} x i32>", code.divide(k, LINE)

    def line(n: str, _: list[str], bits: str = "") -> list[str]:
        value = read_line(code, isa, size, code.at(source, code.mul(n, LINE * size)), bits)
        code.store(words, value, code.at(to, code.mul(n, BYTES)), 4)
        return []

    code.loop(0, full, line)
    rest = code.sub(k, code.mul(full, LINE))
    code.when(code(f"icmp sgt i64 {rest}, 0"), lambda: line(full, [], first_bits(code, rest)))


def first_bits(code: Code, count: str) -> str:
    """Return an integer of 32 bits whose `count` lowest, not more than all, are ones."""
    return code(f"trunc i64 {code.sub(code(f'shl i64 1, {count}'), 1)} to i32")


def read_line(code: Code, isa: Isa, size: int, place: str, bits: str = "") -> str:
    """Return 32 numbers of `size` bytes, rounded, as words; bits: only those, and zeros for the others."""
    lanes, words = isa.lanes(size), f"<{WORDS} x i32>"
    kind, name = (f"<{lanes} x float>", f"v{lanes}f32") if size == 4 else (f"<{lanes} x i16>", f"v{lanes}i16")
    values = []
    for n in range(LINE // lanes):
        at = code.at(place, n * isa.bytes)
        if not bits:
            values.append(code.load(kind, at, size))
            continue
        part = code(f"trunc i32 {code(f'lshr i32 {bits}, {n * lanes}')} to i{lanes}") if size == 4 else bits
        mask = f"<{lanes} x i1> {code(f'bitcast i{lanes} {part} to <{lanes} x i1>')}"
        args = f"ptr {at}, i32 {size}, {mask}, {kind} zeroinitializer"
        values.append(code(f"call {kind} @llvm.masked.load.{name}.p0({args})"))
    if size == 4:
        return side_by_side(code, values[0], values[1], lanes, isa)
    return code(f"bitcast {kind} {values[0]} to {words}")


def by_panels(
    code: Code, isa: Isa, rows: Rows, matrix: Panels, order: tuple[str, str, str], body: Callable[[Sums], None]
) -> None:
    """Run body for all blocks of sums, panel by panel, each of which stays in the cache for all rows.

    order: the first panel, the last one and one more, and 1 where they come from the last to the first.
    """
    first, last, back = order
    is_back, ends = code(f"icmp ne i64 {back}, 0"), code.sub(code.add(first, last), 1)
    blocks = code.divide(code.add(matrix.n, TILE - 1), TILE)
    full = code.divide(rows.count, PAIR)
    rest = code.sub(rows.count, code.mul(full, PAIR))
    has_full, has_rest = code(f"icmp sgt i64 {full}, 0"), code(f"icmp sgt i64 {rest}, 0")
    changes = code(f"and i1 {has_full}, {has_rest}")
    is_double = code(f"icmp sgt i64 {rest}, {TILE}")
    is_single = code(f"icmp sle i64 {rest}, {TILE}")

    def configure(count: str | int) -> None:
        code.do(f"call void @tiles_configure(i64 {count})")

    def panel(n: str, _: list[str]) -> list[str]:
        p = code(f"select i1 {is_back}, i64 {code.sub(ends, n)}, i64 {n}")
        begin = code.mul(p, isa.vectors)
        vectors = code.least(code.sub(blocks, begin), isa.vectors)
        stride = code.mul(matrix.words, 4 * TILE)
        place = code.at(code.at(matrix.packed, code.mul(begin, stride)), code.mul(matrix.begin, 4 * TILE))

        def some(row: str, count: str, is_two: bool) -> None:
            memory = code.at(rows.memory, code.mul(code.divide(row, TILE), rows.step))
            tiles = code.divide(matrix.depth, WORDS)

            def of(columns: int) -> Callable[[str, list[str]], list[str]]:
                def block(c: str, _: list[str]) -> list[str]:
                    args = f"ptr {memory}, i64 {rows.step}, ptr {code.at(place, code.mul(c, stride))}, i64 {stride}"
                    call = f"call void @tiles_{1 + is_two}_{columns}({args}, i64 {tiles}, "
                    body(Sums(row, count, code.add(begin, c), columns, lambda to, by: f"{call}ptr {to}, i64 {by})"))
                    return []

                return block

            columns = COLUMNS[is_two]
            whole = code.mul(code.divide(vectors, columns), columns)
            code.loop(0, whole, of(columns), step=columns)
            code.loop(whole, vectors, of(1))

        def pair(m: str, _: list[str]) -> list[str]:
            some(code.mul(m, PAIR), str(PAIR), True)
            return []

        def remaining() -> None:
            code.when(changes, lambda: configure(rest))
            for is_two, holds in ((True, is_double), (False, is_single)):
                code.when(holds, lambda is_two=is_two: some(code.mul(full, PAIR), rest, is_two))  # type: ignore[misc]
            code.when(changes, lambda: configure(PAIR))

        code.loop(0, full, pair)
        code.when(has_rest, remaining)
        return []

    configure(code(f"select i1 {has_full}, i64 {PAIR}, i64 {rest}"))
    code.loop(first, last, panel)
    code.do("call void @llvm.x86.tilerelease()")
