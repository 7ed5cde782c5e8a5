"""Jacobians of single steps, by the compiled step, against those of the plain formula in float64."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacrev

from everloop import Bidirectional, Cell, H, I, Recurrent, Stack, cells, param, state
from everloop.binding import bind
from everloop.diagnose import diagnose
from everloop.diagnose.gradients import follow, record
from everloop.diagnose.jacobians import (
    SAMPLES,
    disagreements,
    largest_singular_values,
    lyapunov_exponents,
    product_norms,
    step_jacobians,
)
from everloop.diagnose.recording import Track, recorded
from everloop.step import advance
from tests.diagnose.test_gradients import Fading, Reader
from tests.zoo import ALL, given, make

STEPS, BATCH, INPUTS, HIDDEN = 6, 3, 3, 4


def tracks(name: str, lengths: list[int] | None = None) -> list[Track]:
    """Return what cells in training did, ahead and back, with all that they declare, noise and masks among it."""
    cell, back = make(name, INPUTS, HIDDEN), make(name, INPUTS, HIDDEN)
    layers = Recurrent(Bidirectional(cell, back)).double()
    x = torch.randn(STEPS, BATCH, INPUTS, dtype=torch.float64)
    with recorded(layers) as lanes:
        layers(x, lengths=lengths, **given(cell, x).at())
    return lanes[0].tracks


def by_formula(track: Track, t: int, row: int) -> Tensor:
    """Return the Jacobian [N, N] of one step of one sequence."""
    sizes = list(track.cell.state_sizes.values())
    own = {name: rows[row : row + 1] for name, rows in track.values.rows.items()}
    own |= {name: rows[t, row : row + 1] for name, rows in track.values.steps.items()}
    cell = bind(track.cell, {name: v.detach() for name, v in (track.values.fixed | own).items()})

    def step(state: Tensor) -> Tensor:
        _, after = advance(cell, track.x[t, row : row + 1], torch.split(state[None], sizes, -1))
        return torch.cat([new.expand(1, n) for new, n in zip(after, sizes, strict=True)], -1)[0]

    return jacrev(step)(torch.cat([s[t][row].detach() for s in track.before.values()]))


@pytest.mark.parametrize("name", ALL)
def test_singular_values_are_those_of_the_formula(name: str) -> None:
    torch.manual_seed(0)
    for track in tracks(name):
        expected = torch.stack([torch.linalg.svdvals(by_formula(track, t, 0))[0] for t in range(min(STEPS, SAMPLES))])
        torch.testing.assert_close(largest_singular_values(track), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "zoneout", "layer-norm-lstm"])
@pytest.mark.parametrize("lengths", [None, [6, 4, 5]])
def test_all_exponents_together_are_the_logarithm_of_the_determinants(name: str, lengths: list[int] | None) -> None:
    torch.manual_seed(0)
    for track in tracks(name, lengths):
        exponents, steps = lyapunov_exponents([track], 1000, burn_in=0)
        assert exponents.tolist() == sorted(exponents.tolist(), reverse=True)
        whole = range(STEPS if lengths is None else min(lengths))
        assert steps == len(whole)
        logs = [torch.linalg.det(by_formula(track, t, row)).abs().log() for t in whole for row in range(BATCH)]
        assert float(exponents.sum()) == pytest.approx(float(torch.stack(logs).mean()), rel=1e-9)


def test_the_step_is_not_run_in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    (track,) = record(Reader(Recurrent(cells.LSTM(3, 5))), (torch.randn(7, 2, 3), None))[0].tracks

    def refuse(*_: Any) -> Any:
        raise AssertionError("a step in PyTorch")

    monkeypatch.setattr("everloop.step.step_results", refuse)
    assert len(lyapunov_exponents([track])[0]) == 4
    assert len(product_norms(track)) == 8
    assert len(largest_singular_values(track)) == 7


def test_a_layer_on_eager_stays_there() -> None:
    (track,) = record(Reader(Recurrent(Fading(3, 5), target="eager")), (torch.randn(9, 2, 3), None))[0].tracks
    assert track.target == "eager"
    torch.testing.assert_close(lyapunov_exponents([track], 1)[0], torch.tensor([math.log(0.5)]).double())


def test_the_lyapunov_exponent_of_a_fading_cell_is_its_logarithm() -> None:
    for a in (0.5, 1.2):
        model = Reader(Recurrent(Fading(3, 5, a=a)))
        (track,) = record(model, (torch.randn(15, 4, 3), None))[0].tracks
        expected = torch.full((3,), math.log(a)).double()
        torch.testing.assert_close(lyapunov_exponents([track], 3)[0], expected, rtol=1e-5, atol=0)
        values = largest_singular_values(track)
        torch.testing.assert_close(values, torch.full_like(values, a))


def test_exponents_are_the_logarithms_of_the_product_of_jacobians() -> None:
    torch.manual_seed(0)
    cell = cells.Elman(3, 4).double()
    (track,) = record(Reader(Recurrent(cell)).double(), (torch.randn(60, 1, 3).double(), None))[0].tracks
    product = torch.eye(4, dtype=torch.float64)
    for t in range(60):
        h = track.after["h"][t][0].detach()
        product = torch.diag(1 - h**2) @ cell.R.detach() @ product
    expected = torch.linalg.svdvals(product)[0].log() / 60
    # one factor of the first basis is left over in 60 steps
    assert float(lyapunov_exponents([track], 1, burn_in=0)[0]) == pytest.approx(float(expected), abs=0.05)


def by_forward_qr(start: Tensor, factors: list[Tensor], left_out: int) -> Tensor:
    """Return all exponents of a product of Jacobians [N, N], the first factor first, without those at its start."""
    basis, total = start, torch.zeros(len(start), dtype=torch.float64)
    for number, factor in enumerate(factors):
        basis, r = torch.linalg.qr(factor @ basis)
        if number >= left_out:
            total += r.diagonal().abs().log()
    return (total / (len(factors) - left_out)).sort(descending=True).values


def test_exponents_of_a_long_stream_are_those_of_the_formula_run_ahead() -> None:
    torch.manual_seed(0)
    model = Reader(Recurrent(cells.LSTM(3, 4))).double()
    with torch.no_grad():
        model.layers.cell.R.mul_(3)
    windows = [(2 * torch.randn(40, 1, 3).double(), None) for _ in range(20)]
    (stream,) = follow(model, windows)
    assert len(stream) == 20
    for before, after in pairwise(stream):
        for name in "hc":
            torch.testing.assert_close(after.before[name][0], before.after[name][-1], msg="a window goes on")
    exponents, steps = lyapunov_exponents(stream, 8)
    assert steps == 700, "of 800, 50 at each end are left out"
    factors = [by_formula(track, t, 0) for track in stream for t in range(40)]
    expected = by_forward_qr(torch.eye(8).double(), factors[:750], 50)
    # in float64; ahead and back in time the bases differ, by one factor in all steps
    torch.testing.assert_close(exponents, expected, rtol=0, atol=0.02)


def test_an_empty_state_and_a_basis_that_has_not_turned_are_left_out() -> None:
    (track,) = record(Reader(Recurrent(Fading(3, 5))), (torch.randn(16, 2, 3), None))[0].tracks
    assert lyapunov_exponents([track])[1] == 8
    assert lyapunov_exponents([track], burn_in=3)[1] == 10
    assert "(over 8)" in str(step_jacobians([track]))


@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "zoneout", "layer-norm-lstm"])
@pytest.mark.parametrize("lengths", [None, [6, 4, 5]])
def test_products_are_those_of_the_formula(name: str, lengths: list[int] | None) -> None:
    torch.manual_seed(0)
    for track in tracks(name, lengths):
        steps = list(range(STEPS if lengths is None else min(lengths)))
        steps = steps if track.reverse else steps[::-1]
        expected = [1.0]
        for count in range(1, len(steps) + 1):
            parts = [[by_formula(track, t, row) for t in steps[:count]] for row in range(BATCH)]
            wholes = [torch.linalg.multi_dot([*part, torch.eye(len(part[0])).double()]) for part in parts]
            expected.append(sum(float(torch.linalg.svdvals(whole)[0]) for whole in wholes) / BATCH)
        torch.testing.assert_close(
            product_norms(track), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12
        )


def test_the_product_of_a_fading_cell_halves_with_it() -> None:
    (track,) = record(Reader(Recurrent(Fading(3, 5, a=0.5))), (torch.randn(9, 2, 3), None))[0].tracks
    found = step_jacobians([track])
    torch.testing.assert_close(found.products, 0.5 ** torch.arange(10).double())
    assert found.half_life == pytest.approx(1.0)
    assert "the norm of the product of step Jacobians halves every 1.0 steps, 0.002 after 9" in str(found)


def test_products_of_large_states_have_fewer_factors() -> None:
    for hidden, factors in ((256, 64), (512, 32), (1024, 16)):
        model = Reader(Recurrent(Fading(2, hidden, a=0.5)))
        (track,) = record(model, (torch.randn(70, 2, 2), None))[0].tracks
        torch.testing.assert_close(product_norms(track), 0.5 ** torch.arange(factors + 1).double())


class TwoRates(Cell):
    """Two memories that fade by themselves; only the one that fades faster is put out."""

    h, slow = state(H), state(H)
    W = param(H, I)

    def step(self, x: Tensor, h: Tensor, slow: Tensor) -> tuple[Tensor, Tensor]:
        return 0.5 * h + x @ self.W.T, 0.9 * slow + x @ self.W.T


def test_where_the_loss_does_not_ask_for_the_slowest_direction_it_is_said() -> None:
    found = diagnose(Reader(Recurrent(TwoRates(3, 4))), (torch.randn(12, 2, 3), None))
    (told,) = disagreements(found.jacobians, found.gradients)
    assert "(layers: halves every 6.6 steps, the gradient of state h halves every 1.0 steps)" in told
    assert "whether the loss asks for it or not" in told
    assert told in str(found)
    shown = found.as_json()
    assert shown["disagreements"] == [told]
    (jacobians,) = shown["jacobians"]
    assert jacobians["half_life"] == pytest.approx(6.58, abs=0.01)
    assert jacobians["products"][1] == pytest.approx(0.9)
    assert jacobians["steps"] == 6
    alike = diagnose(Reader(Recurrent(Fading(3, 4))), (torch.randn(12, 2, 3), None))
    assert disagreements(alike.jacobians, alike.gradients) == []


def test_a_gradient_from_the_layers_above_lasts_longer_than_the_product_of_its_layer() -> None:
    below, above = Fading(3, 4, a=0.3), Fading(4, 4, a=0.9)
    found = diagnose(Reader(Recurrent(Stack([below, above]))), (torch.randn(20, 2, 3), None))
    (told,) = disagreements(found.jacobians, found.gradients)
    assert "(layers, layer 1: halves every 0.6 steps, the gradient of state h halves every" in told
    assert "layer 2" not in told
    assert "by way of the layers above" in told
