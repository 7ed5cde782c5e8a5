"""What a layer in 8 bits makes of numbers that its own weights did not let expect: states, weights, infinities."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn, tanh

import everloop
from everloop import Cell, H, I, cells, param, quantize, state
from everloop.errors import UnsupportedError
from everloop.layers import Bidirectional, Recurrent, Stack
from everloop.layers.quantize import empty
from tests.layers.test_quantize import allowed


class Leaky(Cell):
    """A state that is bounded or not as the weights are, in what a product multiplies."""

    y, h = state(H), state(H)
    a, W, V = param(H), param(H, I), param(H, H)

    def step(self, x: Tensor, y: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.a * h + tanh(x @ self.W.T)
        return tanh(h @ self.V.T), h


class Fed(Cell):
    """A state whose range is proved for its weights alone."""

    y, h = state(H), state(H)
    W, R, V = param(H, I), param(H, H), param(H, H)

    def step(self, x: Tensor, y: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = tanh(x @ self.W.T + y @ self.R.T)
        return h @ self.V.T, h


def leaky(factor: float) -> Recurrent:
    layer = Recurrent(Leaky(4, 8)).eval()
    with torch.no_grad():
        layer.cell.a.fill_(factor)
    return layer


def said(layer: Any, *words: str) -> list[str]:
    return [line for line in layer.explain().splitlines() if any(word in line for word in words)]


@pytest.mark.parametrize("size", [0.5, 3.0])
@pytest.mark.parametrize("kind", [cells.Elman, cells.GRU, cells.LSTM])
def test_first_states_of_any_size(kind: Callable[..., Cell], size: float) -> None:
    """Given, learned or handed to a step: right as far as 8 bits of the row's largest number are."""
    torch.manual_seed(0)
    layer, x = Recurrent(kind(8, 32), learned_state=True).eval(), torch.randn(6, 3, 8)
    plain = Recurrent(copy.deepcopy(layer.cell)).eval()
    assert layer.start is not None
    with torch.no_grad():
        for p in layer.start:
            p.copy_(torch.randn(p.shape) * size)
    given = tuple(p.detach().expand(3, -1).clone() for p in layer.start)
    small, small_plain = quantize(layer), quantize(plain)
    y, tolerance = allowed(plain, small_plain, x, state=given)
    assert tolerance < 0.25
    for found, step in (
        (small(x)[0], small.step(x[0])[0]),
        (small_plain(x, given)[0], small_plain.step(x[0], given)[0]),
    ):
        torch.testing.assert_close(found.double(), y, rtol=0, atol=tolerance)
        torch.testing.assert_close(step.double(), y[0], rtol=0, atol=tolerance)


def test_a_row_is_rounded_for_itself() -> None:
    """That one sequence begins outside of the range changes nothing of another."""
    torch.manual_seed(0)
    small, x = quantize(Recurrent(cells.GRU(8, 32))), torch.randn(4, 2, 8)
    h = torch.rand(2, 32)
    with torch.no_grad():
        expected = small(x, (h,))[0][:, 1]
        h[0] *= 50
        assert torch.equal(small(x, (h,))[0][:, 1], expected)


def test_explain_tells_a_range_with_what_is_learned_in_it() -> None:
    layer = Recurrent(Stack([cells.GRU(4, 6), Bidirectional(cells.GRU(6, 6))]), learned_state=True)
    assert layer.start is not None
    with torch.no_grad():
        layer.start[1].fill_(3.0)
        layer.start[2].fill_(-2.5)
    assert [line.split(",  ")[0] for line in said(quantize(layer), "state h")] == [
        "state h: in [-1, 1], proved if it begins there",
        "state h: in [-1, 3], proved if it begins there",
        "state h: in [-2.5, 1], proved if it begins there",
    ]


def test_what_was_measured_is_no_end() -> None:
    torch.manual_seed(0)
    layer, x = Recurrent(cells.Elman(4, 16, nonlinearity="relu")).eval(), torch.randn(9, 3, 4)
    small = quantize(layer, x * 0.01)
    y, tolerance = allowed(layer, small, x)
    assert tolerance < 0.1 * y.abs().max()
    torch.testing.assert_close(small(x)[0].double(), y, rtol=0, atol=tolerance)


@pytest.mark.parametrize("fresh", [lambda: empty(leaky(1.1)), lambda: quantize(leaky(1.1), torch.randn(3, 2, 4))])
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_what_is_loaded_depends_on_no_weights(factor: float, fresh: Callable[[], Any], tmp_path: Path) -> None:
    torch.manual_seed(1)
    x = torch.randn(20, 3, 4)
    small, other = quantize(leaky(factor), x), fresh()
    save_file(small.state_dict(), tmp_path / "small.safetensors")
    other.load_state_dict(load_file(tmp_path / "small.safetensors"))
    assert torch.equal(other(x)[0], small(x)[0])
    assert other.explain() == small.explain()
    assert ("proved" if factor < 1 else "not bounded") in said(other, "state h")[0]
    assert ("own largest" if factor < 1 else "measured") in said(other, "V: int8")[0]


def test_what_was_measured_is_loaded() -> None:
    torch.manual_seed(2)
    x, layer = torch.randn(20, 3, 4) * 5, Recurrent(cells.Elman(4, 8, nonlinearity="relu")).eval()
    small, other = quantize(layer, x), quantize(copy.deepcopy(layer), x * 0.01)
    assert said(other, "R: int8") != said(small, "R: int8")
    other.load_state_dict(small.state_dict())
    assert said(other, "R: int8") == said(small, "R: int8")


