"""The cells every test runs over: those of the library and odd ones a user might write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, sigmoid, tanh

from everloop import cells
from everloop.cell import Cell, H, I, bias, context, inputs, mask, noise, output, param, size, state
from everloop.compiler.bindings import Bindings
from everloop.layers import VariationalDropout, WeightDrop, Zoneout
from everloop.layers.dropout import values_of
from everloop.layers.extras import declared, example, example_extras

K = size("keys")


class Highway(Cell):
    """A module inside a cell, a recurrence through two products, and an option."""

    depth: int = 2

    h = state(H)
    W, b = param(2 * H, I), bias(2 * H)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        n, dtype = self.hidden_size, self.W.dtype
        self.inner = nn.ModuleList(nn.Linear(n, 2 * n, dtype=dtype) for _ in range(self.depth))

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = x @ self.W.T + self.b
        for layer in self.inner:
            n, t = (u + layer(h)).chunk(2, -1)
            t = sigmoid(t)
            h = t * tanh(n) + (1 - t) * h
            u = u * 0.5
        return h


class Counter(Cell):
    """States of other sizes than H, one of them never read by the output."""

    y, h, n = state(K), state(H), state(1)
    W, R, V = param(H, I), param(H, H), param(K, H)

    def step(self, x: Tensor, y: Tensor, h: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = torch.relu(x @ self.W.T + h @ self.R.T) / (1 + n)
        return h @ self.V.T, h, n + 1


class Softmax(Cell):
    """Reductions over features: a soft choice and a norm."""

    h = state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        choice = torch.softmax(x @ self.W.T + h @ self.R.T, -1)
        return torch.where(choice > h.mean(-1, keepdim=True), choice - 0.1 * h, torch.nn.functional.gelu(h))


class Concatenated(Cell):
    """The textbook's W [h, x] with the input first."""

    h, c = state(H), state(H)
    W, b = param(4 * H, I + H), bias(4 * H)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        f, i, o, g = torch.split(torch.cat((x, h), dim=1) @ self.W.t() + self.b, h.shape[-1], dim=-1)
        c = c * f.sigmoid() + i.sigmoid() * g.tanh()
        return c.tanh() * o.sigmoid(), c


