"""The reference: each sequence alone, step by step, as the definition of a layer says; plain PyTorch on [1, n] rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from everloop import Bidirectional, Stack
from everloop.cell import Cell

Step = Callable[[int, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
Rows = list[Tensor]


def over_sequence(
    module: nn.Module, rows: Rows, state: Any, initial: Any, resets: Sequence[bool], at: Noise, backwards: bool = False
) -> tuple[Rows, Any]:
    """Return the output rows and the last state of one sequence.

    module: a cell, Stack or Bidirectional; rows: x of its valid steps, each [1, I]; state: before the first step;
    initial: what a reset returns to; resets: for each valid step, whether a new part begins there.
    """
    if isinstance(module, Bidirectional):
        ahead, first = over_sequence(module.ahead, rows, state[0], initial[0], resets, at, backwards)
        back, second = over_sequence(module.back, rows, state[1], initial[1], resets, at, not backwards)
        if module.merge == "sum":
            return [a + b for a, b in zip(ahead, back, strict=True)], (first, second)
        return [torch.cat([a, b], -1) for a, b in zip(ahead, back, strict=True)], (first, second)
    if isinstance(module, Stack):
        after = []
        for member, s, i in zip(module.members, state, initial, strict=True):
            found, last = over_sequence(member, rows, s, i, resets, at, backwards)
            if module.residual and found and found[0].shape == rows[0].shape:
                found = [y + x for y, x in zip(found, rows, strict=True)]
            rows = found
            after.append(last)
        return rows, tuple(after)
    assert isinstance(module, Cell)
    output: list[Any] = [None] * len(rows)
    order = range(len(rows))
    for t in reversed(order) if backwards else order:
        new_part = t + 1 < len(rows) and resets[t + 1] if backwards else resets[t]
        if new_part:
            state = initial
        found = at.step(module, t, rows[t], state)
        state = tuple(found) if isinstance(found, tuple | list) else (found,)
        output[t] = state[0]
    return output, state


class Noise:
    """What a regulariser has drawn for one call, applied to one sequence of it; nothing for a plain cell."""

    def __init__(self, drawn: dict[str, Tensor] | None = None, sequence: int = 0) -> None:
        self.drawn, self.b = drawn or {}, sequence

    def step(self, cell: Cell, t: int, x: Tensor, state: tuple[Tensor, ...]) -> Any:
        if not self.drawn:
            return cell.step(x, *state)
        inner = cell.cell
        assert isinstance(inner, Cell)
        if "mask_x" in self.drawn:
            x = x * self.drawn["mask_x"][self.b]
        found = self._with_weights(inner).step(x, *state)
        after = list(found) if isinstance(found, tuple | list) else [found]
        for i, name in enumerate(inner.state_sizes):
            if f"new_{name}" in self.drawn:
                after[i] = torch.where(self.drawn[f"new_{name}"][t, self.b] > 0.5, after[i], state[i])
            if f"rate_{name}" in self.drawn:
                after[i] = after[i] + self.drawn[f"rate_{name}"] * (state[i] - after[i])
        return tuple(after)

    def _with_weights(self, inner: Cell) -> Cell:
        """Return a copy of the cell with other numbers in its recurrent matrices, computed from the old ones."""
        changed = {}
        for name, spans in inner.recurrent_matrices().items():
            keep = self.drawn.get(f"keep {name}")
            if keep is None and "mask_h" in self.drawn:
                keep = torch.ones_like(inner.get_parameter(name))
                for span in spans:
                    keep[:, span] = self.drawn["mask_h"][self.b]
            if keep is not None:
                changed[name] = inner.get_parameter(name) * keep
        twin = copy.copy(inner)
        twin._parameters = {k: p for k, p in inner._parameters.items() if k not in changed}
        twin.__dict__.update(changed)
        return twin
