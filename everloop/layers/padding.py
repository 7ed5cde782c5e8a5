"""Padding: the rows behind the end of a sequence. Nothing that they hold, and nothing made of it, has a part anywhere.

The loop itself skips them. What is computed for all steps at once meets them, so they are made harmless before: with
zeros a quotient or a logarithm would be no number, and neither would zero times its slope, so they repeat a row that
the data has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from everloop.compiler.bindings import Bindings
from everloop.layers.call import Call

Results = tuple[Tensor, tuple[Tensor, ...]]


def is_batch_major(x: Tensor) -> bool:
    """Whether x [T, B, n] holds the steps of a sequence side by side."""
    return x.stride(0) < x.stride(1)


def ended(lengths: Tensor, steps: int) -> Tensor:
    """Return bool [T, B]: where a sequence has ended."""
    return torch.arange(steps, device=lengths.device)[:, None] >= lengths


def cleared(x: Tensor, lengths: Tensor) -> Tensor:
    """Return x [T, B, n] with zeros where a sequence has ended, laid out in memory as x is."""
    return x.clone().masked_fill_(ended(lengths, x.shape[0])[..., None], 0)


def filled(call: Call) -> Call:
    """Return the call with each sequence's last row, of x and of all rows of every step, in the place of its padding.

    Every sequence has a step. Gradients at padding are exactly zero.
    """
    lengths = call.lengths
    assert lengths is not None
    batch_major = is_batch_major(call.x)
    late, last = ended(lengths, len(call.x)), ((lengths - 1).clamp(min=0), torch.arange(len(lengths)))
    padding = (late.T if batch_major else late)[..., None]

    def fill(rows: Tensor) -> Tensor:
        end = rows.detach()[last]
        if batch_major:
            return torch.where(padding, end[:, None], rows.transpose(0, 1)).transpose(0, 1)
        return torch.where(padding, end, rows)

    values, reset = call.values, call.reset
    if values.steps:
        values = replace(values, steps={name: fill(rows) for name, rows in values.steps.items()})
    if reset is not None:
        reset = reset & ~late
    return replace(call, values=values, x=fill(call.x), reset=reset)


def living(call: Call) -> int:
    """Return how many sequences of the call have a step."""
    steps, batch = call.x.shape[:2]
    if call.lengths is None or not steps:
        return batch if steps else 0
    return int(np.count_nonzero(call.lengths.numpy()))


def without_empty(call: Call, compute: Callable[[Call], Results]) -> Results:
    """Return what `compute` makes of the call's sequences that have a step, with those that have none added.

    These have an output of zeros and keep their state; the row that each may have in `values` is not looked at.
    """
    assert call.lengths is not None
    which = call.lengths.nonzero()[:, 0]
    batch_major = is_batch_major(call.x)

    def of_steps(rows: Tensor) -> Tensor:
        if batch_major:
            return rows.transpose(0, 1).index_select(0, which).transpose(0, 1)
        return rows.index_select(1, which)

    def of_rows(rows: Tensor) -> Tensor:
        return rows.index_select(0, which)

    values = Bindings(
        call.values.fixed,
        {name: of_rows(rows) for name, rows in call.values.rows.items()},
        {name: of_steps(rows) for name, rows in call.values.steps.items()},
    )
    reset = None if call.reset is None else of_steps(call.reset)
    y, final = compute(
        replace(
            call, values=values, x=of_steps(call.x), state=tuple(map(of_rows, call.state)),
            lengths=of_rows(call.lengths), reset=reset,
        )
    )  # fmt: skip
    steps, batch = call.x.shape[:2]
    if batch_major:
        whole = y.new_zeros(batch, steps, y.shape[-1]).index_copy(0, which, y.transpose(0, 1)).transpose(0, 1)
    else:
        whole = y.new_zeros(steps, batch, y.shape[-1]).index_copy(1, which, y)
    return whole, tuple(s.index_copy(0, which, rows) for s, rows in zip(call.state, final, strict=True))
