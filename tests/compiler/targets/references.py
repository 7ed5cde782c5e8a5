"""The formulas of the hand-made loops, in plain PyTorch with autograd, step by step and row by row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

States = tuple[Tensor, ...]


def run(
    step: Callable[[Tensor, States], tuple[Tensor, States]],
    x: Tensor,
    first: States,
    restart: States,
    lengths: list[int],
    reset: Tensor | None,
    reverse: bool,
    width: int,
) -> tuple[Tensor, States]:
    """Run `step(x_t, states) -> (output, states)` one sequence at a time: outputs [T, B, width] and final states."""
    T, B = x.shape[:2]
    columns, final = [], []
    for b in range(B):
        state = tuple(s[b] for s in first)
        rows = [x.new_zeros(width)] * T
        for s in range(lengths[b]):
            t = lengths[b] - 1 - s if reverse else s
            if reset is not None and reset[t, b]:
                state = restart
            rows[t], state = step(x[t, b], state)
        columns.append(torch.stack(rows) if T else x.new_zeros(0, width))
        final.append(state)
    if not columns:
        return x.new_zeros(T, 0, width), first
    return torch.stack(columns, 1), tuple(torch.stack(parts) for parts in zip(*final, strict=True))


def lstm(R: Tensor) -> Callable[[Tensor, States], tuple[Tensor, States]]:
    def step(x: Tensor, states: States) -> tuple[Tensor, States]:
        h, c = states
        i, f, g, o = (x + R @ h).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return torch.cat((h, c)), (h, c)

    return step


def gru(R: Tensor, U: Tensor) -> Callable[[Tensor, States], tuple[Tensor, States]]:
    def step(x: Tensor, states: States) -> tuple[Tensor, States]:
        (h,) = states
        (r, z), n = (x[: 2 * len(h)] + R @ h).sigmoid().chunk(2), x[2 * len(h) :]
        n = (n + U @ (r * h)).tanh()
        h = n + z * (h - n)
        return h, (h,)

    return step


def normalised(R: Tensor) -> Callable[[Tensor, States], tuple[Tensor, States]]:
    def step(x: Tensor, states: States) -> tuple[Tensor, States]:
        value = R @ states[0] + x
        h = torch.nn.functional.layer_norm(value, value.shape, eps=1e-5).tanh()
        return torch.cat((h, value.max()[None])), (h,)

    return step
