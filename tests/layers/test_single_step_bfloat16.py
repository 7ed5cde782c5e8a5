"""Single steps of a layer of bfloat16: one native call on the parameters as they lie, nothing is converted."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop import Cell, H, I, cells, param, state
from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm import machine, narrow_single, vector
from everloop.layers import Recurrent
from everloop.layers.guards import programs
from everloop.layers.nested import leaves, map_state
from tests.zoo import NAMES, given, make

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
LOW = torch.bfloat16
UNIT = torch.finfo(LOW).eps
WAYS = [name for name in vector.ISAS if llvm.is_available() and machine.runs(name)]


@pytest.mark.parametrize("name", NAMES)
def test_every_cell(name: str) -> None:
    """Against the step in float64, as `check` does: each number moved by one unit of bfloat16 explains the rest."""
    torch.manual_seed(4)
    layer = Recurrent(make(name, 3, 36).to(LOW), check=True).eval()
    x = torch.randn(1, 5, 3).to(LOW)
    more: Any = {key: value[0] if torch.is_tensor(value) and value.shape[:1] == (1,) else value
            for key, value in given(layer, x).at().items()}  # fmt: skip
    with torch.no_grad():
        y, state = layer.step(x[0], **more)
        y = layer.step(x[0], state, **more)[0]
    assert (y[0] if isinstance(y, tuple) else y).dtype == LOW
    assert {s.dtype for s in leaves(state)} == {LOW}
    text = layer.explain().rpartition("step: ")[2]
    refused = name == "attention-gru"  # a step that reads a memory
    assert ("because" if refused else "matrices of bfloat16 where they are") in text


def by_hand(layer: Recurrent, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Return the step in float64 of the same numbers."""
    exact = Recurrent(copy.deepcopy(layer.cell).double(), target="eager")
    state = None if state is None else map_state(Tensor.double, state)
    return exact.step(x.double(), state)


