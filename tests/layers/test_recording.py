"""States and local names of a step as sequences: against formulas, on every target, with gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, tanh

from everloop import cells
from everloop.cell import Cell, H, I, context, mask, noise, param, state
from everloop.errors import OptionError
from everloop.layers import Bidirectional, Recurrent, Stack, Zoneout
from tests.zoo import Heads

D = torch.float64
T, B, I_, H_ = 6, 4, 3, 5


class Many(Cell):
    """Locals of every form: a vector of parameters, a number, a truth value, one number a row, two axes."""

    h = state(H)
    W, R, rate = param(H, I), param(H, H), param(H)
    speaker = context(H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        half = 0.5
        leak = torch.sigmoid(self.rate)
        big = h > 0.1
        mean = h.mean(-1)
        outer = x.unsqueeze(-1) * h.unsqueeze(-2)
        gate = x @ self.W.T + h @ self.R.T + self.speaker
        gate = torch.sigmoid(gate)
        return leak * gate + half * torch.where(big, h, 0.0) + 0.1 * mean.unsqueeze(-1) + outer.sum(-2)


def lstm_by_hand(cell: Any, x: Tensor) -> dict[str, Tensor]:
    h = c = x.new_zeros(x.shape[1], H_)
    rows: dict[str, list[Tensor]] = {name: [] for name in "hcifo"}
    for x_t in x:
        i, f, g, o = (x_t.matmul(cell.W.t()) + h.matmul(cell.R.t()) + cell.b).split(H_, 1)
        i, f, o = i.sigmoid(), f.sigmoid(), o.sigmoid()
        c = f * c + i * g.tanh()
        h = o * c.tanh()
        for name, row in zip("hcifo", (h, c, i, f, o), strict=True):
            rows[name].append(row)
    return {name: torch.stack(found) for name, found in rows.items()}


@pytest.mark.parametrize("target", ["llvm", "eager"])
def test_gates_are_those_of_the_formula(target: str) -> None:
    class Gates(Cell):
        h, c = state(H), state(H)
        W, R, b = param(4 * H, I), param(4 * H, H), param(4 * H)

        def step(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
            i, f, g, o = (x @ self.W.T + h @ self.R.T + self.b).chunk(4, -1)
            i, f, o = torch.sigmoid(i), torch.sigmoid(f), torch.sigmoid(o)
            c = f * c + i * tanh(g)
            return o * tanh(c), c

    layer, x = Recurrent(Gates(I_, H_, dtype=D), target=target), torch.randn(T, B, I_, dtype=D, requires_grad=True)
    y, (h, c), found = layer.record(x, "c", "i", "f", "o", "h")
    expected = lstm_by_hand(layer.cell, x)
    assert list(found) == ["c", "i", "f", "o", "h"]
    for name, sequence in found.items():
        torch.testing.assert_close(sequence, expected[name])
    torch.testing.assert_close((y, h, c), (expected["h"], expected["h"][-1], expected["c"][-1]))
    leaves = [x, *layer.parameters()]
    losses = (torch.stack([r.sin().sum() for r in rows.values()]).sum() for rows in (found, expected))
    slopes = [torch.autograd.grad(loss, leaves) for loss in losses]
    torch.testing.assert_close(*slopes)


def test_locals_of_every_form() -> None:
    cell = Many(I_, H_, dtype=D)
    x, speaker = torch.randn(T, B, I_, dtype=D), torch.randn(B, H_, dtype=D)
    names = ("leak", "big", "mean", "outer", "gate", "h")
    lengths, reset = [6, 0, 3, 1], torch.rand(T, B) < 0.3
    results = []
    for target in ("llvm", "eager"):
        layer = Recurrent(cell, target=target)
        y, after, found = layer.record(x, *names, lengths=lengths, reset=reset, speaker=speaker)
        torch.testing.assert_close((y, after), layer(x, lengths=lengths, reset=reset, speaker=speaker))
        torch.testing.assert_close(found["h"], y)
        results.append(found)
    torch.testing.assert_close(*results)
    found = results[0]
    assert {name: tuple(t.shape) for name, t in found.items()} == {
        **dict.fromkeys(("leak", "big", "gate", "h"), (T, B, H_)), "mean": (T, B), "outer": (T, B, I_, H_)
    }  # fmt: skip
    assert set(found["big"].unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(found["leak"][:1, 0], torch.sigmoid(cell.rate)[None])
    assert not found["gate"][:, 1].any()  # it has no step


def test_stacks_directions_wrappers_and_outputs() -> None:
    x = torch.randn(T, B, I_, dtype=D)
    stack = Recurrent(Stack([Zoneout(cells.LSTM(I_, H_, dtype=D), c=0.3), Heads(H_, H_, keys=2, dtype=D)])).eval()
    outputs, _, found = stack.record(x, "members.0.c", "members.1.choice", "members.1.u")
    whole, ((_, c), _) = stack(x)
    torch.testing.assert_close(outputs, whole)
    torch.testing.assert_close(found["members.1.choice"], whole.choice)
    torch.testing.assert_close(found["members.0.c"][-1], c)
    both = Recurrent(Bidirectional(cells.GRU(I_, H_, dtype=D)), batch_first=True)
    y, after, found = both.record(x.transpose(0, 1), "ahead.h", "back.h", "back.z", lengths=[4, 6, 1, 2])
    torch.testing.assert_close((y, after), both(x.transpose(0, 1), lengths=[4, 6, 1, 2]))
    torch.testing.assert_close(torch.cat([found["ahead.h"], found["back.h"]], -1), y)
    single = both.record(x[:4, 0], "back.z")[2]["back.z"]
    torch.testing.assert_close(single, found["back.z"][0, :4])


@pytest.mark.parametrize("target", ["llvm", "eager"])
def test_states_of_several_axes_have_them(target: str) -> None:
    cell = Zoneout(cells.DeltaNet(I_, 6, heads=2, dtype=D), S=0.3).eval()
    layer = Recurrent(Stack([cell, cells.GRU(6, H_, dtype=D)]), target=target)
    x = torch.randn(T, B, I_, dtype=D)
    _, ((last,), _), found = layer.record(x, "members.0.S", lengths=[T, 2, 0, 3])
    assert found["members.0.S"].shape == (T, B, 2, 3, 3)
    torch.testing.assert_close(found["members.0.S"][-1, 0], last[0])
    torch.testing.assert_close(found["members.0.S"][1, 1], last[1])


def test_nothing_of_the_layer_changes() -> None:
    layer, x = Recurrent(Zoneout(cells.GRU(I_, H_), h=0.2)), torch.randn(T, B, I_)
    torch.manual_seed(1)
    expected = layer(x)
    torch.manual_seed(1)
    before = sorted(layer.state_dict())
    found = layer.record(x, "z")
    torch.testing.assert_close(found[:2], expected)
    assert sorted(layer.state_dict()) == before
    assert type(layer.cell) is Zoneout


def test_unknown_names_and_none() -> None:
    layer, x = Recurrent(cells.GRU(I_, H_)), torch.randn(T, B, I_)
    with pytest.raises(OptionError, match=r"unknown name 'zz'; known: x, h, .*r, z, n"):
        layer.record(x, "zz")
    assert layer.record(x)[2] == {}
    with pytest.raises(OptionError, match="unknown name 'half'; known: x, h, leak, big"):
        Recurrent(Many(I_, H_)).record(x, "half", speaker=torch.randn(B, H_))


class _Shaken(Cell):
    h = state(H)
    W = param(H, I)
    jitter, kept = noise(H), mask(H, p=0.5)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        shake, share = 2 * self.jitter, self.kept
        return torch.tanh(x @ self.W.T + h * share + shake)


@pytest.mark.parametrize("training", [True, False])
def test_noise_that_is_not_drawn_is_recorded_as_what_stands_for_it(training: bool) -> None:
    layer = Recurrent(_Shaken(3, 4)).train(training)
    _, _, found = layer.record(torch.randn(5, 2, 3), "shake", "share")
    assert found["shake"].shape == found["share"].shape == (5, 2, 4)
    assert bool((found["shake"] == 0).all()) is not training
    assert bool((found["share"] == 1).all()) is not training
