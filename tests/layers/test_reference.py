"""The independent loop, against torch.nn in float64 and against sums that can be written down."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from everloop import Cell, H, I, cells, param, state
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call
from everloop.errors import UnsupportedError
from everloop.layers.reference import in_float64, loop

D = torch.float64
TABLE = torch.eye(2)  # a constant in float32


class Sum(Cell):
    """Adds up what it reads."""

    h = state(H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return h + x


class Product(Cell):
    """Reads constants outside itself, in float32."""

    h = state(H)
    W = param(H, I)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return h + x @ TABLE @ self.W.T


class Noisy(Cell):
    """Draws random numbers."""

    h = state(H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return h + torch.rand_like(x)


def call_of(x: Tensor, *, start: float = 0.0, **options: object) -> Call:
    rows = x.new_full(x.shape[1:], start)
    return Call.of(Bindings({}), x, (rows,), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("reverse", [False, True])
def test_an_lstm_of_torch(reverse: bool) -> None:
    cell, theirs = cells.LSTM(3, 4, dtype=D), nn.LSTM(3, 4, bidirectional=True, dtype=D)
    names = {"W": "weight_ih_l0", "R": "weight_hh_l0", "b": "bias_ih_l0"}
    values = Bindings({n: getattr(theirs, m + "_reverse" * reverse) for n, m in names.items()})
    getattr(theirs, "bias_hh_l0" + "_reverse" * reverse).data.zero_()
    x, h = torch.randn(5, 3, 3, dtype=D), [torch.randn(3, 4, dtype=D) for _ in range(2)]
    lengths = [5, 1, 3]
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    expected, after = theirs(packed, tuple(torch.stack([s, s]) for s in h))
    half = slice(4, 8) if reverse else slice(0, 4)
    padded = nn.utils.rnn.pad_packed_sequence(expected)[0][..., half]
    y, found = loop(cell, Call.of(values, x, h, lengths=torch.tensor(lengths), reverse=reverse))
    torch.testing.assert_close(y, padded)
    torch.testing.assert_close(found, tuple(s[int(reverse)] for s in after))


def test_lengths_resets_and_directions_by_hand() -> None:
    x = torch.tensor([[1.0, 10.0, 5.0], [2.0, 20.0, torch.nan], [3.0, torch.nan, torch.nan]])[..., None]
    lengths, reset = (
        torch.tensor([3, 2, 0]),
        torch.tensor([[True, False, True], [False, True, True], [True, True, True]]),
    )
    y, (after,) = loop(Sum(1, 1), call_of(x, start=100.0, lengths=lengths))
    assert y[..., 0].tolist() == [[101, 110, 0], [103, 130, 0], [106, 0, 0]]
    assert after[:, 0].tolist() == [106, 130, 100]
    y, (after,) = loop(Sum(1, 1), call_of(x, start=100.0, lengths=lengths, reset=reset))
    assert y[..., 0].tolist() == [[1, 110, 0], [3, 20, 0], [3, 0, 0]]
    y, (after,) = loop(Sum(1, 1), call_of(x, start=100.0, lengths=lengths, reset=reset, reverse=True))
    assert y[..., 0].tolist() == [[1, 30, 0], [5, 20, 0], [3, 0, 0]]  # reset: before the step at that time
    restart = (torch.tensor([7.0]),)
    y, (after,) = loop(Sum(1, 1), call_of(x, start=100.0, lengths=lengths, reset=reset, restart=restart))
    assert y[..., 0].tolist() == [[8, 110, 0], [10, 27, 0], [10, 0, 0]]
    assert after[:, 0].tolist() == [10, 27, 100]


@pytest.mark.parametrize("shape", [(0, 2, 3), (4, 0, 3)])
def test_nothing_to_read(shape: tuple[int, ...]) -> None:
    y, (after,) = loop(Sum(3, 3), call_of(torch.zeros(shape)))
    assert y.shape == shape
    assert after.shape == shape[1:]


def test_float64_inside_and_the_own_dtype_outside() -> None:
    x = torch.tensor([1.0, 1e-8, -1.0]).reshape(3, 1, 1)
    for run, sums in ((loop, 0.0), (in_float64(loop), 1e-8)):
        y, (after,) = run(Sum(1, 1), call_of(x))
        assert y.dtype == after.dtype == torch.float32
        assert after.item() == pytest.approx(sums)
    cell = Product(2, 2)
    x = torch.randn(3, 2, 2, requires_grad=True)
    y, _ = in_float64(loop)(cell, replace(call_of(x.detach()), x=x, values=Bindings(dict(cell.named_parameters()))))
    torch.testing.assert_close(y, (x @ cell.W.T).cumsum(0))
    torch.autograd.backward(y.sum())
    assert x.grad is not None
    assert cell.W.grad is not None
    assert cell.W.grad.dtype == torch.float32


def test_inputs_rounded_otherwise() -> None:
    call = call_of(torch.ones(1, 1, 200))
    exact, _ = in_float64(loop)(Sum(200, 200), call)
    other, _ = in_float64(loop, torch.Generator().manual_seed(0))(Sum(200, 200), call)
    moved = (other - exact).abs().max().item()
    assert torch.finfo(torch.float32).eps < moved < 8 * torch.finfo(torch.float32).eps


def test_a_step_with_random_numbers_has_no_reference() -> None:
    with pytest.raises(UnsupportedError, match="Noisy draws random numbers"):
        in_float64(loop)(Noisy(2, 2), call_of(torch.zeros(2, 2, 2)))
