"""What an operation means on tensors, and its gradient rule: outside the loop PyTorch differentiates the one, inside it
the compiler applies the other, and both must agree at kinks too."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from everloop import Cell, H, I, Recurrent, param, state
from everloop.compiler.evaluate import evaluate
from everloop.compiler.gradient import terms
from everloop.compiler.ir import Graph, Type
from everloop.compiler.operations import OPERATIONS
from everloop.compiler.rules import Simplifying

D = torch.float64
NUMBERS = [-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 2.0, 3.0]
BORDERED = ("at_least", "at_most")  # the border is a number
DIFFERENTIABLE = [n for n, r in OPERATIONS.items() if r.kind in ("map", "reduce") and r.arity > 0 and n != "cast"]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_rule_is_the_gradient_of_the_meaning(name: str) -> None:
    row, b = OPERATIONS[name], Simplifying()
    if row.kind == "reduce":
        points = torch.tensor([NUMBERS, [1.0] * 8, [0.0] * 8], dtype=D)[None]
    else:
        points = torch.tensor(list(product(NUMBERS, repeat=row.arity)), dtype=D).T[..., None]
    kind = Type((points.shape[-1],), rows=True)
    leaves = [b.make("input", data=("x", f"a{k}"), type=kind) for k in range(row.arity)]
    value = b.make(name, *leaves)
    seed = b.make("input", data=("x", "g"), type=value.type)
    learned = 1 if name in BORDERED else row.arity
    given = {f"a{k}": t.clone().requires_grad_(k < learned) for k, t in enumerate(points)}
    found = row.meaning(*given.values())
    given["g"] = torch.randn(found.shape, dtype=D)
    gradients = [torch.zeros_like(t) for t in points]
    with torch.no_grad():
        for arg, gradient in terms(b, value, seed):
            gradients[leaves.index(arg)] += evaluate(Graph({"": gradient}), lambda v: given[v.name], like=found)[""]
    if found.requires_grad:
        wanted = [given[v.name] for v in leaves[:learned]]
        by_torch = torch.autograd.grad(found, wanted, given["g"], allow_unused=True)
        expected = [torch.zeros_like(t) if g is None else g for g, t in zip(by_torch, wanted, strict=True)]
        torch.testing.assert_close(gradients[:learned], expected, equal_nan=True)


class Clamped(Cell):
    """What is computed outside the loop, at the borders of clamp and at rows of zeros."""

    h = state(H)
    W, b = param(H, I), param(H, init=1.0)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = (x / (1 + x.norm(dim=-1, keepdim=True))) @ self.W.T
        return 0.5 * h + u * self.b.clamp(-1, 1) + self.W.norm() * 0.1 + nn.functional.hardtanh(x.sum(-1, keepdim=True))


def test_outside_the_loop() -> None:
    cell = Clamped(2, 3, dtype=D)
    x = torch.tensor([[[0.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [-3.0, 2.0]]], dtype=D, requires_grad=True)
    leaves = [x, *cell.parameters()]
    h = torch.zeros(2, 3, dtype=D)
    expected = []
    for x_t in x:
        h = cell.step(x_t, h)
        expected.append(h)
    y, _ = Recurrent(cell, target="llvm")(x)
    weights = torch.randn_like(y)
    torch.testing.assert_close(y, torch.stack(expected))
    found = torch.autograd.grad((y * weights).sum(), leaves)
    torch.testing.assert_close(found, torch.autograd.grad((torch.stack(expected) * weights).sum(), leaves))
