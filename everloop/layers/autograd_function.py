"""The one differentiable operation: a loop over a whole sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from everloop import torch_private
from everloop.compiler.autocast import without_autocast
from everloop.compiler.batched import is_batched
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call, Results
from everloop.compiler.gradient import sequence_of
from everloop.compiler.hoisted import adjacent
from everloop.compiler.plan import ForwardPlan
from everloop.compiler.program import Program
from everloop.compiler.time_axis import TimeAxis
from everloop.layers.backward import Backward
from everloop.layers.double_backward import differentiable
from everloop.layers.empty_sequences import without_empty
from everloop.layers.epilogue import epilogue
from everloop.layers.recompute import in_segments, inference_steps, segment_steps
from everloop.layers.turns import in_turns


def compute(program: Program, call: Call) -> Results:
    """Return (output [T, B, n], final states) by the program's kernels."""
    time, x, is_training = call.time, call.x, torch.is_grad_enabled()
    if is_training and time.segment is None and program.has_large_states and (steps := segment_steps(call)):
        return in_segments(partial(compute, program), call, steps)
    if not is_training and program.target.narrow and (steps := inference_steps(call, program.read_width)):
        return in_segments(partial(compute, program), call, steps)
    if is_training and 0 < time.num_nonempty < time.batch:
        return without_empty(call, partial(compute, program))
    time = time.for_kernel(x) if program.turns == 1 else time.whole()
    if time is not call.time:
        call = replace(call, time=time)
    if is_training and time.is_ragged and time.compact is None:
        call = _filled(call)
        time, x = call.time, call.x
    loop_inputs = program.prologue(
        call.values, x, batch_major=time.batch_major, compact=time.compact, embedded=call.embedded,
        low=program.low,
    )  # fmt: skip
    state: dict[str, Tensor] = {}
    restart: dict[str, Tensor | None] = {}
    for name, (at, width) in zip(program.states, program.begins, strict=True):
        origin = None if at is None or time.reset is None else call.restart[at]
        state[name] = x.new_zeros(time.batch, width, dtype=program.dtype) if at is None else adjacent(call.state[at])
        restart[name] = None if origin is None else origin.contiguous()
    wanted = frozenset(name for name, leaf in loop_inputs.items() if is_training and leaf.requires_grad)
    given = (*state.values(), *restart.values())
    if wanted or (is_training and any(t is not None and t.requires_grad for t in given)):
        each = call if program.turns == 1 else replace(call, time=time.in_turns(program.turns))
        tensors = (*program.in_turns(loop_inputs).values(), *given)
        found = iter(_Loop.apply(program, each, wanted, *tensors))  # type: ignore[no-untyped-call]
        sequences = {name: next(found) for name in program.split.exposed}
        final = {name: next(found) for name in program.states}
        if program.turns > 1:
            sequences = {n: time.last_turns(rows, program.turns).contiguous() for n, rows in sequences.items()}
    else:
        run = partial(_inference, program, restart)
        found_of = run if program.turns == 1 else partial(in_turns, program, run=run)
        sequences, final = found_of(time, loop_inputs, state)
    if program.epilogue_output is None and program.epilogue_states is None:
        return sequences[program.output], tuple(final[name] for name in program.cell_states)
    return epilogue(program, call, sequences, final)


def _inference(
    program: Program,
    restart: Mapping[str, Tensor | None],
    time: TimeAxis,
    loop_inputs: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the sequences and the final states of the kernel that runs without gradients."""
    inference = program.inference()
    buffers, final = _memory(program, time, inference.plan, inference.halves, loop_inputs, state)
    inference.kernel(time, buffers, first=state, final=final, restart=restart)
    return {name: buffers[sequence_of(name)] for name in program.split.exposed}, final


def _filled(call: Call) -> Call:
    """Return the call with rows of the data in the place of all padding, as what is computed for all steps meets it."""
    time, values = call.time, call.values
    if values.steps:
        values = replace(values, steps={name: time.filled(rows) for name, rows in values.steps.items()})
    x, symbols = time.filled(call.x), call.embedded
    if symbols is not None:
        symbols = symbols._replace(numbers=time.filled(symbols.numbers[..., None])[..., 0])
    read = None if symbols is None else (x, symbols)
    return replace(call, values=values, x=x, time=time.without_late_resets(), read=read)


def _memory(
    program: Program,
    time: TimeAxis,
    plan: ForwardPlan,
    halves: frozenset[str],
    loop_inputs: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the buffers of a forward kernel, and the rows for the final states."""
    buffers, owned, empty = dict(loop_inputs), program.prologue.owned, program.target.empty
    like, output = state[program.states[0]], sequence_of(program.output)
    for name, width in plan.emits.items():
        source, dtype = plan.in_place.get(name), torch.bfloat16 if name in halves else program.dtype
        make = time.padded if name == output else time.compacted
        if source in owned and loop_inputs[source].dtype == dtype:
            buffers[name] = loop_inputs[source]
        else:
            buffers[name] = make(width, like.new_empty(0, dtype=dtype), empty)
    return buffers, {name: empty(rows.shape, rows) for name, rows in state.items()}


class _Loop(torch.autograd.Function):
    """Takes the loop inputs, the states and the restart vectors; gives the exposed sequences and the final states."""

    @staticmethod
    def forward(ctx: Any, program: Program, call: Call, wanted: frozenset[str], *tensors: Any) -> Any:
        given, time, values = iter(tensors), call.time, call.values
        loop_inputs, state, restart = ({name: next(given) for name in names}
                                for names in (program.loop_inputs, program.states, program.states))  # fmt: skip
        trained = program.training(wanted)
        for name in program.low - trained.halves:
            loop_inputs[name] = loop_inputs[name].to(program.dtype)
        buffers, final = _memory(program, time, trained.plan.forward, trained.halves, loop_inputs, state)
        trained.forward(time, buffers, first=state, final=final, restart=restart)
        ctx.program, ctx.time, ctx.trained = program, time, trained
        ctx.is_unseen = torch_private.saved_tensors_hooks(False) is None
        ctx.names = [tuple(part) for part in (values.fixed, values.rows, values.steps)]
        ctx.set_materialize_grads(False)
        kept = (buffers[name] for name in trained.kept)
        originals = (*values.fixed.values(), *values.rows.values(), *values.steps.values())
        ctx.save_for_backward(*kept, *state.values(), *restart.values(), call.x, *originals)
        return (*(buffers[sequence_of(name)] for name in program.split.exposed), *final.values())

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        saved = iter(ctx.saved_tensors)
        program: Program = ctx.program
        memory = {name: next(saved) for name in ctx.trained.kept}
        state, restart = (tuple(next(saved) for _ in program.states) for _ in range(2))
        # create_graph: the gradient itself must be differentiable.
        if torch.is_grad_enabled() or is_batched(*grads):
            x = next(saved)
            values = Bindings(*({name: next(saved) for name in names} for names in ctx.names))
            given = Call(values, x.to(program.dtype), state, restart, ctx.time)
            found = differentiable(program, given, [None if g is None else g.to(program.dtype) for g in grads])
        else:
            # Whoever asked to see what is saved may hold it, and what is kept for another pass must not change.
            is_last = ctx.is_unseen and not torch_private.keeps_graph()
            found = Backward(program, ctx.trained, ctx.time, memory, state, restart, is_last).gradients(grads)
        return None, None, None, *found
