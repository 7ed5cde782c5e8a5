"""Many gradients at once: jacobians with vectorize=True, is_grads_batched, vmap over torch.autograd.grad."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everloop import cells
from everloop.layers import Recurrent, VariationalDropout, Zoneout
from everloop.layers.torch_nn import GRU, LSTM
from tests.zoo import make

T, B, I_, H_ = 5, 3, 4, 6
D = torch.float64
LENGTHS, RESET = torch.tensor([5, 0, 2]), torch.arange(T * B).reshape(T, B) % 4 == 2
LAYERS: dict[str, Any] = {
    "lstm": lambda: Recurrent(cells.LSTM(I_, H_, dtype=D), learned_state=True),
    "both ways": lambda: Recurrent(cells.PeepholeLSTM(I_, H_, dtype=D), bidirectional=True, layers=2),
    "batch first": lambda: Recurrent(cells.GRU(I_, H_, dtype=D), batch_first=True),
    "readout": lambda: Recurrent(make("readout", I_, H_, dtype=D)),
    "layer norm": lambda: Recurrent(cells.LayerNormLSTM(I_, H_, dtype=D)),
    "zoneout": lambda: Recurrent(Zoneout(cells.LSTM(I_, H_, dtype=D), h=0.3, c=0.3)),
    "dropped": lambda: Recurrent(VariationalDropout(cells.GRU(I_, H_, dtype=D), inputs=0.3, recurrence=0.3)),
    "drop-in": lambda: LSTM(I_, H_, num_layers=2, bidirectional=True, dtype=D),
}


def rows_of(y: Tensor, inputs: list[Tensor], ways: Tensor) -> Any:
    """Return the gradients along each way, one after the other."""
    each = [torch.autograd.grad(y, inputs, way, retain_graph=True) for way in ways]
    return [torch.stack(parts) for parts in zip(*each, strict=True)]


@pytest.mark.parametrize("options", [{}, {"lengths": LENGTHS}, {"reset": RESET, "lengths": LENGTHS}], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_batched_gradients_are_those_one_by_one(name: str, options: dict[str, Any]) -> None:
    if name == "drop-in" and options:
        pytest.skip("torch.nn's layers have no lengths")
    layer = LAYERS[name]()
    if name == "batch first" and "reset" in options:
        options = {**options, "reset": RESET.T}
    shape = (B, T) if name == "batch first" else (T, B)
    x = torch.randn(*shape, I_, dtype=D, requires_grad=True)
    y, states = layer(x, **options)
    inputs = [x, *layer.parameters()]
    for result in (y, torch.utils._pytree.tree_leaves(states)[-1]):
        ways = torch.randn(4, *result.shape, dtype=D)
        slopes = torch.autograd.grad(result, inputs, ways[0], retain_graph=True, allow_unused=True)
        wanted = [p for p, g in zip(inputs, slopes, strict=True) if g is not None]
        expected = rows_of(result, wanted, ways)
        for create_graph in (False, True):
            found = torch.autograd.grad(
                result, wanted, ways, retain_graph=True, is_grads_batched=True, create_graph=create_graph
            )
            torch.testing.assert_close(list(found), expected, rtol=1e-10, atol=1e-12)


def test_long_padding_and_large_products() -> None:
    """Sizes at which rows are gathered and the library's own matrix products run."""
    layer = Recurrent(cells.GRU(64, 32, dtype=D))
    x = torch.randn(60, 16, 64, dtype=D, requires_grad=True)
    y, _ = layer(x, lengths=torch.randint(0, 30, (16,)))
    inputs, ways = [x, *layer.parameters()], torch.randn(2, *y.shape, dtype=D)
    found = torch.autograd.grad(y, inputs, ways, retain_graph=True, is_grads_batched=True)
    torch.testing.assert_close(list(found), rows_of(y, inputs, ways), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["lstm", "drop-in"])
def test_vectorised_jacobian(name: str) -> None:
    layer, x = LAYERS[name](), torch.randn(T, B, I_, dtype=D)
    slow, quick = (
        torch.autograd.functional.jacobian(lambda z: layer(z)[0], x, vectorize=v)  # type: ignore[no-untyped-call]
        for v in (False, True)
    )
    torch.testing.assert_close(quick, slow, rtol=1e-10, atol=1e-12)


def test_memory_is_as_before_a_batched_gradient() -> None:
    """An ordinary gradient may follow a batched one, and one way inside another."""
    layer, x = LAYERS["lstm"](), torch.randn(T, B, I_, dtype=D)
    y, inputs = layer(x)[0], [layer.cell.W, layer.cell.R]
    ways = torch.randn(2, 3, *y.shape, dtype=D)

    def along(way: Tensor) -> Any:
        return torch.autograd.grad(y, inputs, way, retain_graph=True)

    expected = along(ways[0, 1])
    nested = torch.func.vmap(torch.func.vmap(along))(ways)
    torch.testing.assert_close([g[0, 1] for g in nested], list(expected), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(along(ways[0, 1]), expected, rtol=0, atol=0)


def test_first_use_inside_vmap() -> None:
    """No cell, kernel or parameter is made under a transform; torch.nn has no rule for vmap here."""
    layer, x = GRU(I_, 7, dtype=D), torch.randn(2, T, B, I_, dtype=D)
    found = torch.func.vmap(lambda one: layer(one)[0])(x)
    torch.testing.assert_close(found, torch.stack([nn.GRU.forward(layer, one)[0] for one in x]))
    stacked = {name: torch.stack([p, 2 * p]) for name, p in layer.named_parameters()}
    both = torch.func.vmap(lambda own: torch.func.functional_call(layer, own, (x[0],))[0])(stacked)
    torch.testing.assert_close(both[0], layer(x[0])[0])
