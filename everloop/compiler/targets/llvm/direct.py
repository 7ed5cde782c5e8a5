"""Products of a few rows with a matrix as it lies in memory: nothing is packed, so nothing can be out of date.

A matrix whose numbers along the sum are adjacent is read row by row (`dot`); one whose numbers along the result are
adjacent is read as multiples of its rows (`spread`). Both read every cache line once, as fast as memory gives it, and
several rows share what is read of the matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from everloop.compiler.loop import Map, Product
from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.formats import FloatFormat
from everloop.compiler.targets.llvm.layout import shape
from everloop.compiler.targets.llvm.vector import Isa
from everloop.compiler.targets.llvm.worker import Worker

HEAD = (
    "ptr %in, i64 %from, ptr %out, i64 %to, i64 %stride, i64 %rows, "
    "ptr %matrix, i64 %step, i64 %k, i64 %n, i64 %first, i64 %last"
)


ROWS = 8  # of a matrix that are read at once for one row
TILE = 4  # rows that share what is read of a matrix


class DirectWorker(Worker):
    """A worker whose products read the caller's matrices."""

    products = "dot", "spread"  # their names

    @property
    def number(self) -> int:
        """Bytes of a number of a matrix."""
        return self.layout.form.size

    def pack(self) -> None:
        """Do nothing."""

    def fetch(self, rows: list[tuple[str, int]]) -> None:
        """Do nothing: there is no next step."""

    def stage(self, n: int, stage: Product | Map, active: str, k: str) -> None:
        if isinstance(stage, Map):
            super().stage(n, stage, active, k)
            return
        code, layout = self.code, self.layout
        inner, width = shape(stage)
        first, last = self.part(-(-width // layout.isa.lanes(layout.form.size)))
        source, begin = self.rows_of(stage.source)
        out, to = self.rows_of(stage.out)
        matrix, outer, across = (self.slot(stage.matrix.name, n, kind) for n, kind in enumerate(("ptr", "i64", "i64")))
        along, over = (outer, across) if stage.transposed else (across, outer)  # bytes along the sum, over the results

        def run(name: str, step: str) -> Callable[[], object]:
            head = f"ptr {source}, i64 {begin}, ptr {out}, i64 {to}, i64 {layout.table}, i64 {active}"
            rest = f"ptr {matrix}, i64 {step}, i64 {inner}, i64 {width}, i64 {first}, i64 {last}"
            return lambda: code.do(f"call void @{name}({head}, {rest})")

        if stage.matrix.dtype == torch.int8:
            run("whole", over)()
            return
        adjacent, (by_sum, by_result) = code.equal(along, self.number), self.products
        code.when(adjacent, run(by_sum, over))
        code.when(code(f"xor i1 {adjacent}, true"), run(by_result, along))


class Writer:
    """What both products share: types, masked reading of the last numbers, multiply and add.

    number: bytes of a number of the matrix.
    """

    def __init__(self, isa: Isa, form: FloatFormat, name: str) -> None:
        self.number = form.size
        self.code = Code(f"internal void @{name}({HEAD})")
        self.bytes, self.scalar, self.size, self.suffix = isa.bytes, form.scalar, form.size, form.suffix
        self.lanes = isa.lanes(form.size)
        self.vector = f"<{self.lanes} x {self.scalar}>"

    @property
    def many(self) -> int:
        """Numbers in what is read of the matrix at once."""
        return self.bytes // self.number

    def rows(self, body: Callable[[list[str], list[str]], None], tile: int = TILE) -> None:
        """For `tile` rows at a time, then for each of the rest: body(addresses of their numbers, of their results)."""
        code = self.code

        def of(count: int) -> Callable[[str, list[str]], list[str]]:
            def some(i: str, _: list[str]) -> list[str]:
                sources, outs = [], []
                for n in range(count):
                    at = code.mul(code.add(i, n) if n else i, "%stride")
                    sources.append(code.at(code.load("ptr", code.at("%in", at)), "%from"))
                    outs.append(code.at(code.load("ptr", code.at("%out", at)), "%to"))
                body(sources, outs)
                return []

            return some

        whole = self.rounded("%rows", tile)
        if tile > 1:
            code.loop(0, whole, of(tile), step=tile)
        code.loop(whole if tile > 1 else 0, "%rows", of(1))

    def splat(self, kind: str, number: str) -> str:
        vector = f"<{self.lanes} x {kind}>"
        one = self.code(f"insertelement {vector} poison, {kind} {number}, i64 0")
        return self.code(f"shufflevector {vector} {one}, {vector} poison, <{self.lanes} x i32> zeroinitializer")

    def mask(self, count: str) -> str:
        """The first `count` lanes."""
        numbers = ", ".join(f"i64 {lane}" for lane in range(self.lanes))
        return self.code(f"icmp ult <{self.lanes} x i64> <{numbers}>, {self.splat('i64', count)}")

    def read(self, place: str, mask: str = "") -> str:
        if not mask:
            return self.code.load(self.vector, place, self.size)
        name = f"@llvm.masked.load.v{self.lanes}{self.suffix}.p0"
        lanes = f"<{self.lanes} x i1> {mask}"
        return self.code(
            f"call {self.vector} {name}(ptr {place}, i32 {self.size}, {lanes}, {self.vector} zeroinitializer)"
        )

    def read_matrix(self, place: str, mask: str = "") -> str:
        """What a vector of the matrix holds, as `fused` takes it."""
        return self.read(place, mask)

    def read_row(self, place: str, mask: str = "") -> str:
        """What a vector of a row holds where the matrix is read row by row."""
        return self.read(place, mask)

    def matrix_mask(self, count: str) -> str:
        """The first `count` numbers of a vector of the matrix."""
        return self.mask(count)

    def fused(self, a: str, b: str, total: str) -> str:
        name = f"@llvm.fmuladd.v{self.lanes}{self.suffix}"
        return self.code(f"call {self.vector} {name}({self.vector} {a}, {self.vector} {b}, {self.vector} {total})")

    def add(self, parts: Sequence[str]) -> str:
        while len(parts) > 1:
            pairs = [self.code(f"fadd {self.vector} {a}, {b}") for a, b in zip(parts[::2], parts[1::2], strict=False)]
            parts = [*pairs, *parts[len(pairs) * 2 :]]
        return parts[0]

    def rounded(self, number: str, step: int) -> str:
        return self.code(f"and i64 {number}, {-step}")


def dot(isa: Isa, form: FloatFormat) -> str:
    """Text of `dot`: result j is the row times the numbers at matrix + j * step; units of as many j as a vector has."""
    return dot_by(Writer(isa, form, "dot"), isa)


def dot_by(w: Writer, isa: Isa) -> str:
    """The text of `dot` as a writer writes it, whose vectors of a matrix hold `many` numbers."""
    code, lanes, many = w.code, w.lanes, w.many
    span = many * w.number  # bytes of these
    places = order(lanes, w.size)

    def group(base: str, sources: list[str]) -> list[list[str]]:
        """Sums, still spread over their lanes, of the rows at base, base + step, ..., in the order of the tree.

        For each of the `sources`, rows that they are multiplied with.
        """
        found = [[""] * lanes for _ in sources]
        most = ROWS if len(sources) == 1 else (16 if isa.registers == 32 else 8) // len(sources)
        for first in range(0, lanes, most):
            start = code.at(base, code.mul("%step", first) if first else 0)
            rows = range(first, min(first + most, lanes))
            for totals, sums in zip(few(len(rows), start, sources), found, strict=True):
                for r, total in zip(rows, totals, strict=True):
                    sums[places.index(r)] = total
        return found

    def few(rows: int, base: str, sources: list[str]) -> list[list[str]]:
        """The same of a few rows: few streams of memory, each read far ahead."""
        count = len(sources)
        sets = max(1, (16 if isa.registers == 32 else 8) // (rows * count))

        def multiply(unroll: int, mask: str = "") -> Callable[[str, list[str]], list[str]]:
            def body(k: str, values: list[str]) -> list[str]:
                sums, xs, line = values[: -1 - count], values[-1 - count : -1], values[-1]
                for u in range(unroll):
                    numbers = [w.read_row(code.at(x, u * w.bytes), mask) for x in xs]
                    for r in range(rows):
                        at = code.at(code.at(line, code.mul("%step", r) if r else 0), u * span)
                        factor = w.read_matrix(at, mask)
                        for c in range(count):
                            n = ((u % sets) * count + c) * rows + r
                            sums[n] = w.fused(factor, numbers[c], sums[n])
                return [*sums, *(code.at(x, unroll * w.bytes) for x in xs), code.at(line, unroll * span)]

            return body

        carried = [(w.vector, "zeroinitializer")] * (sets * count * rows)
        carried += [("ptr", place) for place in (*sources, base)]
        kinds = [kind for kind, _ in carried]
        unroll = max(2, sets)
        whole, last = w.rounded("%k", unroll * many), w.rounded("%k", many)
        values = code.loop(0, whole, multiply(unroll), carried, unroll * many)
        values = code.loop(whole, last, multiply(1), list(zip(kinds, values, strict=True)), many)
        remain = code(f"zext i1 {code.less(last, '%k')} to i64")

        def rest(k: str, values: list[str]) -> list[str]:
            return multiply(1, w.matrix_mask(code.sub("%k", last)))(k, values)

        values = code.loop(0, remain, rest, list(zip(kinds, values, strict=True)))
        step = rows * count
        return [[w.add(values[c * rows + r : sets * step : step]) for r in range(rows)] for c in range(count)]

    def groups() -> None:
        def unit(v: str, _: list[str]) -> list[str]:
            j = code.least(code.mul(v, lanes), code.sub("%n", lanes))  # the last group goes back over its neighbour
            base, at = code.at("%matrix", code.mul(j, "%step")), code.mul(j, w.size)

            def rows(sources: list[str], outs: list[str]) -> None:
                for sums, out in zip(group(base, sources), outs, strict=True):
                    code.store(w.vector, tree(w, sums), code.at(out, at), w.size)

            w.rows(rows)
            return []

        code.loop("%first", "%last", unit)

    def singles() -> None:
        """Fewer results than lanes: one after the other."""

        def row(sources: list[str], outs: list[str]) -> None:
            (source,), (out,) = sources, outs

            def one(j: str, _: list[str]) -> list[str]:
                line = code.at("%matrix", code.mul(j, "%step"))

                def part(k: str, sums: list[str]) -> list[str]:
                    at = code.mul(k, w.number)
                    of_row = at if span == w.bytes else code.mul(k, w.size)
                    mask = w.matrix_mask(code.least(code.sub("%k", k), many))
                    factor, numbers = w.read_matrix(code.at(line, at), mask), w.read_row(code.at(source, of_row), mask)
                    return [w.fused(factor, numbers, sums[0])]

                end = code.add("%k", many - 1)
                total = code.loop(0, end, part, [(w.vector, "zeroinitializer")], many)[0]
                name = f"@llvm.vector.reduce.fadd.v{lanes}{w.suffix}"
                number = code(f"call reassoc {w.scalar} {name}({w.scalar} -0.0, {w.vector} {total})")
                code.store(w.scalar, number, code.at(out, code.mul(j, w.size)), w.size)
                return []

            code.loop(0, "%n", one)

        code.when(code.less("%first", "%last"), lambda: w.rows(row, 1))

    enough = code(f"icmp sge i64 %n, {lanes}")
    code.when(enough, groups)
    code.when(code(f"xor i1 {enough}, true"), singles)
    return code.end()


def spread(isa: Isa, form: FloatFormat) -> str:
    """Text of `spread`: the results are the sum over k of number k times the vector at matrix + k * step."""
    return spread_by(Writer(isa, form, "spread"), isa)


def spread_by(w: Writer, isa: Isa) -> str:
    """The text of `spread` as a writer writes it, which reads as many numbers of a matrix at once as of a row."""
    code, tile = w.code, 4
    step = w.lanes * w.number  # bytes of these

    def vectors(width: int, v: str, mask: str = "") -> None:
        at = code.mul(v, w.bytes)
        base = code.at("%matrix", at if step == w.bytes else code.mul(v, step))

        def rows(sources: list[str], outs: list[str]) -> None:
            count = len(sources)
            sets = 4 // count if isa.registers == 32 or count == 1 else 1

            def multiply(unroll: int) -> Callable[[str, list[str]], list[str]]:
                def body(k: str, values: list[str]) -> list[str]:
                    sums, line = values[:-1], values[-1]
                    for u in range(unroll):
                        places = [code.at(source, code.mul(code.add(k, u), w.size)) for source in sources]
                        numbers = [w.splat(w.scalar, code.load(w.scalar, place, w.size)) for place in places]
                        for c in range(width):
                            factor = w.read_matrix(code.at(line, c * step), mask)
                            for r in range(count):
                                n = ((u % sets) * width + c) * count + r
                                sums[n] = w.fused(factor, numbers[r], sums[n])
                        line = code.at(line, "%step")
                    return [*sums, line]

                return body

            total = width * count
            carried = [(w.vector, "zeroinitializer")] * (sets * total) + [("ptr", base)]
            whole = w.rounded("%k", sets)
            values = code.loop(0, whole, multiply(sets), carried, sets)
            kinds = [kind for kind, _ in carried]
            values = code.loop(whole, "%k", multiply(1), list(zip(kinds, values, strict=True)))
            for c in range(width):
                for r, out in enumerate(outs):
                    found = w.add(values[c * count + r : sets * total : total])
                    code.store(w.vector, found, code.at(code.at(out, at), c * w.bytes), w.size)

        w.rows(rows, TILE if isa.registers == 32 else 2)

    def many(v: str, _: list[str]) -> list[str]:
        vectors(tile, v)
        return []

    def single(v: str, _: list[str]) -> list[str]:
        vectors(1, v, w.mask(code.least(code.sub("%n", code.mul(v, w.lanes)), w.lanes)))
        return []

    end = code.least("%last", code.divide("%n", w.lanes))
    count = code(f"select i1 {code.less('%first', end)}, i64 {code.sub(end, '%first')}, i64 0")
    between = code.add("%first", w.rounded(count, tile))
    code.loop("%first", between, many, step=tile)
    code.loop(between, "%last", single)
    return code.end()


def _halves(lanes: int, group: int, size: int) -> tuple[list[int], list[int]]:
    """Lanes of two vectors side by side: the first and the second half of every group, moved as little as may be."""
    half, block = group // 2, max(group // 2, 16 // size)
    low: list[int] = []
    for start in range(0, lanes, block) if half < block else (0,):
        span = block if half < block else lanes
        for vector in (0, lanes):
            low += [vector + start + g + n for g in range(0, span, group) for n in range(half)]
    return low, [n + half for n in low]


def order(lanes: int, size: int) -> list[int]:
    """Which sum each leaf of the tree must be, so that the sums come out in order."""
    rows = [[leaf] * lanes for leaf in range(lanes)]
    group = lanes
    while len(rows) > 1:
        low, _ = _halves(lanes, group, size)
        rows = [[[*a, *b][n] for n in low] for a, b in zip(rows[::2], rows[1::2], strict=True)]
        group //= 2
    return [rows[0].index(leaf) for leaf in range(lanes)]


def tree(w: Writer, vectors: list[str]) -> str:
    """Add up the lanes of as many vectors as a vector has lanes: one vector of their sums."""
    group = w.lanes
    while len(vectors) > 1:
        masks = [
            f"<{w.lanes} x i32> <{', '.join(f'i32 {n}' for n in part)}>" for part in _halves(w.lanes, group, w.size)
        ]
        vectors = [
            w.add([w.code(f"shufflevector {w.vector} {a}, {w.vector} {b}, {mask}") for mask in masks])
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        group //= 2
    return vectors[0]
