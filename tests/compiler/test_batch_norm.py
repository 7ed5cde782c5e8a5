"""Batch normalisation inside a step: compiled with running statistics, refused by name over a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from everloop.cell import Cell, H, I, param, state
from everloop.diagnose import agree
from everloop.errors import UnsupportedError
from everloop.layers import Recurrent

D = torch.float64


class Normalised(Cell):
    """Elman's network with batch normalisation of what comes in (Laurent et al. 2016) and of the state."""

    affine: bool = True

    h = state(H)
    W, R = param(H, I), param(H, H)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.of_input = nn.BatchNorm1d(self.hidden_size, affine=self.affine, dtype=D)
        self.of_state = nn.BatchNorm1d(self.hidden_size, affine=self.affine, eps=0.1, dtype=D)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.of_input(x @ self.W.T) + self.of_state(h @ self.R.T))


def layer(**options: Any) -> Recurrent:
    made = Recurrent(Normalised(3, 5, dtype=D, **options), target="llvm").eval()
    for part in made.modules():
        if isinstance(part, nn.BatchNorm1d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.2, 3)
            if part.affine:
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    return made


@pytest.mark.parametrize("affine", [True, False])
def test_running_statistics_are_compiled(affine: bool) -> None:
    made, x = layer(affine=affine), torch.randn(6, 4, 3, dtype=D)
    found = agree(made, x, lengths=[6, 0, 3, 1])
    assert found, found
    cell, h = made.cell, torch.zeros(4, 5, dtype=D)
    for x_t in x:
        total = torch.zeros(4, 5, dtype=D)
        for rows, norm in ((x_t @ cell.W.T, cell.of_input), (h @ cell.R.T, cell.of_state)):
            row = (rows - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
            total = total + (row * norm.weight + norm.bias if affine else row)
        h = torch.tanh(total)
    torch.testing.assert_close(made(x)[0][-1], h)
    with torch.no_grad():
        torch.testing.assert_close(made.step(x[0])[0], made(x)[0][0])


def test_new_statistics_are_seen() -> None:
    made, x = layer(), torch.randn(2, 4, 3, dtype=D)
    before = made(x)[0]
    made.cell.of_input.running_mean += 1
    assert not torch.allclose(made(x)[0], before)


def test_statistics_of_a_batch_are_refused_by_name() -> None:
    made, x = layer().train(), torch.randn(2, 4, 3, dtype=D)
    with pytest.raises(UnsupportedError, match="BatchNorm1d mixes the sequences of a batch in training; take layer"):
        made(x)
    eager = Recurrent(made.cell)
    with pytest.warns(UserWarning, match="Normalised runs on eager, because BatchNorm1d mixes"):
        eager(x)

    class Bare(Cell):
        h = state(H)
        W = param(H, I)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return functional.batch_norm(x @ self.W.T + h, None, None, training=True)

    with pytest.raises(UnsupportedError, match="normalisation over a batch, which mixes its sequences; take layer"):
        Recurrent(Bare(3, 5), target="llvm")(x.float())


def test_statistics_that_are_constants_of_the_step() -> None:
    class Constants(Cell):
        h = state(H)
        W = param(H, I)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            gathered = torch.linspace(-1, 1, 5, dtype=D), torch.linspace(0.5, 2, 5, dtype=D)
            return functional.batch_norm(x @ self.W.T + 0.5 * h, *gathered)

    found = agree(Recurrent(Constants(3, 5, dtype=D), target="llvm"), torch.randn(4, 2, 3, dtype=D))
    assert found, str(found)
    assert not found.absent
