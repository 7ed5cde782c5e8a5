"""Less memory for more time: a sequence in segments, of which the backward pass computes each once more.

Only the states between segments are kept, and the rows of one segment at a time. Segments of the root of T steps keep
the fewest, about two roots of T instead of T; longer ones take less time, since products are large ones then.
Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost", 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import repeat
from typing import Any, Literal

import torch
from torch import Tensor

from everloop.compiler.autocast import without_autocast
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call, Results
from everloop.compiler.time_axis import is_batch_major

Run = Callable[[Call], Results]
Recompute = int | Literal["auto"] | None  # steps of a segment, as a user may say
KEEP = 256 * 2**20  # bytes of states over all steps that are kept in any case
ROOTS = 8  # of T in a segment that is chosen: past some hundred steps a segment costs little more than its steps do
FRESH = 32 * 2**20  # bytes from which the C library gives memory back, so that each call faults it in again


def asked_steps(recompute: Recompute, steps: int) -> int | None:
    """Return how many of T steps a segment has that a user asked for; 0: all are kept; None: as thought best."""
    if recompute is None:
        return None
    if recompute != "auto":
        return min(recompute, steps)
    chosen = ROOTS * math.isqrt(steps)
    return chosen if chosen < steps else None


def segment_steps(call: Call) -> int:
    """Return how many steps a segment has where all the states of a call are too large to be kept; 0 where not.

    As few segments as keep no more than that at a time, and no more than the root of all steps.
    """
    time = call.time
    size = sum(s.shape[1] for s in call.state) * time.steps * time.batch * call.x.element_size()
    if size <= KEEP:
        return 0
    segments = min(-(-size // KEEP), math.isqrt(time.steps))
    tensors = (call.x, *call.state, *call.values.fixed.values(), *call.values.rows.values())
    return -(-time.steps // segments) if any(t.requires_grad for t in tensors) else 0


def inference_steps(call: Call, width: int) -> int:
    """Return how many steps a part has where `width` numbers of float32 for every row are too many; 0 where not."""
    time = call.time
    parts = -(-4 * width * time.steps * time.batch // FRESH)
    if parts < 2 or time.is_ragged or is_batch_major(call.x):
        return 0
    return -(-time.steps // min(parts, time.steps))


def in_segments(run: Run, call: Call, steps: int) -> Results:
    """Return the results of `run`, taken over segments of `steps` steps."""
    parts, state, outputs = _parts(call, steps), call.state, dict[int, Tensor]()
    for n in reversed(range(len(parts))) if call.time.reverse else range(len(parts)):
        part = replace(parts[n], state=state)
        outputs[n], *final = _Segment.apply(run, part, *_tensors(part))  # type: ignore[no-untyped-call]
        state = tuple(final)
    return torch.cat([outputs[n] for n in range(len(parts))]), state


def _parts(call: Call, steps: int) -> list[Call]:
    """Return the call in segments; the states are those of the whole."""
    time, values, parts = call.time, call.values, torch.split(call.x, steps)
    rows = {name: torch.split(tensor, steps) for name, tensor in values.steps.items()}
    embedded = call.embedded
    symbols = () if embedded is None else torch.split(embedded.numbers, steps)
    found = []
    for n, x in enumerate(parts):
        read = None if embedded is None else (x, embedded._replace(numbers=symbols[n]))
        own = replace(time.part(n * steps, n * steps + x.shape[0]), segment=0)
        given = Bindings(values.fixed, values.rows, {name: each[n] for name, each in rows.items()})
        found.append(replace(call, values=given, x=x, time=own, read=read))
    return found


class _Segment(torch.autograd.Function):
    """Takes the tensors of a call and gives its results; keeps those tensors alone."""

    @staticmethod
    def forward(ctx: Any, run: Run, call: Call, *tensors: Tensor | None) -> Any:
        ctx.run, ctx.call = run, _with_tensors(call, repeat(None))  # what lasts as long as the graph holds no tensor
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        y, final = run(call)
        return y, *final

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        tensors, is_differentiable = ctx.saved_tensors, torch.is_grad_enabled()
        if not is_differentiable:
            tensors = [t if t is None else t.detach().requires_grad_(t.requires_grad) for t in tensors]
        with torch.enable_grad():
            y, final = ctx.run(_with_tensors(ctx.call, iter(tensors)))
        given = [(a, g) for a, g in zip((y, *final), grads, strict=True) if g is not None and a.requires_grad]
        wanted = [n for n, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
        found: list[Tensor | None] = [None] * len(tensors)
        if given:
            sources, outer = zip(*given, strict=True)
            inputs = [tensors[n] for n in wanted]
            inner = torch.autograd.grad(sources, inputs, outer, allow_unused=True, create_graph=is_differentiable)
            for n, gradient in zip(wanted, inner, strict=True):
                found[n] = gradient
        return None, None, *found


def _tensors(call: Call) -> tuple[Tensor | None, ...]:
    """Return all of a call that may have a gradient."""
    values = call.values
    groups = (values.fixed, values.rows, values.steps)
    table = None if call.embedded is None else call.embedded.table
    return (call.x, table, *call.state, *call.restart, *(tensor for group in groups for tensor in group.values()))


def _with_tensors(call: Call, tensors: Iterator[Any]) -> Call:
    """Return the call with other tensors, in the order of `_tensors`."""
    x, table, symbols = next(tensors), next(tensors), call.embedded
    read = None if symbols is None else (x, symbols._replace(table=table))
    state, restart = (tuple(next(tensors) for _ in part) for part in (call.state, call.restart))
    groups = (call.values.fixed, call.values.rows, call.values.steps)
    fixed, rows, steps = ({name: next(tensors) for name in group} for group in groups)
    return replace(call, values=Bindings(fixed, rows, steps), x=x, state=state, restart=restart, read=read)
