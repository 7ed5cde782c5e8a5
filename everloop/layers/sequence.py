"""The one differentiable operation: a loop over a whole sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from everloop.compiler.gradient import every
from everloop.compiler.plan import Forward
from everloop.compiler.program import Program
from everloop.compiler.values import Values
from everloop.layers.again import differentiable
from everloop.layers.reverse import Reverse
from everloop.layers.running import Run, adjacent
from everloop.layers.sequences import cleared


def compute(
    program: Program,
    values: Values,
    x: Tensor,
    state: Sequence[Tensor],
    restart: Sequence[Tensor | None] | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return (output [T, B, n], final states) by the program's kernels; arguments as in `operator.run`."""
    run = Run.of(x, lengths, reset, reverse)
    if run.lengths is not None and run.compact is None and torch.is_grad_enabled():
        x = cleared(x, run.lengths)  # zero times what padding holds is not zero where that is not finite
    cuts = program.prelude(values, x, batch_major=run.batch_major, compact=run.compact)
    state = tuple(adjacent(s) for s in state)
    origin: list[Tensor | None] = [None] * len(state)
    if reset is not None and restart is not None:
        origin = [None if r is None else r.contiguous() for r in restart]
    if torch.is_grad_enabled():
        wanted = frozenset(name for name, cut in cuts.items() if cut.requires_grad)
        if wanted or any(t is not None and t.requires_grad for t in (*state, *origin)):
            tensors = (*cuts.values(), *state, *origin)
            results = _Loop.apply(program, run, values, x, wanted, *tensors)  # type: ignore[no-untyped-call]
            return results[0], tuple(results[1:])
    found = program.inference()
    buffers, final = forward(program, run, found.plan, found.kernel, cuts, state, origin)
    return buffers[every(program.states[0])], tuple(final.values())


def forward(
    program: Program,
    run: Run,
    plan: Forward,
    kernel: Any,
    cuts: Mapping[str, Tensor],
    state: Sequence[Tensor],
    restart: Sequence[Tensor | None],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Run a forward kernel; return its buffers and the final states."""
    buffers, owned = dict(cuts), program.prelude.owned
    output = every(program.states[0])
    for name, width in plan.emits.items():
        source = plan.in_place.get(name)
        make = run.padded if name == output else run.rows
        buffers[name] = cuts[source] if source in owned else make(width, like=state[0])
    final = {name: s.new_empty(s.shape) for name, s in zip(program.states, state, strict=True)}
    kernel(
        run.steps, run.batch, buffers,
        first=dict(zip(program.states, state, strict=True)), final=final,
        restart=dict(zip(program.states, restart, strict=True)),
        lengths=run.lengths, reset=run.reset, reverse=run.reverse, compact=run.compact,
    )  # fmt: skip
    return buffers, final


class _Loop(torch.autograd.Function):
    """Takes the cuts, the states and the restart vectors; gives the output and the final states."""

    @staticmethod
    def forward(
        ctx: Any, program: Program, run: Run, values: Values, x: Tensor, wanted: frozenset[str], *tensors: Any
    ) -> Any:
        n, k = len(program.cuts), len(program.states)
        cuts, state, restart = dict(zip(program.cuts, tensors[:n], strict=True)), tensors[n : n + k], tensors[n + k :]
        trained = program.training(wanted)
        buffers, final = forward(program, run, trained.plan.forward, trained.forward, cuts, state, restart)
        kept = {name: buffers[name] for name in trained.kept}
        ctx.program, ctx.run, ctx.trained = program, run, trained
        ctx.names = [tuple(part) for part in (values.fixed, values.rows, values.steps)]
        ctx.set_materialize_grads(False)
        originals = [*values.fixed.values(), *values.rows.values(), *values.steps.values()]
        ctx.save_for_backward(*kept.values(), *state, *restart, x, *originals)
        return (buffers[every(program.states[0])], *final.values())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        saved = iter(ctx.saved_tensors)
        program: Program = ctx.program
        memory = {name: next(saved) for name in ctx.trained.kept}
        state, restart = ([next(saved) for _ in program.states] for _ in range(2))
        if torch.is_grad_enabled():  # create_graph: the gradient itself must be differentiable
            x = next(saved)
            values = Values(*({name: next(saved) for name in names} for names in ctx.names))
            found = differentiable(program, ctx.run, values, x, state, restart, grads)
        else:
            found = Reverse(program, ctx.trained, ctx.run, memory, state, restart).gradients(grads)
        return None, None, None, None, None, *found
