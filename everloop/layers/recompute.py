"""Less memory for more time: a sequence in segments, of which the backward pass computes each once more.

Only the states between segments are kept, and the rows of one segment at a time: with segments of the root of T steps
about two roots of T instead of T. Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost", 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call, Results

KEEP = 64 * 2**20  # bytes of states over all steps that are kept in any case


def segment_steps(call: Call) -> int:
    """Return how many steps a segment has where all the states of a call are too large to be kept; 0 where not."""
    time = call.time
    if sum(s.shape[1] for s in call.state) * time.steps * time.batch * call.x.element_size() <= KEEP:
        return 0
    tensors = (call.x, *call.state, *call.values.fixed.values(), *call.values.rows.values())
    return math.isqrt(time.steps) if any(t.requires_grad for t in tensors) else 0


def in_segments(run: Callable[[Call], Results], call: Call, steps: int) -> Results:
    """Return the results of `run`, taken over segments of `steps` steps."""
    starts = range(0, call.time.steps, steps)
    state, outputs = call.state, dict[int, Tensor]()
    for start in reversed(starts) if call.time.reverse else starts:

        def segment(x: Tensor, *state: Tensor, start: int = start) -> tuple[Tensor, ...]:
            y, final = run(_part(call, x, state, start))
            return y, *final

        x = call.x[start : start + steps]
        outputs[start], *final = checkpoint(segment, x, *state, use_reentrant=False, preserve_rng_state=False)
        state = tuple(final)
    return torch.cat([outputs[start] for start in starts]), state


def _part(call: Call, x: Tensor, state: tuple[Tensor, ...], start: int) -> Call:
    """Return the call of the steps of x, which begin at `start`."""
    time, values, stop = call.time, call.values, start + x.shape[0]
    reset = None if time.reset is None else time.reset[start:stop]
    lengths = None if time.lengths is None else (time.lengths - start).clamp(0, stop - start)
    part = replace(time, steps=stop - start, lengths=lengths, reset=reset, boundaries=reset, compact=None, segment=0)
    steps = {name: rows[start:stop] for name, rows in values.steps.items()}
    return replace(call, values=Bindings(values.fixed, values.rows, steps), x=x, state=state, time=part)
