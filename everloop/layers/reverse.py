"""One run of a gradient loop, and the gradients of the matrices from what it leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from everloop.compiler import gemm
from everloop.compiler.gradient import every, gradient_of
from everloop.compiler.plan import Factor, Rows
from everloop.compiler.program import Program, Trained
from everloop.layers.running import Run, adjacent


class Reverse:
    """memory: what the forward loop left, by name; state, restart: what it was given."""

    def __init__(
        self,
        program: Program,
        trained: Trained,
        run: Run,
        memory: Mapping[str, Tensor],
        state: Sequence[Tensor],
        restart: Sequence[Tensor | None],
    ) -> None:
        self.program, self.trained, self.run = program, trained, run
        self.state, self.restart = state, restart
        self.buffers = {**memory, **{name: memory[place] for name, place in trained.plan.reads.items()}}

    def gradients(self, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the gradients of the cuts, the states and the restart vectors."""
        program, plan, run, buffers = self.program, self.trained.plan, self.run, self.buffers
        states, like = program.states, self.state[0]
        buffers[gradient_of(every(states[0]))] = self._of_output(grads[0])
        for name, width in plan.emits.items():
            buffers[name] = run.rows(width, like)
        for name, total in plan.totals.items():
            buffers[name] = like.new_zeros((run.batch, total.width) if total.height else (total.width,))
        first: dict[str, Tensor | None] = dict(zip(states, self.state, strict=True))
        ends: dict[str, Tensor | None] = dict(zip(states, self.restart, strict=True))
        final: dict[str, Tensor] = {}
        for name, given, start, restart in zip(states, grads[1:], self.state, self.restart, strict=True):
            first[gradient_of(name)] = None if given is None else adjacent(given)
            final[gradient_of(name)] = start.new_empty(start.shape)
            ends[gradient_of(name)] = None if restart is None else restart.new_zeros(restart.shape)
        self.trained.gradient(
            run.steps, run.batch, buffers, first=first, final=final, restart=ends,
            lengths=run.lengths, reset=run.reset, reverse=run.reverse,
        )  # fmt: skip
        cuts = [self._of_cut(name) for name in program.cuts]
        return [*cuts, *final.values(), *(ends[gradient_of(s)] for s in states)]

    def _of_output(self, grad: Tensor | None) -> Tensor:
        if grad is None:
            width = self.program.output_size
            return self.state[0].new_zeros(width).expand(self.run.steps, self.run.batch, width)
        return adjacent(grad)

    def _of_cut(self, name: str) -> Tensor | None:
        pairs = self.trained.plan.pairs.get(name)
        if pairs is None:
            return self.buffers.get(gradient_of(name))
        total: Tensor | None = None
        for left, right in pairs:
            product = self._over_time(left, right)
            total = product if total is None else total.add_(product)
        return total

    def _over_time(self, left: Factor, right: Factor) -> Tensor:
        """Return the sum over time and batch of left.T @ right."""
        blocks = [[self._block(a, b) for b in right] for a in left]
        rows = [row[0] if len(row) == 1 else torch.cat(row, 1) for row in blocks]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _block(self, left: Rows, right: Rows) -> Tensor:
        run = self.run
        if not run.batch_major and run.reset is None and bool(left.of) != bool(right.of):
            return self._shifted(left, right) if right.of else self._shifted(right, left).T
        a, b = self._every_row(left), self._every_row(right)
        if run.batch_major:
            a, b = a.transpose(0, 1), b.transpose(0, 1)
        return gemm.over_rows(a, b)

    def _shifted(self, now: Rows, past: Rows) -> Tensor:
        """Return the sum of now.T @ past, where `past` is one step behind, without a copy of it."""
        run = self.run
        g, states = self._rows(now), self._rows(past)
        start = self.state[self.program.states.index(past.of)][:, past.start : past.stop]
        if run.steps == 1:
            return g[0].T @ start
        if not run.reverse:
            return gemm.over_rows(g[1:], states[:-1]).add_(g[0].T @ start)
        at_start = g[-1]
        if run.lengths is not None:
            at_start = g[(run.lengths - 1).clamp(min=0), torch.arange(run.batch, device=g.device)]
        return gemm.over_rows(g[:-1], states[1:]).add_(at_start.T @ start)

    def _rows(self, rows: Rows) -> Tensor:
        return self.buffers[rows.name][..., rows.start : rows.stop]

    def _every_row(self, rows: Rows) -> Tensor:
        if not rows.of:
            return self._rows(rows)
        return self._one_step_back(self.buffers[rows.name], rows.of)[..., rows.start : rows.stop]

    def _one_step_back(self, whole: Tensor, name: str) -> Tensor:
        """Return the state before every step."""
        run, at = self.run, self.program.states.index(name)
        result = torch.empty_like(whole)
        if not run.reverse:
            result[1:] = whole[:-1]
            result[0] = self.state[at]
        else:
            result[:-1] = whole[1:]
            if run.lengths is None:
                result[-1] = self.state[at]
            else:
                result[-1] = 0  # the rows behind an end meet gradients of zero, so they must be finite
                alive = run.lengths > 0
                rows = torch.arange(run.batch, device=whole.device)[alive]
                result[(run.lengths - 1)[alive], rows] = self.state[at][alive]
        if run.reset is not None:
            restart = self.restart[at]
            result[run.reset] = whole.new_zeros(()) if restart is None else restart
        return result
