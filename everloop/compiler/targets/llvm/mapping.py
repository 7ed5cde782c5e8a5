"""A Map as a function: rows outside, vectors of features inside, the rest of the features as one narrower vector."""

from __future__ import annotations

import math

from everloop.compiler.loop import Buffer, Instruction, Map
from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.layout import RECORD, Layout
from everloop.compiler.targets.llvm.mathematics import Lanes, Value, apply

REDUCTIONS = {"sum": ("fadd", -0.0), "max": ("fmaximum", -math.inf)}


def has_reduction(stage: Map) -> bool:
    """Whether the stage needs whole rows."""
    return any(i.op in REDUCTIONS for i in stage.body)


def units(layout: Layout, stage: Map) -> int:
    """Vectors in a row, a partial one included: what a split by columns deals out."""
    return -(-stage.width // layout.isa.lanes(layout.form.size))


def mapping(layout: Layout, stage: Map, name: str) -> str:
    """Text of the function for rows i0 to i1 - 1 and units u0 to u1 - 1."""
    code = Code(f"internal void @{name}(ptr %args, ptr %own, i64 %i0, i64 %i1, i64 %u0, i64 %u1)")
    writer = _Writer(layout, stage, code)
    rows = code.at("%own", layout.own)
    writer.prepare_vectors()

    def row(i: str, _: list[str]) -> list[str]:
        writer.prepare_row(code.at(rows, code.mul(i, layout.table)))
        writer.features()
        return []

    code.loop("%i0", "%i1", row)
    return code.end()


class _Writer:
    """Writes one Map; keeps the addresses that are known outside the loop over features."""

    def __init__(self, layout: Layout, stage: Map, code: Code) -> None:
        self.layout, self.stage, self.code = layout, stage, code
        self.form = layout.form
        self.lanes = Lanes(code, layout.form, layout.isa)
        self.full, self.rest = divmod(stage.width, self.lanes.count)
        self.base: dict[str, str] = {}  # buffer name -> address of the row
        self.spread: dict[str, str] = {}  # buffers of width 1 -> vector of their number
        self.buffers = list(dict.fromkeys(i.buffer for i in stage.body if i.buffer))
        # A width-1 map may store and reload its buffer in order, so nothing is read early there.
        self.early = stage.width > 1
        for i in stage.body:
            fits = i.buffer is None or i.op in REDUCTIONS or i.offset + stage.width <= i.buffer.width
            assert fits or (i.op == "load" and self.is_spread(i)), f"{i} does not fit a width of {stage.width}"

    def is_spread(self, i: Instruction) -> bool:
        return self.early and i.op == "load" and i.buffer is not None and i.buffer.width == 1

    def prepare_vectors(self) -> None:
        for buffer in self.buffers:
            if buffer.kind == "vector":
                self.base[buffer.name] = self.code.slot("%args", self.layout.slots[buffer.name], "ptr")
            elif buffer.name in self.layout.sums:
                self.base[buffer.name] = self.code.at("%own", self.layout.sums[buffer.name])

    def prepare_row(self, table: str) -> None:
        code = self.code
        record = code.slot(table, RECORD, "ptr")
        for buffer in self.buffers:
            if buffer.name in self.layout.offsets:
                self.base[buffer.name] = code.at(record, self.layout.offsets[buffer.name])
            elif buffer.name in self.layout.pointers:
                self.base[buffer.name] = code.slot(table, self.layout.pointers[buffer.name], "ptr")
        self.spread = {
            i.buffer.name: self.splat(code.load(self.form.scalar, self.base[i.buffer.name], self.form.size))
            for i in self.stage.body
            if i.buffer and self.is_spread(i)
        }

    def splat(self, number: str) -> str:
        vector, count = self.lanes.vector, self.lanes.count
        one = self.code(f"insertelement {vector} poison, {self.form.scalar} {number}, i64 0")
        return self.code(f"shufflevector {vector} {one}, {vector} poison, <{count} x i32> zeroinitializer")

    def features(self) -> None:
        code, vector = self.code, self.lanes.vector
        reductions = [i for i in self.stage.body if i.op in REDUCTIONS]
        carried = [(vector, self.lanes.number(REDUCTIONS[i.op][1])) for i in reductions]

        def step(v: str, sums: list[str]) -> list[str]:
            return self.body(code.mul(v, self.layout.isa.bytes), self.lanes.count, sums)

        sums = code.loop("%u0", code.least("%u1", str(self.full)), step, carried) if self.full else None
        if not self.rest:
            self.finish(reductions, sums or [])
            return
        start = sums if sums is not None else [value for _, value in carried]
        if reductions:  # always whole rows
            self.finish(reductions, self.body(str(self.full * self.layout.isa.bytes), self.rest, start))
        else:
            is_last = code(f"icmp sgt i64 %u1, {self.full}")
            code.when(is_last, lambda: self.body(str(self.full * self.layout.isa.bytes), self.rest, []))

    def finish(self, reductions: list[Instruction], sums: list[str]) -> None:
        lanes, scalar, vector = self.lanes, self.form.scalar, self.lanes.vector
        for i, total in zip(reductions, sums, strict=True):
            assert i.buffer is not None
            op = REDUCTIONS[i.op][0]
            name = f"@llvm.vector.reduce.{op}.v{lanes.count}{self.form.suffix}"
            if i.op == "sum":
                number = self.code(f"call reassoc {scalar} {name}({scalar} -0.0, {vector} {total})")
            else:
                number = self.code(f"call {scalar} {name}({vector} {total})")
            self.code.store(scalar, number, self.base[i.buffer.name], self.form.size)

    def body(self, offset: str, count: int, sums: list[str]) -> list[str]:
        """Write the instructions for `count` features at byte `offset`; returns the new reduction vectors."""
        values: list[Value] = []
        new, sums = [], list(sums)
        for i in self.stage.body:
            result = Value("")
            if i.op == "constant":
                result = Value(self.lanes.number(i.number))
            elif i.op == "load":
                assert i.buffer is not None
                spread = self.spread.get(i.buffer.name) if self.is_spread(i) else None
                result = Value(spread or self.read(self.address(i.buffer, i.offset, offset), count))
            elif i.op == "store":
                assert i.buffer is not None
                self.write(self.lanes.floats(values[i.args[0]]), self.address(i.buffer, i.offset, offset), count)
            elif i.op == "accumulate":
                assert i.buffer is not None
                place = self.address(i.buffer, i.offset, offset)
                self.write(self.lanes.add(self.read(place, count), self.lanes.floats(values[i.args[0]])), place, count)
            elif i.op in REDUCTIONS:
                new.append(self.reduce(i.op, sums.pop(0), self.lanes.floats(values[i.args[0]]), count))
            else:
                result = apply(self.lanes, i.op, [values[a] for a in i.args])
            values.append(result)
        return new

    def address(self, buffer: Buffer, shift: int, offset: str) -> str:
        return self.code.at(self.code.at(self.base[buffer.name], shift * self.form.size), offset)

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
