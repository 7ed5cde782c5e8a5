"""A Plan: everything a target needs to run a step over time, and its gradient."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from everloop.compiler.gradient import Gradient, before, sequence_of
from everloop.compiler.hoist import Split
from everloop.compiler.ir import Graph, Value
from everloop.compiler.loop import Buffer, Loop
from everloop.compiler.placement import Location, Store
from everloop.compiler.precision import accumulating, lowered
from everloop.compiler.rematerialisation import Rematerialisation
from everloop.compiler.schedule import Schedule


@dataclass(frozen=True)
class FactorPart:
    """Rows of every step and sequence, one factor of a matrix's gradient.

    name: the memory they are in; of: the state they are one step behind ("" where they are not).
    """

    name: str
    start: int
    stop: int
    of: str = ""


Factor = tuple[FactorPart, ...]


@dataclass(frozen=True)
class ForwardPlan:
    """The forward loop.

    emits: the width of each sequence it writes; in_place: the sequence whose memory an emit may take.
    """

    loop: Loop
    emits: dict[str, int]
    in_place: dict[str, str]


@dataclass(frozen=True)
class ScheduledForward(ForwardPlan):
    """A forward loop with the schedule and the graph it was written from.

    saved: for each output of the graph that is written at every step, the sequence it is in, and from which feature on.
    """

    schedule: Schedule
    graph: Graph
    saved: dict[str, tuple[str, int]]


@dataclass(frozen=True)
class TrainingPlan:
    """A forward loop that saves, and the gradient loop that reads.

    reads:  for each buffer the gradient reads and does not write, the forward loop's memory of it.
    pairs:  for each matrix, the factors (left, right) of its gradient, the sum over time and batch of left.T @ right;
            each factor is a row of parts, side by side.
    totals: the loop inputs whose gradient is a total; emits: the width of each sequence the gradient loop writes;
    in_place: the saved sequence whose memory an emit may take, if nobody reads that again.
    """

    forward: ForwardPlan
    gradient: Loop
    reads: dict[str, str]
    pairs: dict[str, list[tuple[Factor, Factor]]]
    totals: dict[str, Buffer]
    emits: dict[str, int]
    in_place: dict[str, str]


@dataclass(frozen=True)
class DerivedTraining(TrainingPlan):
    """A training with what it was made from.

    graph: what a step of the gradient loop computes; its outputs are gradients, and factors by `factor_names`.
    """

    forward: ScheduledForward
    rematerialisation: Rematerialisation
    derivative: Gradient
    graph: Graph


def factor_names(matrix: str, k: int) -> tuple[str, str]:
    """Return the names of the k-th pair of factors of a matrix's gradient."""
    return f"left {k} of {matrix}", f"right {k} of {matrix}"


def plan_forward(split: Split) -> ScheduledForward:
    """Return the loop that only computes."""
    return forward_of(split.loop, split.exposed, {})


def dtype_of(value: Value) -> torch.dtype:
    """Return the dtype of a value of a lowered graph."""
    assert value.type.dtype, f"{value!r} has no dtype"
    return value.type.dtype


def buffer_of(leaf: Value) -> Buffer:
    """Return the buffer of an input of a loop's graph."""
    group, name, dtype = leaf.group, leaf.name, dtype_of(leaf)
    if group == "matrix":
        return Buffer(name, "matrix", leaf.type.shape[1], leaf.type.shape[0], dtype=dtype)
    of = name.removesuffix(before("")) if group == "previous" else ""
    return Buffer(name, group, leaf.width, of=of, dtype=dtype)  # type: ignore[arg-type]


def leaves_of(graph: Graph) -> dict[Value, Location]:
    """Return where the inputs of a loop's graph are."""
    return {leaf: (buffer_of(leaf), 0) for leaf in graph.inputs}


def forward_of(loop: Graph, sequences: Iterable[str], saved: dict[str, tuple[Value, str, int]]) -> ScheduledForward:
    """Return the forward loop that also writes whole sequences and what is saved.

    sequences: the states written at every step.
    saved: by name, the value, the emit buffer and the offset where the gradient will read it.
    """
    wanted = {**loop.outputs, **{sequence_of(s): loop.outputs[s] for s in sequences}}
    wanted |= {f"save {name}": value for name, (value, _, _) in saved.items()}
    graph = lowered(Graph(wanted), accumulating(loop), loop.dtype)
    widths = {v.name: v.width for v in loop.inputs}
    emits: dict[str, int] = {sequence_of(s): loop.outputs[s].width for s in sequences}
    stores, places = [], {sequence_of(s): (sequence_of(s), 0) for s in sequences}
    for value, buffer, _ in saved.values():
        emits[buffer] = widths[buffer[:-1]] if buffer.endswith("'") else value.width
    for name, value in graph.outputs.items():
        if name in loop.outputs:
            stores.append(Store(value, Buffer(name, "state", value.width, dtype=dtype_of(value))))
            if sequence_of(name) in emits:
                of_now = graph.outputs[sequence_of(name)]
                stores.append(Store(of_now, Buffer(sequence_of(name), "emit", of_now.width, dtype=dtype_of(of_now))))
        elif name not in places:
            _, buffer, offset = saved[name.removeprefix("save ")]
            places[name] = (buffer, offset)
            stores.append(Store(value, Buffer(buffer, "emit", emits[buffer], dtype=dtype_of(value)), offset))
    schedule = Schedule(stores, leaves_of(graph))
    states = tuple(s.buffer for s in stores if s.buffer.kind == "state")
    in_place = {b: b[:-1] for b in emits if b.endswith("'")}
    return ScheduledForward(Loop(schedule.stages, states), emits, in_place, schedule, graph, places)
