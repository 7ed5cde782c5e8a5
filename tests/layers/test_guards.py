"""A compiled step follows what it reads besides its parameters: the program is another one as soon as that changes."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from everloop import cells
from everloop.cell import Cell, H, I, param, state
from everloop.compiler.bindings import Bindings
from everloop.compiler.dependencies import dependencies
from everloop.compiler.program import Program
from everloop.compiler.targets import llvm
from everloop.layers import Recurrent, Stack, dispatch, guards

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
SCALE = 0.5
TABLE = {"scale": [0.5]}
constants = ModuleType("constants")
vars(constants)["SCALE"] = 0.5


def helper(x: Tensor) -> Tensor:
    return x * SCALE


def other(x: Tensor) -> Tensor:
    return x * constants.SCALE


def closed(factor: float) -> tuple[type[Cell], Callable[[float], None]]:
    def change(value: float) -> None:
        nonlocal factor
        factor = value

    class Closed(Plain):
        def scaled(self, h: Tensor) -> Tensor:
            return h * factor

    return Closed, change


class Plain(Cell):
    h = state(H)
    W = param(H, I)
    R = param(H, H)

    def scaled(self, h: Tensor) -> Tensor:
        return h

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return self.scaled(torch.tanh(x @ self.W.T + h @ self.R.T))


class Global(Plain):
    def scaled(self, h: Tensor) -> Tensor:
        return h * SCALE


class InAContainer(Plain):
    def scaled(self, h: Tensor) -> Tensor:
        return h * TABLE["scale"][0]


class OfAModule(Plain):
    def scaled(self, h: Tensor) -> Tensor:
        return h * constants.SCALE


class InAHelper(Plain):
    def scaled(self, h: Tensor) -> Tensor:
        return (lambda: helper(h))()


class OfTheClass(Plain):
    scale = 0.5

    def scaled(self, h: Tensor) -> Tensor:
        return h * self.scale


class Attributes(Plain):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.config = SimpleNamespace(scale=0.5)
        self.config.itself = self.config
        self.constant = torch.tensor(0.5)

    def scaled(self, h: Tensor) -> Tensor:
        return h * self.config.scale * torch.exp(self.constant)


class Submodule(Plain):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.linear = nn.Linear(5, 5)

    def scaled(self, h: Tensor) -> Tensor:
        return self.linear(h)


def set_item(thing: Any, value: Any) -> None:
    thing[0] = value


def with_the_other_helper(input_size: int, hidden_size: int) -> Cell:
    globals().update(helper=other)
    return InAHelper(input_size, hidden_size)


Closed, change_closed = closed(0.5)
CASES: dict[str, tuple[Callable[[int, int], Cell], Callable[[Any], Any]]] = {
    "global": (Global, lambda c: globals().update(SCALE=2.0)),
    "a global's contents": (InAContainer, lambda c: set_item(TABLE["scale"], 2.0)),
    "global of a module": (OfAModule, lambda c: setattr(constants, "SCALE", 3.0)),
    "global of a helper": (InAHelper, lambda c: globals().update(SCALE=4.0)),
    "the helper": (InAHelper, lambda c: globals().update(helper=other)),
    "what the new helper reads": (with_the_other_helper, lambda c: setattr(constants, "SCALE", 5.0)),
    "closure": (Closed, lambda c: change_closed(2.0)),
    "class attribute": (OfTheClass, lambda c: setattr(OfTheClass, "scale", 2.0)),
    "method": (Plain, lambda c: setattr(Plain, "scaled", lambda self, h: h * 0.3)),
    "config object": (Attributes, lambda c: setattr(c.config, "scale", 2.0)),
    "constant tensor": (Attributes, lambda c: c.constant.fill_(2.0)),
    "hook": (Submodule, lambda c: c.linear.register_forward_hook(lambda m, i, o: o * 2)),
    "hook before": (Submodule, lambda c: c.linear.register_forward_pre_hook(lambda m, i: (i[0] * 2,))),
}


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_followed(name: str) -> None:
    kind, change = CASES[name]
    cell = kind(4, 5)
    layer, reference = Recurrent(cell), Recurrent(cell, target="eager")
    x = torch.randn(4, 2, 4)
    with torch.no_grad():
        before, (step_before, _) = layer(x)[0], layer.step(x[0])
        assert "target llvm" in layer.explain()
        torch.testing.assert_close(before, reference(x)[0])
        change(cell)
        after, step_after = layer(x)[0], layer.step(x[0])[0]
        torch.testing.assert_close(after, reference(x)[0])
        torch.testing.assert_close(step_after, reference.step(x[0])[0])
    assert not torch.equal(before, after)
    assert not torch.equal(step_before, step_after)


@pytest.mark.parametrize("kind", [cells.LSTM, cells.GRU, cells.LayerNormLSTM, cells.MinimalGatedUnit, cells.IndRNN])
def test_nothing_is_looked_up_around_the_cells_of_the_library(kind: type[Cell]) -> None:
    assert not dependencies(kind)


def test_a_function_with_a_backward_of_its_own_is_left_to_eager() -> None:
    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return -grads[0]

    class Adversarial(Plain):
        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return Reversed.apply(torch.tanh(x @ self.W.T + h @ self.R.T))  # type: ignore[no-untyped-call]

    layer = Recurrent(Adversarial(4, 5))
    assert "Reversed" in layer.explain()
    assert "target eager" in layer.explain()


def test_a_step_that_asks_for_tensors_is_left_to_eager() -> None:
    class Asks(Plain):
        def scaled(self, h: Tensor) -> Tensor:
            return h if torch.is_tensor(h) else h * 2

    class AsksToo(Plain):
        def scaled(self, h: Tensor) -> Tensor:
            return h if isinstance(h, torch.Tensor) else h * 2

    for kind in (Asks, AsksToo):
        layer, x = Recurrent(kind(4, 5)), torch.randn(3, 2, 4)
        assert "checks isinstance" in layer.explain()
        with pytest.warns(UserWarning, match="checks isinstance"):
            y, _ = layer(x)
        torch.testing.assert_close(y, Recurrent(layer.cell, target="eager")(x)[0])
        with torch.no_grad():
            torch.testing.assert_close(layer.step(x[0])[0], layer(x[:1])[0][0])


class Annealed(Plain):
    """A cell whose factor is a number of Python, which is a constant of every program."""

    def __init__(self, input_size: int, hidden_size: int, factor: float = 0.0) -> None:
        super().__init__(input_size, hidden_size)
        self.factor = factor

    def scaled(self, h: Tensor) -> Tensor:
        return h * self.factor


def test_a_changing_number_keeps_few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards.programs, "_entries", {})
    guards.warned.clear()
    layer, x = Recurrent(Annealed(2, 3)), torch.randn(2, 1, 2)
    made: list[weakref.ref[Program]] = []

    def called_with(factor: float) -> None:
        layer.cell.factor = factor
        y = layer(x)[0]
        with dispatch.using("eager"):
            torch.testing.assert_close(y, layer(x)[0])
        with torch.no_grad():
            torch.testing.assert_close(layer.step(x[0])[0], y[0])
        found = dispatch.program_of(layer.cell, Bindings(dict(layer.cell.named_parameters())), x)
        assert isinstance(found, Program)
        made.append(weakref.ref(found))

    with pytest.warns(UserWarning, match=r"Annealed was compiled for 8 values of factor, .*make it one") as seen:
        list(map(called_with, [k / 12 for k in range(12)]))
    assert len(seen) == 1
    assert len(guards.programs) == 2 * guards.VERSIONS  # the whole sequence, and single steps
    gc.collect()
    assert sum(ref() is not None for ref in made) == guards.VERSIONS
    layer.cell.factor = 11 / 12
    assert dispatch.program_of(layer.cell, Bindings(dict(layer.cell.named_parameters())), x) is made[-1]()


def test_a_thousand_changed_numbers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above for many cells, each with another number; compiling is left out, as it takes longer than the rest."""
    monkeypatch.setattr(guards.programs, "_entries", {})
    monkeypatch.setattr(dispatch, "_new_program", lambda *_: "of a test")
    x, cells_ = torch.randn(2, 1, 2), [Annealed(2, 3, factor=k / 1000) for k in range(1000)]
    for k, cell in enumerate(cells_):
        y = Recurrent(cell)(x)[0]
        torch.testing.assert_close(y, k / 1000 * torch.tanh(x @ cell.W.T + torch.cat([y[:1] * 0, y[:1]]) @ cell.R.T))
    assert len(guards.programs) == guards.PROGRAMS
    one = Recurrent(cells_[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k in range(1000):
            one.cell.factor = float(k)
            one(x)
    assert len(guards._recent[one.cell]) == guards.VERSIONS
    assert len(guards._versions) == guards.PROGRAMS


def test_a_changed_set_is_noticed_by_single_steps() -> None:
    class Flagged(Plain):
        flags: Any

        def scaled(self, h: Tensor) -> Tensor:
            return h * (0.5 if "half" in self.flags else 2.0)

    cell = Flagged(2, 3)
    cell.flags = {"half"}
    layer, x = Recurrent(cell), torch.randn(1, 2)
    with torch.no_grad():
        half = layer.step(x)[0]
        layer.cell.flags.clear()
        torch.testing.assert_close(layer.step(x)[0], 4 * half)


def test_a_guard_does_not_keep_its_cell() -> None:
    cell = cells.GRU(2, 3)
    Recurrent(cell)(torch.randn(2, 1, 2))
    gc.collect()
    gc.disable()
    known, cell = weakref.ref(cell), None  # type: ignore[assignment]
    is_gone = known() is None
    gc.enable()
    assert is_gone


def test_a_cell_that_holds_itself_is_kept_by_the_bounded_caches_alone() -> None:
    cell: Any = cells.GRU(2, 3)
    cell.own = cell.step  # a bound method holds its cell, and is part of the key
    Recurrent(cell)(torch.randn(2, 1, 2))
    known, cell = weakref.ref(cell), None
    for cache in (guards.programs, guards._versions):
        cache.clear()
    gc.collect()
    assert known() is None


def test_a_step_is_not_made_anew_because_another_cell_is_compiled() -> None:
    layer, x = Recurrent(Global(4, 5)), torch.randn(2, 4)
    with torch.no_grad():
        layer.step(x)
        ready = layer._stepper._guarded
        Recurrent(Annealed(2, 3, factor=0.123))(torch.randn(2, 1, 2))
        layer.step(x)
    assert layer._stepper._guarded is ready


def test_copies_have_guards_of_their_own() -> None:
    cell, x = Annealed(2, 3, factor=1.0), torch.randn(2, 1, 2)
    y = Recurrent(cell)(x)[0]
    for other in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell)), copy.copy(cell)):
        torch.testing.assert_close(Recurrent(other)(x)[0], y)
        other.factor = 3.0
        assert not torch.allclose(Recurrent(other)(x)[0], y)
        torch.testing.assert_close(Recurrent(cell)(x)[0], y)


