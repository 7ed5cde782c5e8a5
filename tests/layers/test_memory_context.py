"""A context of as many rows as a call brings: attention over a memory with lengths of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, tanh

from everloop.cell import Cell, H, I, context, output, param, size, state
from everloop.diagnose import agree
from everloop.errors import CellError, OptionError, ShapeError
from everloop.layers import Recurrent, Zoneout

D = torch.float64
T, B, S_, I_, H_ = 4, 3, 5, 3, 6
S = size("slots")


class Attending(Cell):
    """Elman's network that attends to a memory (Luong, Pham and Manning 2015)."""

    h = state(H)
    memory = context(S, H)
    memory_mask: Any
    W, R, C = param(H, I), param(H, H), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        scores = torch.einsum("bsh,bh->bs", self.memory, h)
        weights = scores.masked_fill(~self.memory_mask, -1e9).softmax(-1)
        read = torch.einsum("bs,bsh->bh", weights, self.memory)
        return tanh(x @ self.W.T + h @ self.R.T + read @ self.C.T)


def by_hand(cell: Any, x: Tensor, memory: Tensor, lengths: list[int]) -> Tensor:
    whole = []
    for b, n in enumerate(lengths):
        h, rows = x.new_zeros(cell.hidden_size), []
        for x_t in x[:, b]:
            weights = torch.softmax(memory[b, :n] @ h, 0)
            h = tanh(cell.W @ x_t + cell.R @ h + cell.C @ (weights @ memory[b, :n]))
            rows.append(h)
        whole.append(torch.stack(rows))
    return torch.stack(whole, 1)


@pytest.mark.parametrize("target", ["llvm", "eager"])
@pytest.mark.parametrize("slots", [1, 5, 8, 19])
def test_against_the_formula(target: str, slots: int) -> None:
    cell = Attending(I_, H_, dtype=D)
    x, memory = torch.randn(T, B, I_, dtype=D), torch.randn(B, slots, H_, dtype=D, requires_grad=True)
    lengths = [slots, 1, (slots + 1) // 2]
    y, _ = Recurrent(cell, target=target)(x, memory=memory, memory_lengths=lengths)
    expected = by_hand(cell, x, memory, lengths)
    torch.testing.assert_close(y, expected)
    slopes = [torch.autograd.grad(r.sin().sum(), [memory, *cell.parameters()]) for r in (y, expected)]
    torch.testing.assert_close(*slopes)
    whole, _ = Recurrent(cell, target=target)(x, memory=memory)
    torch.testing.assert_close(whole, by_hand(cell, x, memory, [slots] * B))


def test_every_target_agrees() -> None:
    for core in (Attending(I_, H_, dtype=D), Zoneout(Attending(I_, H_, dtype=D), h=0.3)):
        layer, x = Recurrent(core, layers=1), torch.randn(T, B, I_, dtype=D)
        memory = torch.randn(B, S_, H_, dtype=D)
        found = agree(layer, x, lengths=[4, 0, 2], memory=memory, memory_lengths=torch.tensor([5, 2, 1]))
        assert found, found
        assert {"llvm"} <= {c.target for c in found.comparisons if c.what == "gradient of memory"}


def test_few_variants_are_compiled() -> None:
    from everloop.layers.guards import programs

    programs.clear()  # full, it would let go of one for each new one
    layer, x = Recurrent(Attending(I_, H_, dtype=D)), torch.randn(T, B, I_, dtype=D)
    layer(x, memory=torch.randn(B, 1, H_, dtype=D))
    before = len(programs)
    for slots in range(2, 33):
        layer(x, memory=torch.randn(B, slots, H_, dtype=D))
    assert len(programs) - before == 3  # 16, 24 and 32 rows; eight were there


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_the_first_call_may_be_without_gradients(without: Any) -> None:
    layer, x = Recurrent(Attending(I_, H_ + 1, dtype=D), target="llvm"), torch.randn(T, B, I_, dtype=D)
    memory = torch.randn(B, S_, H_ + 1, dtype=D)
    with without():
        y, _ = layer(x, memory=memory)
    torch.testing.assert_close(y, by_hand(layer.cell, x, memory, [S_] * B))


def test_single_steps_and_forms() -> None:
    layer, x = Recurrent(Attending(I_, H_, dtype=D)), torch.randn(T, B, I_, dtype=D)
    more: dict[str, Any] = {"memory": torch.randn(B, S_, H_, dtype=D), "memory_lengths": [5, 2, 1]}
    y, last = layer(x, **more)
    after: Any = None
    for t in range(T):
        y_t, after = layer.step(x[t], after, **more)
        torch.testing.assert_close(y_t, y[t])
    torch.testing.assert_close(after, last)
    single, _ = layer(x[:, 1], memory=more["memory"][1], memory_lengths=[2])
    torch.testing.assert_close(single, y[:, 1])
    whole, _ = layer(x, memory=more["memory"])
    torch.testing.assert_close(layer.cell(x[0], memory=more["memory"])[0], whole[0])
    assert "target llvm" in layer.explain()


def test_what_is_wrong() -> None:
    layer, x = Recurrent(Attending(I_, H_, dtype=D)), torch.randn(T, B, I_, dtype=D)
    with pytest.raises(ShapeError, match=r"memory is \[3, 5, 4\]; expected \[3, S, 6\]"):
        layer(x, memory=torch.randn(B, S_, 4, dtype=D))
    with pytest.raises(ShapeError, match="memory: lengths go from 1 to 6; expected 0 to 5"):
        layer(x, memory=torch.randn(B, S_, H_, dtype=D), memory_lengths=[6, 1, 1])
    with pytest.raises(OptionError, match="unknown input 'memory_length'"):
        layer(x, memory=torch.randn(B, S_, H_, dtype=D), memory_length=[6, 1, 1])
    with pytest.raises(CellError, match="slots comes with each call, as the length of a context"):
        type("Shown", (Attending,), {"weights": output(S)})(I_, H_)
    with pytest.raises(CellError, match=r"context\(.*\): expected one size, or a letter of its own and a size"):
        context(H, H)


def test_attention_weights_are_recorded() -> None:
    layer, x = Recurrent(Attending(I_, H_, dtype=D)), torch.randn(T, B, I_, dtype=D)
    memory = torch.randn(B, S_, H_, dtype=D)
    y, (h,), found = layer.record(x, "weights", "h", memory=memory, memory_lengths=[5, 2, 1])
    weights = found["weights"]
    assert weights.shape == (T, B, S_)
    torch.testing.assert_close(weights.sum(-1), torch.ones(T, B, dtype=D))
    assert not weights[:, 1, 2:].any()
    before = torch.cat([torch.zeros(1, H_, dtype=D), y[:-1, 0]])
    torch.testing.assert_close(weights[:, 0], torch.softmax(before @ memory[0].T, -1))
    torch.testing.assert_close((found["h"], h), (y, y[-1]))
