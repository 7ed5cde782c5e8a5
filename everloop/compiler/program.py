"""What the compiler makes of a cell's step: plans and kernels, made when they are first needed."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everloop.cell import Cell
from everloop.compiler import passes
from everloop.compiler.bindings import Bindings
from everloop.compiler.gradient import gradient_of, sequence_of
from everloop.compiler.hoist import Split
from everloop.compiler.hoisted import HoistedGraph
from everloop.compiler.ir import Graph
from everloop.compiler.kernel import Kernel
from everloop.compiler.loop import Instruction, Loop, Map
from everloop.compiler.plan import ForwardPlan, TrainingPlan
from everloop.compiler.plan_cache import PlanCache
from everloop.compiler.target import LoopTarget

LARGE = 8  # states that are as many times as wide as what a step gives, such as matrices


@dataclass(frozen=True)
class InferenceKernel:
    """A forward loop and its kernel. halves: the emits that it writes in bfloat16, and what it reads so."""

    plan: ForwardPlan
    kernel: Kernel
    halves: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TrainingKernels:
    """A forward loop that saves, the gradient loop, and their kernels.

    kept: the forward memory the gradient reads; halves: what of it is held in bfloat16, and of what the loop reads;
    slopes: the gradients that the gradient loop writes or is given so, and the factors that it writes so.
    """

    plan: TrainingPlan
    forward: Kernel
    gradient: Kernel
    kept: tuple[str, ...]
    halves: frozenset[str] = frozenset()
    slopes: frozenset[str] = frozenset()


class Program:
    """The passes applied to one cell, for one dtype. `target` makes kernels of loops.

    turns: how many turns of the loop a step takes; moving: the loop inputs that differ from step to step.
    output: what the cell gives at every step, its first state or declared outputs; cell_states: its states.
    states: the outputs of the loop; begins: for each of these, its place among the states of the cell, None for rows
    that are no state, and its width.
    """

    def __init__(
        self, graph: Graph, dtype: torch.dtype, target: LoopTarget, cell_states: Sequence[str] | None = None
    ) -> None:
        self.graph = graph
        self.dtype = dtype
        self.target = target
        self._plans = PlanCache(graph)
        self.split: Split = self._plans.split(lambda: passes.run("split", step=graph))
        self.turns = self.split.turns
        self.prologue = HoistedGraph(self.split.prologue, dtype, target)
        loop_inputs = self.split.loop_inputs
        self.loop_inputs = tuple(loop_inputs)
        self.moving = frozenset(name for name, leaf in loop_inputs.items() if leaf.group == "sequence")
        self.states = tuple(self.split.loop.outputs)
        self.output = next(iter(graph.outputs))
        self.cell_states = tuple(graph.outputs if cell_states is None else cell_states)
        of_cell, outputs_of = self.cell_states, self.split.loop.outputs
        self.begins = [(of_cell.index(n) if n in of_cell else None, v.width) for n, v in outputs_of.items()]
        # What runs after the loop: of the output for every step, of other states for the last.
        late = self.split.epilogue.outputs
        of_output = {name: v for name, v in late.items() if name == self.output}
        of_states = {name: v for name, v in late.items() if name != self.output}
        self.epilogue_output = HoistedGraph(Graph(of_output), dtype, target) if of_output else None
        self.epilogue_states = HoistedGraph(Graph(of_states), dtype, target) if of_states else None
        widths = [width for _, width in self.begins]
        self.read_width = sum(loop_inputs[name].width for name in self.moving)  # of what the loop reads a row
        self.has_large_states = sum(widths) >= LARGE * sum(outputs_of[name].width for name in self.split.exposed)
        self.checked: dict[Any, str] = {}  # what of it was verified on a user's data, by kind of call
        self._low: frozenset[str] | None = None
        self._plan: ForwardPlan | None = None
        self._inference: InferenceKernel | None = None
        self._trained: dict[frozenset[str], TrainingKernels] = {}
        self._lock = threading.RLock()

    @classmethod
    def of(cls, cell: Cell, values: Bindings, dtype: torch.dtype, target: LoopTarget) -> Program:
        """Return the program of a cell; raises UnsupportedError where its step cannot be traced."""
        graph = passes.run("step", cell=cell, bindings=values, dtype=dtype)
        return cls(graph, dtype, target, tuple(cell.state_sizes))

    def in_turns(self, loop_inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the loop inputs of whole rows [T, B, n] with a row of every turn."""
        if self.turns == 1:
            return dict(loop_inputs)
        found = dict(loop_inputs)
        for name in self.moving:
            rows = loop_inputs[name]
            found[name] = rows[:, None].expand(-1, self.turns, *rows.shape[1:]).flatten(0, 1).contiguous()
        return found

    @property
    def low(self) -> frozenset[str]:
        """The loop inputs that are held in bfloat16: results of products that the loop does not normalise."""
        if self._low is None:
            self._low = self._found_low() if self.prologue.may_be_low else frozenset()
        return self._low

    def _found_low(self) -> frozenset[str]:
        loop = self._forward().loop
        return self.target.halves(loop, self.prologue.may_be_low - _normalised(loop))

    def _forward(self) -> ForwardPlan:
        with self._lock:
            if self._plan is None:
                self._plan = self._plans.forward(lambda: passes.run("inference", split=self.split))
            return self._plan

    def inference(self) -> InferenceKernel:
        """Return what runs without gradients."""
        low = self.low
        if self._inference is None:
            with self._lock:
                plan = self._forward()
                output = () if self.epilogue_output else (sequence_of(self.output),)
                halves = self.target.halves(plan.loop, (plan.emits.keys() & output) | low)
                self._inference = InferenceKernel(plan, self._compiled(plan.loop, halves), halves)
        return self._inference

    def training(self, wanted: frozenset[str]) -> TrainingKernels:
        """Return what runs with gradients of the states and of the `wanted` loop inputs."""
        found, low = self._trained.get(wanted), self.low
        if found is None:
            with self._lock:
                plan = self._plans.training(wanted, lambda: passes.run("training", split=self.split, wanted=wanted))
                kept = tuple(dict.fromkeys(plan.reads.values()))
                halves = self._halves(plan, low)
                back = frozenset(name for name, place in plan.reads.items() if place in halves)
                slopes = self.target.halves(plan.gradient, self._slopes(plan, low, halves))
                kernels = self._compiled(plan.forward.loop, halves), self._compiled(plan.gradient, back | slopes)
                found = self._trained[wanted] = TrainingKernels(plan, *kernels, kept, halves, slopes)
        return found

    def _slopes(self, plan: TrainingPlan, low: frozenset[str], halves: frozenset[str]) -> set[str]:
        """Return what the gradient loop holds in bfloat16: gradients of what is held so, and what is only a factor."""
        exposed = {sequence_of(name) for name in self.split.exposed}
        gradients = {gradient_of(name) for name in (low | exposed) & halves}
        factors = plan.emits.keys() - {gradient_of(name) for name in self.loop_inputs}
        return gradients | factors if self.target.narrow else gradients

    def _compiled(self, loop: Loop, halves: frozenset[str]) -> Kernel:
        return self.target.compile_narrow(loop, halves) if halves else self.target.compile(loop)

    def _halves(self, plan: TrainingPlan, low: frozenset[str]) -> frozenset[str]:
        """Return which of `low` and of the emits for the gradient both loops can hold in bfloat16, under each name."""
        written = self.target.halves(plan.forward.loop, (plan.forward.emits.keys() & plan.reads.values()) | low)
        reads = {name: place for name, place in plan.reads.items() if place in written}
        used = {b.name for b in plan.gradient.buffers} & reads.keys()
        may_be = self.target.halves(plan.gradient, used) - _compared(plan.gradient)
        return written - {reads[name] for name in used - may_be}


def _compared(loop: Loop) -> set[str]:
    """Return what a loop computes from to ask whether two values are equal, as a largest value and those it is of."""
    found = set[str]()
    while True:
        before = len(found)
        for stage in loop.stages:
            if not isinstance(stage, Map):
                continue
            asked = set[int]()
            for at, line in reversed([*enumerate(stage.body)]):
                is_kept = line.is_write and line.buffer is not None and line.buffer.name in found
                if at in asked or is_kept or _is_equality(stage, line):
                    asked |= {*line.args}
            found |= {line.buffer.name for at, line in enumerate(stage.body) if at in asked and line.buffer}
        if len(found) == before:
            return found


def _is_equality(stage: Map, line: Instruction) -> bool:
    return line.op == "equal" and all(stage.body[arg].op != "constant" for arg in line.args)


def _normalised(loop: Loop) -> set[str]:
    """Return what a loop sums over its features to divide by it: a normalisation makes its errors larger."""
    bodies = [stage.body for stage in loop.stages if isinstance(stage, Map)]
    summing = [body for body in bodies if any(i.is_reduction for i in body)]
    return {i.buffer.name for body in summing for i in body if i.buffer and i.op == "load"}
