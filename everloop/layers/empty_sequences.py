"""Sequences without a step are left out of a call that has a gradient: no row of theirs exists to be computed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call, Results
from everloop.compiler.time_axis import is_batch_major


def without_empty(call: Call, compute: Callable[[Call], Results]) -> Results:
    """Return what `compute` makes of the call's sequences that have a step, with those that have none added.

    These have an output of zeros and keep their state; the row that each may have in `values` is not looked at.
    """
    which = call.time.nonempty_sequences()
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
    state = tuple(map(of_rows, call.state))
    y, final = compute(Call(values, of_steps(call.x), state, call.restart, call.time.select(which)))
    steps, batch = call.x.shape[:2]
    if batch_major:
        whole = y.new_zeros(batch, steps, y.shape[-1]).index_copy(0, which, y.transpose(0, 1)).transpose(0, 1)
    else:
        whole = y.new_zeros(steps, batch, y.shape[-1]).index_copy(1, which, y)
    return whole, tuple(s.index_copy(0, which, rows) for s, rows in zip(call.state, final, strict=True))
