"""A Loop in plain PyTorch: the calling convention of kernels in executable form, which each target is compared with.

It is written to be read and to fail early, not to be quick: memory that may not be read before it is written holds NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from everloop.compiler.compact import Compact
from everloop.compiler.dtypes import arithmetic
from everloop.compiler.kernel import Rows, StepKernel
from everloop.compiler.loop import Buffer, Instruction, Loop, Map, Product
from everloop.compiler.operations import OPERATIONS
from everloop.compiler.target import LoopTarget
from everloop.compiler.time_axis import TimeAxis
from everloop.errors import UnsupportedError


class Interpreter:
    """The kernel of a loop; how it is called is said in `kernel`."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.computed = arithmetic(max((b.dtype for b in loop.buffers), key=lambda dtype: dtype.itemsize))
        dtypes = sorted({str(b.dtype) for b in loop.buffers})
        self.description, self.source = f"interpreted, {' and '.join(dtypes)}", repr(loop)

    def __call__(
        self,
        time: TimeAxis,
        buffers: Mapping[str, Tensor],
        *,
        first: Rows | None = None,
        final: Rows | None = None,
        restart: Rows | None = None,
    ) -> None:
        if (compact := time.compact) is not None:
            padded = self._padded(buffers, compact)
            self(replace(time, compact=None), padded, first=first, final=final, restart=restart)
            for emit in (b.name for b in self.loop.buffers if b.kind == "emit"):
                if padded[emit] is not buffers[emit]:
                    buffers[emit].copy_(compact.at(padded[emit], compact.place))
            return
        first, final, restart = first or {}, final or {}, restart or {}
        T, B, lengths, reset, reverse = time.steps, time.batch, time.lengths, time.reset, time.reverse
        self.buffers, self.first, self.restart = buffers, first, restart
        ends = torch.full((B,), T) if lengths is None else lengths
        memory = {b.name: torch.full((B, b.width), torch.nan, dtype=b.dtype)
                  for b in self.loop.buffers if b.kind in ("state", "scratch")}  # fmt: skip
        for state in self.loop.states:
            given = first.get(state.name)
            memory[state.name] = (
                torch.zeros(B, state.width, dtype=state.dtype) if given is None else given.to(state.dtype, copy=True)
            )
        self.memory = memory
        for buffer in self.loop.buffers:
            if buffer.kind == "emit":
                for b in range(B):
                    buffers[buffer.name][int(ends[b]) :, b] = 0
            elif buffer.kind == "total":
                buffers[buffer.name].zero_()
        for s in reversed(range(T)) if self.loop.is_gradient else range(T):
            rows = torch.nonzero(s < ends)[:, 0]
            if len(rows):
                when = ends[rows] - 1 - s if reverse else torch.full_like(rows, s)
                at = torch.zeros(len(rows), dtype=torch.bool) if reset is None else reset[when, rows]
                self._step(s, when, rows, at, reverse)
        for state in self.loop.states:
            place = final.get(state.name)
            if place is not None:
                place.copy_(memory[state.name])

    def _padded(self, buffers: Mapping[str, Tensor], compact: Compact) -> dict[str, Tensor]:
        """Return the buffers with compact rows [N, n] of every step as [T, B, n]; what shares memory still does."""
        padded, found = dict(buffers), dict[int, Tensor]()
        for b in self.loop.buffers:
            if b.kind in ("sequence", "previous", "emit") and buffers[b.name].dim() == 2:
                rows = buffers[b.name]
                padded[b.name] = (
                    found.setdefault(rows.data_ptr(), compact.pad(rows)) if len(rows) else compact.pad(rows)
                )
        return padded

    def _step(self, s: int, time: Tensor, rows: Tensor, at: Tensor, reverse: bool) -> None:
        if not self.loop.is_gradient:
            for state in self.loop.states:
                given = self.restart.get(state.name)
                self.memory[state.name][rows[at]] = 0.0 if given is None else given.to(state.dtype)
        for stage in self.loop.stages:
            if isinstance(stage, Product):
                source = self._read(stage.source, s, time, rows, at, reverse)
                matrix, dtype = self.buffers[stage.matrix.name], stage.out.dtype
                assert matrix.dtype == stage.matrix.dtype
                assert matrix.dtype in (torch.int8, source.dtype)
                assert source.shape[1] == matrix.shape[0 if stage.transposed else 1]
                assert stage.out.kind in ("scratch", "state")
                self.memory[stage.out.name][rows] = source.to(dtype) @ (matrix if stage.transposed else matrix.T).to(
                    dtype
                )
            else:
                self._map(stage, s, time, rows, at, reverse)
        if self.loop.is_gradient:
            for state in self.loop.states:
                total = self.restart.get(state.name)
                if total is not None:
                    total += self.memory[state.name][rows[at]].sum(0)
                self.memory[state.name][rows[at]] = 0.0

    def _read(self, buffer: Buffer, s: int, time: Tensor, rows: Tensor, at: Tensor, reverse: bool) -> Tensor:
        if buffer.kind in ("state", "scratch"):
            return self.memory[buffer.name][rows]
        tensor = self.buffers[buffer.name]
        if buffer.kind in ("sequence", "emit"):
            return tensor[time, rows]
        if buffer.kind == "row":
            return tensor[rows]
        if buffer.kind == "vector":
            return tensor.expand(len(rows), -1)
        assert buffer.kind == "previous"
        given, origin = self.first.get(buffer.of), self.restart.get(buffer.of)
        zeros = torch.zeros(len(rows), buffer.width)
        found = (zeros if given is None else given[rows]) if s == 0 else tensor[time + 1 if reverse else time - 1, rows]
        return torch.where(at[:, None], zeros if origin is None else origin, found).to(buffer.dtype)

    def _map(self, stage: Map, s: int, time: Tensor, rows: Tensor, at: Tensor, reverse: bool) -> None:
        lines: list[Tensor] = []
        stored = False
        for i in stage.body:
            if i.is_write:
                stored = True
                assert i.buffer is not None
                width = 1 if i.op == "store" and i.buffer.width == 1 else stage.width
                line, is_number = lines[i.args[0]], stage.body[i.args[0]].op == "constant"
                assert is_number or line.dtype == i.buffer.dtype, f"{i.buffer} takes {line.dtype}"
                self._write(i, stage, line.to(i.buffer.dtype).expand(len(rows), width), time, rows)
                lines.append(torch.empty(0))
                continue
            assert not stored, "loads and arithmetic come before stores"
            if i.op == "load":
                assert i.buffer is not None
                whole = self._read(i.buffer, s, time, rows, at, reverse)
                if i.view:
                    assert i.view.width == stage.width
                    lines.append(whole[:, i.offset + i.view.index])
                    continue
                spread = i.buffer.width == 1
                assert spread or i.offset + stage.width <= i.buffer.width
                lines.append(whole if spread else whole[:, i.offset : i.offset + stage.width])
            elif i.op == "constant":
                lines.append(torch.full((len(rows), 1), i.number, dtype=self.computed))
            elif i.op == "cast":
                lines.append(lines[i.args[0]].to(i.dtype))
            else:
                assert OPERATIONS[i.op].core, i.op
                assert {lines[a].dtype for a in i.args} == {self.computed}, f"{i.op} of what is only stored"
                lines.append(OPERATIONS[i.op].meaning(*(lines[a] for a in i.args)))

    def _write(self, i: Instruction, stage: Map, value: Tensor, time: Tensor, rows: Tensor) -> None:
        assert i.buffer is not None
        name, stop = i.buffer.name, i.offset + value.shape[1]
        if value.shape[1] < stage.width:
            assert i.buffer.kind in ("scratch", "emit")
            assert not any(line.op == "load" and line.buffer == i.buffer for line in stage.body)
        if i.is_reduction:
            assert i.buffer.kind == "scratch"
            assert i.buffer.width == 1 or i.view
            numbers = (i.buffer.width, *i.view.numbers) if i.view else ()
            self.memory[name][rows] = OPERATIONS[i.op].meaning(value, *numbers)
        elif i.op == "accumulate":
            assert i.buffer.kind == "total"
            if i.buffer.height:
                self.buffers[name][rows, i.offset : stop] += value
            else:
                self.buffers[name][i.offset : stop] += value.sum(0)
        elif i.buffer.kind == "emit":
            self.buffers[name][time, rows, i.offset : stop] = value
        else:
            assert i.buffer.kind in ("state", "scratch")
            assert stop <= i.buffer.width
            self.memory[name][rows, i.offset : stop] = value


class Interpreted(LoopTarget):
    """The interpreter as a target."""

    name = "interpreter"

    def refusal(self, dtype: torch.dtype, device: torch.device) -> str:
        return ""

    def compile(self, loop: Loop) -> Interpreter:
        return Interpreter(loop)

    def compile_step(self, loop: Loop) -> StepKernel:
        raise UnsupportedError("the interpreter takes no single steps")

    def empty(self, shape: Sequence[int], like: Tensor) -> Tensor:
        return like.new_full(shape, torch.nan)


INTERPRETED = Interpreted()
