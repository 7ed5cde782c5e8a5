"""A step on its own: one kernel for all of it, over parameters that are read where they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everloop.cell import Cell
from everloop.compiler import passes
from everloop.compiler.bindings import Bindings
from everloop.compiler.dtypes import arithmetic
from everloop.compiler.hoisted import HoistedGraph
from everloop.compiler.ir import Graph, Value
from everloop.compiler.loop import Loop
from everloop.compiler.plan_cache import PlanCache
from everloop.compiler.single import INPUT
from everloop.compiler.target import LoopTarget
from everloop.errors import UnsupportedError

_NOTHING = torch.empty(0)


@dataclass(frozen=True)
class BoundStep:
    """A step of some rows. call(*addresses of each derived tensor, x, states, further rows, new states)."""

    call: Callable[..., None]
    derived: Callable[[Bindings], Sequence[Tensor]] | None


class Step:
    """The passes applied to a step that runs alone, for one dtype.

    The kernel reads parameters (and slices of them) in place, and arithmetic on vectors of parameters is part of it.
    Arithmetic on matrices runs before a step, anew where the parameters are not bit for bit what they were. `target`
    makes the kernel. A step of bfloat16 has all its tensors in bfloat16, and computes in float32, before the step too.
    """

    def __init__(self, graph: Graph, dtype: torch.dtype, target: LoopTarget) -> None:
        prologue, self.loop = PlanCache(graph).step(lambda: _planned(graph))
        self.target, self.dtype = target, dtype
        moved, computed = _moved(prologue)
        self.prologues = HoistedGraph(moved, dtype, target), HoistedGraph(computed, arithmetic(dtype), target)
        names = {b.name for b in self.loop.buffers if b.kind == "sequence"}
        if INPUT not in names:
            raise UnsupportedError("a step that does not read its input is not worth a kernel of its own")
        self.kernel = target.compile_step(self.loop)
        self.rows = tuple(v.name for v in graph.inputs if v.group == "rows" and v.name in names)  # read besides x
        self.states = tuple(graph.outputs)
        self.checked: dict[Any, str] = {}  # what of it was verified on a user's data, by kind of call

    @classmethod
    def of(cls, cell: Cell, values: Bindings, dtype: torch.dtype, target: LoopTarget) -> Step:
        """Return the compiled step of a cell; raises UnsupportedError where it cannot be traced."""
        return cls(passes.run("step", cell=cell, bindings=values, dtype=arithmetic(dtype)), dtype, target)

    def sources(self, values: Bindings, parts: Sequence[HoistedGraph] = ()) -> list[Tensor]:
        """Return the tensors that the step, or some parts before it, reads besides its input and its states."""
        sources = dict.fromkeys(source for part in parts or self.prologues for source in part.sources)
        return [name if group == "literal" else values.fixed[name] for group, name in sources]

    def bind(self, values: Bindings, batch: int) -> BoundStep:
        """Return the step over these parameters, good as long as they stay where they are."""
        memory = {s.untyped_storage().data_ptr() for s in self.sources(values)}
        found = self.fixed(values)
        derived = [name for name, t in found.items() if t.untyped_storage().data_ptr() not in memory]
        first, final = ([f"{when} {s}" for s in self.states] for when in ("first", "final"))
        vary = [*derived, INPUT, *first[1:], *self.rows, *final]
        call = self.kernel.over(batch, found, vary)
        return BoundStep(call, _Derived(self, derived) if derived else None)

    def fixed(self, values: Bindings) -> Mapping[str, Tensor]:
        """Return what the kernel reads of parameters alone."""
        moved, computed = (part(values, _NOTHING, batch_major=False) for part in self.prologues)
        found = moved | {name: t.to(self.dtype) if t.is_floating_point() else t for name, t in computed.items()}
        return {name: t if t.dim() < 2 or 1 in t.stride() else t.contiguous() for name, t in found.items()}


class _Derived:
    """What is made of parameters before a step, as long as these stay as they are."""

    def __init__(self, step: Step, names: Sequence[str]) -> None:
        self._step, self._names = step, names
        is_read = [not {name for name, *_ in part.outputs}.isdisjoint(names) for part in step.prologues]
        self._parts = [part for part, is_one in zip(step.prologues, is_read, strict=True) if is_one]
        self._known: tuple[list[Tensor], list[Tensor]] | None = None  # copies of the parameters, and what was made

    def __call__(self, values: Bindings) -> Sequence[Tensor]:
        sources = [_bits(t) for t in self._step.sources(values, self._parts)]
        if self._known is None or not all(map(torch.equal, self._known[0], sources)):
            made = self._step.fixed(values)
            self._known = [s.clone() for s in sources], [made[name] for name in self._names]
        return self._known[1]


def _bits(tensor: Tensor) -> Tensor:
    """Return a tensor that is equal where all bits are, NaN and the sign of 0 among them."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}.get(tensor.element_size())
    return tensor.detach().view(kind) if kind and tensor.is_floating_point() else tensor.detach()


def _moved(prologue: Graph) -> tuple[Graph, Graph]:
    """Return the results that are numbers of parameters, elsewhere at most, and those that are computed of them."""
    is_moved: dict[Value, bool] = {}
    for value in prologue.values:
        is_moved[value] = value.op == "input" or (value.kind == "layout" and all(is_moved[a] for a in value.args))
    parts = ({n: v for n, v in prologue.outputs.items() if is_moved[v] == wanted} for wanted in (True, False))
    moved, computed = (Graph(part, prologue.names) for part in parts)
    return moved, computed


def _planned(graph: Graph) -> tuple[Graph, Loop]:
    """Return what runs before each step, and the step."""
    parts = passes.run("single split", step=graph)
    return parts.prologue, passes.run("single step", **{"single split": parts}).loop
