"""What runs after the loop: the output where no step reads it back, and the last rows of other such states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from everloop.compiler.bindings import Bindings
from everloop.compiler.compact import Compact
from everloop.compiler.gradient import every
from everloop.compiler.program import Program
from everloop.layers.call import Call
from everloop.layers.running import Run


def results(
    program: Program, run: Run, call: Call, sequences: Mapping[str, Tensor], finals: Mapping[str, Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the output and the final states of the cell, given what the loop left: whole sequences, last rows."""
    output, last = program.results[0], _last(run)
    found = dict(finals)
    begin = dict(zip(program.results, call.state, strict=True))
    if program.epilogue_output is None:
        y = sequences[output]
    else:
        # Only rows that exist are computed: of others not even the gradient need be a number.
        compact = run.compact
        if run.lengths is not None and compact is None:
            compact = Compact(run.lengths, run.steps, batch_major=run.batch_major, reverse=run.reverse)
        values = _with(call.values, sequences)
        y = program.epilogue_output(values, call.x, batch_major=run.batch_major, compact=compact)[output]
        if compact is not None:
            y = compact.pad(y)
        found[output] = _begun(run, last(y), begin[output])
    if program.epilogue_states is not None:
        steps = {name: last(t)[None] for name, t in call.values.steps.items()}
        values = _with(replace(call.values, steps=steps), {name: t[None] for name, t in finals.items()})
        rows = program.epilogue_states(values, last(call.x)[None], batch_major=False)
        found |= {name: _begun(run, t[0], begin[name]) for name, t in rows.items()}
    return y, tuple(found[name] for name in program.results)


def _with(values: Bindings, rows: Mapping[str, Tensor]) -> Bindings:
    return replace(values, steps=values.steps | {every(name): t for name, t in rows.items()})


def _last(run: Run) -> Callable[[Tensor], Tensor]:
    """Return what takes the rows [B, n] of each sequence's last step from [T, B, n]."""
    if run.reverse or run.lengths is None:
        return lambda t: t[0 if run.reverse else -1]
    at, rows = (run.lengths - 1).clamp(min=0), torch.arange(run.batch)
    return lambda t: t[at, rows]


def _begun(run: Run, rows: Tensor, start: Tensor) -> Tensor:
    """Return the last rows in memory of their own, or those at the start of the sequences that have no step."""
    return rows.clone() if run.lengths is None else torch.where((run.lengths > 0)[:, None], rows, start)
