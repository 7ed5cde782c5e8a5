"""The code of a Map for one row: vectors of features, the rest of the features as one narrower vector.

What is the same for every feature of a row (numbers of width 1 and their arithmetic) is computed before its features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from everloop.compiler.loop import Instruction, Map
from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.layout import HALF, RECORD, Layout
from everloop.compiler.targets.llvm.mathematics import Register, apply
from everloop.compiler.targets.llvm.phases import Lines, Phase
from everloop.compiler.targets.llvm.rounding import rounded_halves, widened

REDUCTIONS = {"sum": ("fadd", -0.0), "max": ("fmaximum", -math.inf)}
BLOCK = 8  # vectors of each row that go through all phases before the next
MANY = 32  # registers, enough for several chains beside each other
LATENCY = 16  # instructions that take about as long to issue as two additions, one waiting for the other


class MapWriter:
    """Writes one Map over the features of a row; keeps the addresses that are known outside the loop over features."""

    def __init__(self, layout: Layout, stage: Map, code: Code) -> None:
        self.layout, self.stage, self.code = layout, stage, code
        self.form = layout.form
        self.lanes = layout.lanes(code, layout.form, layout.isa)
        self.full, self.rest = divmod(stage.width, self.lanes.count)
        self.places: Mapping[str, str | int] = {}
        self.base: dict[str, str] = {}  # buffer name -> address of the row
        self.spread: dict[int, Register] = {}  # lines that are the same for every feature -> their vector
        self.buffers = list(dict.fromkeys(i.buffer for i in stage.body if i.buffer))
        # A width-1 map may store and reload its buffer in order, so nothing is read early there.
        self.lines = Lines(stage)
        self.same = self.lines.same
        self.kept = {n: k for k, n in enumerate(n for phase in self.lines.phases for n in phase.kept)}
        self.memory = ""  # of what phases keep: a block of vectors for each such line
        for n, i in enumerate(stage.body):
            fits = i.buffer is None or i.op in REDUCTIONS or i.view or i.offset + stage.width <= i.buffer.width
            assert fits or n in self.same, f"{i} does not fit a width of {stage.width}"

    def multiply_add(self, n: int, values: dict[int, Register]) -> Register:
        """The addition or subtraction `n`, one of whose arguments is a product: one operation with one rounding."""
        i, product = self.stage.body[n], self.lines.fused[n]
        left, right = (self.lanes.floats(values[a]) for a in self.stage.body[product].args)
        is_first = i.args[0] == product
        other = self.lanes.floats(values[i.args[1 if is_first else 0]])
        if i.op == "sub" and is_first:
            other = self.lanes.neg(other)
        elif i.op == "sub":
            left = self.lanes.neg(left)
        return Register(self.lanes.fma(left, right, other))

    def prepare_vectors(self, places: Mapping[str, str | int]) -> None:
        """Write what is done once for all rows; `places`: of each buffer, as of Layout."""
        self.places = places
        if self.kept and self.full:
            size = BLOCK * self.layout.isa.bytes * len(self.kept)
            self.memory = self.code(f"alloca [{size} x i8], align {self.layout.isa.bytes}")
        for buffer in self.buffers:
            if buffer.kind == "vector":
                self.base[buffer.name] = self.code.load("ptr", self.code.at("%args", places[buffer.name]))
            elif buffer.name in self.layout.sums:
                self.base[buffer.name] = self.code.at("%own", places[buffer.name])

    def prepare_row(self, table: str) -> None:
        code = self.code
        record = code.slot(table, RECORD, "ptr")
        for buffer in self.buffers:
            if buffer.name in self.layout.offsets:
                self.base[buffer.name] = code.at(record, self.places[buffer.name])
            elif buffer.name in self.layout.pointers:
                self.base[buffer.name] = code.load("ptr", code.at(table, self.places[buffer.name]))
        self.spread = {}
        values: list[Register] = []
        for n, i in enumerate(self.stage.body):
            result = Register(self.lanes.number(i.number)) if i.op == "constant" else Register("")
            if n in self.same and i.buffer is not None:
                place = self.base[i.buffer.name]
                if i.op == "load":
                    result = Register(self.splat(code.load(self.form.scalar, place, self.form.size)))
                else:
                    self.write(self.lanes.floats(values[i.args[0]]), place, 1)
            elif n in self.same:
                result = apply(self.lanes, i.op, [values[a] for a in i.args])
            if n in self.same or i.op == "constant":
                self.spread[n] = result
            values.append(result)

    def splat(self, number: str) -> str:
        vector, count = self.lanes.vector, self.lanes.count
        one = self.code(f"insertelement {vector} poison, {self.form.scalar} {number}, i64 0")
        return self.code(f"shufflevector {vector} {one}, {vector} poison, <{count} x i32> zeroinitializer")

    def features(self) -> None:
        code, vector = self.code, self.lanes.vector
        reductions = [i for i in self.stage.body if i.op in REDUCTIONS]
        starts = [self.lanes.number(REDUCTIONS[i.op][1]) for i in reductions]
        chains = self.chains(len(reductions))

        def steps(count: int) -> Callable[[str, list[str]], list[str]]:
            def step(v: str, sums: list[str]) -> list[str]:
                new = []
                for n in range(count):
                    own = sums[n * len(starts) : (n + 1) * len(starts)]
                    new += self.body(code.mul(code.add(v, n), self.layout.isa.bytes), self.lanes.count, own)
                return new

            return step

        sums, begin, end = starts, "%u0", code.least("%u1", str(self.full)) if self.full else "0"
        if chains > 1:  # always whole rows
            begin, end = str(self.full // chains * chains), str(self.full)
            many = code.loop(0, begin, steps(chains), [(vector, start) for start in starts * chains], chains)
            parts = [many[n :: len(starts)] for n in range(len(starts))]
            sums = [self.together(i, part) for i, part in zip(reductions, parts, strict=True)]
        if self.memory:
            sums = self.in_phases(begin, end, sums)
        elif begin != end and self.full:
            sums = code.loop(begin, end, steps(1), [(vector, start) for start in sums])
        offset = str(self.full * self.layout.isa.bytes)
        if self.rest and reductions:
            sums = self.body(offset, self.rest, sums)
        elif self.rest:
            code.when(code(f"icmp sgt i64 %u1, {self.full}"), lambda: self.body(offset, self.rest, []))
        self.finish(reductions, sums)

    def in_phases(self, begin: str, end: str, starts: list[str]) -> list[str]:
        """Write the loops over features one after the other, block by block."""
        code, bytes_ = self.code, self.layout.isa.bytes
        kinds = [self.lanes.vector] * len(starts)

        def block(first: str, sums: list[str]) -> list[str]:
            last = code.least(code.add(first, BLOCK), end)
            for phase in self.lines.phases:

                def step(v: str, own: list[str], phase: Phase = phase) -> list[str]:
                    place = code.at(self.memory, code.mul(code.sub(v, first), bytes_))
                    return self.body(code.mul(v, bytes_), self.lanes.count, own, phase, place)

                is_last = phase is self.lines.phases[-1]
                found = code.loop(first, last, step, list(zip(kinds, sums, strict=True)) if is_last else ())
            return found

        return code.loop(begin, code.add(end, BLOCK - 1), block, list(zip(kinds, starts, strict=True)), BLOCK)

    def chains(self, reductions: int) -> int:
        """Return how many vectors are added up beside each other, so that none waits for the one before."""
        length = sum(i.op != "constant" for n, i in enumerate(self.stage.body) if n not in self.same)
        fits = (c for c in (4, 2) if reductions and c * max(length, 2 * reductions) <= LATENCY and c <= self.full)
        return next(fits, 1)

    def together(self, i: Instruction, parts: list[str]) -> str:
        """Return the sum or maximum of vectors."""
        while len(parts) > 1:
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [self.reduce(i.op, a, b, self.lanes.count) for a, b in pairs]
        return parts[0]

    def finish(self, reductions: list[Instruction], sums: list[str]) -> None:
        for i, total in zip(reductions, sums, strict=True):
            assert i.buffer is not None
            self.code.store(self.form.scalar, self.across(i.op, total), self.base[i.buffer.name], self.form.size)

    def across(self, op: str, total: str) -> str:
        """The sum or maximum of all lanes."""
        scalar, vector = self.form.scalar, self.lanes.vector
        name = f"@llvm.vector.reduce.{REDUCTIONS[op][0]}.v{self.lanes.count}{self.form.suffix}"
        if op == "sum":
            return self.code(f"call reassoc {scalar} {name}({scalar} -0.0, {vector} {total})")
        return self.code(f"call {scalar} {name}({vector} {total})")

    def body(self, offset: str, count: int, sums: list[str], phase: Phase | None = None, place: str = "") -> list[str]:
        """Write the instructions for `count` features at byte `offset`; returns the new reduction vectors.

        phase: only these instructions; what earlier phases kept is `place`.
        """
        values, start = dict(self.spread), len(self.code.lines)
        new, sums, joined = [], list(sums), set(self.lines.fused.values())
        if phase:
            values |= {n: Register(self.read(self.kept_at(n, place), count)) for n in phase.reads}
        for n, i in enumerate(self.stage.body):
            if n in values or (n not in phase.lines if phase else n in joined):
                continue
            if n in self.lines.fused:
                values[n] = self.multiply_add(n, values)
            elif i.op == "load":
                assert i.buffer is not None
                values[n] = Register(self.load(n, i, offset, count))
            elif i.op == "store":
                assert i.buffer is not None
                write = self.write_halves if i.buffer.name in self.layout.halves else self.write
                write(self.lanes.floats(values[i.args[0]]), self.place(n, i, offset), count)
            elif i.op == "accumulate":
                at = self.place(n, i, offset)
                self.write(self.lanes.add(self.read(at, count), self.lanes.floats(values[i.args[0]])), at, count)
            elif i.op in REDUCTIONS:
                new += self.reduction(n, i, sums, self.lanes.floats(values[i.args[0]]), offset, count)
            else:
                values[n] = apply(self.lanes, i.op, [values[a] for a in i.args])
        for n in phase.kept if phase else ():
            self.write(self.lanes.floats(values[n]), self.kept_at(n, place), count)
        if self.layout.isa.registers >= MANY:
            self.code.overlap(start)
        return new

    def kept_at(self, n: int, place: str) -> str:
        return self.code.at(place, self.kept[n] * BLOCK * self.layout.isa.bytes)

    def place(self, n: int, i: Instruction, offset: str) -> str:
        """Where line `n` finds the feature at byte `offset` of its row."""
        assert i.buffer is not None
        if i.buffer.name in self.layout.halves:
            offset = self.code(f"lshr i64 {offset}, 1")
        return self.code.at(self.code.at(self.base[i.buffer.name], i.offset * self.layout.number(i.buffer)), offset)

    def load(self, n: int, i: Instruction, offset: str, count: int) -> str:
        assert i.buffer is not None
        read = self.read_halves if i.buffer.name in self.layout.halves else self.read
        return read(self.place(n, i, offset), count)

    def read_halves(self, place: str, count: int) -> str:
        """Numbers of bfloat16, widened."""
        full, code = self.lanes.count, self.code
        part = code.load(f"<{count} x i16>", place, HALF)
        if count < full:
            pattern = ", ".join(f"i32 {min(i, count)}" for i in range(full))
            kind = f"<{count} x i16>"
            part = code(f"shufflevector {kind} {part}, {kind} zeroinitializer, <{full} x i32> <{pattern}>")
        return widened(code, part, full)

    def write_halves(self, value: str, place: str, count: int) -> None:
        """Round numbers to bfloat16."""
        full, code = self.lanes.count, self.code
        halves = rounded_halves(code, value, full, self.layout.isa)
        if count < full:
            pattern, kind = ", ".join(f"i32 {i}" for i in range(count)), f"<{full} x i16>"
            halves = code(f"shufflevector {kind} {halves}, {kind} poison, <{count} x i32> <{pattern}>")
        code.store(f"<{count} x i16>", halves, place, HALF)

    def reduction(self, n: int, i: Instruction, sums: list[str], value: str, offset: str, count: int) -> list[str]:
        """Add `value` to the first of `sums`."""
        return [self.reduce(i.op, sums.pop(0), value, count)]

    def reduce(self, op: str, total: str, value: str, count: int) -> str:
        lanes = self.lanes
        if count < lanes.count:
            value = self.shuffle(value, lanes.number(REDUCTIONS[op][1]), count)
        return lanes.add(total, value) if op == "sum" else lanes.intrinsic("maximum", total, value)

    def shuffle(self, value: str, other: str, count: int) -> str:
        """The first `count` lanes of `value`, the rest of `other`."""
        pattern = ", ".join(f"i32 {i if i < count else self.lanes.count + i}" for i in range(self.lanes.count))
        vector = self.lanes.vector
        return self.code(f"shufflevector {vector} {value}, {vector} {other}, <{self.lanes.count} x i32> <{pattern}>")

    def read(self, place: str, count: int) -> str:
        full, scalar, size = self.lanes.count, self.form.scalar, self.form.size
        if count == full:
            return self.code.load(self.lanes.vector, place, size)
        part = self.code.load(f"<{count} x {scalar}>", place, size)
        pattern = ", ".join(f"i32 {min(i, count)}" for i in range(full))
        kind = f"<{count} x {scalar}>"
        return self.code(f"shufflevector {kind} {part}, {kind} zeroinitializer, <{full} x i32> <{pattern}>")

    def write(self, value: str, place: str, count: int) -> None:
        full, scalar, size = self.lanes.count, self.form.scalar, self.form.size
        kind = self.lanes.vector
        if count < full:
            pattern = ", ".join(f"i32 {i}" for i in range(count))
            value = self.code(f"shufflevector {kind} {value}, {kind} poison, <{count} x i32> <{pattern}>")
            kind = f"<{count} x {scalar}>"
        self.code.store(kind, value, place, size)
