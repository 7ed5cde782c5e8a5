"""Products by the tiles of AMX: what those in a loop and those over whole sequences share.

Tiles 0 to 3 are sums, 4 and 5 rows, 6 and 7 columns of the matrix. Rows are of bfloat16, padded with zeros to whole
words of `rounding`; the matrix lies in panels as `rounding` packs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.product import panel_width
from everloop.compiler.targets.llvm.rounding import WORDS
from everloop.compiler.targets.llvm.vector import Isa

TILE = 16  # rows of a tile, and columns of sums
PAIR = 2 * TILE
COLUMNS = {True: 2, False: 4}  # tiles of columns for two tiles of rows and for one: as many as there are sums


@dataclass(frozen=True)
class Rows:
    """`count` rows of bfloat16, `step` bytes apart."""

    memory: str
    step: str
    count: str


@dataclass(frozen=True)
class Panels:
    """A packed matrix of n columns, each of `words`; from word `begin` on, `depth` words are summed over."""

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
    """Writes the sums of one or two tiles of rows and some tiles of columns, over k tiles of words."""
    head = "ptr %a, i64 %a_step, ptr %b, i64 %b_step, i64 %k, ptr %out, i64 %out_step"
    code = Code(f"internal void @tiles_{rows}_{columns}({head})")
    tiles = {(r, c): 2 * r + c for r in range(rows) for c in range(columns)}
    below = code.mul("%a_step", TILE)
    for tile in tiles.values():
        code.do(f"call void @llvm.x86.tilezero(i8 {tile})")

    def step(s: str, _: list[str]) -> list[str]:
        a, b = code.at("%a", code.mul(s, 4 * WORDS)), code.at("%b", code.mul(code.mul(s, WORDS), "%b_step"))
        for r in range(rows):
            code.do(f"call void @llvm.x86.tileloadd64(i8 {4 + r}, ptr {code.at(a, below) if r else a}, i64 %a_step)")
        for c in range(columns):
            of = 6 + c % 2
            code.do(f"call void @llvm.x86.tileloadd64(i8 {of}, ptr {code.at(b, 4 * TILE * c)}, i64 %b_step)")
            for r in range(rows):
                code.do(f"call void @llvm.x86.tdpbf16ps(i8 {tiles[r, c]}, i8 {4 + r}, i8 {of})")
        return []

    code.loop(0, "%k", step)
    for (r, c), tile in tiles.items():
        out = code.at(code.at("%out", code.mul("%out_step", TILE * r) if r else 0), 4 * TILE * c)
        code.do(f"call void @llvm.x86.tilestored64(i8 {tile}, ptr {out}, i64 %out_step)")
    return code.end()


def by_panels(
    code: Code, isa: Isa, rows: Rows, matrix: Panels, order: tuple[str, str, str], body: Callable[[Sums], None]
) -> None:
    """Run body for all blocks of sums, panel by panel, each of which stays in the cache for all rows.

    order: the first panel, the last one and one more, and 1 where they come from the last to the first.
    """
    lanes, width = isa.lanes(4), panel_width(isa, 4)
    first, last, back = order
    is_back, ends = code(f"icmp ne i64 {back}, 0"), code.sub(code.add(first, last), 1)
    blocks = code.divide(code.add(matrix.n, lanes - 1), lanes)
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
        stride = code.mul(vectors, 4 * lanes)
        place = code.at(matrix.packed, code.mul(code.mul(p, 4 * width), matrix.words))
        place = code.at(place, code.mul(matrix.begin, stride))

        def some(row: str, count: str, is_two: bool) -> None:
            memory, tiles = code.at(rows.memory, code.mul(row, rows.step)), code.divide(matrix.depth, WORDS)

            def of(columns: int) -> Callable[[str, list[str]], list[str]]:
                def block(c: str, _: list[str]) -> list[str]:
                    args = f"ptr {memory}, i64 {rows.step}, ptr {code.at(place, code.mul(c, 4 * lanes))}, i64 {stride}"
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
