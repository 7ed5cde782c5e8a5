"""Rows with several axes of features: each function of shape and each product, compiled, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, tanh
from torch.nn import functional as F

from everloop.cell import Cell, H, I, param, state
from everloop.compiler import target as targets
from everloop.compiler.interpreter import INTERPRETED
from everloop.compiler.targets import llvm
from everloop.compiler.trace import trace
from everloop.compiler.view import View, common_axes, fitted
from everloop.diagnose import agree
from everloop.errors import UnsupportedError
from everloop.layers import Recurrent

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
HEADS, SIZE = 3, 4
Step = Callable[[Any, Tensor, Tensor], Tensor]


def rows(x: Tensor) -> Tensor:
    return x.view(x.shape[0], HEADS, SIZE)


def sums_of_heads(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    return tanh((rows(u) * rows(h)).sum(-1, keepdim=True) * rows(u) + 0.3 * h.view(-1, HEADS, SIZE))


def outer_product(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    return tanh(u[:, :HEADS].unsqueeze(-1) * h[:, None, 4:8]) + 0.1 * rows(h)


def fast_weights(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C, q = rows(h), u[:, :SIZE]
    found = torch.bmm(C, q.unsqueeze(-1)).squeeze(-1)
    return 0.5 * C + 0.1 * found.unsqueeze(-1) * q.unsqueeze(-2) + u[:, :HEADS, None]


def sums_of_products(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C = rows(h)
    squared = torch.einsum("bij,bkj->bik", C, C)
    return tanh(squared @ C + torch.einsum("bij,bi->bj", C, u[:, :HEADS])[:, None])


def three_factors(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    a, b = u[:, :HEADS], u[:, HEADS : HEADS + SIZE]
    return tanh(torch.einsum("bij,bi,bj->bij", rows(h), a, b) + torch.einsum("bij->bi", rows(h))[..., None])


def transposes(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C = rows(h).transpose(1, 2)
    return tanh(C * u.view(-1, SIZE, HEADS) + C.amax(1, keepdim=True)).permute(0, 2, 1)


def transpose_alone(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    return 0.5 * rows(h).mT.reshape(-1, HEADS, SIZE) + tanh(rows(u))


def sizes_by_name(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C = torch.permute(torch.reshape(u, shape=(u.shape[0], SIZE, HEADS)), dims=(0, 2, 1))
    return tanh(torch.flip(C, dims=(1,)) + rows(h)[:, :, :1].expand(size=(-1, HEADS, SIZE)))


def assigned_parts(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C = rows(h) + rows(u)
    C[:, 0] = u[:, :SIZE]
    C[..., 1:3] = 0.5 * rows(u)[..., 2:]
    return tanh(C)


def products_so_far(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C = tanh(rows(u)).cumprod(2) + 0.1 * rows(h).prod(1, keepdim=True)
    return torch.where((rows(h) > 0).any(2, keepdim=True), C, -C.prod(2)[..., None])


def a_matrix_a_head(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C = rows(h)
    each = torch.einsum("bki,kio->bko", C, cell.P)
    return tanh(
        each + C @ cell.P[0] - (C.unsqueeze(-2) @ cell.P).squeeze(-2) + F.linear(C, cell.P[1], cell.P[0, 0]) + rows(u)
    )


def normalised(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C = rows(h) + rows(u)
    top = C.logsumexp((1, 2), keepdim=True) + C.std(-1, keepdim=True) + C.var((1, 2), keepdim=True)
    return C.softmax(1) * C.softmax(-1) + F.layer_norm(C, (HEADS, SIZE)) + top + F.rms_norm(C, (SIZE,))


def softmax_of_what_leaves_the_loop(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    heads = torch.softmax(rows(u), 1) + torch.log_softmax(rows(u), -1) + torch.softmax(rows(u)[:, :1], 1)
    return 0.5 * rows(h) + (heads.flatten(1) @ cell.P.view(-1, 4)[:12].repeat(1, 3)).tanh().view(-1, HEADS, SIZE)


def joined(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C, D = rows(h), rows(u)
    beside, below = torch.cat([C, D], -1), torch.cat([C[:, :1], D[:, 1:]], 1)
    unequal, stacked = torch.cat([C[..., :1], D[..., 1:]], -1), torch.stack([C, D], 2)
    return tanh(beside[..., 2:6] + below * unequal + stacked[:, :, 0] - stacked.sum(2))


def moved(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C, D = rows(h), rows(u)
    chosen = D[:, [2, 0, 1]] + C[..., ::2].repeat_interleave(2, -1) + C[:, -1:].repeat(1, HEADS, 1)
    return tanh(C.roll(1, -1) + D.flip(1) + 0.1 * C.cumsum(-1) + rows(h.roll(5, 1)) + chosen + C.movedim(1, -1).mT)


def without_common_axes(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    turned = rows(h).mT.flatten(1) + u.view(-1, SIZE, HEADS).mT.flatten(1)
    pairs, halves = h.view(-1, 6, 2), h.view(-1, 2, 6)
    sums = pairs.sum(-1, keepdim=True).expand(-1, 6, 2).flatten(1)
    return rows(tanh(turned + halves.mT.flatten(1) * sums))


def one_gate_for_all(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    g = torch.sigmoid(u[:, 0])
    return g[:, None, None] * rows(h) + (1 - g).view(-1, 1, 1) * tanh(rows(u)) + cell.P[:, 0] + cell.P[0, 0, 0]


def unbound(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    first, second, third = rows(h).unbind(1)
    a, b = torch.split(rows(u), [1, 3], -1)
    return tanh(
        torch.stack([second, third, first], 1) + torch.cat([b, a], -1) + rows(h)[:, 1, None] * rows(u)[..., 2:3]
    )


def maxima(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C = rows(h)
    return tanh(
        C.amax(-1, keepdim=True) - C.amin((1, 2), keepdim=True) + torch.where(C > 0, rows(u), C.amax(1)[:, None])
    )


def dots(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C = rows(h)
    each = torch.einsum("...hk,hkn->...hn", C, cell.P) + torch.einsum("b...,b->b...", C, u[:, 0])
    squared, chosen = torch.einsum("...hk,...hk", C, rows(u)), torch.einsum("...,hkn->...hn", u[:, 1], cell.P)
    return tanh(each + squared[:, None, None] + chosen) + 0.2 * torch.einsum("...k,...k->...k", C, cell.P[:, 0])


def the_batch_size(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    B = u.shape[0]
    C = torch.reshape(h, (B, HEADS, SIZE)) + torch.zeros(B, HEADS, SIZE, dtype=u.dtype)
    D = torch.broadcast_to(u[:, :1], (B, HEADS * SIZE)).view(B, HEADS, -1) * torch.ones((B, 1, 1))
    fixed = torch.bmm(C, cell.P[0].unsqueeze(0).expand(B, -1, -1)) + cell.P[0, 0].expand(B, -1)[:, None]
    more = cell.P[1].repeat(B, 1, 1)[:, :HEADS] * torch.full((B, 1, 1), 2)
    return tanh(fixed + D + cell.P[0, 0, 0].expand(B, HEADS, SIZE)) + 0.1 * more


def directions(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C = rows(h)
    near = F.cosine_similarity(C, u[:, None, :SIZE], dim=-1) + F.cosine_similarity(0 * C, rows(u), dim=2)
    return F.normalize(C, dim=1) + F.normalize(rows(u).flatten(1)).view(-1, HEADS, SIZE) * near[..., None]


def axes_of_none(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C, none = rows(h), h[:, :0]
    empty = C[:, :, :0] @ cell.P[:, :0, :0].sum(0) + C[:, :, :0].flip(1).cumsum(-1)
    sums = torch.cat([C[:, :0], C], 1) + torch.einsum("bij,bkj->bik", empty, empty).sum((1, 2), keepdim=True)
    more = none.softmax(-1).sum(-1, keepdim=True) + none.logsumexp(-1, keepdim=True).exp() + none @ cell.P[0, :0, :1]
    return tanh(sums + more[:, None] + C[:, :0].softmax(1).sum(1, keepdim=True) + rows(u))


def places_taken_twice(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C = rows(h)
    odd, even, first = C[..., 1::2], C[..., ::2], C[:, :, 0]
    turned = C.mT[:, [0, 2, 1, 3]].mT * C.mT.mT + torch.stack([odd, even.flip(1)], -1).flatten(2)
    return tanh(turned + first[..., None] * rows(u) + cell.P[0, :HEADS, :HEADS] @ C + even.repeat(1, 1, 2))


def four_factors(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C, a, b = rows(h), u[:, :HEADS], u[:, HEADS : HEADS + SIZE]
    found = torch.einsum("bij,bkj,bkl->bil", C, rows(u), C) + torch.einsum(
        "bij,hj,bi,hk->bik", C, cell.P[0], a, cell.P[1]
    )
    number = torch.einsum("ijk,bi,bj,bk->b", cell.P, a, b, h[:, :SIZE]) + torch.einsum("bii->b", C @ C.mT)
    return tanh(found + torch.einsum("bij,bi,bj->bij", C, u[:, :1], b) + number.view(-1, 1, 1))


def inner_products(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    return tanh(torch.inner(rows(h), cell.P[0]) + torch.inner(u[:, :SIZE], cell.P[1]).unsqueeze(1))


def windows(cell: Any, u: Tensor, h: Tensor) -> Tensor:
    C = rows(h)
    found = C.unfold(2, 2, 1).amax(-1).sum(-1, keepdim=True) + C.unfold(1, 2, 1).sum((1, 3))[:, None]
    return tanh(found + torch.baddbmm(C, C @ C.mT, rows(u), beta=0.5, alpha=2.0))


STEPS = [
    sums_of_heads, outer_product, fast_weights, sums_of_products, three_factors, transposes, transpose_alone,
    a_matrix_a_head, normalised, softmax_of_what_leaves_the_loop,
    joined, moved, without_common_axes, one_gate_for_all, unbound, maxima, dots, the_batch_size, directions,
    axes_of_none, places_taken_twice, four_factors, sizes_by_name, assigned_parts, products_so_far,
    inner_products, windows,
]  # fmt: skip


def cell_of(function: Step, size: int = HEADS * SIZE) -> Cell:
    class Shaped(Cell):
        h = state(H)
        W, P = param(H, I), param(HEADS, SIZE, SIZE)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return function(self, x @ self.W.T, h).flatten(1)

    torch.manual_seed(3)
    return Shaped(5, size)


@pytest.mark.parametrize("function", STEPS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("time", "batch"), [(5, 3), (2, 1)])
def test_every_function_of_shape_agrees_with_pytorch(function: Step, time: int, batch: int) -> None:
    layer = Recurrent(cell_of(function)).double()
    x = torch.randn(time, batch, 5, dtype=torch.float64)
    found = agree(layer, x, lengths=torch.tensor([time, *[1] * (batch - 1)]))
    assert found, str(found)
    assert "target llvm" in layer.explain()


@pytest.fixture
def interpreter() -> Iterator[str]:
    targets.register(INTERPRETED)
    yield INTERPRETED.name
    targets.unregister(INTERPRETED.name)


@pytest.mark.parametrize("function", STEPS, ids=lambda f: f.__name__)
def test_single_steps_and_the_interpreter_have_the_same_numbers(function: Step, interpreter: str) -> None:
    layer = Recurrent(cell_of(function)).double()
    x = torch.randn(3, 2, 5, dtype=torch.float64)
    with torch.no_grad():
        expected = Recurrent(layer.cell, target="eager")(x)[0]
        state_, steps = None, []
        for x_t in x:
            y, state_ = layer.step(x_t, state_)
            steps.append(y)
        interpreted = Recurrent(layer.cell, target=interpreter)(x)[0]
    torch.testing.assert_close(torch.stack(steps), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(interpreted, expected, rtol=1e-12, atol=1e-13)


REFUSED: dict[str, tuple[Step, str]] = {
    "rows of a batch": (lambda cell, u, h: tanh(u.view(-1, HEADS) @ cell.P[0, :HEADS]), "keep the batch first"),
    "a sum over the batch": (lambda cell, u, h: h - u.mean(0, keepdim=True), "do not mix"),
    "axes that PyTorch aligns with the batch": (lambda cell, u, h: rows(h) + u[:, :SIZE], "unsqueeze or keepdim"),
    "an index that is computed": (lambda cell, u, h: h.gather(1, h.argmax(-1, keepdim=True)), "argmax"),
    "a product of sequences": (lambda cell, u, h: torch.einsum("bi,ci->bc", u, h), "the batch is the first letter"),
    "several lists": (lambda cell, u, h: h + rows(h)[:, [0, 1], [1, 2]].repeat(1, 6), "one axis after the other"),
    "rows made by chance": (
        lambda cell, u, h: h + torch.rand(u.shape[0], HEADS * SIZE),
        "torch.rand with the batch size",
    ),
    "vectors": (lambda cell, u, h: torch.outer(u, h), r"unsqueeze\(-1\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_what_to_write(name: str) -> None:
    function, message = REFUSED[name]
    cell = cell_of(function)
    with pytest.raises(UnsupportedError, match=message):
        trace(cell, dict(cell.named_parameters()))


@pytest.mark.parametrize("batch", [2, 0])
def test_a_step_never_sees_a_batch_of_none(batch: int) -> None:
    def step(cell: Any, u: Tensor, h: Tensor) -> Tensor:
        return tanh(u + h).reshape(u.shape[0], HEADS, -1)  # -1 means nothing where no row is there

    layer = Recurrent(cell_of(step)).double()
    x = torch.zeros(3, batch, 5, dtype=torch.float64, requires_grad=True)
    y, _ = layer(x, lengths=[0] * batch)
    y.sum().backward()
    assert y.shape == (3, batch, HEADS * SIZE)
    assert not y.any()
    for leaf in (x, *layer.parameters()):
        assert leaf.grad is not None
        assert not leaf.grad.any()


def test_views_compose_and_are_found_again() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        counts = generator.integers(1, 5, size=3)
        axes = tuple((int(n), int(s)) for n, s in zip(counts, generator.integers(0, 7, size=3), strict=True))
        view = View(axes, int(generator.integers(0, 4)))
        found = fitted(view.index)
        assert found is not None
        assert (found.index == view.index).all()
        assert len(found.axes) <= sum(n > 1 for n in counts)
    assert fitted(np.array([0, 1, 3, 4, 5])) is None


def test_common_axes_are_those_of_every_view() -> None:
    a, b = View(((3, 4), (4, 1))), View(((6, 1), (2, 0)))
    found = common_axes([a, b])
    assert found is not None
    counts, strides = found
    assert np.prod(counts) == 12
    for view, own in zip((a, b), strides, strict=True):
        assert (View(tuple(zip(counts, own, strict=True))).index == view.index).all()
    assert common_axes([View(((2, 3), (3, 1))), View(((3, 2), (2, 1)))]) is None
