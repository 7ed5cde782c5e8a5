"""The largest and smallest along an axis: of equal ones the first gets the gradient, in PyTorch and compiled."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everloop import Recurrent
from everloop.cell import Cell, H, I, param, state
from everloop.errors import UnsupportedError

T, B, I_, H_ = 5, 4, 3, 12
D = torch.float64


class Written(Cell):
    """A cell with a function of rows [B, 3, 2, 2] in its middle, beside rows of them by channel."""

    h = state(H)
    W, R, g, b = param(H, I), param(H, H), param(3, init=1.5), param(3)
    function: Any = None

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        a = torch.tanh(x @ self.W.T + h @ self.R.T)
        found = self.function(self, (2 * a).unflatten(-1, (3, 2, 2)), h.unflatten(-1, (3, 2, 2)))  # type: ignore[no-untyped-call]
        return 0.3 * a + found.expand(-1, 3, 2, 2).flatten(1)


def ties(a: Tensor) -> Tensor:
    """Numbers of which many are the same, with the gradient of those that are not."""
    return a + (a.round() - a).detach()


FORMS: dict[str, Any] = {
    "max": lambda cell, a, h: a.max(-1, keepdim=True).values + h,
    "max of ties": lambda cell, a, h: ties(2 * a).max(1, keepdim=True)[0] * h,
    "max dropped": lambda cell, a, h: ties(2 * a).max(dim=1).values.unsqueeze(1) * h,
    "min of ties": lambda cell, a, h: ties(2 * a).min(2, keepdim=True).values * a,
    "max of zeros": lambda cell, a, h: h.clamp(max=0).max(1, keepdim=True).values + 0.1 * a,
    "min of zeros": lambda cell, a, h: torch.relu(h).min(-1, keepdim=True).values * a,
    "torch.max": lambda cell, a, h: torch.max(ties(a), -1, keepdim=True).values * h,
    "aminmax": lambda cell, a, h: sum(ties(3 * a).aminmax(dim=1, keepdim=True)) * h,
    "matrix_norm": lambda cell, a, h: h / (1 + torch.linalg.matrix_norm(a, keepdim=True)),
    "matrix_norm of sums": lambda cell, a, h: h / (1 + torch.linalg.matrix_norm(a, ord=1)[..., None, None]),
    "matrix_norm of smallest sums": lambda cell, a, h: h / (1 + torch.linalg.matrix_norm(a, -math.inf, (1, 3), True)),
    "linalg.norm of matrices": lambda cell, a, h: h / (1 + torch.linalg.norm(a, math.inf, (1, 2), keepdim=True)),
    "linalg.norm of two axes": lambda cell, a, h: h / (1 + torch.linalg.norm(a, dim=(1, 2), keepdim=True, ord=None)),
    "std_mean": lambda cell, a, h: h / (1 + sum(torch.std_mean(a, (1, 3), keepdim=True))),
    "var_mean": lambda cell, a, h: h / (3 + sum(torch.var_mean(a, -1, keepdim=True, unbiased=False))),
    "var_mean correction": lambda cell, a, h: sum(torch.var_mean(h, (2, 3), correction=0, keepdim=True)) + a,
    "group_norm": lambda cell, a, h: F.group_norm(a, 3, cell.g, cell.b) * h,
    "group_norm one group": lambda cell, a, h: F.group_norm(a + h, 1, eps=0.1),
    "group_norm flat": lambda cell, a, h: F.group_norm(a.flatten(1), 4).unflatten(-1, (3, 2, 2)),  # type: ignore[no-untyped-call]
    "tensordot": lambda cell, a, h: torch.tensordot(a, cell.R[:2, :2], dims=([2], [1])).transpose(2, 3),
    "tensordot two": lambda cell, a, h: torch.tensordot(a, cell.R[:4, :4].reshape(2, 2, 2, 2), dims=2) + h,
    "diagonal": lambda cell, a, h: a.diagonal(dim1=2, dim2=3).unsqueeze(-1) + h,
    "diagonal off": lambda cell, a, h: torch.diagonal(a.flatten(2), 1, 1, 2).sum(-1)[:, None, None, None] * h,
    "diagonal below": lambda cell, a, h: torch.diagonal(a, -1, 1, 3).sum(-1)[:, None, :, None] * h,
    "tril": lambda cell, a, h: a.tril() + h.triu(1) + torch.triu(a, -1),
    "diag_embed": lambda cell, a, h: torch.diag_embed(a[..., 0]) @ h,
    "index_add": lambda cell, a, h: h.index_add(1, torch.tensor([2, 0, 2]), a, alpha=0.5),
    "index_add_": lambda cell, a, h: h.clone().index_add_(3, torch.tensor([1, 1]), a),
}


def results(cell: Cell, target: str) -> list[Tensor]:
    torch.manual_seed(3)
    x = torch.randn(T, B, I_, dtype=next(cell.parameters()).dtype, requires_grad=True)
    y, _ = Recurrent(cell, target=target)(x)
    return [y, *torch.autograd.grad((y * torch.randn_like(y)).sum(), [x, *cell.parameters()], materialize_grads=True)]


@pytest.mark.parametrize("name", FORMS)
def test_compiled_it_is_what_pytorch_computes(name: str) -> None:
    torch.manual_seed(0)
    cell = Written(I_, H_, dtype=D)
    cell.function = FORMS[name]
    for found, right in zip(results(cell, "llvm"), results(cell, "eager"), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["max of zeros", "min of zeros"])
def test_in_bfloat16_too(name: str) -> None:
    torch.manual_seed(0)
    cell = Written(I_, H_, dtype=torch.bfloat16)
    cell.function = FORMS[name]
    for found, right in zip(results(cell, "llvm"), results(cell, "eager"), strict=True):
        torch.testing.assert_close(found, right, rtol=0.05, atol=0.05 * float(right.detach().abs().max()))


def test_what_is_not_a_number_is_the_largest() -> None:
    cell = Written(I_, H_, dtype=D)
    cell.function = lambda cell, a, h: torch.where(a > 0, torch.nan, a).max(1, keepdim=True).values
    found, right = (results(cell, target)[0] for target in ("llvm", "eager"))
    torch.testing.assert_close(found, right, equal_nan=True)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda cell, a, h: a * a.max(1, keepdim=True).indices, "the place of the largest number; whose place"),
        (lambda cell, a, h: a * torch.sin(a.max(1, keepdim=True)[1]), "the place of the largest number"),
        (lambda cell, a, h: a * a.argmax(1, keepdim=True), "true there, and softmax"),
        (lambda cell, a, h: a.topk(1, -1).values + h, "compare with a threshold"),
        (lambda cell, a, h: torch.sort(a)[0] + h, "the operation 'sort'; which orders places"),
        (lambda cell, a, h: a.cummax(1).values, "torch.maximum"),
        (lambda cell, a, h: a.detach().requires_grad_(), "custom_gradient"),
        (lambda cell, a, h: a * a.item(), "has no number while it is compiled"),
        (lambda cell, a, h: torch.linalg.inv(a), "of values of a step write products"),
        (lambda cell, a, h: torch.linalg.matrix_norm(a, "nuc"), "'nuc', which needs singular values; 'fro'"),
        (
            lambda cell, a, h: h if h.abs().max() > 1 else a,
            "max over all axes, the batch too, .* not mix; name the dim",
        ),
        (lambda cell, a, h: a * h.min(), "min over all axes, the batch too, whose sequences do not mix; name the dim"),
        (lambda cell, a, h: torch.fft.fft(a).real, "write the real and the imaginary part as two values"),
        (lambda cell, a, h: a.clone().renorm_(2, 0, 1), "write the new value out"),
    ],
)
def test_what_is_refused_says_what_to_write(function: Any, text: str) -> None:
    cell = Written(I_, H_)
    cell.function = function
    with pytest.raises(UnsupportedError, match="does not know .*" + text):
        Recurrent(cell, target="llvm")(torch.randn(T, B, I_))
