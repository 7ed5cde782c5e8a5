"""agree: every cell of the zoo agrees on every target, and what does not is found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import everloop
from everloop import Recurrent
from everloop.compiler.targets import llvm
from everloop.diagnose.agree import agree
from everloop.errors import CellError
from everloop.layers import operator, sequence
from tests.zoo import NAMES, make

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_cell_agrees(name: str, dtype: torch.dtype) -> None:
    layer = Recurrent(make(name, 3, 17).to(dtype))
    x = torch.randn(7, 5, 3, dtype=dtype)
    found = agree(layer, x, lengths=[7, 0, 3, 7, 1], reset=torch.rand(7, 5) < 0.2)
    assert found, str(found)
    assert {"output", "state 0", "gradient of x"} <= {c.what for c in found.comparisons}


def test_stacks_states_and_drop_ins_agree() -> None:
    x = torch.randn(6, 4, 5)
    layer = Recurrent(everloop.cells.GRU(5, 8), layers=2, bidirectional=True, dropout=0.5)
    _, state = layer(x)
    for found in (agree(layer, x, state=state), agree(everloop.LSTM(5, 8, num_layers=2), x)):
        assert found, str(found)


def test_a_wrong_target_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sequence.compute

    def wrong(*args: Any) -> Any:
        y, final = real(*args)
        return y * (1 + 1e-3), final

    monkeypatch.setattr(operator, "compute", wrong)
    found = agree(Recurrent(everloop.cells.LSTM(3, 4)), torch.randn(5, 2, 3))
    assert not found
    assert "DIFFERS" in str(found)


def test_a_layer_with_its_own_target_keeps_it() -> None:
    class Silent(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with operator.using("eager"), pytest.raises(everloop.EverloopError, match="llvm"), operator.using("lvm"):
        pass


@pytest.mark.parametrize("target", ["eager", "llvm"])
@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_a_layer_with_a_target_and_small_numbers_are_compared(
    monkeypatch: pytest.MonkeyPatch, target: Any, scale: float
) -> None:
    real = sequence.compute
    monkeypatch.setattr(operator, "compute", lambda *a: (real(*a)[0] * (1 + 1e-3), real(*a)[1]))
    layer = Recurrent(everloop.cells.Elman(3, 4, bias=False), target=target)
    assert not agree(layer, scale * torch.randn(5, 2, 3))
    assert layer.target == target


def test_only_installed_targets_and_whole_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = everloop.cells.GRU(3, 4)
    with pytest.raises(CellError, match="wrap it in Recurrent"):
        agree(cell, torch.randn(2, 3))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert agree(Recurrent(cell), torch.randn(5, 2, 3)).comparisons == ()