class Readout(Cell):
    """Elman's network with its output layer, which no step reads back."""

    y, h = state(K), state(H)
    W, R, b = param(H, I), param(H, H), bias(H)
    V, c = param(K, H), bias(K)

    def step(self, x: Tensor, y: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = tanh(x @ self.W.T + h @ self.R.T + self.b)
        return torch.softmax(h @ self.V.T + self.c, -1), h


class Jordan(Cell):
    """Jordan's network: each step reads the output of the one before, which so stays in the loop."""

    y, h = state(K), state(H)
    W, R, b = param(H, I), param(H, K), bias(H)
    V = param(K, H)

    def step(self, x: Tensor, y: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = tanh(x @ self.W.T + y @ self.R.T + self.b)
        return torch.log_softmax(h @ self.V.T, -1), h


class Tapped(Cell):
    """Outputs of what is no state: a gated memory, and one that also reads the old state and counts at the end only."""

    y, c, z = state(K), state(H), state(H)
    W, R, U = param(2 * H, I), param(2 * H, H), param(K, I)
    V, Z = param(K, H), param(H, H)

    def step(self, x: Tensor, y: Tensor, c: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f, o = (x @ self.W.T + c @ self.R.T).sigmoid().chunk(2, -1)
        old, c = c, f * c + (1 - f) * o
        y = (o * tanh(c)) @ self.V.T + x @ self.U.T
        z = tanh(c + old) @ self.Z.T * o
        return torch.log(0.1 + y.square()), c, z


class Heads(Cell):
    """Outputs that are no state: a readout, which leaves the loop, and a soft choice that the step reads itself."""

    h, c = state(H), state(H)
    y, choice = output(K), output(3)
    W, R, b = param(2 * H, I), param(2 * H, H), bias(2 * H)
    V, U = param(K, H), param(3, H)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        choice = torch.softmax(h @ self.U.T, -1)
        u, n = (x @ self.W.T + h @ self.R.T + self.b).chunk(2, -1)
        c = sigmoid(u) * tanh(n) + 0.5 * c
        h = tanh(c) * (1 + choice[..., :1])
        return h, c, h @ self.V.T, choice


class Difference(Cell):
    """One output that is no state: how much the state has changed."""

    h = state(H)
    change = output(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        new = tanh(x @ self.W.T + h @ self.R.T)
        return new, new - h


class Told(Cell):
    """All that a step can read: further inputs, a context of each sequence, noise and a mask."""

    x, dt = inputs(I, 1)
    h = state(H)
    about = context(K)
    jitter, keep = noise(H), mask(H, p=0.25, per="sequence")
    W, R, U = param(H, I), param(H, H), param(H, K)

    def step(self, x: Tensor, dt: Tensor, h: Tensor) -> Tensor:
        h = h * self.keep * torch.exp(-dt)
        return tanh(x @ self.W.T + h @ self.R.T + self.about @ self.U.T) + 0.1 * self.jitter


ODD = {
    "highway": Highway,
    "counter": Counter,
    "softmax": Softmax,
    "concatenated": Concatenated,
    "readout": Readout,
    "jordan": Jordan,
    "tapped": Tapped,
    "heads": Heads,
    "difference": Difference,
    "told": Told,
}
WRAPPED = ("zoneout", "weight-drop", "variational")
# Others show their forms to the tests of layers and passes; all run in those of mathematics and agreement.
SIMILAR = frozenset({
    "linear-attention", "retnet", "deltanet", "mamba-2", "fast-weights", "min-gru", "min-lstm", "sru", "rg-lru", "lmu",
    "cornn", "fastgrnn", "multiplicative-lstm", "hyper-lstm", "low-rank-rnn", "ctrnn", "ltc", "cfc", "conv-lstm",
})  # fmt: skip
ALL = (*cells.names(), "elman-relu", *ODD, *WRAPPED)
NAMES = tuple(name for name in ALL if name not in SIMILAR)
NOISY = tuple(name for name in NAMES if name in (*WRAPPED, "told"))  # whose step is another one in training
ONE_OUTPUT = tuple(name for name in NAMES if name not in ("heads", "attention-gru"))  # whose layers give one sequence


def make(name: str, input_size: int, hidden_size: int, **kwargs: Any) -> Cell:
    """Return a cell of the zoo with weights of different sizes per row, so that no two gates are alike."""
    cell: Cell
    if name == "zoneout":
        cell = Zoneout(cells.LSTM(input_size, hidden_size, **kwargs), h=0.3, c=0.5)
    elif name == "weight-drop":
        cell = WeightDrop(cells.MinimalGatedUnit(input_size, hidden_size, **kwargs), 0.4)
    elif name == "variational":
        cell = VariationalDropout(cells.ResetBeforeGRU(input_size, hidden_size, **kwargs), inputs=0.2, recurrence=0.3)
    elif name == "elman-relu":
        cell = cells.Elman(input_size, hidden_size, nonlinearity="relu", **kwargs)
    elif name == "projected-lstm":
        cell = cells.ProjectedLSTM(input_size, hidden_size, proj_size=max(1, hidden_size - 1), **kwargs)
    else:
        cls: type[Cell] = ODD.get(name) or cells.named(name)
        letters = dict.fromkeys(cls.letters(), 2)
        if "heads" in letters:
            letters["heads"] = 2 - hidden_size % 2
        if "height" in letters:
            letters["height"], letters["width"] = input_size, 1
        cell = cls(input_size, hidden_size, **(letters | kwargs))
    with torch.no_grad():
        for p in cell.parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=p.dtype) / max(1, p.shape[-1]) ** 0.5)
    return cell


@dataclass(frozen=True)
class Given:
    """What cells declare beside x, by name: further inputs [T, B, n] and contexts [B, …]; of one sequence without B."""

    inputs: Mapping[str, Tensor]
    contexts: Mapping[str, Tensor]

    def at(self, steps: Any = slice(None), rows: Any = slice(None)) -> dict[str, Any]:
        """Return what a layer is called with for some of the steps and sequences."""
        own = {name: t[steps] for name, t in self.inputs.items()}
        if rows == slice(None):
            return own | dict(self.contexts)
        return {name: t[..., rows, :] for name, t in own.items()} | {name: t[rows] for name, t in self.contexts.items()}

    @property
    def swapped(self) -> dict[str, Tensor]:
        """What a layer is called with that has the batch first."""
        return {name: t.transpose(0, 1) for name, t in self.inputs.items()} | dict(self.contexts)


def given(core: nn.Module, x: Tensor) -> Given:
    """Return random numbers for all that the cells inside `core` declare, beside x [T, B, I]."""
    found, wanted = example(core, x), declared(core)
    return Given(*({k: t for k, t in found.items() if wanted[k].kind == kind} for kind in ("input", "context")))


def values(cell: Cell, steps: int, batch: int) -> Bindings:
    """Return everything that a cell reads besides x and its states, inputs, contexts and noise drawn."""
    x = torch.empty(steps, batch, cell.input_size, dtype=next(cell.parameters(), torch.empty(0)).dtype)
    return values_of(cell, steps, batch, example_extras(cell, x))
