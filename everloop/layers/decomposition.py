"""The operator as a scan of single steps, for exporters that do not know the operator, such as ONNX.

It means what the target eager means, for any number of steps and sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from everloop import torch_private
from everloop.cell import advance, bind
from everloop.layers.custom_operator import known


@torch_private.register_decomposition(torch.ops.everloop.sequence.default)
def scan_of_steps(
    key: str,
    x: Tensor,
    fixed: Sequence[Tensor],
    rows: Sequence[Tensor],
    steps: Sequence[Tensor],
    state: Sequence[Tensor],
    restart: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> list[Tensor]:
    """Return the output and the final states, as the operator."""
    held = known(key)
    count, batch = x.shape[:2]
    time = torch.arange(count, device=x.device)[:, None]
    ends = count if lengths is None else lengths
    left = ends - 1 - time
    order = torch.where(left < 0, left + count, left)  # its own inverse; where a sequence has ended, any time there is
    active = (time < ends).expand(count, batch)

    def ordered(sequence: Tensor) -> Tensor:
        if not reverse:
            return sequence
        at = order.expand(count, batch) if sequence.dim() == 2 else order[..., None].expand(sequence.shape)
        return sequence.gather(0, at)

    moving = [ordered(t) for t in (x, *steps)]
    resets = torch.zeros_like(active) if reset is None else ordered(reset)
    origin = list(restart) or [s.new_zeros(s.shape[-1]) for s in state]
    counts = [len(t) for t in (state, moving, (active, resets), fixed, rows, origin)]

    def step(*tensors: Tensor) -> list[Tensor]:
        given = iter(tensors)
        before, (x_t, *at_step), (lives, begins), *vectors = ([next(given) for _ in range(n)] for n in counts)
        values = held.values((vectors[0], vectors[1], at_step))
        begins = (begins & lives)[:, None]
        from_here = [torch.where(begins, o, s) for o, s in zip(vectors[2], before, strict=True)]
        twin = bind(held.cell, {**values.fixed, **values.rows, **values.steps})
        y_t, after = advance(twin, x_t, from_here)
        kept = [torch.where(lives[:, None], new, old) for new, old in zip(after, before, strict=True)]
        return [*kept, torch.where(lives[:, None], y_t, 0.0)]

    *final, y = torch_private.scan_op(step, list(state), [*moving, active, resets], (*fixed, *rows, *origin))
    return [ordered(y), *final]
