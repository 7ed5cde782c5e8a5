"""Plans on disk: what the passes made of a traced step, as plain data, so that a new process need not run them again.

The name of a file stands for everything the passes see: the traced step and the compiler's own sources. What they do
not look into (a function of PyTorch, a tensor that the step made) is written as its number among those of the step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from everloop.compiler import disk_cache
from everloop.compiler.hoist import Split
from everloop.compiler.ir import Graph, Type, Value
from everloop.compiler.loop import Buffer, Instruction, Loop, Map, Product
from everloop.compiler.plan import FactorPart, ForwardPlan, TrainingPlan
from everloop.compiler.view import View

Thing = TypeVar("Thing")
_DTYPES: dict[str, Any] = {"None": None, **{str(d): d for d in vars(torch).values() if isinstance(d, torch.dtype)}}
_NO_PLAN = (ValueError, TypeError, LookupError, AttributeError, RecursionError)  # what decoding something else raises


@lru_cache
def sources(folder: Path = Path(__file__).parent) -> str:
    """Return a digest of the compiler's sources and the PyTorch version.

    It is empty where the sources cannot be read, in an archive for instance: nothing is kept then.
    """
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))]
    return disk_cache.key(torch.__version__, *texts) if texts else ""


sources()  # now, while they are what this process has just loaded


class PlanCache:
    """The plans of one traced step."""

    def __init__(self, graph: Graph) -> None:
        values = graph.values
        self.opaque = [v.data for v in values if _is_opaque(v)]
        self._number = {id(data[-1]): k for k, data in enumerate(self.opaque)}
        lines: dict[str, int] = {}  # which values one line of the step has made, which roll.py asks
        where = [lines.setdefault(v.where, len(lines)) for v in values]
        self._name = json.dumps([self._of_graph(graph), where])

    def split(self, make: Callable[[], Split]) -> Split:
        return self._kept("split", make, self._of_split, self._split)

    def forward(self, make: Callable[[], ForwardPlan]) -> ForwardPlan:
        return self._kept("forward", make, _of_forward, _forward)

    def training(self, wanted: frozenset[str], make: Callable[[], TrainingPlan]) -> TrainingPlan:
        return self._kept(f"training {sorted(wanted)}", make, _of_training, _training)

    def step(self, make: Callable[[], tuple[Graph, Loop]]) -> tuple[Graph, Loop]:
        return self._kept(
            "step",
            make,
            lambda made: [self._of_graph(made[0]), _of_loop(made[1])],
            lambda data: (self._graph(data[0]), _loop(data[1])),
        )

    def _kept(
        self, what: str, make: Callable[[], Thing], encode: Callable[[Thing], Any], decode: Callable[[Any], Thing]
    ) -> Thing:
        """Return what is on disk, or what `make` makes, which is there from now on."""
        if not sources():
            return make()
        name = disk_cache.key(what, self._name, sources()) + ".plan"
        found = disk_cache.read(name)
        if found is not None:
            with suppress(*_NO_PLAN):
                return decode(json.loads(found))
        made = make()
        disk_cache.write(name, json.dumps(encode(made)).encode())
        return made

    def _of_split(self, split: Split) -> Any:
        return [*(self._of_graph(g) for g in (split.prologue, split.loop, split.epilogue)), split.exposed, split.turns]

    def _split(self, data: Any) -> Split:
        prologue, loop, epilogue = (self._graph(part) for part in data[:3])
        return Split(prologue, loop, epilogue, tuple(data[3]), data[4])

    def _of_graph(self, graph: Graph) -> Any:
        values = graph.values
        at = {v: k for k, v in enumerate(values)}
        lines = [(v.op, [at[a] for a in v.args], v.type.shape, v.type.rows, str(v.type.dtype), self._of_data(v))
                 for v in values]  # fmt: skip
        return [lines, [(name, at[v]) for name, v in graph.outputs.items()]]

    def _of_data(self, value: Value) -> tuple[Any, ...]:
        return (self._number[id(value.data[-1])],) if _is_opaque(value) else value.data

    def _graph(self, data: Any) -> Graph:
        lines, outputs = data
        values: list[Value] = []
        types: dict[tuple[Any, ...], Type] = {}
        for op, args, shape, rows, dtype, inside in lines:
            key = (*shape, rows, dtype)
            kind = types.get(key) or types.setdefault(key, Type(tuple(shape), rows, _DTYPES[dtype]))
            given = self.opaque[inside[0]] if len(inside) == 1 and op in ("input", "call") else tuple(inside)
            values.append(Value(op, tuple([values[a] for a in args]), kind, given))
        return Graph({name: values[k] for name, k in outputs})


def _is_opaque(value: Value) -> bool:
    return value.op == "call" or (value.op == "input" and value.group == "literal")


def _of_loop(loop: Loop) -> Any:
    buffers = {b: k for k, b in enumerate(loop.buffers)}
    stages = [
        (buffers[s.out], buffers[s.source], buffers[s.matrix], s.transposed)
        if isinstance(s, Product)
        else (
            s.width,
            [_of_line(i, buffers) for i in s.body],
        )
        for s in loop.stages
    ]
    return [[_of_buffer(b) for b in buffers], stages, [buffers[s] for s in loop.states], loop.is_gradient]


def _loop(data: Any) -> Loop:
    buffers = [_buffer(b) for b in data[0]]
    stages: list[Product | Map] = []
    for stage in data[1]:
        if len(stage) == 4:
            out, source, matrix = (buffers[k] for k in stage[:3])
            stages.append(Product(out, source, matrix, stage[3]))
        else:
            stages.append(Map(stage[0], tuple(_line(line, buffers) for line in stage[1])))
    return Loop(tuple(stages), tuple(buffers[k] for k in data[2]), data[3])


def _of_line(i: Instruction, buffers: dict[Buffer, int]) -> Any:
    at = None if i.buffer is None else buffers[i.buffer]
    return (i.op, i.args, at, i.offset, i.number, str(i.dtype), i.view and i.view.numbers)


def _line(data: Any, buffers: list[Buffer]) -> Instruction:
    op, args, at, offset, number, dtype, view = data
    buffer = None if at is None else buffers[at]
    return Instruction(op, tuple(args), buffer, offset, number, _DTYPES[dtype], view and View.of(view))


def _of_buffer(buffer: Buffer) -> Any:
    return (buffer.name, buffer.kind, buffer.width, buffer.height, buffer.of, str(buffer.dtype))


def _buffer(data: Any) -> Buffer:
    name, kind, width, height, of, dtype = data
    return Buffer(name, kind, width, height, of, _DTYPES[dtype])


def _of_forward(plan: ForwardPlan) -> Any:
    return [_of_loop(plan.loop), plan.emits, plan.in_place]


def _forward(data: Any) -> ForwardPlan:
    return ForwardPlan(_loop(data[0]), *data[1:])


def _of_training(plan: TrainingPlan) -> Any:
    pairs = {m: [[[(r.name, r.start, r.stop, r.of) for r in factor] for factor in pair] for pair in each]
             for m, each in plan.pairs.items()}  # fmt: skip
    totals = {name: _of_buffer(b) for name, b in plan.totals.items()}
    return [_of_forward(plan.forward), _of_loop(plan.gradient), plan.reads, pairs, totals, plan.emits, plan.in_place]


def _training(data: Any) -> TrainingPlan:
    forward, gradient, reads, pairs, totals, emits, in_place = data
    factors: dict[str, Any] = {m: [tuple(tuple(FactorPart(*r) for r in factor) for factor in pair) for pair in each]
                               for m, each in pairs.items()}  # fmt: skip
    sums = {name: _buffer(b) for name, b in totals.items()}
    return TrainingPlan(_forward(forward), _loop(gradient), reads, factors, sums, emits, in_place)
