"""The code of a Map whose buffers are read by views: loops over the axes that all of them have in common.

The innermost axis goes by vectors. What stands still along it is read before. Sums along it stay in a register, and so
do sums along the axes next to it where the innermost one is a few vectors; others are added up in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from everloop.compiler.loop import Instruction, Map
from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.features import REDUCTIONS, MapWriter
from everloop.compiler.targets.llvm.layout import Layout
from everloop.compiler.targets.llvm.mathematics import Register
from everloop.compiler.view import View, common_axes

Strides = tuple[int, ...]
Offsets = dict[Strides, str]  # bytes behind the first feature, where the loops over outer axes are
Sums = dict[int, list[str]]  # line -> the vectors it adds up in registers
FEW = 4  # vectors of the innermost axis that are written one after the other, without a loop


@dataclass(frozen=True)
class Axes:
    """counts: of the axes, outermost first; strides: of each line that reads or writes, in numbers along each axis."""

    counts: tuple[int, ...]
    strides: dict[int, Strides]

    @property
    def units(self) -> int:
        """Turns of the outermost loop, where it is not the only one."""
        return self.counts[0] if len(self.counts) > 1 else 1


def axes_of(stage: Map) -> Axes | None:
    """Return the axes of a Map that has views, None of one that has none."""
    if not any(i.view for i in stage.body):
        return None
    views = {n: i.view or _whole(stage, i) for n, i in enumerate(stage.body) if i.buffer}
    found = common_axes(views.values())
    assert found, "the schedule keeps views without common axes apart"
    counts, strides = found
    return Axes(counts, dict(zip(views, strides, strict=True)))


def _whole(stage: Map, i: Instruction) -> View:
    """Return how a line without a view goes through its buffer: side by side, or one number for all."""
    return View(((stage.width, 0 if i.op in REDUCTIONS or (i.buffer and i.buffer.width == 1) else 1),))


class AxesWriter(MapWriter):
    """Writes one Map over several axes."""

    def __init__(self, layout: Layout, stage: Map, code: Code, axes: Axes) -> None:
        super().__init__(layout, stage, code)
        self.axes, self.depth = axes, len(axes.counts)
        full, rest = divmod(axes.counts[-1], self.lanes.count)
        parts = [*[self.lanes.count] * full, *[rest] * bool(rest)]
        self.parts = parts if len(parts) <= FEW else []  # features of each vector of the innermost axis
        reductions = [n for n, i in enumerate(stage.body) if i.op in REDUCTIONS]
        # The axis from which on a result stands still, perhaps but for the innermost one: there, its sum begins.
        self.begins = {n: begin for n in reductions if (begin := self._begin(axes.strides[n])) is not None}
        self.added = {n for n in reductions if not self._is_written_once(n)}
        self.offsets: Offsets = {}

    def _begin(self, strides: Strides) -> int | None:
        begin = max((k + 1 for k, stride in enumerate(strides[:-1]) if stride), default=0)
        if strides[-1]:
            return begin if self.parts and begin < self.depth - 1 else None
        return begin

    def _is_written_once(self, n: int) -> bool:
        """Whether each feature of a result is written, and once."""
        buffer, view = self.stage.body[n].buffer, self.stage.body[n].view
        assert buffer
        outer = self.axes.strides[n][: self.begins.get(n, self.depth)]
        return all(outer) and (view is None or view.covers(buffer.width))

    def features(self) -> None:
        for n in sorted(self.added):
            self._clear(n)
        offsets: Offsets = dict.fromkeys(self.axes.strides.values(), "0")
        if self.depth > 1 or self.begins or self.added:
            self._nest(0, offsets, {})
        else:
            self.code.when(self.code.less("%u0", "%u1"), lambda: self._nest(0, offsets, {}))

    def _clear(self, n: int) -> None:
        """Begin sums in memory; a row of scratch is as long as whole vectors."""
        i = self.stage.body[n]
        assert i.buffer
        start = self.lanes.number(0.0 if i.op == "sum" else REDUCTIONS[i.op][1])
        for v in range(-(-i.buffer.width // self.lanes.count)):
            place = self.code.at(self.base[i.buffer.name], v * self.layout.isa.bytes)
            self.code.store(self.lanes.vector, start, place, self.form.size)

    def _nest(self, axis: int, offsets: Offsets, sums: Sums) -> Sums:
        """Write the loops from `axis` on; return the sums that began further outside."""
        starting = [n for n, begin in self.begins.items() if begin == axis]
        sums = sums | {n: self._start(n) for n in starting}
        if axis == self.depth - 1:
            sums = self._innermost(offsets, sums)
        else:

            def turn(k: str, own: list[str]) -> list[str]:
                return _flat(self._nest(axis + 1, self._moved(offsets, axis, k), _like(sums, own)))

            first, last = ("%u0", "%u1") if axis == 0 else ("0", str(self.axes.counts[axis]))
            found = self.code.loop(first, last, turn, [(self.lanes.vector, value) for value in _flat(sums)])
            sums = _like(sums, found)
        for n in starting:
            self._end(n, sums.pop(n), offsets)
        return sums

    def _start(self, n: int) -> list[str]:
        start = self.lanes.number(REDUCTIONS[self.stage.body[n].op][1])
        return [start] * (len(self.parts) if self.axes.strides[n][-1] else 1)

    def _moved(self, offsets: Offsets, axis: int, k: str) -> Offsets:
        """Return the offsets in turn `k` of an axis."""
        size, moved = self.form.size, {}
        for strides, offset in offsets.items():
            step = strides[axis] * size
            here = self.code.mul(k, step) if step else "0"
            moved[strides] = offset if not step else here if offset == "0" else self.code.add(offset, here)
        return moved

    def _innermost(self, offsets: Offsets, sums: Sums) -> Sums:
        before, self.offsets = dict(self.spread), offsets
        lines = sorted(sums)
        for n, i in enumerate(self.stage.body):
            if i.op == "load" and n not in self.spread and self.axes.strides[n][-1] == 0:
                number = self.code.load(self.form.scalar, self.place(n, i, "0"), self.form.size)
                self.spread[n] = Register(self.splat(number))
        for part, count in enumerate(self.parts):
            which = {n: part if self.axes.strides[n][-1] else 0 for n in lines}
            own = [sums[n][which[n]] for n in lines]
            for n, value in zip(lines, self.body(str(part * self.layout.isa.bytes), count, own), strict=True):
                sums[n] = [value if k == which[n] else other for k, other in enumerate(sums[n])]
        if not self.parts:
            sums = _like(sums, self._long(_flat(sums)))
        self.spread = before
        return sums

    def _long(self, sums: list[str]) -> list[str]:
        """Write the loop over the vectors of an innermost axis that has many."""
        full, rest = divmod(self.axes.counts[-1], self.lanes.count)

        def step(v: str, own: list[str]) -> list[str]:
            return self.body(self.code.mul(v, self.layout.isa.bytes), self.lanes.count, own)

        sums = self.code.loop(0, full, step, [(self.lanes.vector, value) for value in sums])
        return self.body(str(full * self.layout.isa.bytes), rest, sums) if rest else sums

    def place(self, n: int, i: Instruction, offset: str) -> str:
        assert i.buffer
        strides = self.axes.strides[n]
        place = self.code.at(self.base[i.buffer.name], i.offset * self.form.size)
        if self.offsets[strides] != "0":
            place = self.code.at(place, self.offsets[strides])
        shift = i.view.offset * self.form.size if i.view else 0
        along = self.code.mul(offset, strides[-1]) if strides[-1] and offset != "0" else "0"
        return self.code.at(self.code.at(place, shift), along if along != "0" else 0)

    def load(self, n: int, i: Instruction, offset: str, count: int) -> str:
        stride = self.axes.strides[n][-1]
        place = self.place(n, i, offset)
        if stride == 1:
            return self.read(place, count)
        vector, found = self.lanes.vector, "zeroinitializer"
        for k in range(count):
            number = self.code.load(self.form.scalar, self.code.at(place, k * stride * self.form.size), self.form.size)
            found = self.code(f"insertelement {vector} {found}, {self.form.scalar} {number}, i64 {k}")
        return found

    def reduction(self, n: int, i: Instruction, sums: list[str], value: str, offset: str, count: int) -> list[str]:
        if n in self.begins:
            return super().reduction(n, i, sums, value, offset, count)
        self._put_vector(n, value, self.place(n, i, offset), count)
        return []

    def _joined(self, op: str, a: str, b: str) -> str:
        return self.lanes.add(a, b) if op == "sum" else self.lanes.intrinsic("maximum", a, b)

    def _end(self, n: int, totals: list[str], offsets: Offsets) -> None:
        """Write sums where they belong."""
        self.offsets = offsets
        i = self.stage.body[n]
        if self.axes.strides[n][-1] == 0:
            self._put(n, self.across(i.op, totals[0]), self.place(n, i, "0"))
            return
        for part, (count, total) in enumerate(zip(self.parts, totals, strict=True)):
            self._put_vector(n, total, self.place(n, i, str(part * self.layout.isa.bytes)), count)

    def _put_vector(self, n: int, value: str, place: str, count: int) -> None:
        stride = self.axes.strides[n][-1]
        if stride == 1:
            if n in self.added:
                value = self._joined(self.stage.body[n].op, self.read(place, count), value)
            self.write(value, place, count)
            return
        for k in range(count):
            number = self.code(f"extractelement {self.lanes.vector} {value}, i64 {k}")
            self._put(n, number, self.code.at(place, k * stride * self.form.size))

    def _put(self, n: int, number: str, place: str) -> None:
        scalar, size = self.form.scalar, self.form.size
        if n in self.added:
            before = self.code.load(scalar, place, size)
            if self.stage.body[n].op == "sum":
                number = self.code(f"fadd {scalar} {before}, {number}")
            else:
                name = f"@llvm.maximum.{self.form.suffix}"
                number = self.code(f"call {scalar} {name}({scalar} {before}, {scalar} {number})")
        self.code.store(scalar, number, place, size)


def _flat(sums: Sums) -> list[str]:
    return [value for n in sorted(sums) for value in sums[n]]


def _like(sums: Sums, values: list[str]) -> Sums:
    """Return `values` as the sums of the same lines."""
    found = iter(values)
    return {n: [next(found) for _ in sums[n]] for n in sorted(sums)}
