"""What a layer of bfloat16 keeps for its gradient is in bfloat16: results are the same, gradients nearly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.precision import CELLS, saved_share
from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm import machine, vector
from everloop.compiler.targets.llvm.target import LLVM
from everloop.layers import Recurrent
from everloop.layers.guards import programs
from tests.zoo import NAMES, given, make

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
LOW = torch.bfloat16
UNIT = torch.finfo(LOW).eps
WAYS = [name for name in vector.ISAS if llvm.is_available() and machine.runs(name)]


def run(layer: Recurrent, x: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the output and all gradients in one vector."""
    layer.zero_grad()
    torch.manual_seed(5)
    x = x.clone().requires_grad_()
    programs.clear()
    y = layer(x, **options, **given(layer, x).at())[0]
    y = torch.cat([part.flatten() for part in y]) if isinstance(y, tuple) else y
    (y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    grads = [x.grad, *(p.grad for p in layer.parameters())]
    return y.detach(), torch.cat([g.float().flatten() for g in grads if g is not None])


def both(layer: Recurrent, x: Tensor, options: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """Kept numbers are rounded by at most half a unit each: all together they turn a gradient by less than one."""
    y, gradient = run(layer, x, options)
    patch.setattr(LLVM, "may_halve", lambda *_: frozenset())
    same, exact = run(layer, x, options)
    programs.clear()
    assert torch.equal(y, same)
    assert (gradient - exact).norm() <= UNIT * exact.norm()


@pytest.mark.parametrize("name", NAMES)
def test_every_cell(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    layer = Recurrent(make(name, 3, 37).to(LOW))
    both(layer, torch.randn(6, 3, 3).to(LOW), {"lengths": [4, 0, 6], "reset": torch.rand(6, 3) < 0.3}, monkeypatch)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("hidden", [1, 2, 33, 64])
@pytest.mark.parametrize("options", [{}, {"lengths": [9, 1, 5, 2]}, {"batch_first": True}, {"learned_state": True}])
def test_sizes_layouts_and_processors(
    way: str, hidden: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llvm, "host", lambda: vector.named(way))
    torch.manual_seed(2)
    made = {key: value for key, value in options.items() if key != "lengths"}
    layer = Recurrent(make("peephole-lstm", 4, hidden), **made)
    layer = layer.to(LOW)
    x, called = torch.randn(9, 4, 4).to(LOW), {key: value for key, value in options.items() if key == "lengths"}
    called["reset"] = torch.rand(9, 4) < 0.2
    if made.get("batch_first"):
        x, called["reset"] = x.transpose(0, 1), called["reset"].T
    both(layer, x, called, monkeypatch)


@pytest.mark.parametrize("name", CELLS)
def test_saved_memory_is_about_half(name: str) -> None:
    assert saved_share(name, (8, 30, 64)) <= 0.6
