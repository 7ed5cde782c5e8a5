"""How long a memory keeps what it holds, in steps written as users write them, against its formula in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, sigmoid, tanh

from everloop import Recurrent
from everloop.cell import Cell, H, I, bias, param, state
from everloop.diagnose.gates import States, gates_and_states
from everloop.diagnose.gradients import record
from tests.diagnose.test_gradients import Reader


class Memory(Cell):
    """A memory c with two gates and something new, put together by the formula of a test."""

    h, c = state(H), state(H)
    W, b = param(3 * H, I), bias(3 * H)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        a, b, n = (x @ self.W.T + self.b).chunk(3, -1)
        c = self.formula(a, b, tanh(n + 0.1 * c), c)
        return tanh(c), c

    def formula(self, a: Tensor, b: Tensor, n: Tensor, c: Tensor) -> Tensor:
        raise NotImplementedError


Formula = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Factor = Callable[[Tensor, Tensor], Tensor]


def memory_of(formula: Formula) -> tuple[States, Tensor, Tensor]:
    """Return what the memory did, and the two gates before their sigmoid."""

    class Written(Memory):
        def formula(self, a: Tensor, b: Tensor, n: Tensor, c: Tensor) -> Tensor:
            return formula(a, b, n, c)

    torch.manual_seed(0)
    cell = Written(3, 4).double()
    x = torch.randn(12, 5, 3).double()
    _, states = gates_and_states(record(Reader(Recurrent(cell)).double(), (x, None)))
    a, b, _ = (x @ cell.W.detach().T + cell.b.detach()).chunk(3, -1)
    return next(s for s in states if s.name == "c"), a, b


@pytest.mark.parametrize(
    ("formula", "factor"),
    [
        (lambda a, b, n, c: sigmoid(a) * c + n, lambda a, b: sigmoid(a)),
        (lambda a, b, n, c: 0.99 * sigmoid(a) * c + n, lambda a, b: 0.99 * sigmoid(a)),
        (lambda a, b, n, c: n + c * (sigmoid(a) * 0.99), lambda a, b: 0.99 * sigmoid(a)),
        (lambda a, b, n, c: (1 - 0.5 * sigmoid(a)) * c + 0.5 * sigmoid(a) * n, lambda a, b: 1 - 0.5 * sigmoid(a)),
        (lambda a, b, n, c: sigmoid(a) * (sigmoid(b) * c) + n, lambda a, b: sigmoid(a) * sigmoid(b)),
        (lambda a, b, n, c: sigmoid(a) * (c + n), lambda a, b: sigmoid(a)),
        (lambda a, b, n, c: c - sigmoid(a) * c + n, lambda a, b: 1 - sigmoid(a)),
        (lambda a, b, n, c: c + sigmoid(a) * (n - c), lambda a, b: 1 - sigmoid(a)),
        (lambda a, b, n, c: torch.lerp(c, n, sigmoid(a)), lambda a, b: 1 - sigmoid(a)),
        (lambda a, b, n, c: n + sigmoid(a) * (c - n), lambda a, b: sigmoid(a)),
        (lambda a, b, n, c: sigmoid(a) * c - n, lambda a, b: sigmoid(a)),
        (lambda a, b, n, c: sigmoid(a) * c * 0.99 + n, lambda a, b: 0.99 * sigmoid(a)),
        (lambda a, b, n, c: sigmoid(a) * (0.99 * c) + n, lambda a, b: 0.99 * sigmoid(a)),
        (lambda a, b, n, c: -(n - c) / (1 + b.exp()), lambda a, b: 1 / (1 + b.exp())),
        (lambda a, b, n, c: sigmoid(a) * c + tanh(n + c * c), lambda a, b: sigmoid(a)),
        (lambda a, b, n, c: 0.8 * c + n, lambda a, b: torch.full_like(a, 0.8)),
        (lambda a, b, n, c: n - 0.8 * c, lambda a, b: torch.full_like(a, 0.8)),
        (lambda a, b, n, c: sigmoid(a @ torch.eye(4, dtype=a.dtype)) * c + n, lambda a, b: sigmoid(a)),
    ],
)
def test_the_half_life_is_that_of_the_factor(formula: Formula, factor: Factor) -> None:
    memory, a, b = memory_of(formula)
    assert memory.half_lives is not None
    expected = math.log(2) / -factor(a, b).log().mean((0, 1))
    torch.testing.assert_close(memory.half_lives, expected)
    assert "memory halves in" in str(memory)


def test_a_sum_of_all_that_came_never_fades() -> None:
    memory, _, _ = memory_of(lambda a, b, n, c: c + sigmoid(a) * n)
    assert memory.half_lives is not None
    assert bool(memory.half_lives.isinf().all())
    assert "memory does not fade by itself" in str(memory)


@pytest.mark.parametrize(
    "formula",
    [
        lambda a, b, n, c: tanh(sigmoid(a) * c + n),
        lambda a, b, n, c: c + c * (1 - c),
        lambda a, b, n, c: n / (1 + c * c) + sigmoid(a),
        lambda a, b, n, c: torch.where(a > 0, c, n),
    ],
)
def test_what_is_not_a_factor_times_the_old_state_has_no_half_life(formula: Formula) -> None:
    assert memory_of(formula)[0].half_lives is None


def test_a_rate_that_no_input_changes_is_a_factor_too() -> None:
    class Leaky(Cell):
        h = state(H)
        W, rate = param(H, I), bias(H)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            keep = 0.99 * sigmoid(self.rate)
            return keep * h + (1 - keep) * tanh(x @ self.W.T + 0.1 * h)

    torch.manual_seed(0)
    cell = Leaky(3, 4).double()
    _, (states,) = gates_and_states(record(Reader(Recurrent(cell)).double(), (torch.randn(8, 3, 3).double(), None)))
    assert states.half_lives is not None
    torch.testing.assert_close(states.half_lives, math.log(2) / -(0.99 * sigmoid(cell.rate.detach())).log())


def test_two_states_that_turn_into_each_other_have_none() -> None:
    class Turning(Cell):
        h, c = state(H), state(H)
        W = param(H, I)

        def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            return 0.6 * h - 0.7 * c + x @ self.W.T, 0.7 * h + 0.6 * c

    _, states = gates_and_states(record(Reader(Recurrent(Turning(3, 4))), (torch.randn(8, 3, 3), None)))
    assert all(s.half_lives is None for s in states)
