"""Tensors without numbers: meta, fake, and what a TorchDispatchMode sees; a later call with numbers is right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from everloop import cells
from everloop.layers import Bidirectional, Recurrent
from everloop.layers.torch_nn import GRU, LSTM

T, B, I_ = 5, 3, 4
widths = iter(range(11, 100))  # a cell of a new size each, so that each use is the first


@pytest.fixture
def width() -> int:
    return next(widths)


def layers(width: int) -> Iterator[Any]:
    yield Recurrent(cells.LSTM(I_, width), learned_state=True)
    yield Recurrent(Bidirectional(cells.PeepholeLSTM(I_, width)))
    yield GRU(I_, width)
    yield LSTM(I_, width, num_layers=2, bidirectional=True)


def options(layer: Any, x: Tensor) -> dict[str, Any]:
    if isinstance(layer, GRU | LSTM):
        return {}
    return {"lengths": [5, 0, 2], "reset": torch.zeros_like(x[..., 0], dtype=torch.bool)}


def trained(layer: Any, x: Tensor) -> Tensor:
    layer.zero_grad()
    y: Tensor = layer(x, **options(layer, x))[0]
    torch.autograd.backward(y.sum())
    assert all(p.grad is not None and p.grad.shape == p.shape for p in layer.parameters())
    return y


@pytest.mark.parametrize("which", range(4))
def test_meta(which: int, width: int) -> None:
    layer, x = list(layers(width))[which], torch.randn(T, B, I_)
    expected = layer(x, **options(layer, x))[0]
    layer.to("meta")
    y = trained(layer, x.to("meta"))
    assert y.is_meta
    assert (y.shape, y.dtype) == (expected.shape, expected.dtype)


def test_meta_steps(width: int) -> None:
    layer = Recurrent(cells.LSTM(I_, width)).to("meta")
    y, states = layer.step(torch.empty(B, I_, device="meta"))
    assert [t.shape for t in (y, *states)] == [(B, width)] * 3


@pytest.mark.parametrize("inside", [True, False], ids=["inside the mode", "outside"])
@pytest.mark.parametrize("which", range(4))
def test_fake(which: int, width: int, inside: bool) -> None:
    layer, x = list(layers(width))[which], torch.randn(T, B, I_)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(x)
        fakes = list(layers(width))[which]
    context: AbstractContextManager[Any] = mode if inside else nullcontext()
    with context:
        y = trained(fakes, fake)
    assert isinstance(y, FakeTensor)
    real = trained(layer, x)
    assert type(real) is Tensor
    assert y.shape == real.shape
    layer.target = "eager"
    torch.testing.assert_close(trained(layer, x), real)


class Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations that pass."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


def test_a_mode_sees_every_operation(width: int) -> None:
    layer, x = Recurrent(cells.GRU(I_, width)), torch.randn(T, B, I_)
    with Seen() as seen:
        found = layer(x)[0]
    assert seen.names.count("tanh") == T
    torch.testing.assert_close(found, layer(x)[0])
