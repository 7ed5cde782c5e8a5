"""Changes in place of parts: compiled as PyTorch computes them, or left to eager, never something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop.cell import Cell, H, I, param, state
from everloop.compiler.targets import llvm
from everloop.compiler.trace import trace
from everloop.errors import UnsupportedError
from everloop.layers import Recurrent

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
Step = Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
MASK = torch.tensor([True, False, True, True, False, False, True, False, False, True, True, False])


def read(u: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    return torch.tanh(u), torch.tanh(S)


def part_added_to(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    u = x @ c.W.T + h
    u[:, :3] += x[:, :3] * 2
    u[:, -1] -= h[:, 0]
    return read(u, S)


def part_of_its_own_copy(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    u = x @ c.W.T + h
    u[:, 1:5] = u[:, 1:5].clone() * u[:, 2:6].clone()
    return read(u, S)


def zero_in_a_copy(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    h = h.clone()
    h[:, 0] = 0
    return read(x @ c.W.T + h @ c.R.T, S)


def fixed_mask(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    u = x @ c.W.T + h
    u[:, MASK] *= 0.25
    u[:, ~MASK] = h[:, MASK]
    return read(u, S)


def fixed_list(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    u = x @ c.W.T + h
    u[:, [7, 0, 3]] = h[:, :3]
    u[:, [1, 10]] **= 2
    return read(u, S)


def mask_of_the_step(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    u, S = x @ c.W.T + h, 0.5 * S
    u[u < 0] = 0.1
    S[S > 0.2] = 0
    return read(u, S)


def changed_where_a_mask_is_true(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    u, S = x @ c.W.T + h, 0.5 * S
    u[u < 0] *= 0.1
    S[S > 0] **= 0.5  # whose slope at the others is none
    low = S < -0.1
    kept = other = S[low]
    S[low] = 2 - 3 * S[low] / S[low].__neg__() + u.view(-1, 3, 4)[low]
    other += c.slope
    S[S == 100] = S[S == 100] + 1
    S[low] -= kept
    return read(u, S)


def places_apart(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    u = x @ c.W.T + h
    u[:, ::2] = h[:, 1::2] * u[:, :6].clone()
    u[:, 1::3] *= -1
    return read(u, S)


def view_changed(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    u = x @ c.W.T + h
    q = u.view(-1, 3, 4)
    q[:, 1].mul_(2)
    q.transpose(1, 2)[:, 0].add_(1)
    u[:, 11] = 3
    return read(u * q.sum(-1).repeat_interleave(4, 1), S)


def whole_changed_where_seen(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    u = x @ c.W.T + h
    first, rest = u[:, :3], u[:, 3:]
    u += 1
    rest *= first.repeat(1, 3)
    return read(torch.cat([first, rest], -1) + u, S)


def seen_while_detached(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    u = x @ c.W.T + h
    fixed = u.detach()
    u += h
    return read(u * fixed, S)


def matrix(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    S = 0.9 * S
    S[:, :, 0] = x[:, :3]
    S[:, 1] += h[:, :4]
    S[:, 2, 1:3] *= h[:, :2]
    S[..., -1] -= 0.5
    S[:, [0, 2], [1, 3]] = 2.0
    S.diagonal(dim1=1, dim2=2).mul_(0.5)
    S.transpose(1, 2)[:, 3, 1:].add_(h[:, :2])
    return read(x @ c.W.T + h + S.sum(-1).repeat(1, 4), S)


def filled_piece_by_piece(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    u = torch.empty_like(h)
    u[:, :5], u[:, 5:] = x @ c.W[:5].T, h[:, 5:]
    T = x.new_empty(x.shape[0], 3, 4)
    for k in range(3):
        T[:, k] = S[:, k] * (k + 1) + h[:, k : k + 4]
    return read(u, T)


def shapes_of_one_memory(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    u = x @ c.W.T + h
    flat = u.unflatten(1, (4, 3)).flatten(1)
    flat[:, 2] = 7
    copy = u.view(-1, 4, 3).transpose(1, 2).reshape(-1, 12)
    copy[:, 0] = 9
    u.to(u.dtype, copy=True).add_(1)
    u.double().mul_(0.5)
    u.contiguous()[:, 4] = 0
    return read(u + copy, S)


def expanded(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    one = h[:, :1] * 1
    wide = one.expand(-1, 12)
    one += x[:, :1]
    return read(x @ c.W.T + h * wide, S)


def copied(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    u, S = x @ c.W.T + h, S.clone()
    u[:, 2:4].copy_(h[:, :2])
    u[:, 4:6].zero_()
    S[:, 0].fill_(0.25)
    S[:, 1:].clamp_(min=-0.1)
    return read(u, S)


def mask_by_hand(c: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
    u = x @ c.W.T + h
    keep = u > 0
    keep[:, :4] = False
    keep[:, 5] = u[:, 5] < 0.5
    return read(u * keep, S)


FOLLOWED: dict[str, Step] = {
    "a part added to": part_added_to,
    "a part and its own copy": part_of_its_own_copy,
    "zero in a copy": zero_in_a_copy,
    "a fixed mask": fixed_mask,
    "a fixed list": fixed_list,
    "a mask of the step": mask_of_the_step,
    "changed where a mask is true": changed_where_a_mask_is_true,
    "places apart": places_apart,
    "a view changed": view_changed,
    "the whole changed where it is seen": whole_changed_where_seen,
    "seen while detached": seen_while_detached,
    "a matrix": matrix,
    "filled piece by piece": filled_piece_by_piece,
    "shapes of one memory": shapes_of_one_memory,
    "one number expanded": expanded,
    "copied": copied,
    "a mask by hand": mask_by_hand,
}
REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "the state": (lambda c, x, h, S: h.__iadd__(1), "add in place on h, which the step is given; change a copy of it"),
    "a part of the state": (lambda c, x, h, S: S[:, 0].mul_(2), r"on S, which the step is given; .* S = S\.clone\(\)"),
    "an assignment to the input": (lambda c, x, h, S: x.__setitem__((slice(None), 0), 1), "a part of x, which"),
    "a part of chunk": (lambda c, x, h, S: (2 * h).chunk(2, -1)[0].add_(1), "that chunk gave, where PyTorch"),
    "what is detached": (lambda c, x, h, S: (2 * h).detach().add_(1), "on a value that is detached"),
    "what is expanded": (lambda c, x, h, S: (2 * h[:, :1]).expand(-1, 4).add_(1), "is expanded, whose places"),
    "what reshape may copy": (lambda c, x, h, S: (2 * S).flatten(1).add_(1), "another may share, by flatten"),
    "overlapping parts": (lambda c, x, h, S: of_itself(2 * h), r"by another part of its memory; write clone\(\)"),
    "a place twice": (lambda c, x, h, S: (2 * h).__setitem__((slice(None), [0, 0]), h[:, :2]), "names a place twice"),
    "the batch": (lambda c, x, h, S: (2 * h).__setitem__(0, 1.0), "the batch, whose sequences do not mix"),
    "an index of the step": (
        lambda c, x, h, S: (2 * h).__setitem__((slice(None), (h > 0).long()), 1.0), "an index that a step computes",
    ),
    "numbers where a mask is true": (
        lambda c, x, h, S: (2 * h).__setitem__(h > 0, h[:, 0]), r"write torch\.where\(mask, b, a\)"
    ),
    "read where a mask is true": (lambda c, x, h, S: h[h > 0].sum(), "an index that a step computes"),
    "one mask's numbers at another": (
        lambda c, x, h, S: (2 * h).__setitem__(h > 0, h[h > 1]), r"an index that a step computes; v\[mask\] meets"
    ),
    "a function where a mask is true": (lambda c, x, h, S: h[h > 0] + torch.tanh(h[h > 0]), "v.mask. meets numbers"),
    "a row where a mask is true": (lambda c, x, h, S: h * h[h > 0], "v.mask. meets numbers"),
    "a row that a mask meets": (lambda c, x, h, S: h.mul(h[h > 0]), "v.mask. meets numbers"),
    "how many a mask has": (lambda c, x, h, S: h[h > 0].numel(), "v.mask. meets numbers"),
    "parameters": (lambda c, x, h, S: (2 * c.W).add_(1), "add in place on a value of parameters alone"),
    "a parameter for each sequence": (lambda c, x, h, S: c.R.sum(0).expand(x.shape[0], -1).add_(1), "of a parameter"),
    "many parts": (
        lambda c, x, h, S: h.repeat(1, 50).__setitem__((slice(None), [*range(0, 400, 2), 403]), 1.0), "at most 128"
    ),
}  # fmt: skip


def of_itself(u: Any) -> Any:
    u[:, 1:] = u[:, :-1]


def cell_of(step: Callable[..., Any]) -> Cell:
    given = {"h": state(H), "S": state(3, 4), "W": param(H, I), "R": param(H, H), "slope": param(1), "step": step}
    made: Cell = type("Custom", (Cell,), given)(5, 12)
    return made.double()


@pytest.mark.parametrize("name", FOLLOWED)
def test_followed(name: str) -> None:
    cell, x = cell_of(FOLLOWED[name]), torch.randn(5, 3, 5, dtype=torch.float64)
    assert "target llvm" in Recurrent(cell).explain()
    state = torch.randn(3, 12, dtype=torch.float64), torch.randn(3, 3, 4, dtype=torch.float64)
    found = []
    for target in ("eager", None):
        leaves = [each.clone().requires_grad_() for each in (x, *state)]
        y, (h, S) = Recurrent(cell, target=target)(leaves[0], state=tuple(leaves[1:]))
        total = y.square().sum() + (S * torch.arange(12.0).view(3, 4)).sum() + h.sum()
        found.append((y, h, S, *torch.autograd.grad(total, [*leaves, *cell.parameters()], allow_unused=True)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a if a is not None else x.new_zeros(()), b if b is not None else x.new_zeros(()))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    change, message = REFUSED[name]

    def step(cell: Any, x: Tensor, h: Tensor, S: Tensor) -> Any:
        change(cell, x, h, S)
        return read(x @ cell.W.T + h @ cell.R.T, S)

    cell = cell_of(step)
    with pytest.raises(UnsupportedError, match=message):
        trace(cell, dict(cell.named_parameters()), dtype=torch.float64)


class Large(Cell):
    """Parts of wide values: hundreds that do not lie side by side."""

    h, S = state(H), state(160, 6)
    W = param(H, I)

    def step(self, x: Tensor, h: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        u = x @ self.W.T + h
        u[:, ::2] *= h[:, 1::2]
        u[:, 1::4] = h[:, :80]
        S = 0.9 * S
        S[:, :, 2:4] *= h[:, :160].unsqueeze(-1)
        S[:, :, 5] += h[:, 160:]
        S[:, ::2, 0] = 0.5
        S[:, 1:, 1:3] -= S[:, :-1, 1:3].clone()
        S.transpose(1, 2)[:, 4].mul_(x.sum(-1, keepdim=True))
        return torch.tanh(u), torch.tanh(S)


def test_many_parts_are_a_choice_between_two_rows() -> None:
    cell, x = Large(5, 320).double(), torch.randn(4, 2, 5, dtype=torch.float64)
    graph = trace(cell, dict(cell.named_parameters()), dtype=torch.float64)
    assert max(len(value.args) for value in graph.values) <= 3
    found = []
    for target in ("eager", "llvm"):
        given = x.clone().requires_grad_()
        y, (_, S) = Recurrent(cell, target=target)(given)
        total = y.square().sum() + S.sin().sum()
        found.append((y, S, *torch.autograd.grad(total, [given, cell.W])))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
