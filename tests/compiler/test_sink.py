"""What leaves the loop at its other end: which products do, and rows that a sequence does not have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from everloop.cell import Cell, H, I, param, state
from everloop.compiler.hoist import Split
from everloop.compiler.hoisted import HoistedGraph
from everloop.compiler.loop import Product
from everloop.compiler.passes import split_step
from everloop.compiler.plan import plan_forward
from everloop.compiler.targets.llvm.target import TARGET
from everloop.compiler.trace import trace
from everloop.layers import Recurrent, Stack
from tests.zoo import make

T, B, I_, H_ = 6, 4, 3, 5


def parts(cell: Cell) -> Split:
    return split_step(trace(cell, dict(cell.named_parameters())))


def products(split: Split) -> list[tuple[str, str]]:
    return [(s.source.name, s.matrix.name) for s in plan_forward(split).loop.stages if isinstance(s, Product)]


@pytest.mark.parametrize(
    ("name", "inside", "after"),
    [
        ("readout", [("h", "R")], ["y"]),
        ("tapped", [("c", "R")], ["y", "z"]),
        ("counter", [("h", "R")], ["y"]),
        ("jordan", [("y", "R"), ("scratch 1", "V")], []),
        ("lstm", [("h", "R")], []),
    ],
)
def test_only_products_that_no_step_reads_back_leave_the_loop(
    name: str, inside: list[tuple[str, str]], after: list[str]
) -> None:
    found = parts(make(name, I_, H_))
    assert [matrix for _, matrix in products(found)] == [matrix for _, matrix in inside]
    assert list(found.epilogue.outputs) == after


def test_what_is_element_wise_stays() -> None:
    class Gated(Cell):
        """A highway over a memory, whose output no step reads."""

        h, c = state(H), state(H)
        W, R = param(2 * H, I), param(2 * H, H)

        def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            f, r = (x @ self.W.T + c @ self.R.T).sigmoid().chunk(2, -1)
            c = f * c + (1 - f) * r
            return r * torch.tanh(c), c

    assert not parts(Gated(I_, H_)).epilogue.outputs


def test_one_row_of_memory_for_what_the_output_reads() -> None:
    found = parts(make("tapped", I_, H_))
    assert len(found.exposed) == 1  # o * tanh(c), not o and c
    assert set(found.loop.outputs) == {"c", *found.exposed, "s0", "s2"}  # z needs o and tanh(c + old) at the last step


@pytest.mark.parametrize("options", [{}, {"layers": 2}, {"bidirectional": True}, {"batch_first": True}], ids=str)
@pytest.mark.parametrize("lengths", [None, [6, 0, 3, 1], [6, 6, 6, 6], [0, 0, 0, 0]], ids=str)
@pytest.mark.parametrize("name", ["readout", "tapped"])
def test_layers_agree_with_eager(name: str, lengths: list[int] | None, options: dict[str, Any]) -> None:
    layer = Recurrent(make(name, I_, H_), learned_state=True, **options).double()
    shape = (B, T) if options.get("batch_first") else (T, B)
    x, reset = torch.randn(*shape, I_, dtype=torch.float64), torch.rand(*shape) < 0.3
    if lengths is not None:  # what is beyond the end counts for nothing
        ended = torch.arange(T)[:, None] >= torch.tensor(lengths)
        x[ended.T if options.get("batch_first") else ended] = float("nan")
    x.requires_grad_()
    found = []
    for target in ("eager", "llvm"):
        layer.target = target
        torch.manual_seed(3)
        y, after = layer(x, lengths=lengths, reset=reset)
        flat = [t for s in after for t in (s if isinstance(s, tuple) else (s,))]
        flat = [t for s in flat for t in (s if isinstance(s, tuple) else (s,))]
        loss = sum((t * torch.randn(t.shape, dtype=t.dtype)).sum() for t in (y, *flat))
        assert isinstance(loss, Tensor)
        leaves = [x, *layer.parameters()]
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        found.append([y, *flat, *(torch.zeros_like(t) if g is None else g for t, g in zip(leaves, grads, strict=True))])
        with torch.no_grad():
            torch.testing.assert_close(layer(x, lengths=lengths, reset=reset)[0], y)
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)


def test_a_sequence_without_steps_keeps_its_start() -> None:
    layer = Recurrent(make("readout", I_, H_))
    start = (torch.randn(2, 2), torch.randn(2, H_))
    _, after = layer(torch.randn(T, 2, I_), start, lengths=[0, 3])
    for new, old in zip(after, start, strict=True):
        torch.testing.assert_close(new[0], old[0], rtol=0, atol=0)
        assert not torch.equal(new[1], old[1])


def test_the_last_output_has_memory_of_its_own() -> None:
    with torch.no_grad():
        y, (last, _) = Recurrent(make("readout", I_, H_))(torch.randn(T, B, I_))
        torch.testing.assert_close(y[-1], last, rtol=0, atol=0)
        last.zero_()
        assert y[-1].any()


def test_streamed_steps_equal_the_whole_sequence() -> None:
    layer = Recurrent(Stack([make("tapped", I_, H_), make("readout", 2, H_)]))
    x, state = torch.randn(T, B, I_), None
    with torch.no_grad():
        whole, last = layer(x)
        for x_t, y in zip(x, whole, strict=True):
            found, state = layer.step(x_t, state)
            torch.testing.assert_close(found, y)
    torch.testing.assert_close(state, last)


def functions(step: Any) -> list[Any]:
    """Return what runs after the loop of a cell whose output is `step` of a product."""

    class Late(Cell):
        """An output that is a function of a product."""

        y, h = state(H), state(H)
        W, R, V = param(H, I), param(H, H), param(H, H)

        def step(self, x: Tensor, y: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.tanh(x @ self.W.T + h @ self.R.T)
            return step(h @ self.V.T), h

    lines = HoistedGraph(parts(Late(I_, H_)).epilogue, torch.float32, TARGET).lines
    return [getattr(line.function, "func", line.function) for line in lines]


def test_a_softmax_after_the_loop_is_that_of_pytorch() -> None:
    assert functions(lambda a: a.softmax(-1))[-1] is torch.softmax
    assert functions(lambda a: a.log_softmax(-1))[-1] is torch.log_softmax
    assert len(functions(lambda a: a.softmax(-1))) == len(functions(lambda a: a.log_softmax(-1))) == 2
    assert torch.softmax not in functions(lambda a: (a - a.detach()).exp() / a.exp().sum(-1, keepdim=True))
    assert torch.softmax in functions(lambda a: a.softmax(-1) + a)


@pytest.mark.parametrize("name", ["gla", "rwkv-7", "retnet", "mlstm"])
def test_a_memory_is_read_inside_the_loop(name: str) -> None:
    """What follows leaves the loop; the matrix that is read does not, which would be kept for every step."""
    cell = make(name, 8, 16)
    split = split_step(trace(cell, dict(cell.named_parameters())))
    widest = max(split.loop.outputs[output].width for output in split.exposed)
    assert widest <= 32 < sum(cell.state_sizes.values())


def test_the_mean_of_a_vector_leaves_with_what_reads_it() -> None:
    class Normalised(Cell):
        h, y = state(H), state(3)
        W, R, V = param(H, I), param(H, H), param(3, H)

        def step(self, x: Tensor, h: Tensor, y: Tensor) -> Any:
            h = torch.tanh(x @ self.W.T + h @ self.R.T)
            return h, torch.nn.functional.layer_norm(h, h.shape[1:]) @ self.V.T

    cell = Normalised(4, 16)
    split = split_step(trace(cell, dict(cell.named_parameters())))
    assert list(split.loop.outputs) == ["h"]


def test_a_long_chain_before_a_product_is_followed_once() -> None:
    """The number of ways from its end to its beginning doubles at every turn."""

    class Long(Cell):
        h, y = state(H), state(3)
        W, R, V = param(H, I), param(H, H), param(3, H)

        def step(self, x: Tensor, h: Tensor, y: Tensor) -> Any:
            h = torch.tanh(x @ self.W.T + h @ self.R.T)
            z = h
            for _ in range(60):
                z = z + 0.1 * torch.tanh(z)
            return h, z @ self.V.T

    cell = Long(4, 5)
    split = split_step(trace(cell, dict(cell.named_parameters())))
    assert list(split.loop.outputs) == ["h"]
    assert list(split.epilogue.outputs) == ["y"]
