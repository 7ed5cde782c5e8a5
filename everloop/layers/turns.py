"""Steps that go through their loop many times: each turn is a step of the kernel, and the last one is what counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from everloop.compiler.program import Program
from everloop.compiler.time_axis import TimeAxis

Rows = dict[str, Tensor]
Run = Callable[[TimeAxis, Mapping[str, Tensor], Mapping[str, Tensor]], tuple[Rows, Rows]]

AT_ONCE = 4 * 2**20  # bytes of rows of turns that lie in memory together, where no gradient needs them


def in_turns(
    program: Program, time: TimeAxis, loop_inputs: Mapping[str, Tensor], state: Mapping[str, Tensor], run: Run
) -> tuple[Rows, Rows]:
    """Return sequences of the last turns, and final states, of `run` over a few steps at a time."""
    moving = program.moving
    widths = [loop_inputs[name].shape[-1] for name in moving]
    widths += [program.split.loop.outputs[name].width for name in program.split.exposed]
    of_step = program.turns * time.batch * sum(widths) * program.dtype.itemsize
    count = max(1, AT_ONCE // max(of_step, 1))
    if count >= time.steps:
        sequences, final = run(time.in_turns(program.turns), program.in_turns(loop_inputs), dict(state))
        return {name: time.last_turns(rows, program.turns).contiguous() for name, rows in sequences.items()}, final
    starts = range(0, time.steps, count)
    found: dict[int, Rows] = {}
    final = dict(state)
    for start in reversed(starts) if time.reverse else starts:
        stop = min(start + count, time.steps)
        own = {name: t[start:stop] if name in moving else t for name, t in loop_inputs.items()}
        part = time.part(start, stop)
        sequences, final = run(part.in_turns(program.turns), program.in_turns(own), final)
        found[start] = {name: part.last_turns(rows, program.turns) for name, rows in sequences.items()}
    parts = [found[start] for start in starts]
    return {name: torch.cat([part[name] for part in parts]) for name in program.split.exposed}, final
