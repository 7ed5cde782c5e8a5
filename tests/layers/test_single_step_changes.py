"""Single steps notice whatever changes: nothing is remembered but what stays true."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from everloop import cells
from everloop.compiler.convolutions import Convolution
from everloop.errors import ShapeError
from everloop.layers import Recurrent, Stack, Zoneout
from everloop.layers.dispatch import using
from tests.layers.single_steps import F64, close, same_as_eager, stepped

pytest.importorskip("llvmlite")


def changes() -> dict[str, Any]:
    def optimiser(layer: Recurrent) -> None:
        torch.optim.SGD(layer.parameters(), 0.5).zero_grad()
        for p in layer.parameters():
            p.grad = torch.randn_like(p)
        torch.optim.SGD(layer.parameters(), 0.5).step()

    def load(layer: Recurrent) -> None:
        layer.load_state_dict(Recurrent(cells.GRU(3, 4, dtype=F64)).state_dict())

    def assign(layer: Recurrent) -> None:
        layer.load_state_dict(Recurrent(cells.GRU(3, 4, dtype=F64)).state_dict(), assign=True)

    def in_place(layer: Recurrent) -> None:
        with torch.no_grad():
            layer.cell.R.mul_(-2)

    def through_data(layer: Recurrent) -> None:
        layer.cell.R.data.mul_(-2)  # PyTorch's version counter does not see this

    def through_numpy(layer: Recurrent) -> None:
        layer.cell.d.detach().numpy()[:] = 3

    def data(layer: Recurrent) -> None:
        layer.cell.W.data = torch.randn_like(layer.cell.W)

    def turned(layer: Recurrent) -> None:
        layer.cell.W.data = torch.randn(3, 12, dtype=F64).T

    def replaced(layer: Recurrent) -> None:
        layer.cell.b = nn.Parameter(torch.randn(12, dtype=F64))

    def the_cell(layer: Recurrent) -> None:
        layer.cell = cells.GRU(3, 4, dtype=F64)

    def shared(layer: Recurrent) -> None:
        layer.share_memory()
        in_place(layer)

    found = (optimiser, load, assign, in_place, through_data, through_numpy, data, turned, replaced, the_cell, shared)
    return {change.__name__: change for change in found}


@pytest.mark.parametrize("change", changes().values(), ids=changes())
def test_changed_weights_are_noticed(change: Any) -> None:
    layer, x = Recurrent(cells.GRU(3, 4, dtype=F64)), torch.randn(3, 2, 3, dtype=F64)
    same_as_eager(layer, x)
    with torch.no_grad():
        before = stepped(layer, x)[0]
    change(layer)
    with torch.no_grad():
        assert not torch.allclose(before, stepped(layer, x)[0])
    same_as_eager(layer, x)
    change(layer)
    same_as_eager(layer, x)


def test_changed_options_are_noticed() -> None:
    layer, x = Recurrent(Zoneout(cells.LayerNormLSTM(3, 4, dtype=F64), h=0.5)).eval(), torch.randn(3, 2, 3, dtype=F64)
    same_as_eager(layer, x)
    layer.cell.rates["h"] = 0.1
    same_as_eager(layer, x)
    layer.cell.cell.eps = 0.5
    same_as_eager(layer, x)


def test_conversions() -> None:
    layer = Recurrent(cells.LSTM(3, 4))
    same_as_eager(layer, torch.randn(3, 2, 3))
    same_as_eager(layer.double(), torch.randn(3, 2, 3, dtype=F64))
    layer.cell.float()
    same_as_eager(layer, torch.randn(3, 2, 3))
    with pytest.raises(ShapeError, match="float64"):
        layer.step(torch.randn(2, 3, dtype=F64))


def test_a_turned_square_in_the_same_memory() -> None:
    layer, x = Recurrent(cells.Elman(4, 4, dtype=F64)), torch.randn(3, 1, 4, dtype=F64)
    same_as_eager(layer, x)
    layer.cell.R.data = layer.cell.R.data.T
    same_as_eager(layer, x)


def test_tied_weights_of_two_layers_alike() -> None:
    for _ in range(2):  # the second has the program of the first, but not its weights
        below, above = cells.Elman(4, 4, dtype=F64), cells.Elman(4, 4, dtype=F64)
        above.R = below.R
        same_as_eager(Recurrent(Stack([below, above, below])), torch.randn(3, 2, 4, dtype=F64))


def test_parametrized_weights() -> None:
    layer, x = Recurrent(cells.Elman(3, 4, dtype=F64)), torch.randn(3, 2, 3, dtype=F64)
    nn.utils.parametrizations.weight_norm(layer.cell, "R")
    for _ in range(2):
        with torch.no_grad():
            got = stepped(layer, x)
            with using("eager"):
                close(got, layer(x), 3)
            layer.cell.parametrizations.R.original0.mul_(0.3)


def test_nothing_is_shared_between_steps() -> None:
    layer, x = Recurrent(cells.LSTM(3, 4)), torch.randn(1, 3)
    with torch.no_grad():
        y, state = layer.step(x)
        kept = copy.deepcopy((y, state))
        again, _ = layer.step(x, state)
        for _ in range(5):
            layer.step(torch.randn(1, 3), state)
        close((y, state), kept)
        y.fill_(7)
        assert torch.equal(state[0], kept[1][0]), "the output and the state have memory of their own"
        state[1].fill_(9)
        close(layer.step(x, kept[1])[0], again)
        close(layer.step(x)[0], kept[0])


def test_copies_stand_alone() -> None:
    layer, x = Recurrent(cells.GRU(3, 4, dtype=F64), layers=2), torch.randn(3, 2, 3, dtype=F64)
    same_as_eager(layer, x)
    twin = copy.deepcopy(layer)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    for other in (twin, pickle.loads(pickle.dumps(layer)), torch.load(buffer, weights_only=False), copy.copy(layer)):
        assert other.state_dict().keys() == layer.state_dict().keys()
        same_as_eager(other, x)
    with torch.no_grad():
        twin.cell.members[0].R.mul_(-2)
        assert not torch.allclose(stepped(twin, x)[0], stepped(layer, x)[0])
    same_as_eager(layer, x)
    assert len(pickle.dumps(layer)) == len(pickle.dumps(copy.deepcopy(layer))), "nothing of a step is saved"


def test_a_deleted_layer_is_gone() -> None:
    layer = Recurrent(cells.LSTM(3, 4)).eval()
    with torch.no_grad():
        layer.step(torch.randn(1, 3))
    gone, weights = weakref.ref(layer.cell), weakref.ref(layer.cell.R)
    del layer
    gc.collect()
    assert gone() is None
    assert weights() is None


def test_an_array_changed_in_place_is_noticed() -> None:
    numbers = np.array([2.0])

    class Scaled(cells.GRU):
        def step(self, x: Any, h: Any) -> Any:
            return super().step(x, h) * float(numbers[0])

    layer, x = Recurrent(Scaled(3, 4, dtype=F64)), torch.randn(3, 2, 3, dtype=F64)
    same_as_eager(layer, x)
    numbers[0] = -1.0
    same_as_eager(layer, x)


@pytest.mark.parametrize("kind", ["matrix_exp", "cayley"])
def test_orthogonal_weights_are_compiled(kind: str) -> None:
    layer, x = Recurrent(cells.Elman(3, 4, dtype=F64)), torch.randn(5, 2, 3, dtype=F64)
    nn.utils.parametrizations.orthogonal(layer.cell, "R", kind)
    assert "target llvm" in layer.explain()
    with using("eager"):
        expected = layer(x)
    close(layer(x), expected, 3)


def test_what_is_made_of_parameters_before_a_step_is_made_once_for_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, real = list[int](), Convolution.__call__

    def counted(self: Convolution, kernel: torch.Tensor) -> torch.Tensor:
        made.append(1)
        return real(self, kernel)

    monkeypatch.setattr(Convolution, "__call__", counted)
    cell = cells.ConvLSTM(8, 3, height=2, width=4, reach=1, dtype=F64)
    layer, x = Recurrent(cell), torch.randn(5, 2, 8, dtype=F64)

    def step(state: Any = None) -> Any:
        before = len(made)
        with torch.no_grad():
            found = layer.step(x[0], state)
            right = Recurrent(cell, target="eager").step(x[0], state)
        torch.testing.assert_close(found, right)
        return found[1], len(made) - before

    state, _ = step()
    for expected, change in (
        (0, lambda: None),
        (2, lambda: cell.R.data.mul_(-2)),  # which PyTorch's version counter does not see
        (0, lambda: None),
        (2, lambda: cell.W.detach().numpy().__setitem__((0, 0), 3)),
    ):
        change()
        assert step(state)[1] == expected
