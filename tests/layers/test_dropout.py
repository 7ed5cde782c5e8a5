"""Noise inside cells: right in training, absent in evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from everloop import cells
from everloop.cell import Cell, H, state
from everloop.errors import CellError, OptionError
from everloop.layers import Recurrent, Stack, VariationalDropout, WeightDrop, Zoneout
from everloop.layers.dropout import dropped, values_of
from tests.zoo import given, make

T, B, I_, H_ = 6, 3, 4, 5


@pytest.mark.parametrize(
    "wrap",
    [
        lambda c: VariationalDropout(c, inputs=0.5, recurrence=0.5),
        lambda c: WeightDrop(c, 0.5),
        lambda c: Zoneout(c),
    ],
)
def test_evaluation_is_the_bare_cell(wrap: Any) -> None:
    cell, x = cells.LSTM(I_, H_), torch.randn(T, B, I_)
    torch.testing.assert_close(Recurrent(wrap(cell)).eval()(x)[0], Recurrent(cell)(x)[0])


def test_a_recurrent_mask_wants_whole_matrices() -> None:
    layer = Recurrent(VariationalDropout(cells.SLSTM(I_, 4, heads=2), recurrence=0.5))
    with pytest.raises(CellError, match=r"in einsum; expected only products .* take WeightDrop"):
        layer(torch.randn(T, B, I_))


@pytest.mark.parametrize("name", [name for name in cells.names() if name != "slstm"])  # whose matrices are of heads
def test_recurrent_mask_scales_what_the_recurrent_matrices_multiply(name: str) -> None:
    """With all-equal masks the layer must equal one whose recurrent columns are scaled."""
    cell = make(name, I_, H_).double()
    wrapped = VariationalDropout(cell, recurrence=0.5)
    x = torch.randn(B, I_, dtype=torch.float64)
    told = given(cell.eval(), x[None]).at(0)
    state = tuple(torch.randn(B, *shape, dtype=torch.float64) for shape in cell.state_shapes.values())
    wrapped.mask_h = torch.full((B, next(iter(cell.state_sizes.values()))), 2.0, dtype=torch.float64)
    got = wrapped(x, state, **told)[0]
    with torch.no_grad():
        for key, spans in cell.recurrent_matrices().items():
            for columns in spans:
                dict(cell.named_parameters())[key][..., columns] *= 2
    torch.testing.assert_close(got, cell(x, state, **told)[0])


def test_variational_masks_last_and_differ_between_sequences() -> None:
    wrapped = VariationalDropout(cells.GRU(50, 40), inputs=0.4, recurrence=0.25)
    values = values_of(wrapped, 9, 200)
    for name, rate, n in (("mask_x", 0.4, 50), ("mask_h", 0.25, 40)):
        mask = values.rows[name]
        assert mask.shape == (200, n)
        assert torch.unique(mask).tolist() == pytest.approx([0.0, 1 / (1 - rate)])
        assert (mask == 0).float().mean().item() == pytest.approx(rate, abs=0.02)
    assert not torch.equal(values.rows["mask_x"][0], values.rows["mask_x"][1])


def test_masked_inputs_have_no_gradient_at_any_step() -> None:
    rnn = Recurrent(VariationalDropout(cells.Elman(30, 8), inputs=0.5))
    x = torch.randn(T, 2, 30, requires_grad=True)
    rnn(x)[0].square().sum().backward()
    assert x.grad is not None
    silent = x.grad == 0
    assert torch.equal(silent.all(0), silent.any(0))
    assert 0 < int(silent[0].sum()) < 60


def test_zoneout_keeps_old_values_at_its_rate_and_expects_in_evaluation() -> None:
    cell = cells.LSTM(I_, 400).double()
    wrapped = Zoneout(cell, h=0.2, c=0.7)
    x, state = torch.randn(1, 8, I_).double(), (torch.randn(8, 400).double(), torch.randn(8, 400).double())
    new = cell(x[0], state)[1]
    got = Recurrent(wrapped)(x, state)[1]
    for rate, old, fresh, drawn in zip((0.2, 0.7), state, new, got, strict=True):
        kept = drawn == old
        assert kept.double().mean().item() == pytest.approx(rate, abs=0.03)
        torch.testing.assert_close(drawn[~kept], fresh[~kept])
    expected = Recurrent(wrapped).eval()(x, state)[1]
    for rate, old, fresh, mean in zip((0.2, 0.7), state, new, expected, strict=True):
        torch.testing.assert_close(mean, rate * old + (1 - rate) * fresh)


def test_zoneout_draws_anew_each_step() -> None:
    rnn = Recurrent(Zoneout(cells.Elman(1, 300), h=0.5))
    y, _ = rnn(torch.randn(5, 1, 1))
    kept = y[1:] == y[:-1]
    assert not torch.equal(kept[0], kept[1])


def test_weight_drop_keeps_raw_weights_and_their_gradient() -> None:
    torch.manual_seed(3)
    cell = cells.LSTM(I_, 20)
    raw = cell.R.detach().clone()
    rnn = Recurrent(WeightDrop(cell, 0.5))
    torch.manual_seed(5)
    dropped = values_of(rnn.cell, T, B).fixed["cell.R"]
    torch.manual_seed(5)
    rnn(torch.randn(T, B, I_))[0].sum().backward()
    assert torch.equal(cell.R, raw)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(dropped[dropped != 0], 2 * raw[dropped != 0])
    assert cell.R.grad is not None
    assert 0.3 < (cell.R.grad == 0).float().mean() < 0.7
    assert not (cell.W.grad == 0).any()


def test_dropout_between_layers_only_in_training() -> None:
    stack = Stack([cells.GRU(I_, H_), cells.GRU(H_, H_)], dropout=0.5)
    x = torch.randn(T, B, I_)
    rnn = Recurrent(stack)
    assert not torch.equal(rnn(x)[0], rnn(x)[0])
    rnn.eval()
    assert torch.equal(rnn(x)[0], rnn(x)[0])


def test_wrappers_compose_and_repeat() -> None:
    cell = Zoneout(VariationalDropout(WeightDrop(cells.ResetBeforeGRU(I_, H_), 0.2), recurrence=0.3), h=0.1)
    rnn = Recurrent(cell, layers=2, bidirectional=True, dropout=0.1)
    y, _ = rnn(torch.randn(T, B, I_), lengths=[6, 2, 0])
    y.sum().backward()
    assert all(p.grad is not None for p in rnn.parameters())
    assert [m.rates for m in rnn.modules() if isinstance(m, Zoneout)] == [{"h": 0.1}] * 4


def test_lasting_masks_cannot_be_streamed_in_training() -> None:
    rnn = Recurrent(WeightDrop(cells.GRU(I_, H_), 0.2))
    with pytest.raises(OptionError, match="call eval"):
        rnn.step(torch.zeros(1, I_))
    rnn.eval().step(torch.zeros(1, I_))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("target", ["eager", None])
def test_a_cell_without_parameters(target: Any, dtype: torch.dtype) -> None:
    class Summed(Cell):
        """Nothing to learn."""

        h = state(H)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return h + x.sum(-1, keepdim=True)

    wrapped = VariationalDropout(Zoneout(Summed(I_, H_), h=0.5), inputs=0.5)
    rnn, x = Recurrent(wrapped, target=target), torch.ones(50, B, I_, dtype=dtype)
    y, _ = rnn(x)
    assert y.dtype == dtype
    assert 0.3 < (y[1:] == y[:-1]).double().mean() < 0.9
    torch.testing.assert_close(rnn.eval()(x)[0][0], torch.full((B, H_), I_ / 2, dtype=dtype))
    assert "Zoneout" in rnn.explain() or "VariationalDropout" in rnn.explain()


def test_wrong_rates_and_names() -> None:
    with pytest.raises(OptionError, match="unknown state 'hh'; did you mean 'h'"):
        Zoneout(cells.LSTM(2, 3), hh=0.1)
    with pytest.raises(OptionError, match=r"rate h is 1.0; expected a number from 0"):
        Zoneout(cells.LSTM(2, 3), h=1.0)
    with pytest.raises(CellError, match="expected a Cell"):
        WeightDrop(Stack([cells.LSTM(2, 3)]), 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("given", [False, True], ids=["global", "generator"])
def test_so_many_numbers_are_dropped_and_the_others_scaled(rate: float, given: bool) -> None:
    generators = [torch.Generator().manual_seed(5) if given else None for _ in range(2)]
    x = torch.randn(301, 333, requires_grad=True)
    torch.manual_seed(3)
    y = dropped(x, rate, generators[0])
    mask = y.detach() != 0
    assert abs(float(mask.double().mean()) - (1 - rate)) < 5 * (rate * (1 - rate) / x.numel()) ** 0.5
    halves = [float(part.double().mean()) for part in (mask[::2], mask[:, ::2], mask.flatten()[::2])]
    assert halves == pytest.approx([1 - rate] * 3, abs=5 * (2 * rate * (1 - rate) / x.numel()) ** 0.5)
    torch.testing.assert_close(y, x * mask / (1 - rate))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, mask / (1 - rate))
    torch.manual_seed(3)
    assert torch.equal(dropped(x, rate, generators[1]), y)
    assert not torch.equal(dropped(x, rate, generators[1]), y)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 1), (3, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dropout_of_any_shape(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.ones(shape, dtype=dtype)
    found = torch.stack([dropped(x, 0.25) for _ in range(400)])
    assert found.dtype == dtype
    assert set(found.flatten().tolist()) == ({0.0, float(torch.tensor(1 / 0.75, dtype=dtype))} if x.numel() else set())
    assert not x.numel() or float((found != 0).double().mean()) == pytest.approx(0.75, abs=0.11)
    assert dropped(x, 0.0) is x


def test_dropout_of_what_is_not_contiguous_and_of_hardly_anything() -> None:
    x = torch.randn(6, 5, 4).transpose(0, 2)[:, ::2]
    torch.manual_seed(1)
    y = dropped(x, 0.5)
    torch.manual_seed(1)
    torch.testing.assert_close(dropped(x.contiguous(), 0.5), y)
    ones = torch.ones(1000, dtype=torch.float64)
    assert torch.equal(dropped(ones, 1e-12), ones * (1 / (1 - 1e-12)))
    assert (dropped(ones, 1 - 1e-9) == 0).all()
