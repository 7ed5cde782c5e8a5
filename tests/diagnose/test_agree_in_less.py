"""agree and check where numbers are rounded to less than float32: right is right, and a wrong product is seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from everloop import cells, quantize
from everloop.compiler.reduced import Reduced
from everloop.compiler.targets import llvm
from everloop.diagnose.agree import agree
from everloop.errors import MismatchError
from everloop.layers import Recurrent, autograd_function, dispatch
from tests.layers.wrong import forget_programs
from tests.zoo import given, make

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
LOW = torch.bfloat16


def spoil_products(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Let products over whole sequences be wrong by a factor."""
    forget_programs(monkeypatch)
    for name in ("linear", "linear_low"):
        right = getattr(Reduced, name)
        monkeypatch.setattr(Reduced, name, lambda *args, right=right: right(*args) * factor)


@pytest.mark.parametrize("factor", [0.0, 0.7, 1.1, 1.4, 2.0])
@pytest.mark.parametrize("kind", [cells.LSTM, cells.GRU, cells.Elman])
def test_a_wrong_product_in_bfloat16_is_seen(kind: Any, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = Recurrent(kind(16, 40), check=True).to(LOW), torch.randn(9, 3, 16).to(LOW)
    layer(x)
    assert agree(layer, x, reference="float64")
    spoil_products(monkeypatch, factor)
    found = agree(layer, x, reference="float64")
    assert not found
    assert {c.target for c in found.comparisons if not c.agrees} == {"llvm"}
    with pytest.raises(MismatchError):
        layer(x)


def spoil_results(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Let the outputs over whole sequences be wrong by a factor, and with them all gradients through them."""
    real = autograd_function.compute
    monkeypatch.setattr(dispatch, "compute", lambda *a: (real(*a)[0] * factor, real(*a)[1]))


@pytest.mark.parametrize("factor", [0.95, 1.02, 1.05])
@pytest.mark.parametrize("form", [LOW, torch.float16, "autocast", "int8"])
def test_a_small_factor_that_all_numbers_share_is_seen(
    form: Any, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over 150 steps each number may be off by more, but not all of them in the same direction."""
    torch.manual_seed(0)
    layer, x = Recurrent(cells.GRU(8, 24)), torch.randn(150, 4, 8)
    if isinstance(form, torch.dtype):
        layer, x = layer.to(form), x.to(form)
    layer = quantize(layer) if form == "int8" else layer
    with torch.autocast("cpu", LOW, enabled=form == "autocast"):
        found = agree(layer, x, reference="float64")
        assert found, str(found)
        spoil_results(monkeypatch, factor)
        found = agree(layer, x, reference="float64")
    assert not found
    (output,) = (c for c in found.comparisons if (c.target, c.what) == ("llvm", "output"))
    assert output.difference <= output.allowed or form == torch.float16
    assert output.is_biased
    assert output.bias == pytest.approx(factor - 1, abs=0.004)
    assert "all by a factor of" in str(output)


@pytest.mark.parametrize("name", ["lstm", "hyper-lstm", "lif", "retnet"])
def test_autocast_agrees(name: str) -> None:
    torch.manual_seed(3)
    layer, x = Recurrent(make(name, 5, 20)).eval(), torch.randn(7, 4, 5)
    with torch.autocast("cpu", LOW):
        found = agree(layer, x, reference="float64", **given(layer, x).at())
    assert found, str(found)


@pytest.mark.parametrize("reference", ["eager", "float64", "loop"])
@pytest.mark.parametrize("name", ["lstm", "elman-relu", "softmax", "fast-weights", "told", "heads"])
def test_layers_in_8_bits_agree(name: str, reference: Any) -> None:
    torch.manual_seed(0)
    layer, x = Recurrent(make(name, 5, 20)), torch.randn(7, 4, 5)
    more = given(layer, x).at()
    found = agree(quantize(layer, lambda own: own(x, **more)), x, reference=reference, lengths=[7, 0, 3, 5], **more)
    assert found, str(found)
    assert not any(c.what.startswith("gradient") for c in found.comparisons)


def test_a_layer_in_8_bits_that_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    small, x = quantize(Recurrent(cells.LSTM(5, 20), check=True)), torch.randn(7, 4, 5)
    small(x)
    assert "checked against float64" in small.explain()
    spoil_results(monkeypatch, 1.05)
    assert not agree(small, x)
