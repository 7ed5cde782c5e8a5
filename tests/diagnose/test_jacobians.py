"""Jacobians of single steps, by the compiled step, against those of the plain formula in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacrev

from everloop import Bidirectional, Recurrent, cells
from everloop.binding import bind
from everloop.diagnose.gradients import record
from everloop.diagnose.jacobians import SAMPLES, largest_singular_values, lyapunov_exponents
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
        exponents = lyapunov_exponents(track, 1000)
        assert exponents.tolist() == sorted(exponents.tolist(), reverse=True)
        whole = range(STEPS if lengths is None else min(lengths))
        logs = [torch.linalg.det(by_formula(track, t, row)).abs().log() for t in whole for row in range(BATCH)]
        assert float(exponents.sum()) == pytest.approx(float(torch.stack(logs).mean()), rel=1e-9)


def test_the_step_is_not_run_in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    (track,) = record(Reader(Recurrent(cells.LSTM(3, 5))), (torch.randn(7, 2, 3), None))[0].tracks

    def refuse(*_: Any) -> Any:
        raise AssertionError("a step in PyTorch")

    monkeypatch.setattr("everloop.step.step_results", refuse)
    assert len(lyapunov_exponents(track)) == 4
    assert len(largest_singular_values(track)) == 7


def test_a_layer_on_eager_stays_there() -> None:
    (track,) = record(Reader(Recurrent(Fading(3, 5), target="eager")), (torch.randn(9, 2, 3), None))[0].tracks
    assert track.target == "eager"
    torch.testing.assert_close(lyapunov_exponents(track, 1), torch.tensor([math.log(0.5)]).double())


def test_the_lyapunov_exponent_of_a_fading_cell_is_its_logarithm() -> None:
    for a in (0.5, 1.2):
        model = Reader(Recurrent(Fading(3, 5, a=a)))
        (track,) = record(model, (torch.randn(15, 4, 3), None))[0].tracks
        expected = torch.full((3,), math.log(a)).double()
        torch.testing.assert_close(lyapunov_exponents(track, 3), expected, rtol=1e-5, atol=0)
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
    assert float(lyapunov_exponents(track, 1)[0]) == pytest.approx(float(expected), abs=0.05)
