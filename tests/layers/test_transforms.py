"""What sees single operations of PyTorch: transforms of torch.func, forward-mode differentiation, torch.jit.trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from everloop import GRU, RNN, cells
from everloop.errors import UnsupportedError
from everloop.layers import Recurrent

T, B, I_, H_ = 3, 2, 4, 5
LAYERS = [lambda: Recurrent(cells.PeepholeLSTM(I_, H_), bidirectional=True), lambda: GRU(I_, H_), lambda: RNN(I_, H_)]


@pytest.mark.parametrize("make", LAYERS)
def test_gradient_of_a_function(make: Any) -> None:
    layer, x = make(), torch.randn(T, B, I_)
    torch.autograd.backward(layer(x)[0].square().sum())
    own = dict(layer.named_parameters())
    found = torch.func.grad(lambda p: torch.func.functional_call(layer, p, (x,))[0].square().sum())(own)
    for name, parameter in own.items():
        torch.testing.assert_close(found[name], parameter.grad)


def test_one_layer_over_many_inputs() -> None:
    layer, x = Recurrent(cells.PeepholeLSTM(I_, H_)), torch.randn(6, T, B, I_)
    found = torch.func.vmap(lambda one: layer(one)[0])(x)
    torch.testing.assert_close(found, torch.stack([layer(one)[0] for one in x]))


@pytest.mark.filterwarnings("ignore")  # torch.func.jvp itself uses what is deprecated
@pytest.mark.parametrize("make", [LAYERS[0], LAYERS[2]])
def test_forward_mode(make: Any) -> None:
    layer, x, v = make().double(), torch.randn(T, B, I_).double(), torch.randn(T, B, I_).double()
    expected = (layer(x + 1e-6 * v)[0] - layer(x - 1e-6 * v)[0]) / 2e-6
    found = torch.func.jvp(lambda z: layer(z)[0], (x,), (v,))[1]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    with forward_ad.dual_level():
        both = forward_ad.make_dual(x, v)  # type: ignore[no-untyped-call]
        dual = forward_ad.unpack_dual(layer(both)[0]).tangent  # type: ignore[no-untyped-call]
    torch.testing.assert_close(dual, found)


def test_single_steps() -> None:
    layer, x = Recurrent(cells.PeepholeLSTM(I_, H_)).requires_grad_(False), torch.randn(T, B, I_)
    found = torch.func.vmap(lambda one: layer.step(one)[0])(x)
    torch.testing.assert_close(found, torch.stack([layer.step(one)[0] for one in x]))
    with forward_ad.dual_level():
        both = forward_ad.make_dual(x[0], x[1])  # type: ignore[no-untyped-call]
        tangent = forward_ad.unpack_dual(layer.step(both)[0]).tangent  # type: ignore[no-untyped-call]
        whole = forward_ad.unpack_dual(layer(both[None])[0]).tangent  # type: ignore[no-untyped-call]
    torch.testing.assert_close(tangent, whole[0])


@pytest.mark.filterwarnings("ignore")  # torch.jit.trace is deprecated and warns of every size it fixes
@pytest.mark.parametrize("make", LAYERS)
def test_traces(make: Any) -> None:
    layer, x = make().requires_grad_(False), torch.randn(T, B, I_)
    traced: nn.Module = torch.jit.trace(layer, x, check_trace=False)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(traced(x + 1)[0], layer(x + 1)[0])


def test_a_target_asked_for_says_why_not() -> None:
    layer, x = Recurrent(cells.GRU(I_, H_), target="llvm"), torch.randn(T, B, I_)
    with pytest.raises(UnsupportedError, match=r"torch\.func"):
        torch.func.vmap(lambda one: layer(one)[0])(x[None])
