"""Single steps in every way they can be called: gradients, hooks, threads, errors, explanations."""

from __future__ import annotations

import os
import re
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everloop import cells
from everloop.cell import Cell, H, I, output, param, state
from everloop.compiler.bindings import Bindings
from everloop.compiler.targets.llvm import machine
from everloop.errors import OptionError, ShapeError
from everloop.layers import Bidirectional, Recurrent, VariationalDropout, WeightDrop, Zoneout
from everloop.layers.dispatch import using
from everloop.layers.dropout import Wrapper
from everloop.layers.extras import NOTHING, Extras
from everloop.layers.nested import leaves
from tests import zoo
from tests.layers.single_steps import F64, close, is_single, same_as_eager, stepped, the_call

pytest.importorskip("llvmlite")


def test_gradients_flow_where_they_are_asked_for() -> None:
    layer, x = Recurrent(cells.LSTM(3, 4, dtype=F64)), torch.randn(3, 2, 3, dtype=F64)
    with torch.no_grad():
        expected = stepped(layer, x)
    y, after = stepped(layer, x)
    close((y.detach(), tuple(s.detach() for s in after)), expected, 3)
    got = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
    layer.zero_grad()
    layer(x)[0].square().sum().backward()
    close(tuple(got), tuple(p.grad for p in layer.parameters()), 30)
    layer.requires_grad_(False)
    assert is_single(layer, x[0])
    wanted = x[0].clone().requires_grad_()
    assert layer.step(wanted)[0].requires_grad
    before = tuple(s.requires_grad_() for s in expected[1])
    assert layer.step(x[0], before)[0].requires_grad


@pytest.mark.parametrize("name", zoo.NAMES)
def test_an_output_may_be_changed_in_place(name: str) -> None:
    """It lies in no memory of a state, nor of what was given."""
    layer, x = Recurrent(zoo.make(name, 3, 8, dtype=F64)).eval(), torch.randn(3, 2, 3, dtype=F64)
    told, given_x = zoo.given(layer, x), x.clone()
    expected, state = layer(x, **told.at()), None
    for t in range(len(x)):
        y, state = layer.step(x[t], state, **told.at(t))
        for part in leaves(y):
            part.detach().fill_(7.0)
    close(state, expected[1], 40)
    assert torch.equal(x, given_x)


class InPlace(Cell):
    """A change of what its own gradient reads, which PyTorch refuses."""

    h = state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        a = torch.sigmoid(x @ self.W.T + h @ self.R.T)
        a *= 2
        return a - 0.3 * h


def test_changes_in_place_that_pytorch_refuses_train_by_compiled_code() -> None:
    layer, x = Recurrent(InPlace(3, 4, dtype=F64)), torch.randn(3, 2, 3, dtype=F64)
    got = torch.autograd.grad(stepped(layer, x)[0].sum(), list(layer.parameters()))
    close(got, torch.autograd.grad(layer(x)[0].sum(), list(layer.parameters())), 30)
    assert "with gradients by the target above" in layer.explain()


