"""A cell, a stack or a bidirectional pair over a whole sequence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from everloop.cell import Cell
from everloop.errors import CellError
from everloop.layers.bidirectional import Bidirectional
from everloop.layers.dispatch import run
from everloop.layers.dropout import values_of
from everloop.layers.padding import cleared
from everloop.layers.stack import Stack


@dataclass(frozen=True)
class Course:
    """How time runs: lengths [B], resets [T, B] (a sequence begins anew at that step), direction, target, check."""

    lengths: Tensor | None = None
    reset: Tensor | None = None
    reverse: bool = False
    target: str | None = None
    check: bool = False

    def restarts(self) -> Tensor | None:
        """Return the steps [T, B] before which the state starts anew, in this direction."""
        if self.reset is None or not self.reverse:
            return self.reset
        after = torch.zeros_like(self.reset)  # a boundary before step t is met, from the end, before step t - 1
        after[:-1] = self.reset[1:]
        if self.lengths is not None:
            after &= torch.arange(1, after.shape[0] + 1, device=after.device)[:, None] < self.lengths
        return after

    def mask(self, x: Tensor) -> Tensor:
        """Return x [T, B, n] with zeros where a sequence has ended."""
        return x if self.lengths is None else cleared(x, self.lengths)


def sweep(module: nn.Module, x: Tensor, state: Any, start: Any, course: Course) -> tuple[Tensor, Any]:
    """Return (output [T, B, n], final state) of `module` over x [T, B, I].

    state: rows [B, n] nested as the module's state; start: the vectors [n] a reset returns to, or None for zeros.
    """
    if isinstance(module, Stack):
        after = []
        for i, (member, before) in enumerate(zip(module.members, state, strict=True)):
            y, new = sweep(member, x, before, start and start[i], course)
            after.append(new)
            joined = module.join(i, x, y)
            x = course.mask(joined) if module.residual else joined
        return x, tuple(after)
    if isinstance(module, Bidirectional):
        back = replace(course, reverse=not course.reverse)
        y_ahead, ahead = sweep(module.ahead, x, state[0], start and start[0], course)
        y_back, behind = sweep(module.back, x, state[1], start and start[1], back)
        return module.join(y_ahead, y_back), (ahead, behind)
    if not isinstance(module, Cell):
        raise CellError(f"cannot run {type(module).__name__} over time; expected a Cell, a Stack or a Bidirectional")
    return run(
        module,
        values_of(module, *x.shape[:2]),
        x,
        state,
        restart=start,
        lengths=course.lengths,
        reset=course.restarts(),
        reverse=course.reverse,
        target=course.target,
        check=course.check,
    )
