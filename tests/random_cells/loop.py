"""The reference: each sequence alone, step by step, as the definition of a layer says; plain PyTorch on [1, n] rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from everloop import Bidirectional, Stack
from everloop.cell import Cell
from everloop.layers.dropout import Wrapper

Step = Callable[[int, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
Rows = list[Tensor]
Outputs = list[Tensor]  # of one step


def over_sequence(
    module: nn.Module, rows: Rows, state: Any, initial: Any, resets: Sequence[bool], at: Noise, backwards: bool = False
) -> tuple[Rows, Any]:
    """Return the output rows, several outputs side by side, and the last state of one sequence.

    module: a cell, Stack or Bidirectional; rows: x of its valid steps, each [1, I]; state: before the first step;
    initial: what a reset returns to; resets: for each valid step, whether a new part begins there.
    """
    outputs, last = _over(module, rows, state, initial, resets, at, backwards)
    return [torch.cat(each, -1) for each in outputs], last


def _over(
    module: nn.Module, rows: Rows, state: Any, initial: Any, resets: Sequence[bool], at: Noise, backwards: bool
) -> tuple[list[Outputs], Any]:
    if isinstance(module, Bidirectional):
        ahead, first = _over(module.ahead, rows, state[0], initial[0], resets, at, backwards)
        back, second = _over(module.back, rows, state[1], initial[1], resets, at, not backwards)
        both = [list(zip(a, b, strict=True)) for a, b in zip(ahead, back, strict=True)]
        if module.merge == "sum":
            return [[a + b for a, b in each] for each in both], (first, second)
        return [[torch.cat(pair, -1) for pair in each] for each in both], (first, second)
    if isinstance(module, Stack):
        after = []
        outputs: list[Outputs] = []
        for member, s, i in zip(module.members, state, initial, strict=True):
            outputs, last = _over(member, rows, s, i, resets, at, backwards)
            if module.residual and outputs and outputs[0][0].shape == rows[0].shape:
                outputs = [[y[0] + x] for y, x in zip(outputs, rows, strict=True)]
            rows = [y[0] for y in outputs]
            after.append(last)
        return outputs, tuple(after)
    assert isinstance(module, Cell)
    output: list[Any] = [None] * len(rows)
    order = range(len(rows))
    n = len(module.output_sizes)
    for t in reversed(order) if backwards else order:
        new_part = t + 1 < len(rows) and resets[t + 1] if backwards else resets[t]
        if new_part:
            state = initial
        found = at.step(module, t, rows[t], state)
        found = list(found) if isinstance(found, tuple | list) else [found]
        state, declared = tuple(found[: len(found) - n]), found[len(found) - n :]
        output[t] = declared if n else [state[0]]
    return output, state


class Told:
    """What a call gives a cell besides x and states.

    given: inputs [T, B, n], contexts [B, n] and memories [B, S, n] by name, with lengths as NAME_lengths; chance: the
    noise, a row a step [T, B, n] or a sequence [B, n].
    """

    def __init__(self, given: dict[str, Tensor], chance: dict[str, Tensor]) -> None:
        self.given, self.chance, self.any = given, chance, bool(given or chance)

    def at(self, cell: Cell, t: int, b: int) -> Cell:
        """Return a copy of the cell that has as attributes what one step of one sequence reads."""
        twin, row = copy.copy(cell), slice(b, b + 1)
        own: dict[str, Tensor] = {name: self.given[name][t, row] for name in cell.input_sizes}
        for name, shape in cell.context_shapes.items():
            own[name] = self.given[name][row]
            if len(shape) > 1:
                rows = own[name].shape[1]
                end = int(self.given[f"{name}_lengths"][b]) if f"{name}_lengths" in self.given else rows
                own[f"{name}_mask"] = torch.arange(rows)[None] < end
        for name, spec in type(cell).noises.items():
            own[name] = torch.full((1, spec.size(cell.sizes)), spec.absent, dtype=torch.float64)
        own |= {name: n[t, row] if n.dim() == 3 else n[row] for name, n in self.chance.items()}
        twin.__dict__.update(own)
        return twin


class Noise:
    """What a regulariser has drawn for one call, applied to one sequence of it; nothing for a plain cell."""

    def __init__(self, drawn: dict[str, Tensor] | None = None, sequence: int = 0, told: Told | None = None) -> None:
        self.drawn, self.b, self.told = drawn or {}, sequence, told or Told({}, {})

    def step(self, cell: Cell, t: int, x: Tensor, state: tuple[Tensor, ...]) -> Any:
        inner = cell.cell if isinstance(cell, Wrapper) else cell
        assert isinstance(inner, Cell)
        if self.told.any or type(inner).noises:
            inner = self.told.at(inner, t, self.b)
            state = (*(getattr(inner, name) for name in inner.input_sizes), *state)
        if not self.drawn:
            return inner.step(x, *state)
        if "mask_x" in self.drawn:
            x = x * self.drawn["mask_x"][self.b]
        found = self._with_weights(inner).step(x, *state)
        after = list(found) if isinstance(found, tuple | list) else [found]
        for i, name in enumerate(inner.state_sizes):
            if f"new_{name}" in self.drawn:
                new = (self.drawn[f"new_{name}"][t, self.b] > 0.5).view_as(state[i])
                after[i] = torch.where(new, after[i], state[i])
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
                    keep[..., span] = self.drawn["mask_h"][self.b]
            if keep is not None:
                changed[name] = inner.get_parameter(name) * keep
        twin = copy.copy(inner)
        twin._parameters = {k: p for k, p in inner._parameters.items() if k not in changed}
        twin.__dict__.update(changed)
        return twin
