"""The gradient loop of one call, and the products over all steps that follow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from everloop.compiler.gradient import gradient_of, sequence_of
from everloop.compiler.hoisted import adjacent
from everloop.compiler.program import Program, TrainingKernels
from everloop.compiler.time_axis import TimeAxis
from everloop.layers.weight_gradients import WeightGradients


class Backward:
    """memory: what the forward loop left, by name; state, restart: what it was given.

    is_last: nobody reads `memory` again.
    """

    def __init__(
        self,
        program: Program,
        trained: TrainingKernels,
        time: TimeAxis,
        memory: Mapping[str, Tensor],
        state: Sequence[Tensor],
        restart: Sequence[Tensor | None],
        is_last: bool,
    ) -> None:
        self.is_last = is_last
        self.program, self.trained, self.time = program, trained, time
        self.state, self.restart = state, restart
        self.memory = memory
        self.buffers = {**memory, **{name: memory[place] for name, place in trained.plan.reads.items()}}

    def gradients(self, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the gradients of the loop inputs, the states and the restart vectors."""
        program, plan, time, buffers = self.program, self.trained.plan, self.time, self.buffers
        states, like = program.states, self.state[0]
        exposed = program.split.exposed
        for name, grad in zip(exposed, grads, strict=False):
            own = gradient_of(sequence_of(name))
            buffers[own] = self._of_sequence(grad, program.split.loop.outputs[name].width, self._dtype_of(own))
        for name, width in plan.emits.items():
            dtype = self._dtype_of(name)
            reused = self._reused(plan.in_place.get(name, ""), dtype)
            buffers[name] = self._fresh(name, width, dtype) if reused is None else reused
        for name, total in plan.totals.items():
            shape = (time.batch, total.width) if total.height else (total.width,)
            buffers[name] = like.new_zeros(shape, dtype=total.dtype)
        first: dict[str, Tensor | None] = dict(zip(states, self.state, strict=True))
        ends: dict[str, Tensor | None] = dict(zip(states, self.restart, strict=True))
        final: dict[str, Tensor] = {}
        for name, given, start, restart in zip(states, grads[len(exposed) :], self.state, self.restart, strict=True):
            first[gradient_of(name)] = None if given is None else adjacent(given)
            final[gradient_of(name)] = program.target.empty(start.shape, start)
            ends[gradient_of(name)] = None if restart is None else restart.new_zeros(restart.shape)
        self.trained.gradient(time, buffers, first=first, final=final, restart=ends)
        starts, restarts = (self._as_saved(part) for part in (self.state, self.restart))
        weights = WeightGradients(program.target, time, buffers, starts, restarts, plan.emits)  # type: ignore[arg-type]
        loop_inputs = [
            weights.gradient(plan.pairs[name]) if plan.pairs.get(name) else buffers.get(gradient_of(name))
            for name in program.loop_inputs
        ]
        return [*loop_inputs, *final.values(), *(ends[gradient_of(s)] for s in states)]

    def _dtype_of(self, name: str) -> torch.dtype:
        return torch.bfloat16 if name in self.trained.slopes else self.program.dtype

    def _of_sequence(self, grad: Tensor | None, width: int, dtype: torch.dtype) -> Tensor:
        if grad is None:
            zeros = self.state[0].new_zeros(width, dtype=dtype)
            return zeros.expand(self.time.steps, self.time.batch, width)
        return adjacent(grad.to(dtype))

    def _as_saved(self, rows: Sequence[Tensor | None]) -> dict[str, Tensor | None]:
        """Return rows by state, in the dtype in which the sequence of the state is held."""
        found = dict(zip(self.program.states, rows, strict=True))
        for name, row in found.items():
            if row is not None and sequence_of(name) in self.trained.halves:
                found[name] = row.to(self.memory[sequence_of(name)].dtype)
        return found

    def _reused(self, name: str, dtype: torch.dtype) -> Tensor | None:
        """Return the forward loop's memory of this name and dtype if nothing reads it behind the gradient loop."""
        is_shared = name in self.program.loop_inputs and name not in self.program.prologue.owned
        found = self.memory.get(name) if self.is_last and not is_shared else None
        return found if found is not None and found.dtype == dtype else None

    def _fresh(self, name: str, width: int, dtype: torch.dtype) -> Tensor:
        """Return memory for an emit; the gradient of a sequence that is an input is padded as that is."""
        time, like, empty = self.time, self.state[0].new_empty(0, dtype=dtype), self.program.target.empty
        if time.compact is None:
            return time.padded(width, like, empty)
        owned = self.program.split.owned
        is_input = any(name == gradient_of(leaf) for leaf in self.program.loop_inputs if leaf not in owned)
        return (time.padded if is_input else time.compacted)(width, like, empty)
