"""agree: every cell of the zoo agrees on every target, and what does not is found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import everloop
from everloop import Cell, H, I, Recurrent, param, state
from everloop.compiler.targets import eager, llvm
from everloop.diagnose.agree import agree
from everloop.errors import CellError, OptionError, UnsupportedError
from everloop.layers import autograd_function, dispatch
from tests.layers.wrong import forget_programs, spoil_gradient, spoil_steps
from tests.zoo import ALL, ONE_OUTPUT, given, make

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_cell_agrees(name: str, dtype: torch.dtype) -> None:
    layer = Recurrent(make(name, 3, 17).to(dtype))
    x = torch.randn(7, 5, 3, dtype=dtype)
    reset = torch.rand(7, 5) < 0.2
    found = agree(layer, x, lengths=[7, 0, 3, 7, 1], reset=reset, **given(layer, x).at())
    assert found, str(found)
    compared = {c.what for c in found.comparisons}
    assert {"state 0", "gradient of x"} <= compared
    assert any(what.startswith("output") for what in compared)


def test_stacks_states_and_drop_ins_agree() -> None:
    x = torch.randn(6, 4, 5)
    layer = Recurrent(everloop.cells.GRU(5, 8), layers=2, bidirectional=True, dropout=0.5)
    _, state = layer(x)
    for found in (agree(layer, x, state=state), agree(everloop.LSTM(5, 8, num_layers=2), x)):
        assert found, str(found)


def test_a_wrong_target_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = autograd_function.compute

    def wrong(*args: Any) -> Any:
        y, final = real(*args)
        return y * (1 + 1e-3), final

    monkeypatch.setattr(dispatch, "compute", wrong)
    found = agree(Recurrent(everloop.cells.LSTM(3, 4)), torch.randn(5, 2, 3))
    assert not found
    assert "DIFFERS" in str(found)


def test_a_layer_with_its_own_target_keeps_it() -> None:
    class Silent(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with dispatch.using("eager"), pytest.raises(everloop.EverloopError, match="llvm"), dispatch.using("lvm"):
        pass


@pytest.mark.parametrize("target", ["eager", "llvm"])
@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_a_layer_with_a_target_and_small_numbers_are_compared(
    monkeypatch: pytest.MonkeyPatch, target: Any, scale: float
) -> None:
    real = autograd_function.compute
    monkeypatch.setattr(dispatch, "compute", lambda *a: (real(*a)[0] * (1 + 1e-3), real(*a)[1]))
    layer = Recurrent(everloop.cells.Elman(3, 4, bias=False), target=target)
    assert not agree(layer, scale * torch.randn(5, 2, 3))
    assert layer.target == target


def test_only_installed_targets_and_whole_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = everloop.cells.GRU(3, 4)
    with pytest.raises(CellError, match="wrap it in Recurrent"):
        agree(cell, torch.randn(2, 3))
    with pytest.raises(OptionError, match="did you mean 'float64'"):
        agree(Recurrent(cell), torch.randn(5, 2, 3), reference="flaot64")  # type: ignore[arg-type]
    monkeypatch.setattr(llvm, "is_available", lambda: False)
    forget_programs(monkeypatch)
    with pytest.raises(UnsupportedError, match="llvm did not run: llvmlite is not installed"):
        agree(Recurrent(cell), torch.randn(5, 2, 3))
    found = agree(Recurrent(cell), torch.randn(5, 2, 3), reference="loop")
    assert {c.target for c in found.comparisons} == {"eager"}
    assert str(found).endswith("llvm   did not run: llvmlite is not installed, so there is no target llvm")


class Sums(Cell):
    """What the compiler does not know."""

    h = state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(x @ self.W.T + torch.cummax(h, -1).values @ self.R.T)


def test_nothing_to_compare_is_an_error_with_its_reason() -> None:
    layer, x = Recurrent(everloop.cells.GRU(3, 4)), torch.randn(5, 2, 3)
    for empty, lengths in ((x[:0], None), (x[:, :0], None), (x, [0, 0])):
        with pytest.raises(UnsupportedError, match="nothing to compare, because no sequence has a step"):
            agree(layer, empty, lengths=lengths)
    with pytest.raises(UnsupportedError, match="nothing to compare, because Linear ran no cell of this library"):
        agree(nn.Linear(3, 3), x)
    with pytest.raises(
        UnsupportedError, match=r"nothing to compare, because llvm did not run: .*'cummax'.*test_agree.py:"
    ):
        agree(Recurrent(Sums(3, 4)), x)
    with pytest.raises(UnsupportedError, match="nothing to compare, because eager gave no finite number"):
        agree(layer, x * torch.nan)


class Root(Cell):
    """Its gradient is NaN where the parameter is 0: there, where passes 0 times the infinite slope of sqrt."""

    h = state(H)
    p = param(H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(x + 0.5 * h) + torch.where(self.p > 0, torch.sqrt(self.p), 0.0)


def test_a_tensor_without_a_finite_number_is_not_said_to_agree() -> None:
    layer = Recurrent(Root(3, 3))
    for number, is_known in ((1.0, True), (0.0, False)):
        nn.init.constant_(layer.cell.p, number)
        found = agree(layer, torch.randn(5, 2, 3))
        assert bool(found) is is_known
        unknown = [line for line in str(found).splitlines() if "UNKNOWN: no finite number to compare" in line]
        said = [["llvm", "gradient", "of", name] for name in ("cell.p", "cell.p,")]  # of sequences, and of single steps
        assert [line.split()[:4] for line in unknown] == ([] if is_known else said)


@pytest.mark.parametrize("reference", ["float64", "loop"])
@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_every_cell_agrees_with_float64(name: str, reference: Any) -> None:
    layer = Recurrent(make(name, 3, 5), learned_state=True)
    x, reset = torch.randn(6, 3, 3), torch.rand(6, 3) < 0.3
    found = agree(layer, x, reference=reference, lengths=[4, 0, 6], reset=reset, **given(layer, x).at())
    assert found, str(found)
    assert {c.target for c in found.comparisons} == {"eager", "llvm"}
    assert not found.absent


def test_whole_layers_agree_with_the_loop() -> None:
    x = torch.randn(6, 4, 5)
    both = Recurrent(everloop.cells.GRU(5, 8), layers=2, bidirectional=True, dropout=0.5, batch_first=True, check=True)
    for found in (
        agree(both, x.transpose(0, 1), reference="loop", lengths=[6, 0, 2, 4], reset=torch.rand(4, 6) < 0.3),
        agree(everloop.LSTM(5, 8, num_layers=2, bidirectional=True), x, reference="loop"),
    ):
        assert found, str(found)
    assert both.check


@pytest.mark.parametrize("reference", ["eager", "float64", "loop"])
def test_a_gradient_off_by_a_thousandth_is_found(monkeypatch: pytest.MonkeyPatch, reference: Any) -> None:
    spoil_gradient(monkeypatch, "d(p_i)")
    layer = Recurrent(everloop.cells.PeepholeLSTM(3, 4), check=True)
    found = agree(layer, torch.randn(5, 2, 3), reference=reference)
    wrong = [(c.target, c.what.removesuffix(", by steps")) for c in found.comparisons if not c.agrees]
    assert wrong == [("llvm", "gradient of cell.p_i")] * 2


@pytest.mark.parametrize("reference", ["eager", "loop"])
def test_a_wrong_single_step_is_found(monkeypatch: pytest.MonkeyPatch, reference: Any) -> None:
    layer, x = Recurrent(everloop.cells.LSTM(3, 4), batch_first=True), torch.randn(2, 5, 3)
    options = {"lengths": [5, 2], "reset": torch.rand(2, 5) < 0.3}
    compared = {c.what for c in agree(layer, x, reference=reference, **options).comparisons}
    assert {"output of step 2", "state 1 after steps, trained", "gradient of cell.W, by steps"} <= compared
    spoil_steps(monkeypatch)
    found = agree(layer, x, reference=reference, **options)
    wrong = {c.what for c in found.comparisons if not c.agrees}
    assert "output of step 2" in wrong
    assert all("step" in what for what in wrong)


class Adds(Cell):
    """Reads its input inside the loop, so that other kernels run where that wants no gradient."""

    h = state(H)
    p = param(H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(x + self.p * h)


def test_what_is_wrong_only_without_the_gradient_of_the_input_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_gradient(monkeypatch, "d(p)", without="x")
    found = agree(Recurrent(Adds(3, 3)), torch.randn(5, 2, 3))
    wrong = [c.what for c in found.comparisons if not c.agrees]
    assert wrong == ["gradient of cell.p", "gradient of cell.p, by steps"]


def test_a_wrong_eager_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = eager.TARGET.run
    monkeypatch.setattr(eager.TARGET, "run", lambda *a, **k: (real(*a, **k)[0] * 1.001, real(*a, **k)[1]))
    layer, x = Recurrent(everloop.cells.GRU(3, 4)), torch.randn(5, 2, 3)
    assert {c.target for c in agree(layer, x, reference="loop").comparisons if not c.agrees} == {"eager"}
