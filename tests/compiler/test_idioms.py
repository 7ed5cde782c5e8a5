"""What PyTorch code does besides arithmetic: followed as PyTorch means it, or left to eager, never something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everloop.cell import Cell, H, I, param, state
from everloop.compiler.targets import llvm
from everloop.compiler.trace import trace
from everloop.errors import UnsupportedError
from everloop.layers import Recurrent

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
Step = Callable[[Any, Tensor, Tensor], Tensor]


def aliased(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    total = g = x @ cell.W.T
    g += h @ cell.R.T
    g *= 2
    g /= 3
    g -= 0.5
    return torch.tanh(total)


def of_a_copy(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    g = x @ cell.W.T
    other = g.clone()
    other += h
    return torch.tanh(g * other)


def of_a_part(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    g = x @ cell.W.T + h
    a, _ = g.chunk(2, -1)
    a += 1
    return torch.tanh(g)


def of_the_whole(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    g = x @ cell.W.T + h
    part = g[:, :3]
    g += 1
    return torch.tanh(torch.cat([part, g[:, 3:]], -1))


def of_what_is_detached(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    g = x @ cell.W.T + h
    fixed = g.detach()
    g = g + 0
    return torch.tanh(g * fixed)


def of_new_values(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    total, twice, ones = torch.zeros_like(h), h.clone().mul_(2), h.new_ones(h.shape)
    total += x @ cell.W.T
    total += h
    ones -= h.clone().tanh_()
    return torch.tanh(total * ones + twice)


def of_a_copy_of_a_copy(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    first = h.clone()
    second = first.clone()
    first += x @ cell.W.T
    return torch.tanh(first * second)


def of_repetitions(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    sum_ = x @ cell.W.T + h
    once, same = sum_.repeat(1, 1), torch.diff(sum_, n=0)
    sum_ += 1
    return torch.tanh(sum_ * once + same)


def of_remainders(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    halves, whole = 2 * h, 3 * h.detach()
    same, other = halves, whole
    halves %= 0.7
    whole //= 0.5
    return torch.tanh(x @ cell.W.T + same + other)


def of_masks(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    a, b, c = h > 0, h > -1, h < 1
    both, either, one = a, b, c
    a &= h < 0.5
    b |= h < -2
    c ^= h > 0.2
    return torch.tanh(x @ cell.W.T + both * h + either * 2.0 + one * 3.0)


def of_an_empty_part(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    u, v = h.clone(), 2 * h
    u[:, 4:2] = 1.0
    v[...] = 0.25
    return torch.tanh(x @ cell.W.T + u + v + torch.fmax(h, torch.zeros(6, dtype=h.dtype)))


def of_a_view_by_einsum(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    copy = h.clone()
    same = torch.einsum("bi->bi", copy)
    copy += x @ cell.W.T
    return torch.tanh(same)


def of_a_parameter(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    total = torch.zeros_like(cell.W[:, 0])
    total += cell.W[:, 0]
    return torch.tanh(x @ cell.W.T + h + total)


def of_the_state(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    h += 1
    return torch.tanh(x @ cell.W.T + h)


def part_of_a_mask(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    mask = h > 0
    mask[:, 0] = 0.5
    return torch.tanh(x @ cell.W.T + h * mask)


def caught(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    g = x @ cell.W.T + h
    try:
        return torch.tanh(torch.cummax(g, -1).values)
    except Exception:  # noqa: BLE001 - what a user may write
        return g


FOLLOWED: dict[str, Step] = {
    "changed in place": aliased,
    "a copy changed in place": of_a_copy,
    "new values changed": of_new_values,
    "a copy of what is changed": of_a_copy_of_a_copy,
    "what is repeated once": of_repetitions,
    "remainders in place": of_remainders,
    "masks in place": of_masks,
    "an empty part": of_an_empty_part,
    "the whole changed": of_the_whole,
    "changed where seen by einsum": of_a_view_by_einsum,
    "detached": of_what_is_detached,
    "expand_as": lambda c, x, h: torch.tanh(x @ c.W.T + h.mean(-1, keepdim=True).expand_as(h).sum(-1, keepdim=True)),
    "narrow from the end": lambda c, x, h: torch.tanh(x @ c.W.T + h.narrow(-1, -2, 2).sum(-1, keepdim=True)),
    "index from the end": lambda c, x, h: torch.tanh(x @ c.W.T + h[:, -1:] * 2),
    "hstack": lambda c, x, h: torch.tanh(x @ c.W.T + torch.hstack([h[:, 3:], h[:, :3]])),
    "mask and number": lambda c, x, h: torch.tanh(x @ c.W.T + h * (h > 0) + (h < 0) * 2.0),
    "truth and truth": lambda c, x, h: torch.tanh(x @ c.W.T + h * ((h > 0) + (h > -1))),
    "full_like of truth": lambda c, x, h: torch.tanh(x @ c.W.T + h * torch.full_like(h > 0, 3)),
    "the same shape": lambda c, x, h: torch.tanh(x @ c.W.T + h) if x.shape[0] == h.shape[0] else h,
}
REFUSED: dict[str, tuple[Step, str]] = {
    "inplace": (lambda c, x, h: F.relu(x @ c.W.T + h, inplace=True), "'relu' with inplace=True"),
    "inplace, leaky": (lambda c, x, h: F.leaky_relu(x @ c.W.T + h, inplace=True), "with inplace=True"),
    "a part changed": (of_a_part, "that chunk gave, where PyTorch lets nobody change it in training"),
    "a value of parameters changed": (of_a_parameter, "add in place on a value of parameters alone"),
    "a state changed": (of_the_state, "add in place on h, which the step is given"),
    "a part of a mask": (part_of_a_mask, "an assignment to a part of a value of torch.bool"),
    "another width": (lambda c, x, h: h.sum(-1, keepdim=True).__iadd__(h), "another shape or dtype"),
    "batch size": (lambda c, x, h: h if x.shape[0] == 3 else torch.tanh(h), "the batch size"),
    "batch size not": (lambda c, x, h: h if x.shape[0] != 3 else torch.tanh(h), "the batch size"),
    "batch size among": (lambda c, x, h: h if x.shape[0] in (1, 2) else torch.tanh(h), "the batch size"),
    "shape": (lambda c, x, h: h if x.shape == (3, 4) else torch.tanh(h), "the batch size"),
    "requires_grad": (lambda c, x, h: h if h.requires_grad else torch.tanh(h), "requires a gradient"),
    "narrow beyond": (lambda c, x, h: h + h.narrow(-1, 2, 10).sum(-1, keepdim=True), "10 features from 2 on, of 6"),
    "index beyond": (lambda c, x, h: h + x[:, 7][:, None], "feature 7 of 4"),
    "index before": (lambda c, x, h: h + h[:, -9][:, None], "feature -9 of 6"),
    "one minus truth": (lambda c, x, h: h * (1 - (h > 0)), "subtraction with a truth value"),
    "where of numbers": (lambda c, x, h: torch.where(h, h, 0.0), "a logical operation on numbers"),
    "caught": (caught, "'cummax'"),
}


def cell_of(step: Step) -> Cell:
    made: Cell = type("Custom", (Cell,), {"h": state(H), "W": param(H, I), "R": param(H, H), "step": step})(4, 6)
    return made.double()


@pytest.mark.parametrize("name", FOLLOWED)
def test_followed(name: str) -> None:
    cell, x = cell_of(FOLLOWED[name]), torch.randn(5, 3, 4, dtype=torch.float64)
    assert "target llvm" in Recurrent(cell).explain()
    found = []
    for target in ("eager", None):
        y, _ = Recurrent(cell, target=target)(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), list(cell.parameters()), allow_unused=True)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a if a is not None else x.new_zeros(()), b if b is not None else x.new_zeros(()))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    step, message = REFUSED[name]
    cell = cell_of(step)
    with pytest.raises(UnsupportedError, match=message):
        trace(cell, dict(cell.named_parameters()), dtype=torch.float64)
    assert torch.is_grad_enabled()


def test_autocast_inside_a_step_is_refused() -> None:
    def step(cell: Any, x: Tensor, h: Tensor) -> Tensor:
        with torch.autocast("cpu"):
            return torch.tanh(x @ cell.W.T + h)

    cell = cell_of(step)
    with pytest.raises(UnsupportedError, match=r"under torch\.autocast"):
        trace(cell, dict(cell.named_parameters()), dtype=torch.float64)