class Detached(Cell):
    h = state(H)
    y = output(H)
    W = param(H, I)

    def step(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        n = torch.tanh(x @ self.W.T + h)
        return n.detach(), n * 2


def test_a_step_of_pytorch_is_not_told_as_a_checked_kernel() -> None:
    layer = Recurrent(Detached(3, 4), check=True)
    layer.step(torch.randn(2, 3))
    assert "not checked against float64" in layer.explain().splitlines()[-1]
    with torch.no_grad():
        layer.step(torch.randn(2, 3))
    assert "not checked" not in layer.explain().splitlines()[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_named_target_and_narrow_parameters_train_by_compiled_code(dtype: torch.dtype) -> None:
    layer = Recurrent(cells.GRU(3, 4, dtype=dtype), target="llvm" if dtype == torch.float32 else None)
    assert not is_single(layer, torch.randn(2, 3, dtype=dtype))
    assert re.search("with gradients by the target above", layer.explain())
    assert layer.step(torch.randn(2, 3, dtype=dtype))[0].requires_grad


def test_inference_mode() -> None:
    layer, x = Recurrent(cells.LSTM(3, 4, dtype=F64)), torch.randn(3, 1, 3, dtype=F64)
    with torch.inference_mode():
        same_as_eager(layer, x)
        inside = Recurrent(cells.LSTM(3, 4, dtype=F64))
        same_as_eager(inside, x)
        inside.cell.R.mul_(2)
        same_as_eager(inside, x)
    same_as_eager(inside, x)


def test_what_takes_the_usual_way() -> None:
    x = torch.randn(1, 3)
    with torch.no_grad():
        training = Recurrent(Zoneout(cells.LSTM(3, 4), h=0.5))
        assert not is_single(training, x)
        assert is_single(training.eval(), x)
        assert not is_single(Recurrent(Bidirectional(cells.GRU(3, 4))), x)
        assert not is_single(Recurrent(cells.GRU(3, 4), layers=2, dropout=0.5), x)
        assert not is_single(Recurrent(cells.GRU(3, 4), target="eager"), x)
        assert is_single(Recurrent(cells.GRU(3, 4)).bfloat16(), x.bfloat16())
        converts = machine.halving(machine.host()) is not None
        assert is_single(Recurrent(cells.GRU(3, 4)).half(), x.half()) == converts
        assert not is_single(Recurrent(cells.GRU(3, 4)), nn.Parameter(x))
        plain = Recurrent(cells.GRU(3, 4))
        with torch.autocast("cpu", torch.bfloat16):
            assert is_single(plain, x)
        with using("eager"):
            assert not is_single(plain, x)
        with pytest.raises(OptionError, match="eval"):
            Recurrent(VariationalDropout(cells.LSTM(3, 4), inputs=0.5)).step(x)


def test_random_draws_are_left_alone() -> None:
    layer, x = Recurrent(Zoneout(cells.LSTM(3, 4), h=0.5)), torch.randn(1, 3)
    with torch.no_grad():
        torch.manual_seed(3)
        expected = layer(x[None])[0][0]
        torch.manual_seed(3)
        assert torch.equal(layer.step(x)[0], expected)


class Noisy(Wrapper):
    """Draws weights in evaluation too."""

    def draw(self, steps: int, batch: int, extras: Extras = NOTHING) -> Bindings:
        values = super().draw(steps, batch, extras)
        return Bindings({name: p + torch.randn_like(p) for name, p in values.fixed.items()})


def test_a_wrapper_that_always_draws() -> None:
    layer, x = Recurrent(Noisy(cells.GRU(3, 4))).eval(), torch.randn(1, 3)
    with torch.no_grad():
        assert not torch.equal(layer.step(x)[0], layer.step(x)[0])


def test_hooks_and_subclasses_see_the_step() -> None:
    class Doubled(Recurrent):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            y, after = super().forward(*args, **kwargs)
            return 2 * y, after

    layer, x, seen = Recurrent(cells.GRU(3, 4)), torch.randn(1, 3), []
    doubled = Doubled(layer.cell)
    with torch.no_grad():
        y = layer.step(x)[0]
        close(doubled.step(x)[0], 2 * y)
        layer.register_forward_hook(lambda *_: seen.append(1))
        close(layer.step(x)[0], y)
    assert seen == [1]


@pytest.mark.parametrize("bad", ["axes", "features", "dtype", "count", "nesting", "shape", "batch"])
def test_errors_stay(bad: str) -> None:
    layer, x, state = Recurrent(cells.LSTM(3, 4)), torch.randn(2, 3), tuple(torch.randn(2, 4) for _ in range(2))
    given: dict[str, tuple[Any, Any]] = {
        "axes": (x[None], state),
        "features": (torch.randn(2, 5), state),
        "dtype": (x.double(), state),
        "count": (x, state[:1]),
        "nesting": (x, (state, state)),
        "shape": (x, (state[0], torch.randn(2, 5))),
        "batch": (torch.randn(3, 3), state),
    }
    with torch.no_grad():
        layer.step(x, state)
        with pytest.raises(ShapeError):
            layer.step(*given[bad])


def test_two_threads_at_once() -> None:
    layer, x = Recurrent(cells.LSTM(32, 256)).eval(), torch.randn(60, 2, 32)
    with torch.no_grad():
        expected = stepped(layer, x)
    found: list[Any] = [None] * 4

    def work(n: int) -> None:
        with torch.no_grad():
            for _ in range(3):
                found[n] = stepped(layer, x)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got in found:
        close(got, expected, 60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_fork() -> None:
    layer, x = Recurrent(cells.LSTM(32, 512)).eval(), torch.randn(20, 1, 32)
    with torch.no_grad():
        expected = stepped(layer, x)
        child = os.fork()
        if child == 0:
            got = stepped(layer, x)
            os._exit(0 if torch.allclose(got[0], expected[0], atol=1e-5) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_threads_split_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    from everloop.compiler.targets.llvm import single

    monkeypatch.setattr(single, "AWAKE", float("inf"))
    monkeypatch.setattr(single, "CAUTION", 0)
    before = torch.get_num_threads()
    layer, x = Recurrent(cells.GRU(300, 301)).eval(), torch.randn(10, 1, 300)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            same_as_eager(layer, x)
    finally:
        torch.set_num_threads(before)


def test_a_second_thread_in_the_way_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from everloop.compiler.targets.llvm import single, threads

    if not threads.pool().parallel:
        pytest.skip(threads.pool().note)
    monkeypatch.setattr(single, "AWAKE", float("inf"))
    before = torch.get_num_threads()
    layer, x = Recurrent(cells.LSTM(512, 512)).eval(), torch.randn(1, 512)
    torch.set_num_threads(2)
    try:
        with torch.no_grad():
            layer.step(x)
            call = the_call(layer)
            call._alone = 0.0  # as if one thread took no time at all
            layer.step(x)
            assert call._alone_until > call._last
            monkeypatch.setattr(single, "CAUTION", 1e9)
            call._alone, call._alone_until = 0.0, 0.0
            layer.step(x)
            until = call._alone_until
            layer.step(x)
            assert call._alone_until == until, "this step had one thread"
    finally:
        torch.set_num_threads(before)


def test_the_step_assembles_for_other_processors() -> None:
    from everloop.compiler.targets.llvm import single
    from everloop.compiler.targets.llvm.layout import Layout
    from everloop.compiler.targets.llvm.machine import generate
    from everloop.compiler.targets.llvm.vector import named

    layer, x = Recurrent(cells.LSTM(3, 4)), torch.randn(1, 3)
    with torch.no_grad():
        layer.step(x)
    layout = the_call(layer)._kernel.layout
    code = generate(single.text(Layout(layout.loop, layout.form, named("neon"))), named("neon"))
    assert code[:4] == b"\x7fELF"


class Silent(Cell):
    """A step that the compiler cannot follow."""

    h = state(H)
    W = param(H, I)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.sort(x @ self.W.T + h, -1)[0]


class Bare(Cell):
    """A step without parameters."""

    h = state(H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return h + x.sum(-1, keepdim=True)


class Counted(Recurrent):
    """Overrides forward."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Recurrent(cells.LSTM(3, 4), layers=2), "one native call, .* for up to 256 rows"),
        (lambda: Recurrent(Zoneout(cells.GRU(3, 4), h=0.1)).eval(), "one native call"),
        (lambda: Recurrent(Zoneout(cells.GRU(3, 4), h=0.1)), "one step, .* because Zoneout draws"),
        (lambda: Recurrent(cells.GRU(3, 4), layers=2, dropout=0.1), "one step, .* because Stack draws"),
        (lambda: Recurrent(WeightDrop(cells.GRU(3, 4), 0.1)), r"not possible, .* call eval\(\)"),
        (lambda: Recurrent(cells.GRU(3, 4), bidirectional=True), "not possible, .* whole sequence"),
        (lambda: Recurrent(cells.GRU(3, 4), target="eager"), "one step, .* eager was requested"),
        (lambda: Recurrent(Silent(3, 4)), "one step, .* because .*'sort'.*test_single_step_calls.py"),
        (lambda: Recurrent(Bare(3, 4)), "one step, .* no parameters"),
        (lambda: Recurrent(cells.GRU(3, 4, device="meta")), "one step, .* plain CPU tensors"),
        (lambda: Counted(cells.GRU(3, 4)), "one step, .* Counted overrides forward"),
    ],
)
def test_a_layer_explains_how_it_steps(make: Any, says: str) -> None:
    layer = make()
    last = layer.explain().splitlines()[-1]
    assert re.match(f"step: (as a sequence of )?{says}", last), last
    if type(layer) is Recurrent:  # and it is true
        with torch.no_grad():
            assert is_single(layer, torch.randn(3)) == ("native" in says)


def test_what_explains_a_hook_is_true() -> None:
    layer, calls = Recurrent(cells.GRU(3, 4)), []
    assert "one native call" in layer.explain()
    layer.register_forward_hook(lambda *_: calls.append(1))
    assert layer.explain().endswith("because forward has hooks")
    with torch.no_grad():
        layer.step(torch.randn(3))
    assert calls == [1]
    with using("eager"):
        assert layer.explain().endswith("because the target eager was requested")


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32])
def test_a_reset_begins_anew(learned: bool, dtype: torch.dtype) -> None:
    layer = Recurrent(cells.LSTM(3, 4), layers=2, learned_state=learned)
    if layer.start is not None:
        for vector in layer.start:
            torch.nn.init.normal_(vector)
    x, reset = torch.randn(6, 5, 3), (torch.rand(6, 5) < 0.4).to(dtype)
    expected, last = layer(x, reset=reset)
    for with_gradient in (False, True):
        state = None
        with torch.set_grad_enabled(with_gradient):
            for t in range(6):
                y, state = layer.step(x[t], state, reset=reset[t])
                torch.testing.assert_close(y, expected[t])
            torch.testing.assert_close(state, last)
            one = layer.step(x[0, 0], tuple(tuple(s[0] for s in part) for part in last), reset=torch.tensor(True))[0]
            torch.testing.assert_close(one, layer.step(x[0, 0])[0])
    with pytest.raises(ShapeError, match=r"Recurrent.step: reset is torch.bool \[4\]; expected bool \[5\]"):
        layer.step(x[0], state, reset=torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize("rows", [9, 16, 31, 64, 256])
@pytest.mark.parametrize("name", ["lstm", "reset-before-gru", "sideways"])
def test_many_rows_are_one_call(rows: int, name: str) -> None:
    cell = Across(19, 33, dtype=F64) if name == "sideways" else cells.named(name)(19, 33, dtype=F64)
    same_as_eager(Recurrent(cell), torch.randn(2, rows, 19, dtype=F64))


class Across(Cell):
    """Matrices whose numbers along the result are adjacent."""

    h = state(H)
    W, R = param(I, H), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(x @ self.W + h @ self.R)
