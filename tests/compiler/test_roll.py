"""Inner loops of a step, counted where they are all that it does to its states; against the unrolled loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, relu, sigmoid, tanh

from everloop import cells
from everloop.cell import Cell, H, I, inputs, mask, noise, output, param, state
from everloop.cli.show import show_cell
from everloop.compiler import rewrite
from everloop.compiler.program import Program
from everloop.compiler.roll import MANY
from everloop.diagnose import agree
from everloop.layers import Bidirectional, Recurrent, Stack, VariationalDropout, Zoneout, turns
from everloop.layers.dispatch import program_of, with_tensors
from everloop.layers.dropout import values_of
from everloop.layers.extras import example, example_extras
from everloop.layers.nested import leaves

D = torch.float64
T, B, I_, H_ = 5, 3, 4, 6


class Euler(Cell):
    """Steps of a rate network."""

    n: int = 12

    h = state(H)
    W, R, b = param(H, I), param(H, H), param(H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = x @ self.W.T
        for _ in range(self.n):
            h = h + 0.2 * (tanh(u + h @ self.R.T + self.b) - h)
        return h


class Liquid(cells.LTC):
    """Semi-implicit steps, with time stamps."""

    unfolds: int = 12


class Oscillating(Cell):
    """Two states that move each other, one that stays, and outputs made of them with a product and without."""

    n: int = 12

    h, v, still = state(H), state(H), state(1)
    y, z = output(2), output(H)
    W, R, V = param(H, I), param(H, H), param(2, H)

    def step(self, x: Tensor, h: Tensor, v: Tensor, still: Tensor) -> Any:
        u = tanh(x @ self.W.T)
        for _ in range(self.n):
            v = v + 0.1 * (u - h - 0.3 * v + tanh(h @ self.R.T))
            h = h + 0.1 * v
        return h, v, still, h @ self.V.T, relu(v) * u


class RungeKutta(Cell):
    """One line that runs four times a turn; element by element, with noise and a mask."""

    n: int = 12

    h = state(H)
    W, a = param(H, I), param(H)
    jitter, keep = noise(H), mask(H, p=0.3, per="sequence")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = x @ self.W.T + 0.1 * self.jitter

        def slope(h: Tensor) -> Tensor:
            return sigmoid(u - self.a * h * self.keep) - h

        for _ in range(self.n):
            first = slope(h)
            second = slope(h + 0.1 * first)
            third = slope(h + 0.1 * second)
            fourth = slope(h + 0.2 * third)
            h = h + 0.2 / 6 * (first + 2 * second + 2 * third + fourth)
        return h


class Timed(Cell):
    """The result of a last state that no step reads back."""

    n: int = 12

    x, dt = inputs(I, 1)
    v, h = state(H), state(H)
    R, W = param(H, H), param(H, I)

    def step(self, x: Tensor, dt: Tensor, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(self.n):
            v = v + dt / self.n * (relu(v) @ self.R.T + x @ self.W.T - v)
        return v, relu(v)


class Coupled(Cell):
    """Two states that move each other in one line, with products and without."""

    n: int = 12

    h, v = state(H), state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        u = x @ self.W.T
        for _ in range(self.n):
            h, v = h - 0.1 * v + u, v + 0.1 * h
            h, v = tanh(h @ self.R.T + v), tanh(h @ self.R.T - v)
        return h, v


class Delayed(Cell):
    """A state that is another of the turn before, and of the turn before that."""

    n: int = 12

    h, v, w = state(H), state(H), state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor, v: Tensor, w: Tensor) -> Any:
        for _ in range(self.n):
            h, v, w = v, w, tanh(x @ self.W.T + h @ self.R.T - w)
        return h, v, w


class Lorenz(Cell):
    """Three states in one line, of which each reads others: their chains begin unevenly."""

    n: int = 12

    a, b, c = state(H), state(H), state(H)
    W = param(H, I)

    def step(self, x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Any:
        u = x @ self.W.T
        for _ in range(self.n):
            a, b, c = a + 0.01 * (10 * (b - a) + u), b + 0.01 * (a * (28 - c) - b), c + 0.01 * (a * b - 2.7 * c)
        return a, b, c


CELLS = [Euler, Liquid, Oscillating, RungeKutta, Timed, Coupled, Delayed, Lorenz]


def made(kind: Any, n: int = 12) -> Any:
    return kind(I_, H_, dtype=D, **{"unfolds" if kind is Liquid else "n": n})


def program(layer: Recurrent) -> Program:
    x = torch.randn(T, B, I_, dtype=D)
    found = program_of(
        layer.cell, with_tensors(layer.cell, values_of(layer.cell, T, B, example_extras(layer.cell, x))), x
    )
    assert isinstance(found, Program), found
    return found


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_values_and_gradients_are_those_of_the_loop(kind: type[Cell], n: int) -> None:
    layer, x = Recurrent(made(kind, n)), torch.randn(T, B, I_, dtype=D)
    assert program(layer).turns == (n if n >= MANY else 1)
    for call in ({}, {"lengths": [T, 0, 2]}, {"reset": torch.rand(T, B) < 0.4}):
        found = agree(layer, x, reference="loop", **call, **example(layer.cell, x))
        assert found, found
        assert not found.absent


@pytest.mark.parametrize("n", [50, 200])
def test_many_turns(n: int) -> None:
    layer, x = Recurrent(made(Euler, n)), torch.randn(3, 2, I_, dtype=D)
    found = agree(layer, x)
    assert found, found
    few, many = program(Recurrent(made(Euler, MANY))), program(layer)
    assert many.turns == n
    assert many.inference().plan.loop == few.inference().plan.loop
    wanted = frozenset(many.loop_inputs)
    assert many.training(wanted).plan.gradient == few.training(wanted).plan.gradient


@pytest.mark.parametrize("kind", [Euler, Oscillating])
@pytest.mark.parametrize("steps", [1, 7])
def test_directions_lengths_and_resets(kind: type[Cell], steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Recurrent(Bidirectional(made(kind), made(kind)) if kind is Euler else made(kind), learned_state=True)
    x, reset = torch.randn(steps, B, I_, dtype=D), torch.rand(steps, B) < 0.4
    for at_once in (1, 10_000, turns.AT_ONCE):  # bytes: one step, a few and all
        monkeypatch.setattr(turns, "AT_ONCE", at_once)
        found = agree(layer, x, lengths=[steps, 0, 1], reset=reset)
        assert found, found


class Shown(Euler):
    """The state itself is the output."""

    y = output(H)

    def step(self, x: Tensor, h: Tensor) -> Any:
        h = super().step(x, h)
        return h, h


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_state_that_is_the_output_ends_with_its_sequence(batch_first: bool) -> None:
    cell = Shown(I_, H_, dtype=D)
    x = torch.randn(T, 4, I_, dtype=D)
    seen = x.transpose(0, 1) if batch_first else x
    layer = Recurrent(cell, batch_first=batch_first)
    lengths = [T, 2, 0, 3]
    with torch.no_grad():
        y, state = layer(seen, lengths=lengths)
    with_gradients, _ = layer(seen, lengths=lengths)
    assert with_gradients.equal(y)
    found = torch.autograd.grad(with_gradients.square().sum(), [cell.W, cell.R])
    rows, total = torch.zeros(4, T, H_, dtype=D), torch.zeros((), dtype=D)
    for b, length in enumerate(lengths):
        h = torch.zeros(1, H_, dtype=D)
        for t in range(length):
            h, _ = cell.step(x[t, b : b + 1], h)
            rows[b, t], total = h[0].detach(), total + h.square().sum()
        torch.testing.assert_close(next(iter(leaves(state)))[b : b + 1], h.detach())
    torch.testing.assert_close(y if batch_first else y.transpose(0, 1), rows)
    torch.testing.assert_close(found, torch.autograd.grad(total, [cell.W, cell.R]))


def test_batch_first_and_steps() -> None:
    layer, x = Recurrent(made(Euler), batch_first=True), torch.randn(B, T, I_, dtype=D)
    y, (last,) = layer(x)
    state: Any = None
    for t in range(T):
        y_t, state = layer.step(x[:, t], state)
        torch.testing.assert_close(y_t, y[:, t])
    torch.testing.assert_close(state[0], last)
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], y)
    first, _ = layer(x[:, :2])
    second, _ = layer(x[:, 2:], (first[:, -1],))
    torch.testing.assert_close(torch.cat([first, second], 1), y)


def test_the_gradient_of_a_gradient() -> None:
    results = []
    for target in ("llvm", "eager"):
        torch.manual_seed(2)
        layer = Recurrent(made(Euler, 9), target=target)
        x = torch.randn(3, 2, I_, dtype=D, requires_grad=True)
        (g,) = torch.autograd.grad(layer(x, lengths=[3, 1])[0].square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(g.square().sum(), [x, *layer.parameters()]))
    torch.testing.assert_close(*results)


def test_wrappers_stacks_and_recordings() -> None:
    x = torch.randn(T, B, I_, dtype=D)
    dropped = Recurrent(VariationalDropout(made(Euler), inputs=0.2, recurrence=0.3))
    assert program(dropped).turns == 12
    for core in (dropped.cell, Stack([Zoneout(made(Euler), h=0.2), Euler(H_, 3, dtype=D)])):
        found = agree(Recurrent(core), x)
        assert found, found
    layer = Recurrent(made(Euler))
    y, _, inside = layer.record(x, "h", "u")
    torch.testing.assert_close(inside["h"], layer(x)[0])
    torch.testing.assert_close(inside["u"], x @ layer.cell.W.T)
    torch.testing.assert_close(y, inside["h"])


def test_bfloat16_is_near_to_float64() -> None:
    exact = Recurrent(made(Euler))
    layer = Recurrent(Euler(I_, H_, n=12).bfloat16())
    layer.load_state_dict(exact.state_dict())
    x = torch.randn(T, B, I_, dtype=D).bfloat16()
    y, _ = layer(x)
    y.sum().backward()
    torch.testing.assert_close(y.double(), exact(x.double())[0], atol=0.03, rtol=0)


class Counting(Euler):
    """A number of its own for each turn."""

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        for k in range(self.n):
            h = h + 0.01 * k * tanh(x @ self.W.T + h @ self.R.T)
        return h


class Own(Euler):
    """A row of its own for each turn."""

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        for k in range(self.n):
            h = h + 0.1 * tanh(x @ self.W.T + h @ self.R.T + self.R[k % H_])
        return h


class Prepared(Euler):
    """What each turn reads is made of the state before the first."""

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = tanh(x @ self.W.T + h)
        for _ in range(self.n):
            h = h + 0.1 * tanh(u + h @ self.R.T)
        return h


class Finished(Euler):
    """Something follows the last turn."""

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return tanh(super().step(x, h) + x @ self.W.T)


class Watching(Cell):
    """An output made of what the last turn computes on its way."""

    n: int = 12

    h = state(H)
    y = output(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(self.n):
            f = sigmoid(x @ self.W.T + h @ self.R.T)
            h = f * h + (1 - f) * tanh(f)
        return h, f * h


class Remembering(Cell):
    """The loop reads another state, whose new value comes from no state."""

    n: int = 12

    h, c = state(H), state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        u = x @ self.W.T
        for _ in range(self.n):
            h = h + 0.1 * tanh(u + h @ self.R.T + c)
        return h, u


class Cleared(Remembering):
    """The loop reads another state, which ends as a number."""

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return super().step(x, h, c)[0], torch.zeros_like(c)


@pytest.mark.parametrize("kind", [Counting, Own, Prepared, Finished, Watching, Remembering, Cleared])
def test_other_loops_are_unrolled(kind: type[Cell]) -> None:
    layer = Recurrent(made(kind))
    assert program(layer).turns == 1
    for call in ({}, {"lengths": [T, 1, 0]}, {"reset": torch.rand(T, B) < 0.4}):
        found = agree(layer, torch.randn(T, B, I_, dtype=D), **call)
        assert found, found


@pytest.mark.parametrize("kind", [Own, Finished, Watching])
def test_turns_that_are_alike_share_their_code(kind: type[Cell]) -> None:
    layers = [Recurrent(made(kind, n)) for n in (6, 12, 24)]
    x = torch.randn(T, B, I_, dtype=D)
    compiled = [program(layer) for layer in layers]
    for kernels in ([p.inference().kernel for p in compiled],
                    [p.training(frozenset(p.loop_inputs)).gradient for p in compiled]):  # fmt: skip
        _, few, many = (str(kernel.source).count("define internal void @map_") for kernel in kernels)
        assert few == many
    for layer in layers:
        found = agree(layer, x, reference="loop")
        assert found, found
        with torch.no_grad():
            torch.testing.assert_close(layer.step(x[0])[0], layer(x[:1])[0][0])


def test_turns_are_told() -> None:
    layer = Recurrent(made(Euler, 30))
    assert "# the loop, 30 turns a step" in layer.explain()
    for stage in ("graph", "gradient"):
        assert show_cell(Euler(I_, H_, n=30), stage).startswith("# one turn of 30 in each step\n")
    assert "turn" not in show_cell(Euler(I_, H_, n=3), "graph")


def test_what_depends_on_what_is_asked_once_a_value() -> None:
    asked = []
    layer = Recurrent(made(Euler, 40))
    values = program(layer).graph.values

    def is_source(value: Any) -> bool:
        asked.append(value)
        return bool(value.op == "input" and value.group == "state")

    depends = rewrite.Depends(is_source)
    found = [value for value in values if depends(value)]
    assert len(asked) == len(values)
    assert set(layer.cell.state_sizes) <= {v.name for v in found if v.op == "input"}
