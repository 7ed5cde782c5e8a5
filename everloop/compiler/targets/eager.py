"""The target `eager`: a loop of plain PyTorch. It is the meaning; every other target is compared with it."""

from __future__ import annotations

import torch
from torch import Tensor

from everloop import torch_private
from everloop.cell import Cell, advance, bind, keep
from everloop.compiler.batched import is_batched
from everloop.compiler.call import Call, Results
from everloop.compiler.target import CellTarget


class Eager(CellTarget):
    """Every cell, on every device and in every dtype, one step after the other."""

    name = "eager"

    def refusal(self, dtype: torch.dtype, device: torch.device) -> str:
        return ""

    def run(self, cell: Cell, call: Call) -> Results:
        values, x, lengths, reset, reverse = call.values, call.x, call.time.lengths, call.time.reset, call.time.reverse
        # The cell sees the rows of active sequences only: no number of the padding, and none made of it, has a part.
        # Where nobody can know the lengths (in `vmap`, on meta and fake tensors), ended ones see their last row again.
        steps, batch = x.shape[:2]
        ends = torch.full((batch,), steps, device=x.device) if lengths is None else lengths
        step = torch.arange(steps, device=x.device)[:, None]
        is_known = lengths is None or _has_numbers(lengths)
        batch_sizes = (step < lengths).sum(1).tolist() if lengths is not None and is_known else [batch] * steps
        at = (ends - 1 - step) % max(steps, 1) if reverse else step.expand(steps, batch)  # of a time the step, and back
        order = ends.argsort(descending=True, stable=True)  # the active sequences of each step stand first
        place, ends = order.argsort(), ends[order]
        when = at[:, order] if is_known else torch.minimum(at[:, order], (ends - 1).clamp(min=0))
        at_step = {name: v[when, order] for name, v in values.steps.items()}
        rows = {name: v[order] for name, v in values.rows.items()}
        x, reset = x[when, order], None if reset is None else reset[when, order][..., None]
        states = tuple(s[order] for s in call.state)
        origin = [
            torch.zeros_like(s) if r is None else r.expand_as(s) for s, r in zip(states, call.restart, strict=True)
        ]
        held = dict(cell.named_buffers())
        bound = {name: v for name, v in values.fixed.items() if held.get(name) is not v}  # a step may set its buffers
        twin = bind(cell, bound)
        width = cell.output_width
        if not any(batch_sizes):
            return _without_steps(call, width)
        outputs: list[Tensor] = []
        for s, n in enumerate(batch_sizes):
            if n == 0:
                break
            before = tuple(h[:n] for h in states)
            if reset is not None:
                before = tuple(torch.where(reset[s, :n], o[:n], h) for o, h in zip(origin, before, strict=True))
            if rows or at_step:
                bound |= {name: v[:n] for name, v in rows.items()} | {name: v[s, :n] for name, v in at_step.items()}
                twin = bind(cell, bound)
            output, after = advance(twin, x[s, :n], before)
            keep(cell, twin, bound)
            after = tuple(new.expand_as(old) for new, old in zip(after, before, strict=True))
            output = output.expand(n, width)
            if not is_known:
                active = (s < ends)[:, None]
                after = tuple(torch.where(active, new, old) for new, old in zip(after, before, strict=True))
                output = torch.where(active, output, 0)
            states = tuple(_joined(new, old[n:]) for new, old in zip(after, states, strict=True))
            outputs.append(_joined(output, output.new_zeros(batch - n, width)))
        outputs += [x.new_zeros(batch, width)] * (steps - len(outputs))
        return torch.stack(outputs)[at, place], tuple(s[place] for s in states)


TARGET = Eager()


def _without_steps(call: Call, width: int) -> Results:
    """Return what a call gives in which no sequence has a step; all that goes in has gradients: zero."""
    values = call.values
    given = [call.x, *values.fixed.values(), *values.rows.values(), *values.steps.values()]
    nothing = sum(v.flatten()[:0].square().sum() for v in given if v.requires_grad)
    return call.x.new_zeros(*call.x.shape[:2], width) + nothing, tuple(s.clone() for s in call.state)


def _has_numbers(lengths: Tensor) -> bool:
    """Whether Python can read the numbers of a tensor."""
    is_plain = type(lengths) is Tensor and not lengths.is_meta
    return is_plain and not is_batched(lengths) and not torch_private.tracing_state()


def _joined(rows: Tensor, rest: Tensor) -> Tensor:
    return torch.cat([rows, rest]) if len(rest) else rows