@pytest.mark.parametrize("low", [LOW, torch.float16])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sizes", [(1, 2), (3, 7), (16, 64), (33, 65), (100, 31)])
@pytest.mark.parametrize("layers", [1, 2])
def test_sizes_strides_and_processors(
    low: torch.dtype, way: str, sizes: tuple[int, int], layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of three roundings of about one unit: factors, state before, result."""
    monkeypatch.setattr(narrow_single, "host", lambda: vector.named(way))
    programs.clear()
    torch.manual_seed(1)
    layer = Recurrent(cells.GRU(*sizes), layers=layers).to(low).eval()
    has_step = low == LOW or machine.halving(vector.named(way)) is not None
    said = f"matrices of {str(low).removeprefix('torch.')} where they are" if has_step else "convert torch.float16"
    assert said in layer.explain().rpartition("step: ")[2]
    unit = torch.finfo(low).eps
    for rows in (1, 2, 5, 300):
        x, reset = torch.randn(rows, sizes[0]).to(low), torch.rand(rows) < 0.5
        with torch.no_grad():
            _, state = layer.step(x)
            found, after = layer.step(x, state, reset=reset)
            before = map_state(lambda s, r=reset: s.masked_fill(r[:, None], 0), state)
            expected, new = by_hand(layer, x, before)
        assert found.dtype == low
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=3 * unit * layers)
        for a, b in zip(leaves(after), leaves(new), strict=True):
            torch.testing.assert_close(a.double(), b, rtol=0, atol=3 * unit * layers)
    programs.clear()


@pytest.mark.parametrize("name", ["lstm", "gru", "reset-before-gru", "layer-norm-lstm"])
def test_float16(name: str) -> None:
    """Large and small numbers too, which bfloat16 has and float16 has not, and matrices that lie the other way."""
    torch.manual_seed(6)
    layer = Recurrent(cells.named(name)(24, 40)).half().eval()
    for scale in (1.0, 1e-4, 6e4):
        x = (torch.rand(3, 24) * scale).half()
        with torch.no_grad():
            found, state = layer.step(x)
            again = layer.step(x, state)[0]
            expected, exact = by_hand(layer, x)
            following = by_hand(layer, x, exact)[0]
        assert "matrices of float16" in layer.explain() or "convert torch.float16" in layer.explain()
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=4 * torch.finfo(torch.float16).eps)
        torch.testing.assert_close(again.double(), following, rtol=0, atol=8 * torch.finfo(torch.float16).eps)
    with torch.no_grad():
        layer.cell.W.data = layer.cell.W.data.T.contiguous().T
        torch.testing.assert_close(layer.step(x)[0], found, rtol=0, atol=2 * torch.finfo(torch.float16).eps)


@pytest.mark.parametrize("columns", [33, 34])
def test_a_number_beside_a_row_is_not_read(columns: int) -> None:
    """Rows of an odd length share words of 32 bits; what is wrong with one of them stays there."""
    torch.manual_seed(2)
    layer = Recurrent(cells.Elman(columns, 40)).to(LOW).eval()
    with torch.no_grad():
        layer.cell.W[1, 0] = math.nan
        layer.cell.W[0, columns - 1] = math.inf
        x = torch.ones(1, columns).to(LOW)
        y, _ = layer.step(x)
    assert y[0, 1].isnan()
    assert y[0, 0] == 1
    assert y[0, 2:].isfinite().all()


def test_matrices_that_lie_the_other_way() -> None:
    torch.manual_seed(3)
    layer = Recurrent(cells.LSTM(24, 70)).to(LOW).eval()
    x = torch.randn(3, 24).to(LOW)
    with torch.no_grad():
        expected, _ = by_hand(layer, x)
        for matrix in (layer.cell.W, layer.cell.R):
            matrix.data = matrix.data.T.contiguous().T
        found, _ = layer.step(x)
    assert "one native call" in layer.explain()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3 * UNIT)


def test_nothing_is_converted_between_steps_and_changes_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    layer = Recurrent(cells.LSTM(32, 64)).to(LOW).eval()
    x = torch.randn(2, 32).to(LOW)
    with torch.no_grad():
        _, state = layer.step(x)
        before = layer.step(x, state)[0]
        converted: list[torch.dtype] = []
        monkeypatch.setattr(Tensor, "to", lambda self, *a, **k: converted.append(self.dtype))
        assert torch.equal(layer.step(x, state)[0], before)
        assert not converted
        monkeypatch.undo()
        layer.cell.b.add_(1)
        layer.cell.R.mul_(2)
        found = layer.step(x, state)[0]
        expected, _ = by_hand(layer, x, state)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3 * UNIT)
    assert not torch.equal(found, before)


@pytest.mark.skipif("sse2" not in WAYS, reason="every other processor converts float16")
def test_float16_says_why_it_is_no_native_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow_single, "host", lambda: vector.named("sse2"))
    programs.clear()
    layer = Recurrent(cells.GRU(4, 5)).half().eval()
    assert "no instructions of sse2 that convert torch.float16" in layer.explain()
    with torch.no_grad():
        assert layer.step(torch.randn(2, 4).half())[0].dtype == torch.float16
    programs.clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, LOW])
def test_under_autocast_dtypes_are_those_of_a_whole_sequence(dtype: torch.dtype) -> None:
    torch.manual_seed(6)
    layer = Recurrent(cells.LSTM(12, 40), check=True).to(dtype).eval()
    x = torch.randn(5, 3, 12)
    with torch.no_grad(), torch.autocast("cpu", LOW):
        whole, last = layer(x)
        state, rows = None, []
        for row in x:
            y, state = layer.step(row, state)
            rows.append(y)
    found = torch.stack(rows)
    assert (found.dtype, *(s.dtype for s in leaves(state))) == (whole.dtype, *(s.dtype for s in leaves(last)))
    torch.testing.assert_close(found, whole, rtol=0, atol=4 * UNIT)
    assert "native call" in layer.explain()


class Cayley(Cell):
    """A recurrent matrix made of parameters, with constants of their dtype and a function that has no bfloat16."""

    h = state(H)
    W, S = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        one, skew = torch.eye(self.S.shape[0], dtype=self.S.dtype), self.S - self.S.T
        rotation = torch.linalg.solve(one + skew, one - skew) @ torch.matrix_exp(skew)
        return torch.tanh(x @ self.W.T + h @ (one @ rotation).T)


@pytest.mark.parametrize("low", [LOW, torch.float16])
def test_matrices_made_of_parameters_are_computed_in_float32(low: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = Recurrent(Cayley(3, 5)).to(low)
    x = torch.randn(2, 3).to(low)
    with torch.no_grad():
        y, state = layer.step(x)
        y, _ = layer.step(x, state)
        expected, _ = by_hand(layer, x, state)
    assert "because" not in layer.explain().rpartition("step: ")[2]
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=4 * torch.finfo(low).eps)
