"""What a step changes outside itself and what it asks: followed as in a plain loop, or left to eager, and said."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everloop.cell import Cell, H, I, param, state
from everloop.compiler.targets import llvm
from everloop.layers import Recurrent
from everloop.layers.guards import programs, warned

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
Step = Callable[[Any, Tensor, Tensor], Tensor]
COUNT = {"n": 0}
NUMBER = 0
FACTORS = iter([0.0])


def numbers() -> Any:
    while True:
        yield 0.5


NUMBERS = numbers()


def start() -> None:
    """Set everything outside the cells as it was."""
    global NUMBER, FACTORS
    NUMBER, FACTORS, COUNT["n"], CALLS.n = 0, iter([0.1 * k for k in range(99)]), 0, 0
    SEEN.clear()
    NOTES.clear()
    warned.clear()
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)


SEEN: list[int] = []


def remembering(h: Tensor, seen: list[int] = SEEN) -> Tensor:
    seen.append(1)
    return h * len(seen)


def counting(h: Tensor) -> Tensor:
    CALLS.n += 1
    return h * CALLS.n


CALLS: Any = counting


def noting(h: Tensor) -> Tensor:
    NOTES.append(1)
    return h * len(NOTES)


class Tracker:
    def track(self, h: Tensor) -> Tensor:
        return noting(h)


NOTES: list[int] = []
PARTIAL, TRACKER = functools.partial(noting), Tracker()


def outside(self: Any, x: Tensor, h: Tensor) -> Tensor:
    global NUMBER
    NUMBER += 1
    return h + x * NUMBER


def attribute(self: Any, x: Tensor, h: Tensor) -> Tensor:
    self.count += 1
    return h + x * self.count


def remembered(self: Any, x: Tensor, h: Tensor) -> Tensor:
    before, self.last = self.last, x
    return h + before


def logged(self: Any, x: Tensor, h: Tensor) -> Tensor:
    self.log.append(x.detach())
    return h + x * len(self.log)


def in_a_dictionary(self: Any, x: Tensor, h: Tensor) -> Tensor:
    COUNT["n"] += 1
    return h + x * COUNT["n"]


def in_a_tensor(self: Any, x: Tensor, h: Tensor) -> Tensor:
    self.constant += 1
    return h + x * self.constant


def in_an_element(self: Any, x: Tensor, h: Tensor) -> Tensor:
    self.constant[0] = self.constant[0] * 2 + 1
    return h + x * self.constant


def in_a_buffer(self: Any, x: Tensor, h: Tensor) -> Tensor:
    self.running = 0.9 * self.running + 1
    return h + self.running


def in_an_array(self: Any, x: Tensor, h: Tensor) -> Tensor:
    self.array[0] += 1
    return h + x * float(self.array[0])


def swallowed(self: Any, x: Tensor, h: Tensor) -> Tensor:
    try:
        return h + x * (time.time() > 0)
    except Exception:  # noqa: BLE001 - what a user may write
        return h


def added(self: Any, x: Tensor, h: Tensor) -> Tensor:
    self.seen.add(len(self.seen))
    return h + x * len(self.seen)


def told(self: Any, x: Tensor, h: Tensor) -> Tensor:
    logging.getLogger("everloop").debug("a step")
    return h + x


LEFT: dict[str, tuple[Step, str]] = {
    "a global": (outside, "changes NUMBER, which must happen at every step"),
    "an attribute": (attribute, "sets self.count"),
    "the last input": (remembered, "sets self.last"),
    "a list": (logged, "changes self.log"),
    "a dictionary": (in_a_dictionary, "changes COUNT"),
    "a tensor": (in_a_tensor, "changes self.constant"),
    "an element": (in_an_element, "changes self.constant"),
    "a buffer": (in_a_buffer, "changes running"),
    "an array": (in_an_array, "changes self.array"),
    "a set": (added, "changes self.seen"),
    "a default": (lambda self, x, h: remembering(h + x), r"changes remembering\.__defaults__"),
    "a function": (lambda self, x, h: counting(h + x), r"changes (counting|CALLS)\.n"),
    "a partial function": (lambda self, x, h: PARTIAL(h + x), "changes NOTES"),
    "a method of an object": (lambda self, x, h: TRACKER.track(h + x), "changes NOTES"),
    "an iterator": (lambda self, x, h: h + x * next(self.schedule), r"reads self\.schedule, an iterator"),
    "a counter": (lambda self, x, h: h + x * next(self.counter), r"reads self\.counter, an iterator"),
    "a global iterator": (lambda self, x, h: h + x * next(FACTORS), "reads FACTORS, an iterator"),
    "a generator": (lambda self, x, h: h + x * next(NUMBERS), "reads NUMBERS, an iterator"),
    "printing": (lambda self, x, h: (print(end=""), h + x)[1], r"calls print\(\) of builtins"),
    "logging": (told, r"calls getLogger\(\) of logging.*test_effects\.py"),
    "time": (lambda self, x, h: h + x * (time.time() > 0), r"calls time\(\) of time"),
    "caught": (swallowed, r"calls time\(\) of time"),
    "environment": (lambda self, x, h: h + x * float(os.environ.get("NONE", "2")), "of os"),
    "a file": (lambda self, x, h: h + x * len(Path(__file__).read_text()) / 9e3, r"calls open\(\)"),
    "gradients": (lambda self, x, h: h + x if torch.is_grad_enabled() else h, r"calls is_grad_enabled\(\) of torch"),
    "chance": (lambda self, x, h: h + x * random.random(), "draws random numbers"),
    "chance of numpy": (lambda self, x, h: h + x * float(np.random.rand()), "draws random numbers"),
    "chance of torch": (lambda self, x, h: h + torch.rand(3), "draws random numbers"),
}
FOLLOWED: dict[str, Step] = {
    "mathematics": lambda self, x, h: h + x * math.sqrt(2),
    "a list of its own": lambda self, x, h: h + sum([x * k for k in range(3)]),
    "training": lambda self, x, h: h + x if self.training else h,
    "the default type": lambda self, x, h: h + x * (1 if torch.get_default_dtype() == torch.float32 else 2),
    "a cached property": lambda self, x, h: h + x * self.cached,
}


class Holder(Cell):
    h = state(H)
    p = param(H, I)
    inner: Step
    running: Tensor
    scale: float

    def __init__(self) -> None:
        super().__init__(2, 3)
        self.count, self.last, self.log, self.seen = 0, torch.zeros(2, 3), list[Tensor](), set[int]()
        self.constant, self.array = torch.zeros(3), np.zeros(2)
        self.schedule, self.counter = iter([0.1 * k for k in range(99)]), itertools.count()
        self.register_buffer("running", torch.zeros(3))

    @functools.cached_property
    def cached(self) -> float:
        return math.sqrt(self.hidden_size)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return 0.5 * type(self).inner(self, x @ self.p.T, h)

    def held(self) -> Any:
        tensors = (self.constant.tolist(), self.running.tolist(), self.array.tolist(), len(self.log), sorted(self.seen))
        return (self.count, *tensors, NUMBER, COUNT["n"], CALLS.n, len(SEEN))


def holder(step: Step) -> Holder:
    torch.manual_seed(0)
    made: Holder = type("Holding", (Holder,), {"inner": step})()
    start()
    return made


def plain(cell: Cell, x: Tensor) -> Tensor:
    h, outputs = torch.zeros(2, 3), []
    for x_t in x:
        h = cell.step(x_t, h)
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.parametrize("name", LEFT)
def test_left_to_eager(name: str) -> None:
    step, message = LEFT[name]
    x = torch.randn(3, 2, 2)
    cell = holder(step)
    expected = [plain(cell, x) for _ in range(3)], cell.held()
    cell = holder(step)
    layer = Recurrent(cell)
    with pytest.warns(UserWarning, match=f"runs on eager, because .*{message}"):
        first = layer(x)[0]
    known = len(programs)
    found = [first, layer(x)[0], layer(x)[0]], cell.held()
    assert len(programs) == known
    torch.testing.assert_close(found[0], expected[0])
    assert found[1] == expected[1]


@pytest.mark.parametrize("name", FOLLOWED)
def test_followed(name: str) -> None:
    x, cell = torch.randn(3, 2, 2), holder(FOLLOWED[name])
    layer = Recurrent(cell)
    assert "target llvm" in layer.explain()
    torch.testing.assert_close(layer(x)[0], plain(cell, x))
    cell.eval()
    torch.testing.assert_close(layer(x)[0], plain(cell, x))


def test_what_prints_no_more_is_compiled_again() -> None:
    def step(self: Any, x: Tensor, h: Tensor) -> Tensor:
        if self.training:
            self.count += 1
        return h + x * self.count

    x, cell = torch.randn(3, 2, 2), holder(step)
    layer = Recurrent(cell)
    with pytest.warns(UserWarning, match=r"sets self\.count"):
        layer(x)
    cell.eval()
    assert "target llvm" in layer.explain()
    for count in (3, 7):
        cell.count = count
        torch.testing.assert_close(layer(x)[0], plain(cell, x))


def scale() -> float:
    return float(HELD["cell"].p.sum())


HELD: dict[str, Any] = {}


def test_a_global_function_of_the_name_of_an_attribute_may_read_the_cell() -> None:
    def step(self: Any, x: Tensor, h: Tensor) -> Tensor:
        return h + x * self.scale

    x, cell = torch.randn(3, 2, 2), holder(step)
    cell.scale = 2.0
    HELD["cell"] = cell
    assert "target llvm" in Recurrent(cell).explain()
    torch.testing.assert_close(Recurrent(cell)(x)[0], plain(cell, x))
    cell.scale = 3.0
    torch.testing.assert_close(Recurrent(cell)(x)[0], plain(cell, x))


class AddsInPlace(Cell):
    """A step that changes what it is given, which only a plain loop runs."""

    h, c = state(H), state(H)
    W = param(H, I)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        h += x @ self.W.T
        c.mul_(0.5).add_(h)
        return h, c


class Adds(AddsInPlace):
    """The same with values of its own."""

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        h = h + x @ self.W.T
        return h, c * 0.5 + h


@pytest.mark.parametrize("lengths", [None, [4, 1, 0]])
@pytest.mark.parametrize("with_gradients", [False, True])
def test_a_state_changed_in_place_is_the_steps_own(with_gradients: bool, lengths: list[int] | None) -> None:
    torch.manual_seed(0)
    layer = Recurrent(AddsInPlace(3, 4), target="eager")
    plain = Recurrent(Adds(3, 4), target="eager")
    plain.load_state_dict(layer.state_dict())
    x, before = torch.randn(4, 3, 3), (torch.randn(3, 4), torch.randn(3, 4))
    given = None if lengths is None else torch.tensor(lengths)
    found: list[Tensor] = []
    expected: list[Tensor] = []
    for each, results in ((layer, found), (plain, expected)):
        for p in each.parameters():
            p.grad = None
        state = tuple(s.clone().requires_grad_(with_gradients) for s in before)
        with torch.set_grad_enabled(with_gradients):
            y, after = each(x, state, lengths=given)
            y_t, at_t = each.step(x[0], state)
            _, of_cell = each.cell(x[0], state)
        results += [y, *after, y_t, *at_t, *of_cell, *state]
        if with_gradients:
            (y.square().sum() + after[1].sum() + y_t.sum() + of_cell[1].sum()).backward()
            results += [t.grad for t in (*each.parameters(), *state) if t.grad is not None]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
