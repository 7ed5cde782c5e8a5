"""What runs after the loop: the output where no step reads it back, and the last rows of other such states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call, Results
from everloop.compiler.gradient import sequence_of
from everloop.compiler.program import Program


def epilogue(program: Program, call: Call, sequences: Mapping[str, Tensor], finals: Mapping[str, Tensor]) -> Results:
    """Return the output and the final states of the cell, given what the loop left: whole sequences, last rows."""
    output, time = program.output, call.time
    found = dict(finals)
    begin = dict(zip(program.cell_states, call.state, strict=True))
    if program.epilogue_output is None:
        y = sequences[output]
    else:
        # Only rows that exist are computed: of others not even the gradient need be a number.
        values = _with(call.values, sequences)
        y = program.epilogue_output(values, call.x, batch_major=time.batch_major, compact=time.valid_rows)[output]
        if output not in program.epilogue_output.moving:  # made of contexts or parameters alone
            y = time.cleared(y.expand(time.steps, time.batch, -1).contiguous())
        elif time.valid_rows is not None:  # a sequence of the loop that is the output as it is has its padding
            y = time.valid_rows.pad(y) if y.dim() == 2 else time.cleared(y)
        if output in begin:
            found[output] = time.or_start(time.last(y), begin[output])
    if program.epilogue_states is not None:
        steps = {name: time.last(t)[None] for name, t in call.values.steps.items()}
        values = _with(replace(call.values, steps=steps), {name: t[None] for name, t in finals.items()})
        rows = program.epilogue_states(values, time.last(call.x)[None], batch_major=False)
        moving = program.epilogue_states.moving
        last = {name: t[0] if name in moving else t.expand(time.batch, -1) for name, t in rows.items()}
        found |= {name: time.or_start(t, begin[name]) for name, t in last.items()}
    return y, tuple(found[name] for name in program.cell_states)


def _with(values: Bindings, rows: Mapping[str, Tensor]) -> Bindings:
    return replace(values, steps=values.steps | {sequence_of(name): t for name, t in rows.items()})
