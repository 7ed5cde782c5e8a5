"""Single steps: the same as the whole sequence, and nothing remembered but what stays true."""

from __future__ import annotations

import copy
import gc
import io
import os
import pickle
import re
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everloop import cells
from everloop.cell import Cell, H, I, param, state
from everloop.compiler.values import Values
from everloop.errors import OptionError, ShapeError
from everloop.layers import Bidirectional, Recurrent, Stack, VariationalDropout, WeightDrop, Zoneout
from everloop.layers import stream as module
from everloop.layers.arguments import leaves
from everloop.layers.operator import using
from everloop.layers.regularise import Wrapper
from tests import zoo

pytest.importorskip("llvmlite")
F64 = torch.float64


def is_single(layer: Recurrent, x: Tensor, state: Any = None) -> bool:
    """Whether a step of the layer is one call of one kernel."""
    return layer._stream.step(layer.cell, x, state, layer.start, layer.target) is not None


def close(got: Any, expected: Any, steps: int = 1) -> None:
    for a, b in zip(leaves(got), leaves(expected), strict=True):
        torch.testing.assert_close(
            a, b, rtol=steps * 20 * torch.finfo(a.dtype).eps, atol=steps * 20 * torch.finfo(a.dtype).eps
        )


def stepped(layer: Recurrent, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Return what single steps over x [T, ...] give."""
    outputs = []
    for row in x:
        y, state = layer.step(row, state)
        outputs.append(y)
    return torch.stack(outputs), state


def same_as_eager(layer: Recurrent, x: Tensor, state: Any = None) -> None:
    """Check one row of steps against plain PyTorch."""
    with torch.no_grad():
        assert is_single(layer, x[0])
        got = stepped(layer, x, state)
        with using("eager"):
            batch_first = layer.batch_first and x.dim() == 3
            y, after = layer(x.transpose(0, 1) if batch_first else x, state)
        close(got, (y.transpose(0, 1) if batch_first else y, after), len(x))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_cell_steps_as_it_runs(name: str, dtype: torch.dtype) -> None:
    for hidden, width in ((5, 3), (17, 33)):
        layer = Recurrent(zoo.make(name, width, hidden, dtype=dtype)).eval()
        for shape in ((4, 1, width), (4, 3, width), (4, width)):
            same_as_eager(layer, torch.randn(shape, dtype=dtype))


@pytest.mark.parametrize("isa", ["avx512", "avx2", "sse2", "neon"])
def test_every_instruction_set(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from everloop.compiler.targets.llvm import single
    from everloop.compiler.targets.llvm.machine import runs

    if not runs(isa):
        pytest.skip(f"this processor has no {isa}")
    usual = single.compile
    monkeypatch.setattr(single, "compile", lambda loop, dtype: usual(loop, dtype, isa))
    monkeypatch.setattr(module, "_steps", {})
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


def changes() -> dict[str, Any]:
    def optimiser(layer: Recurrent) -> None:
        torch.optim.SGD(layer.parameters(), 0.5).zero_grad()
        for p in layer.parameters():
            p.grad = torch.randn_like(p)
        torch.optim.SGD(layer.parameters(), 0.5).step()

    def load(layer: Recurrent) -> None:
        layer.load_state_dict(Recurrent(cells.GRU(3, 4, dtype=F64)).state_dict())

    def assign(layer: Recurrent) -> None:
        layer.load_state_dict(Recurrent(cells.GRU(3, 4, dtype=F64)).state_dict(), assign=True)

    def in_place(layer: Recurrent) -> None:
        with torch.no_grad():
            layer.cell.R.mul_(-2)

    def through_data(layer: Recurrent) -> None:
        layer.cell.R.data.mul_(-2)  # PyTorch's version counter does not see this

    def through_numpy(layer: Recurrent) -> None:
        layer.cell.d.detach().numpy()[:] = 3

    def data(layer: Recurrent) -> None:
        layer.cell.W.data = torch.randn_like(layer.cell.W)

    def turned(layer: Recurrent) -> None:
        layer.cell.W.data = torch.randn(3, 12, dtype=F64).T

    def replaced(layer: Recurrent) -> None:
        layer.cell.b = nn.Parameter(torch.randn(12, dtype=F64))

    def the_cell(layer: Recurrent) -> None:
        layer.cell = cells.GRU(3, 4, dtype=F64)

    def shared(layer: Recurrent) -> None:
        layer.share_memory()
        in_place(layer)

    found = (optimiser, load, assign, in_place, through_data, through_numpy, data, turned, replaced, the_cell, shared)
    return {change.__name__: change for change in found}


@pytest.mark.parametrize("change", changes().values(), ids=changes())
def test_changed_weights_are_noticed(change: Any) -> None:
    layer, x = Recurrent(cells.GRU(3, 4, dtype=F64)), torch.randn(3, 2, 3, dtype=F64)
    same_as_eager(layer, x)
    with torch.no_grad():
        before = stepped(layer, x)[0]
    change(layer)
    with torch.no_grad():
        assert not torch.allclose(before, stepped(layer, x)[0])
    same_as_eager(layer, x)
    change(layer)
    same_as_eager(layer, x)


def test_changed_options_are_noticed() -> None:
    layer, x = Recurrent(Zoneout(cells.LayerNormLSTM(3, 4, dtype=F64), h=0.5)).eval(), torch.randn(3, 2, 3, dtype=F64)
    same_as_eager(layer, x)
    layer.cell.rates["h"] = 0.1
    same_as_eager(layer, x)
    layer.cell.cell.eps = 0.5
    same_as_eager(layer, x)


def test_conversions() -> None:
    layer = Recurrent(cells.LSTM(3, 4))
    same_as_eager(layer, torch.randn(3, 2, 3))
    same_as_eager(layer.double(), torch.randn(3, 2, 3, dtype=F64))
    layer.cell.float()
    same_as_eager(layer, torch.randn(3, 2, 3))
    with pytest.raises(ShapeError, match="float64"):
        layer.step(torch.randn(2, 3, dtype=F64))


def test_a_turned_square_in_the_same_memory() -> None:
    layer, x = Recurrent(cells.Elman(4, 4, dtype=F64)), torch.randn(3, 1, 4, dtype=F64)
    same_as_eager(layer, x)
    layer.cell.R.data = layer.cell.R.data.T
    same_as_eager(layer, x)


def test_tied_weights_of_two_layers_alike() -> None:
    for _ in range(2):  # the second has the program of the first, but not its weights
        below, above = cells.Elman(4, 4, dtype=F64), cells.Elman(4, 4, dtype=F64)
        above.R = below.R
        same_as_eager(Recurrent(Stack([below, above, below])), torch.randn(3, 2, 4, dtype=F64))


def test_parametrized_weights() -> None:
    layer, x = Recurrent(cells.Elman(3, 4, dtype=F64)), torch.randn(3, 2, 3, dtype=F64)
    nn.utils.parametrizations.weight_norm(layer.cell, "R")
    for _ in range(2):
        with torch.no_grad():
            got = stepped(layer, x)
            with using("eager"):
                close(got, layer(x), 3)
            layer.cell.parametrizations.R.original0.mul_(0.3)


def test_nothing_is_shared_between_steps() -> None:
    layer, x = Recurrent(cells.LSTM(3, 4)), torch.randn(1, 3)
    with torch.no_grad():
        y, state = layer.step(x)
        kept = copy.deepcopy((y, state))
        again, _ = layer.step(x, state)
        for _ in range(5):
            layer.step(torch.randn(1, 3), state)
        close((y, state), kept)
        y.fill_(7)
        assert torch.equal(state[0], kept[1][0]), "the output and the state have memory of their own"
        state[1].fill_(9)
        close(layer.step(x, kept[1])[0], again)
        close(layer.step(x)[0], kept[0])


def test_copies_stand_alone() -> None:
    layer, x = Recurrent(cells.GRU(3, 4, dtype=F64), layers=2), torch.randn(3, 2, 3, dtype=F64)
    same_as_eager(layer, x)
    twin = copy.deepcopy(layer)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    for other in (twin, pickle.loads(pickle.dumps(layer)), torch.load(buffer, weights_only=False), copy.copy(layer)):
        assert other.state_dict().keys() == layer.state_dict().keys()
        same_as_eager(other, x)
    with torch.no_grad():
        twin.cell.members[0].R.mul_(-2)
        assert not torch.allclose(stepped(twin, x)[0], stepped(layer, x)[0])
    same_as_eager(layer, x)
    assert len(pickle.dumps(layer)) == len(pickle.dumps(copy.deepcopy(layer))), "nothing of a step is saved"


def test_a_deleted_layer_is_gone() -> None:
    layer = Recurrent(cells.LSTM(3, 4)).eval()
    with torch.no_grad():
        layer.step(torch.randn(1, 3))
    gone, weights = weakref.ref(layer.cell), weakref.ref(layer.cell.R)
    del layer
    gc.collect()
    assert gone() is None
    assert weights() is None


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
    assert not is_single(layer, x[0].requires_grad_())
    assert not is_single(layer, torch.randn(2, 3, dtype=F64), tuple(s.requires_grad_() for s in expected[1]))


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
        assert not is_single(Recurrent(cells.GRU(3, 4)).bfloat16(), x.bfloat16())
        assert not is_single(Recurrent(cells.GRU(3, 4)), nn.Parameter(x))
        plain = Recurrent(cells.GRU(3, 4))
        with torch.autocast("cpu", torch.bfloat16):
            assert not is_single(plain, x)
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

    def draw(self, steps: int, batch: int) -> Values:
        values = super().draw(steps, batch)
        return Values({name: p + torch.randn_like(p) for name, p in values.fixed.items()})


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


def the_call(layer: Recurrent) -> Any:
    """Return the one native call that the layer's steps have made so far."""
    ready: Any = layer._stream._ready
    (form,) = ready._forms.values()
    return form.call


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
    """A forward of its own."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Recurrent(cells.LSTM(3, 4), layers=2), "one native call, .* for up to 8 rows"),
        (lambda: Recurrent(Zoneout(cells.GRU(3, 4), h=0.1)).eval(), "one native call"),
        (lambda: Recurrent(Zoneout(cells.GRU(3, 4), h=0.1)), "one step, .* because Zoneout draws"),
        (lambda: Recurrent(cells.GRU(3, 4), layers=2, dropout=0.1), "one step, .* because Stack draws"),
        (lambda: Recurrent(WeightDrop(cells.GRU(3, 4), 0.1)), r"not possible, .* call eval\(\)"),
        (lambda: Recurrent(cells.GRU(3, 4), bidirectional=True), "not possible, .* whole sequence"),
        (lambda: Recurrent(cells.GRU(3, 4), target="eager"), "one step, .* eager was asked for"),
        (lambda: Recurrent(Silent(3, 4)), "one step, .* because .*'sort'.*test_stream.py"),
        (lambda: Recurrent(Bare(3, 4)), "one step, .* no parameters"),
        (lambda: Recurrent(cells.GRU(3, 4, device="meta")), "one step, .* plain tensors"),
        (lambda: Counted(cells.GRU(3, 4)), "one step, .* Counted has a forward of its own"),
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
        assert layer.explain().endswith("because the target eager was asked for")