class Shadowed(Plain):
    """Reads an attribute that its class has, and that an instance may have too; and one that may be missing."""

    factor: Any = 1.0
    table: Any = None

    def scaled(self, h: Tensor) -> Tensor:
        return h * self.factor * getattr(self, "other", 1.0) * (self.table or {}).get("a", 1.0)


del Shadowed.options["factor"], Shadowed.options["table"]  # no options: what a user sets on the cell later


def _set(cell: Any) -> None:
    cell.factor = 0.5


def _add(cell: Any) -> None:
    cell.other = 0.25


def _rename(cell: Any) -> None:
    cell.__dict__["other"] = cell.__dict__.pop("another")


def _fill(cell: Any) -> None:
    cell.table["a"] = 0.125


def _rekey(cell: Any) -> None:
    cell.table["a"] = cell.table.pop("b")


@pytest.mark.parametrize("place", ["alone", "second"])
@pytest.mark.parametrize("change", [_set, _add, _rename, _fill, _rekey])
def test_what_an_attribute_of_the_instance_brings_is_noticed(change: Callable[[Any], None], place: str) -> None:
    torch.manual_seed(0)
    cell: Any = Shadowed(3, 3)
    cell.another, cell.table = 0.3, {"b": 0.7} if change is _rekey else {}
    layer = Recurrent(cell if place == "alone" else Stack([cells.GRU(3, 3), cell]))
    x = torch.randn(4, 2, 3)

    def both() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            state = None
            for x_t in x:
                y_t, state = layer.step(x_t, state)
            return layer(x)[0][-1], y_t

    before = both()
    change(cell)
    after = both()
    with torch.no_grad(), dispatch.using("eager"):
        want = layer(x)[0][-1]
    for old, new in zip(before, after, strict=True):
        assert not torch.allclose(old, want)
        torch.testing.assert_close(new, want)