def test_ranges_are_those_of_the_weights_that_are_there() -> None:
    torch.manual_seed(3)
    layer, fresh = Recurrent(Fed(4, 8)).eval(), Recurrent(Fed(4, 8)).eval()
    with torch.no_grad():
        layer.cell.V.mul_(10)
    small, other = quantize(layer), quantize(fresh)
    before = other.cell.ranges()["y"]
    other.load_state_dict(small.state_dict())
    after = other.cell.ranges()["y"]
    assert after == small.cell.ranges()["y"] != before
    y = other(torch.randn(50, 20, 4) * 9)[0]
    assert before.high < y.abs().max() <= after.high
    assert after.high == pytest.approx(float(layer.cell.V.detach().abs().sum(1).max()), rel=0.02)


def test_a_cell_under_several_names() -> None:
    torch.manual_seed(4)
    cell, x = cells.GRU(8, 8), torch.randn(6, 3, 8)
    layer = Recurrent(Stack([cell, cell])).eval()
    small = quantize(layer)
    first, second = small.cell.members
    assert first is second
    assert "R: int8" in small.explain()
    torch.testing.assert_close(small(x)[0], layer(x)[0], rtol=0, atol=0.03)
    both = nn.ModuleList([shared := everloop.GRU(8, 8), shared])
    one, other = quantize(both)
    assert one is other
    assert "int8" in one.explain()


@pytest.mark.parametrize("number", [torch.inf, -torch.inf, 1e30, 3e38, 1e-40])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_infinite_and_odd_numbers_as_in_floats(kind: Any, number: float) -> None:
    torch.manual_seed(5)
    layer = kind(4, 64)
    with torch.no_grad():  # none that 8 bits take for 0
        layer.weight_ih_l0.copy_(layer.weight_ih_l0.sign() * layer.weight_ih_l0.abs().clamp(min=0.02))
    small, x = quantize(layer), torch.randn(6, 3, 4)
    x[2, 1, 3] = number
    with torch.no_grad():
        y, rows, hidden = layer(x)[0], [], None
        for row in x:
            y_t, hidden = small.step(row, hidden)
            rows.append(y_t)
        torch.testing.assert_close(small(x)[0], y, rtol=0, atol=0.02)
        torch.testing.assert_close(torch.stack(rows), y, rtol=0, atol=0.02)


def test_an_infinite_number_meets_weights_that_are_0_in_8_bits() -> None:
    """Its products are infinite where its weights are not 0, as in floats; where they are, it counts for nothing."""
    layer = Recurrent(cells.Elman(2, 3, nonlinearity="relu", bias=False)).eval()
    with torch.no_grad():
        layer.cell.R.fill_(0.0)
        layer.cell.W.copy_(torch.tensor([[1.0, 1.0], [-1.0, 1.0], [0.001, 1.0]]))
    small = quantize(layer, torch.ones(2, 1, 2))
    x = torch.tensor([[[torch.inf, 0.5]]])
    with torch.no_grad():
        assert small(x)[0].flatten().tolist() == [torch.inf, 0.0, 0.0]
        assert small.step(x[0])[0].flatten().tolist() == [torch.inf, 0.0, 0.0]


@pytest.mark.parametrize("way", ["llvm", "eager", "step", "vmap"])
def test_sums_that_float16_does_not_hold(way: str) -> None:
    """Up to 127² times the 256 products of a row are added, and 65504 is the largest number of float16."""
    torch.manual_seed(0)
    layer, x = Recurrent(cells.GRU(8, 256, dtype=torch.float16)).eval(), torch.randn(5, 33, 8).half()
    small = quantize(layer)
    small.target = way if way in ("llvm", "eager") else None
    calls: dict[str, Callable[[Tensor], Tensor]] = {
        "step": lambda x: small.step(x[0])[0][None],
        "vmap": torch.vmap(lambda z: small(z)[0], in_dims=1, out_dims=1),
    }
    with torch.no_grad():
        y = calls.get(way, lambda x: small(x)[0])(x)  # type: ignore[no-untyped-call]
        expected = layer.double()(x.double())[0][: len(y)]
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=0.01)


class Untransposed(Cell):
    """Matrices that are multiplied as they are, and one that is not square."""

    h = state(H)
    P, Q, R, W = param(I, 3), param(H, 3), param(H, H), param(H, I)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(h @ self.R + x @ self.P @ self.Q.T + x @ self.W.T)


@torch.no_grad()
@pytest.mark.parametrize("hidden", [4, 16, 65])
def test_steps_multiply_matrices_that_the_cell_does_not_transpose(hidden: int) -> None:
    q, x = quantize(Recurrent(Untransposed(5, hidden))), torch.randn(6, 2, 5)
    y, state = q(x)[0], None
    for t in range(6):
        step, state = q.step(x[t], state)
        torch.testing.assert_close(step, y[t])


class Sorted(Cell):
    h = state(H)
    W = param(H, I)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.sort(tanh(x @ self.W.T + h), -1)[0]


def test_what_only_eager_runs_is_refused_by_what_it_needs() -> None:
    with pytest.raises(UnsupportedError, match=r"quantize: only what the compiler takes .*sort"):
        quantize(Recurrent(Sorted(3, 4)))
