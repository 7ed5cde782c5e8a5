"""Layers with lengths, resets and states under torch.compile, in one graph: values, gradients, sizes, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everloop import cells
from everloop.cell import Cell, H, I, param, state
from everloop.errors import ShapeError
from everloop.layers import Recurrent
from tests.zoo import make

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.compile itself uses what is deprecated
T, B, I_, H_ = 6, 3, 4, 5
D = torch.float64
LAYERS: dict[str, Any] = {
    "lstm": lambda: Recurrent(cells.LSTM(I_, H_, dtype=D), learned_state=True),
    "bidirectional gru": lambda: Recurrent(cells.GRU(I_, H_, dtype=D), bidirectional=True, layers=2),
    "batch first": lambda: Recurrent(cells.PeepholeLSTM(I_, H_, dtype=D), batch_first=True),
    "readout": lambda: Recurrent(make("readout", I_, H_, dtype=D)),
}


@pytest.fixture(autouse=True)
def _no_graphs() -> None:
    torch._dynamo.reset()


def whole(layer: Recurrent) -> Any:
    """Return the layer compiled as one graph."""
    return torch.compile(layer, backend="aot_eager", fullgraph=True)


def batch(layer: Recurrent, steps: int = T, size: int = B) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, lengths and resets."""
    shape = (size, steps) if layer.batch_first else (steps, size)
    x = torch.randn(*shape, I_, dtype=D, requires_grad=True)
    return x, torch.randint(0, steps + 1, (size,)), torch.rand(shape) < 0.3


def slopes(layer: Recurrent, result: Any, x: Tensor) -> Any:
    y, states = result
    flat = torch.utils._pytree.tree_leaves(states)
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=D).view(y.shape)).sum() + sum(s.square().sum() for s in flat)
    return torch.autograd.grad(loss, [x, *layer.parameters()], allow_unused=True)


@pytest.mark.parametrize("given", [("lengths",), ("reset",), ("lengths", "reset")], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_in_one_graph(name: str, given: tuple[str, ...]) -> None:
    layer = LAYERS[name]()
    x, lengths, reset = batch(layer)
    options = {k: v for k, v in {"lengths": lengths, "reset": reset}.items() if k in given}
    compiled = whole(layer)
    expected, found = layer(x, **options), compiled(x, **options)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slopes(layer, found, x), slopes(layer, expected, x), rtol=1e-11, atol=1e-11)


class Twice(Cell):
    """Both states are the same tensor."""

    h, c = state(H), state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(x @ self.W.T + h @ self.R.T)
        return h, h


@pytest.mark.parametrize("target", ["eager", "llvm"])
def test_results_that_share_memory(target: Any) -> None:
    layer = Recurrent(Twice(I_, H_, dtype=D), target=target)
    x, *_ = batch(layer)
    torch.testing.assert_close(whole(layer)(x), layer(x))


class Inner(nn.Module):
    """Holds a number."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = 0.1


class Optional(Cell):
    """One option of every kind, and one inside."""

    h = state(H)
    W = param(H, I)
    scale: float = 1.0
    times: int = 2
    shifted: bool = True
    kind: str = "tanh"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pair: Any = (1, 2.0)
        self.nothing: Any = None
        self.inner = Inner()

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        y = getattr(torch, self.kind)(self.scale * (x @ self.W.T) + self.inner.rate * h)
        y = y + self.shifted if self.nothing is None else y - self.nothing
        return y * self.pair[-1] * (self.times if self.training else 1)


OPTIONS: dict[str, tuple[Any, ...]] = {
    "scale": (0.5, 0.25, 1.0, 0.125, 0.5, 0.0, float("nan"), 3.5, 2, 7.0),
    "times": (3, 4, 2, 5, 2.5),
    "shifted": (False, True),
    "kind": ("sigmoid", "tanh"),
    "pair": ((1, 3.0), (1, 4.0), (1, 2.0), (3,), ((1, 2), 0.5)),
    "nothing": (1.0, 2.0, None),
    "training": (False, True),
    "rate": (0.2, 0.3, 0.1, 0.4),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_changes_is_seen_and_one_that_does_not_makes_no_graph(name: str) -> None:
    cell = Optional(I_, H_, dtype=D)
    layer, graphs = Recurrent(cell), []

    def count(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    x, compiled = torch.randn(T, B, I_, dtype=D), torch.compile(layer, backend=count, fullgraph=True)
    seen: dict[Any, None] = {}
    with torch._dynamo.config.patch(recompile_limit=len(OPTIONS[name]) + 1):
        before = getattr(cell.inner if name == "rate" else cell, name)
        for value in (before, *OPTIONS[name]):
            setattr(cell.inner if name == "rate" else cell, name, value)
            seen[value] = None
            for _ in range(2):
                torch.testing.assert_close(compiled(x), layer(x), equal_nan=True)
                assert len(graphs) == len(seen), value


def test_other_numbers_and_sizes_need_no_new_graph() -> None:
    layer, graphs = LAYERS["lstm"](), []

    def count(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled: Any = torch.compile(layer, backend=count, fullgraph=True, dynamic=True)
    for steps, size in ((6, 3), (6, 3), (9, 5), (4, 2)):
        x, lengths, reset = batch(layer, steps, size)
        torch.testing.assert_close(compiled(x, lengths=lengths, reset=reset), layer(x, lengths=lengths, reset=reset))
    assert len(graphs) == 1


def test_lengths_as_a_list() -> None:
    layer = LAYERS["lstm"]()
    x, *_ = batch(layer)
    found = whole(layer)(x, lengths=[6, 0, 2])
    torch.testing.assert_close(found, layer(x, lengths=[6, 0, 2]))


@pytest.mark.parametrize("wrong", [[T + 1, 1, 1], [1, -1, 1]])
@pytest.mark.parametrize("name", LAYERS)
def test_wrong_lengths_raise_when_it_runs(name: str, wrong: list[int]) -> None:
    layer = LAYERS[name]()
    x, lengths, _ = batch(layer)
    compiled = whole(layer)
    compiled(x, lengths=lengths)
    for call in (layer, compiled):
        with pytest.raises(ShapeError, match=rf"lengths go from {min(wrong)} to {max(wrong)}; expected 0 to {T} steps"):
            call(x, lengths=torch.tensor(wrong))


@pytest.mark.parametrize(
    "wrong", [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 2]), torch.tensor([True, False, True])], ids=str
)
def test_wrong_shapes_raise_before_it_runs(wrong: Tensor) -> None:
    layer = LAYERS["lstm"]()
    x, *_ = batch(layer)
    parts: Any = torch.compile(layer, backend="aot_eager")
    for call in (layer, parts):
        with pytest.raises(ShapeError, match="expected 3 integers"):
            call(x, lengths=wrong)