class Listed(Plain):
    """Reads modules that are no children, a dictionary in its order, and an array inside a tuple."""

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.acts = [nn.LeakyReLU(0.1)]
        self.scales = {"a": 3.0, "b": 0.5}
        self.arrays = (np.array([1.5]),)

    def scaled(self, h: Tensor) -> Tensor:
        for scale in self.scales.values():
            h = torch.tanh(scale * h)
        return self.acts[0](h) * float(self.arrays[0][0])


def _slope(layer: Recurrent) -> None:
    layer.cell.acts[0].negative_slope = 0.9


def _order(layer: Recurrent) -> None:
    layer.cell.scales["a"] = layer.cell.scales.pop("a")


def _array(layer: Recurrent) -> None:
    layer.cell.arrays[0].fill(0.2)


@pytest.mark.parametrize("change", [_slope, _order, _array])
def test_what_lies_inside_containers_is_followed(change: Callable[[Recurrent], None]) -> None:
    layer, x = Recurrent(Listed(3, 4)), torch.randn(5, 2, 3)
    with torch.no_grad():
        layer(x)
        layer.step(x[0])
        change(layer)
        y, stepped = layer(x)[0], layer.step(x[0])[0]
        with dispatch.using("eager"):
            want, first = layer(x)[0], layer.step(x[0])[0]
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(stepped, first)


def test_steps_follow_a_part_that_is_replaced_by_one_of_its_kind() -> None:
    layer, x = Recurrent(Stack([cells.GRU(4, 6), cells.GRU(6, 6)])), torch.randn(2, 4)
    with torch.no_grad():
        layer.step(x)
        layer.cell.members[0] = cells.GRU(4, 6)
        torch.testing.assert_close(layer.step(x)[0], layer(x[None])[0][0])
        for p in layer.parameters():
            p.fill_(0.01)
        torch.testing.assert_close(layer.step(x)[0], layer(x[None])[0][0])


def test_the_code_of_a_class_may_be_replaced() -> None:
    class Replaced(Plain):
        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.tanh(x @ self.W.T + h @ self.R.T)

    layer, x = Recurrent(Replaced(3, 4)), torch.ones(5, 2, 3)
    with torch.no_grad():
        layer(x)
        layer.step(x[0])
        Replaced.step = lambda self, x, h: torch.sigmoid(x @ self.W.T + h @ self.R.T)  # type: ignore[method-assign]
        assert (layer(x)[0] > 0).all()
        assert (layer.step(x[0])[0] > 0).all()
