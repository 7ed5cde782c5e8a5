"""What a step does besides computing with symbols: gradients switched off, a backward of its own, random draws."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from everloop.cell import Cell, H, I, param, state
from everloop.compiler.randomness import Randomness
from everloop.compiler.targets import llvm
from everloop.compiler.trace import trace
from everloop.errors import UnsupportedError
from everloop.layers import Recurrent

DRAWS = np.random.default_rng(0)


class Steep(torch.autograd.Function):
    """Has a slope of its own; what returns its argument untouched is found by name (layers/guards.py)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        return torch.sign(a)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


STEEP = cast(Any, Steep)


def without_gradient(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    with torch.no_grad():
        return h * 2


def without_gradient_of_a_parameter(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    with torch.inference_mode():
        scale = cell.p.softmax(0)
    return h * scale


def inverted(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    mask = torch.empty(5).bernoulli_(0.5, generator=cell.own)
    return h * mask


HELD: dict[str, Any] = {"own": torch.Generator(), "python": random.Random(0), "old": np.random.RandomState(0)}
REFUSED: dict[str, tuple[Callable[[Any, Tensor, Tensor], Tensor], str]] = {
    "no_grad": (without_gradient, r"'mul' while gradients are switched off; write \.detach\(\)"),
    "inference_mode": (without_gradient_of_a_parameter, r"'softmax' while gradients are switched off"),
    "a function": (lambda cell, x, h: STEEP.apply(h), r"'sign' while gradients are switched off; .*autograd\.Function"),
    "torch": (lambda cell, x, h: h * torch.rand(5), "draws random numbers"),
    "random": (lambda cell, x, h: h * random.random(), "draws random numbers"),
    "numpy": (lambda cell, x, h: h * float(np.random.rand()), "draws random numbers"),
    "a global generator": (lambda cell, x, h: h * DRAWS.random(), "draws random numbers"),
    "a held generator": (lambda cell, x, h: h * cell.python.random(), "draws random numbers"),
    "an old generator": (lambda cell, x, h: h * float(cell.old.rand()), "draws random numbers"),
    "a torch generator": (
        lambda cell, x, h: h * torch.rand(5, generator=cell.own),
        r"random numbers of a torch\.Generator",
    ),
    "a torch generator of a method": (inverted, r"random numbers of a torch\.Generator"),
}


def cell_of(step: Callable[[Any, Tensor, Tensor], Tensor]) -> Cell:
    made: Cell = type("Custom", (Cell,), {"h": state(H), "W": param(H, I), "p": param(H), "step": step})(5, 5)
    for name, thing in HELD.items():
        setattr(made, name, thing)
    return made


@pytest.mark.parametrize("name", REFUSED)
def test_what_symbols_cannot_follow_is_refused(name: str) -> None:
    function, message = REFUSED[name]
    cell = cell_of(function)
    with pytest.raises(UnsupportedError, match=message) as caught:
        trace(cell, dict(cell.named_parameters()))
    assert "test_watched.py:" in str(caught.value) or message == "draws random numbers"
    assert torch.is_grad_enabled()


@pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
@pytest.mark.parametrize("first", [torch.no_grad, torch.inference_mode])
def test_a_program_made_where_gradients_are_off_has_them(first: Callable[[], Any]) -> None:
    def weighted(cell: Any, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(x @ cell.W.T) * torch.arange(5.0) + torch.exp(cell.p) * h.detach()

    cell, x = cell_of(weighted), torch.randn(3, 2, 5)
    with first():
        Recurrent(cell, target="llvm")(x)
    found, expected = (
        torch.autograd.grad(Recurrent(cell, target=target)(x)[0].sum(), list(cell.parameters()))
        for target in ("llvm", "eager")
    )
    torch.testing.assert_close(found, expected)


def test_a_step_that_only_reads_while_gradients_are_off_is_followed() -> None:
    def sized(cell: Any, x: Tensor, h: Tensor) -> Tensor:
        with torch.no_grad():
            width = h.shape[-1]
        with torch.no_grad(), torch.enable_grad():
            return h / width

    cell = cell_of(sized)
    assert "h" in trace(cell, dict(cell.named_parameters())).outputs


def test_generators_that_nobody_draws_from_are_no_hindrance() -> None:
    cell = cell_of(lambda cell, x, h: h * 2)
    assert "h" in trace(cell, dict(cell.named_parameters())).outputs


@pytest.mark.parametrize("draw", [lambda: torch.randn(10), random.random], ids=["torch", "python"])
def test_what_another_thread_draws_is_not_the_steps(draw: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program that loads its next batch while the layer is called for the first time."""
    cell, drawn = cell_of(lambda cell, x, h: torch.tanh(x @ cell.W.T + h)), 0
    watched = Randomness.__exit__

    def once(self: Randomness, *error: Any) -> None:
        nonlocal drawn
        if drawn == 0:
            thread = threading.Thread(target=draw)
            thread.start()
            thread.join()
        drawn += 1
        watched(self, *error)

    monkeypatch.setattr(Randomness, "__exit__", once)
    assert "tanh" in str(trace(cell, dict(cell.named_parameters())))
    assert drawn > 0


def test_what_an_import_does_is_not_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_late.py").write_text(
        "import os\nimport time\nSTARTED, HOME = time.time(), os.environ['PATH']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def late(cell: Any, x: Tensor, h: Tensor) -> Tensor:
        import_module("imported_late")
        return torch.tanh(x @ cell.W.T + h)

    cell = cell_of(late)
    assert "tanh" in str(trace(cell, dict(cell.named_parameters())))
