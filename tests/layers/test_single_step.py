"""Single steps: the same as the whole sequence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everloop import cells
from everloop.cell import Cell, H, I, param, state
from everloop.layers import Recurrent, Stack, Zoneout, guards
from everloop.layers import single_step as module
from everloop.layers.dispatch import using
from everloop.layers.nested import leaves
from tests import zoo
from tests.layers.single_steps import F64, close, is_single, same_as_eager, stepped

pytest.importorskip("llvmlite")


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_cell_steps_as_it_runs(name: str, dtype: torch.dtype) -> None:
    for hidden, width in ((5, 3), (17, 33)):
        layer = Recurrent(zoo.make(name, width, hidden, dtype=dtype)).eval()
        for shape in ((4, 1, width), (4, 3, width), (4, width)):
            same_as_eager(layer, torch.randn(shape, dtype=dtype))


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_cell_steps_with_the_gradients_of_its_sequence(name: str) -> None:
    layer = Recurrent(zoo.make(name, 3, 8, dtype=F64)).eval()
    for shape in ((3, 2, 3), (3, 3)):
        x = torch.randn(shape, dtype=F64, requires_grad=True)
        told, wanted = zoo.given(layer, x), [x, *layer.parameters()]
        found = []
        for y, after in (stepped(layer, x, told=told), layer(x, **told.at())):
            total = torch.stack([part.square().sum() for part in (*leaves(y), *leaves(after))]).sum()
            found.append(torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("isa", ["avx512", "avx2", "sse2", "neon"])
def test_every_instruction_set(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from everloop.compiler.targets.llvm import single
    from everloop.compiler.targets.llvm.machine import runs

    if not runs(isa):
        pytest.skip(f"this processor has no {isa}")
    usual = single.compile
    monkeypatch.setattr(single, "compile", lambda loop: usual(loop, isa))
    monkeypatch.setattr(guards.programs, "_entries", {})
    for dtype in (torch.float32, F64):
        for n in (1, 2, 3, 7, 8, 31, 64, 65):
            same_as_eager(Recurrent(cells.LSTM(n + 2, n, dtype=dtype)), torch.randn(2, 2, n + 2, dtype=dtype))
            same_as_eager(Recurrent(Sideways(n, n + 1, dtype=dtype)), torch.randn(2, 2, n, dtype=dtype))


class Sideways(Cell):
    """Matrices in every form: turned, cut, joined, and one made of others."""

    h, k = state(H), state(H)
    W, R, S, a = param(I, H), param(H, 2 * H), param(2 * H, H), param(H)

    def step(self, x: Tensor, h: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        n = self.hidden_size
        u = x @ self.W + h @ self.R[:, n:] + k @ self.S[:n].T
        scale = self.a.exp() / (1 + self.a.square())
        m = torch.tanh(u * scale) + 0.1 * (h @ (self.R[:, :n] * self.a.tanh()))
        return torch.cat((m, k), -1) @ self.S, m


def test_sizes_at_the_edges() -> None:
    for width, hidden in ((1, 1), (0, 4), (300, 2), (2, 300)):
        layer = Recurrent(cells.LSTM(width, hidden, dtype=F64))
        x = torch.randn(3, 2, width, dtype=F64)
        with torch.no_grad():
            got = stepped(layer, x)
            with using("eager"):
                close(got, layer(x), 3)


def test_layouts_of_input_and_state() -> None:
    layer = Recurrent(cells.LSTM(6, 5, dtype=F64), batch_first=True)
    x = torch.randn(4, 6, 3, dtype=F64).transpose(1, 2)
    start = tuple(torch.randn(5, 3, dtype=F64).T for _ in range(2))
    same_as_eager(layer, x, start)


def test_a_stack_is_one_call() -> None:
    members = [
        cells.GRU(4, 6, dtype=F64),
        Zoneout(cells.LSTM(6, 6, dtype=F64), h=0.2),
        cells.PeepholeLSTM(6, 3, dtype=F64),
    ]
    for residual in (False, True):
        layer = Recurrent(Stack(members, dropout=0.5, residual=residual)).eval()
        x = torch.randn(5, 2, 4, dtype=F64)
        same_as_eager(layer, x)
        state = layer.step(x[0])[1]
        assert [len(part) for part in state] == [1, 2, 2]
    inner = Stack([cells.GRU(4, 4, dtype=F64), Stack([cells.IndRNN(4, 4, dtype=F64)])])
    same_as_eager(Recurrent(inner, layers=2).eval(), torch.randn(3, 4, dtype=F64))


def test_more_rows_than_pay_take_the_usual_way() -> None:
    layer, x = Recurrent(cells.GRU(3, 4)), torch.randn(2, module.ROWS + 1, 3)
    with torch.no_grad():
        assert is_single(layer, x[0, :-1])
        assert not is_single(layer, x[0])
        close(stepped(layer, x), layer(x), 2)


def test_the_start_is_learned() -> None:
    layer = Recurrent(cells.LSTM(3, 4, dtype=F64), learned_state=True)
    with torch.no_grad():
        for vector in layer.start or ():
            vector.normal_()
    for shape in ((3, 2, 3), (3, 3)):
        same_as_eager(layer, torch.randn(shape, dtype=F64))
