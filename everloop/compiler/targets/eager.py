"""The target `eager`: a loop of plain PyTorch. It is the meaning; every other target is compared with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from everloop.cell import Cell, as_states, bind
from everloop.compiler.values import Values


def run(
    cell: Cell,
    values: Values,
    x: Tensor,
    state: Sequence[Tensor],
    *,
    restart: Sequence[Tensor | None] | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return (output [T, B, n], final states) of `cell` over x [T, B, I].

    Step s of a sequence reads time s, or time length - 1 - s when `reverse`; where a sequence has ended its
    state stays and its output is zero; before a step with `reset` the state becomes `restart` (None: zeros).
    """
    steps, batch = x.shape[:2]
    rows = torch.arange(batch, device=x.device)
    ends = torch.full((batch,), steps, device=x.device) if lengths is None else lengths
    states = tuple(state)
    origin = [
        torch.zeros_like(s) if r is None else r.expand_as(s)
        for s, r in zip(states, restart or [None] * len(states), strict=True)
    ]
    outputs: list[Tensor] = []
    for s in range(steps):
        time = (ends - 1 - s).clamp(min=0) if reverse else torch.full_like(ends, s)
        alive = (s < ends)[:, None]
        before = states
        if reset is not None:
            at = (reset[time, rows])[:, None] & alive
            before = tuple(torch.where(at, o, h) for o, h in zip(origin, states, strict=True))
        at_step = {name: v[time, rows] for name, v in values.steps.items()}
        after = as_states(cell, bind(cell, {**values.fixed, **values.rows, **at_step}).step(x[time, rows], *before))
        if lengths is not None:
            after = tuple(torch.where(alive, new, old) for new, old in zip(after, states, strict=True))
        outputs.append(torch.where(alive, after[0], 0))
        states = after
    if not outputs:
        return x.new_zeros(0, batch, cell.output_size), states
    output = torch.stack(outputs)
    if reverse:
        time = (ends[None] - 1 - torch.arange(steps, device=x.device)[:, None]) % max(steps, 1)
        output = output[time, rows[None]]
    return output, states
