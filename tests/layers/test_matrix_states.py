"""States with several axes in every form of a layer: as declared outside, compiled, equal to eager."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, tanh

from everloop.cell import Cell, H, I, output, param, size, state
from everloop.cells import LSTM
from everloop.diagnose import agree
from everloop.layers import Bidirectional, Recurrent, Stack, Zoneout
from everloop.layers.nested import leaves

HEADS, KEY = 2, size("key")


class Memory(Cell):
    """A memory of values by keys for each head, with a gate of its own and a normaliser."""

    h, C, n = state(H), state(HEADS, H, KEY), state(HEADS, KEY)
    Q, K = param(HEADS * KEY, I), param(HEADS * KEY, I)
    V, F, R = param(HEADS * H, I), param(HEADS, I), param(HEADS, H)

    def step(self, x: Tensor, h: Tensor, C: Tensor, n: Tensor) -> Any:
        q, k, v = ((x @ W.T).unflatten(-1, (HEADS, -1)) for W in (self.Q, self.K, self.V))
        f = torch.sigmoid(x @ self.F.T + h @ self.R.T).unsqueeze(-1)
        C = f.unsqueeze(-1) * C + v.unsqueeze(-1) * k.unsqueeze(-2)
        n = f * n + k
        read = torch.einsum("bhvk,bhk->bhv", C, q) / (1 + (n * q).sum(-1, keepdim=True).abs())
        return tanh(read.sum(1)), C, n


class FastWeights(Cell):
    S = state(H, KEY)
    y = output(H)
    A, B = param(KEY, I), param(H, I)

    def step(self, x: Tensor, S: Tensor) -> Any:
        k = tanh(x @ self.A.T)
        S = 0.9 * S + (x @ self.B.T).unsqueeze(-1) * k.unsqueeze(-2)
        return S, (S @ k.unsqueeze(-1)).squeeze(-1)


CORES: dict[str, Any] = {
    "memory": lambda: Memory(5, 6, key=3),
    "one of each": lambda: Memory(5, 1, key=1),
    "fast weights": lambda: FastWeights(5, 6, key=3),
    "zoneout": lambda: Zoneout(Memory(5, 6, key=3), C=0.2, h=0.1),
    "stack": lambda: Stack([FastWeights(5, 6, key=3), LSTM(6, 4), Memory(4, 3, key=2)]),
    "bidirectional": lambda: Bidirectional(Memory(5, 6, key=3)),
}


def layer_of(name: str, **options: Any) -> Recurrent:
    torch.manual_seed(1)
    layer = Recurrent(CORES[name](), **options).double()
    for p in layer.parameters():
        p.data = 0.5 * torch.randn(p.shape, dtype=p.dtype)
    return layer


@pytest.mark.parametrize("name", CORES)
def test_targets_agree_with_eager(name: str) -> None:
    layer = layer_of(name, learned_state=True).eval()
    x = torch.randn(7, 3, 5, dtype=torch.float64)
    found = agree(layer, x, lengths=torch.tensor([7, 0, 4]), reset=torch.rand(7, 3) < 0.3)
    assert found, str(found)


@pytest.mark.parametrize("name", CORES)
def test_a_state_goes_on_where_it_ended(name: str) -> None:
    layer = layer_of(name).eval()
    x = torch.randn(6, 2, 5, dtype=torch.float64)
    whole, end = layer(x[:3])
    again, _ = layer(x[3:], end)
    shapes = [list(s.shape) for s in leaves(end)]
    assert shapes == [list(s.shape) for s in leaves(layer.cell.zeros(2, like=x))]
    if name != "bidirectional":
        torch.testing.assert_close(torch.cat([whole, again]), layer(x)[0], rtol=1e-12, atol=1e-12)
    single, own = layer(x[:, 0])
    assert [list(s.shape) for s in leaves(own)] == [shape[1:] for shape in shapes]
    torch.testing.assert_close(single, layer(x[:, :1])[0][:, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in CORES if name != "bidirectional"])
@pytest.mark.parametrize("batch", [(), (1,), (3,)])
def test_single_steps(name: str, batch: tuple[int, ...]) -> None:
    layer = layer_of(name, learned_state=True, check=True).eval()
    x = torch.randn(4, *batch, 5, dtype=torch.float64)
    with torch.no_grad():
        whole, end = layer(x)
        state_, steps = None, []
        for x_t in x:
            y, state_ = layer.step(x_t, state_)
            steps.append(y)
    torch.testing.assert_close(torch.stack(steps), whole, rtol=1e-12, atol=1e-12)
    for left, right in zip(leaves(state_), leaves(end), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_gradients_of_gradients() -> None:
    layer = layer_of("memory")
    x = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], (x,))
