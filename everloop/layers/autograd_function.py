"""The one differentiable operation: a loop over a whole sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from everloop import torch_private
from everloop.compiler.batched import is_batched
from everloop.compiler.bindings import Bindings
from everloop.compiler.gradient import every
from everloop.compiler.plan import ForwardPlan
from everloop.compiler.program import Program
from everloop.layers.backward import Reverse
from everloop.layers.call import Call
from everloop.layers.double_backward import differentiable
from everloop.layers.epilogue import results
from everloop.layers.padding import filled, living, without_empty
from everloop.layers.running import Run, adjacent


def compute(program: Program, call: Call) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return (output [T, B, n], final states) by the program's kernels."""
    if torch.is_grad_enabled():
        if 0 < living(call) < call.x.size(1):
            return without_empty(call, partial(compute, program))
        # The gradient reads them again, whatever the caller makes of his own meanwhile.
        lengths, reset = (t if t is None else t.clone() for t in (call.lengths, call.reset))
        call = replace(call, lengths=lengths, reset=reset)
    run = Run.of(program.target, call.x, call.lengths, call.reset, call.reverse)
    if run.lengths is not None and run.compact is None and torch.is_grad_enabled():
        call = filled(call)
        run = replace(run, reset=call.reset)
    x = call.x
    cuts = program.prologue(call.values, x, batch_major=run.batch_major, compact=run.compact)
    state: list[Tensor] = []
    origin: list[Tensor | None] = []
    for at, width in program.begins:
        restart = None if at is None or run.reset is None else call.restart[at]
        state.append(x.new_zeros(run.batch, width) if at is None else adjacent(call.state[at]))
        origin.append(None if restart is None else restart.contiguous())
    sequences, finals = _loop(program, run, call, cuts, state, origin)
    if program.epilogue_output is None and program.epilogue_states is None:
        return sequences[program.results[0]], tuple(finals.values())
    return results(program, run, call, sequences, finals)


def _loop(
    program: Program,
    run: Run,
    call: Call,
    cuts: Mapping[str, Tensor],
    state: Sequence[Tensor],
    restart: Sequence[Tensor | None],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the loop's exposed sequences and its final states, by name."""
    names = program.split.exposed
    if torch.is_grad_enabled():
        wanted = frozenset(name for name, cut in cuts.items() if cut.requires_grad)
        if wanted or any(t is not None and t.requires_grad for t in (*state, *restart)):
            tensors = (*cuts.values(), *state, *restart)
            found = _Loop.apply(program, run, call, wanted, *tensors)  # type: ignore[no-untyped-call]
            return dict(zip(names, found, strict=False)), dict(zip(program.states, found[len(names) :], strict=True))
    inference = program.inference()
    buffers, final = forward(program, run, inference.plan, inference.kernel, cuts, state, restart)
    return {name: buffers[every(name)] for name in names}, final


def forward(
    program: Program,
    run: Run,
    plan: ForwardPlan,
    kernel: Any,
    cuts: Mapping[str, Tensor],
    state: Sequence[Tensor],
    restart: Sequence[Tensor | None],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Run a forward kernel; return its buffers and the final states."""
    buffers, owned = dict(cuts), program.prologue.owned
    output = every(program.results[0])
    for name, width in plan.emits.items():
        source = plan.in_place.get(name)
        make = run.padded if name == output else run.rows
        buffers[name] = cuts[source] if source in owned else make(width, like=state[0])
    final = {name: program.target.empty(s.shape, s) for name, s in zip(program.states, state, strict=True)}
    kernel(
        run.steps, run.batch, buffers,
        first=dict(zip(program.states, state, strict=True)), final=final,
        restart=dict(zip(program.states, restart, strict=True)),
        lengths=run.lengths, reset=run.reset, reverse=run.reverse, compact=run.compact,
    )  # fmt: skip
    return buffers, final


class _Loop(torch.autograd.Function):
    """Takes the cuts, the states and the restart vectors; gives the exposed sequences and the final states."""

    @staticmethod
    def forward(ctx: Any, program: Program, run: Run, call: Call, wanted: frozenset[str], *tensors: Any) -> Any:
        n, k = len(program.cuts), len(program.states)
        cuts, state, restart = dict(zip(program.cuts, tensors[:n], strict=True)), tensors[n : n + k], tensors[n + k :]
        trained = program.training(wanted)
        buffers, final = forward(program, run, trained.plan.forward, trained.forward, cuts, state, restart)
        kept = {name: buffers[name] for name in trained.kept}
        ctx.program, ctx.run, ctx.trained = program, run, trained
        ctx.is_unseen = torch_private.saved_tensors_hooks(False) is None
        values = call.values
        ctx.names = [tuple(part) for part in (values.fixed, values.rows, values.steps)]
        ctx.set_materialize_grads(False)
        originals = [*values.fixed.values(), *values.rows.values(), *values.steps.values()]
        ctx.save_for_backward(*kept.values(), *state, *restart, call.x, *originals)
        return (*(buffers[every(name)] for name in program.split.exposed), *final.values())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        saved = iter(ctx.saved_tensors)
        program: Program = ctx.program
        memory = {name: next(saved) for name in ctx.trained.kept}
        state, restart = (tuple(next(saved) for _ in program.states) for _ in range(2))
        # create_graph: the gradient itself must be differentiable.
        if torch.is_grad_enabled() or is_batched(*grads):
            x = next(saved)
            values = Bindings(*({name: next(saved) for name in names} for names in ctx.names))
            found = differentiable(program, ctx.run, Call(values, x, state, restart), grads)
        else:
            # Whoever asked to see what is saved may hold it, and what is kept for another pass must not change.
            is_last = ctx.is_unseen and not torch_private.keeps_graph()
            found = Reverse(program, ctx.trained, ctx.run, memory, state, restart, is_last).gradients(grads)
        return None, None, None, None, *found
