"""Runs a Loop for one sequence on fingerprints instead of numbers, in the memory that it will have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from everloop.compiler.dtypes import arithmetic
from everloop.compiler.fingerprints import Prints, applied, constant, leaf, named, product, reduced, reduced_to
from everloop.compiler.loop import Buffer, Instruction, Loop, Map, Product
from everloop.errors import PlanError

_WRITTEN = {"store": ("state", "scratch", "emit"), "accumulate": ("total",)}  # what each may write to


def first_rows(state: str, width: int) -> Prints:
    """Return the rows that a state starts from."""
    return leaf(f"first {state}", width)


def sequence(name: str, width: int, steps: int) -> Prints:
    """Return a sequence that is given, [steps, width]."""
    return np.stack([leaf(f"{name} {t}", width) for t in range(steps)])


def nothing(name: str, width: int, steps: int) -> Prints:
    """Return memory in which nothing has been written."""
    return sequence(f"nothing in {name}", width, steps)


def lookup(name: str, memory: Mapping[str, Prints]) -> Prints:
    """Return the memory of this name."""
    if name not in memory:
        raise PlanError(f"nothing provides {name}")
    return memory[name]


class AbstractLoop:
    """A loop over `sequences` [steps, n] by name, some of which may be one memory.

    rows: the states and scratch memory [n]; totals: the sums over time; both as the last step left them.
    Raises PlanError where a stage reads what it writes elsewhere, or what no stage before it has written.
    """

    def __init__(self, loop: Loop, sequences: Mapping[str, Prints]) -> None:
        self.loop, self.sequences = loop, sequences
        self.rows = {s.name: first_rows(s.name, s.width) for s in loop.states}
        buffers = loop.buffers
        if len({b.name for b in buffers}) < len(buffers):
            raise PlanError("two buffers have one name")
        self.fixed = {b.name: leaf(b.name, b.width) for b in buffers if b.kind in ("row", "vector")}
        self.totals = {b.name: np.zeros(b.width, np.uint64) for b in buffers if b.kind == "total"}
        self.scratch = {b.name: leaf(f"nothing in {b.name}", b.width) for b in buffers if b.kind == "scratch"}
        written: dict[str, set[int]] = {b.name: set() for b in buffers if b.kind == "emit"}
        for stage in loop.stages:
            self._check(stage)
            self._check_dtypes(stage)
            self._check_order(stage, written)

    def run(self, times: Iterable[int]) -> None:
        for t in times:
            self.rows |= {name: prints.copy() for name, prints in self.scratch.items()}
            for stage in self.loop.stages:
                if isinstance(stage, Product):
                    row = self._read(stage.source, t)
                    self.rows[stage.out.name][:] = product(stage.matrix.name, stage.transposed, row, stage.out.width)
                else:
                    self._map(stage, t)

    def _memory(self, buffer: Buffer) -> Prints | str:
        """Return what two accesses have in common where they may meet."""
        return self.sequences.get(buffer.name, buffer.name) if buffer.kind in ("sequence", "emit") else buffer.name

    def _check(self, stage: Product | Map) -> None:
        """Check what a step on fingerprints would not see: the order of accesses inside one stage."""
        if isinstance(stage, Product):
            height, width = stage.matrix.height, stage.matrix.width
            shape = (stage.source.width, stage.out.width)
            if shape != ((height, width) if stage.transposed else (width, height)):
                raise PlanError(f"a product of {stage.source} and {stage.matrix} does not fit into {stage.out}")
            if stage.out.kind not in ("state", "scratch") or self._memory(stage.out) is self._memory(stage.source):
                raise PlanError(f"a product of {stage.source.name} is written to {stage.out.name}")
            return
        ends = [i for i in stage.body if i.is_write]
        if tuple(ends) != stage.body[len(stage.body) - len(ends) :]:
            raise PlanError("a map reads or computes after it has written")
        for i in stage.body:
            spread = i.buffer is not None and i.buffer.width == 1
            stop = i.offset + (1 if spread or i.is_reduction else stage.width)
            if i.view:
                if i.view.width != stage.width:
                    raise PlanError(f"a view of {i.view.width} features in a map of {stage.width}")
                stop = i.offset + int(i.view.index.max()) + 1
            if i.buffer is not None and not 0 <= i.offset < stop <= i.buffer.width:
                raise PlanError(f"a map of {stage.width} features reaches beyond {i.buffer}")
            if i.is_write and (i.buffer is None or i.buffer.kind not in _WRITTEN.get(i.op, ("scratch",))):
                raise PlanError(f"a map writes to {i.buffer}")
        loads = [i for i in stage.body if i.op == "load"]
        for written in ends:
            for read in loads:
                if self._meet(read, written, stage.width):
                    raise PlanError(f"a map reads {_named(read)} elsewhere than it writes {_named(written)}")

    def _check_dtypes(self, stage: Product | Map) -> None:
        """Check that nothing meets another dtype without a cast, and that no dtype of storage is computed with."""
        if isinstance(stage, Product):
            source, matrix, out = stage.source, stage.matrix, stage.out
            factors = {source.dtype} if matrix.dtype == torch.int8 else {source.dtype, matrix.dtype}
            if len(factors) > 1 or out.dtype != arithmetic(source.dtype):
                raise PlanError(
                    f"a product of {source.name} ({source.dtype}) and {matrix.name} ({matrix.dtype}) is written to "
                    f"{out.name} ({out.dtype})"
                )
            return
        lines: list[torch.dtype | None] = []
        for i in stage.body:
            given = {lines[a] for a in i.args} - {None}
            found = i.buffer.dtype if i.op == "load" and i.buffer else i.dtype or next(iter(given), None)
            if i.is_write and i.buffer and given - {i.buffer.dtype}:
                raise PlanError(f"{i.buffer.name} ({i.buffer.dtype}) takes {found} without a cast")
            if i.op != "cast" and not i.is_write and any(d != arithmetic(d) or d != found for d in given if d):
                raise PlanError(f"a map computes {i.op} of {' and '.join(sorted(map(str, given)))}")
            lines.append(found)

    def _check_order(self, stage: Product | Map, written: dict[str, set[int]]) -> None:
        """Check that what is emitted is not read before: its memory may be another's, whose numbers are still there."""
        if isinstance(stage, Product):
            accesses = [("load", stage.source, 0, stage.source.width)]
        else:
            accesses = [(i.op, i.buffer, i.offset, int(i.view.index.max()) + 1 if i.view else
                         min(stage.width, i.buffer.width)) for i in stage.body if i.buffer]  # fmt: skip
        for op, buffer, start, width in accesses:
            if buffer.kind != "emit":
                continue
            features = range(start, start + width)
            if op == "load" and not written[buffer.name].issuperset(features):
                raise PlanError(f"{buffer.name} from {start} is read before it is written")
            if op == "store":
                written[buffer.name].update(features)

    def _meet(self, read: Instruction, written: Instruction, width: int) -> bool:
        """Whether a map may write, at one feature, what it reads at another."""
        assert read.buffer
        assert written.buffer
        if self._memory(read.buffer) is not self._memory(written.buffer):
            return False
        if width == 1 or written.op == "accumulate":
            return False
        if written.is_reduction or read.buffer.width == 1:
            return True
        if read.view:
            first, last = (read.offset + int(end) for end in (read.view.index.min(), read.view.index.max()))
            return first < written.offset + width and written.offset <= last
        return read.offset != written.offset and abs(read.offset - written.offset) < width

    def _read(self, buffer: Buffer, t: int) -> Prints:
        if buffer.kind in ("state", "scratch"):
            return self.rows[buffer.name]
        if buffer.kind in ("sequence", "emit"):
            now: Prints = lookup(buffer.name, self.sequences)[t]
            return now
        if buffer.kind == "previous":
            return lookup(buffer.name, self.sequences)[t - 1] if t else first_rows(buffer.of, buffer.width)
        return self.fixed[buffer.name]

    def _map(self, stage: Map, t: int) -> None:
        lines: list[Prints] = []
        for i in stage.body:
            if i.op == "load":
                assert i.buffer
                row = self._read(i.buffer, t)
                if i.view:
                    lines.append(row[i.offset + i.view.index])
                    continue
                lines.append((row if i.buffer.width == 1 else row[i.offset : i.offset + stage.width]).copy())
            elif i.op == "constant":
                lines.append(constant(i.number))
            elif i.is_write:
                self._write(i, stage.width, lines[i.args[0]], t)
            else:
                lines.append(applied(named(i.op, i.dtype), *(lines[a] for a in i.args)))

    def _write(self, i: Instruction, width: int, prints: Prints, t: int) -> None:
        assert i.buffer
        name = i.buffer.name
        if i.is_reduction and i.view:
            row = np.broadcast_to(prints, width)
            self.rows[name][:] = reduced_to(i.op, row, i.buffer.width, i.view.index)
            return
        if i.is_reduction:
            self.rows[name][:] = reduced(i.op, np.broadcast_to(prints, width))
            return
        stop = i.offset + (1 if i.buffer.width == 1 else width)
        if i.op == "accumulate":
            self.totals[name][i.offset : stop] += prints
        else:
            place = self.sequences[name][t] if i.buffer.kind == "emit" else self.rows[name]
            place[i.offset : stop] = prints


def _named(i: Instruction) -> str:
    return f"{i.buffer.name if i.buffer else ''} from {i.offset}"
