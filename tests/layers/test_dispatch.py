"""The compiled operator against eager, in every way PyTorch can call it."""

from __future__ import annotations

import copy
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
import torch.utils.data
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from everloop import cells
from everloop.cell import Cell, H, I, param, state
from everloop.compiler.bindings import Bindings
from everloop.compiler.targets import llvm
from everloop.errors import OptionError, UnsupportedError
from everloop.layers import Recurrent
from everloop.layers.dispatch import why
from tests.layers.calls import run
from tests.zoo import NAMES, make, values

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
D = torch.float64
T, B, WIDE, N = 5, 3, 4, 5


# A normaliser is a sum of positive numbers, by which a step divides. Below 0 it may cancel, and then the gradients of
# eager itself change by 1e-8 when a state moves by one rounding.
POSITIVE = {"slstm": ("n",)}


class Setting:
    """A cell of the zoo in float64 with everything it can be given."""

    def __init__(self, name: str = "lstm", steps: int = T, batch: int = B, dtype: torch.dtype = D) -> None:
        torch.manual_seed(3)
        self.cell = make(name, WIDE, N).to(dtype)
        self.values = values(self.cell, steps, batch)
        self.x = torch.randn(steps, batch, WIDE, dtype=dtype, requires_grad=True)
        sizes = self.cell.state_sizes.items()
        drawn = [(s, torch.randn(batch, n, dtype=dtype)) for s, n in sizes]
        anew = [(s, torch.randn(n, dtype=dtype)) for s, n in sizes]
        self.state, self.restart = (
            tuple((t.abs() if s in POSITIVE.get(name, ()) else t).requires_grad_() for s, t in some)
            for some in (drawn, anew)
        )
        self.leaves = [self.x, *self.state, *self.cell.parameters()]

    def run(self, target: str | None, **options: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        return run(self.cell, self.values, self.x, self.state, target=target, **options)

    def slopes(self, result: tuple[Tensor, tuple[Tensor, ...]], *, more: tuple[Tensor, ...] = (), **how: Any) -> Any:
        loss = sum((t * (k + 1)).sin().sum() for k, t in enumerate((result[0], *result[1])))
        assert isinstance(loss, Tensor)
        found = torch.autograd.grad(loss, [*self.leaves, *more], allow_unused=True, **{"retain_graph": True} | how)
        return [torch.zeros_like(t) if g is None else g for t, g in zip([*self.leaves, *more], found, strict=True)]


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_compiles(name: str) -> None:
    s = Setting(name)
    assert why(s.cell, s.values, s.x) == ""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [(), ("lengths",), ("reset",), ("lengths", "reset", "reverse")], ids=str)
def test_values_and_gradients(name: str, options: tuple[str, ...]) -> None:
    s = Setting(name)
    given = {
        "lengths": torch.tensor([T, 0, 2]),
        "reset": torch.rand(T, B) < 0.4,
        "reverse": True,
    }
    given = {k: v for k, v in given.items() if k in options}
    expected, found = (s.run(target, restart=s.restart, **given) for target in ("eager", "llvm"))
    same(found, expected)
    same(s.slopes(found, more=s.restart), s.slopes(expected, more=s.restart))
    with torch.no_grad():
        same(s.run("llvm", restart=s.restart, **given), expected)


@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (1, 3), (6, 1), (0, 2), (2, 0)])
def test_small_and_empty(steps: int, batch: int) -> None:
    s = Setting("gru", steps, batch)
    expected, found = s.run("eager"), s.run(None)
    same(found, expected)
    same(s.slopes(found), s.slopes(expected))


def test_inference_mode_and_float32() -> None:
    s = Setting("peephole-lstm", dtype=torch.float32)
    with torch.inference_mode():
        found = s.run("llvm")
    torch.testing.assert_close(found, s.run("eager"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", ["batch-major", "strided features", "every other step", "expanded"])
def test_any_strides(layout: str) -> None:
    s = Setting()
    s.x = {
        "batch-major": torch.randn(B, T, WIDE, dtype=D).transpose(0, 1),
        "strided features": torch.randn(T, B, 2 * WIDE, dtype=D)[..., ::2],
        "every other step": torch.randn(2 * T, B, WIDE, dtype=D)[::2],
        "expanded": torch.randn(T, 1, WIDE, dtype=D).expand(T, B, WIDE),
    }[layout].requires_grad_()
    s.leaves[0] = s.x
    expected, found = s.run("eager"), s.run("llvm")
    same(found, expected)
    same(s.slopes(found), s.slopes(expected))
    assert found[0].transpose(0, 1).is_contiguous() if layout == "batch-major" else found[0].is_contiguous()


@pytest.mark.parametrize("name", NAMES)
def test_a_second_backward_is_the_first(name: str) -> None:
    s = Setting(name)
    result = s.run("llvm")
    first, second = s.slopes(result), s.slopes(result)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_gradients(name: str) -> None:
    s = Setting(name, steps=3, batch=2)
    found = []
    for target in ("eager", "llvm"):
        result = s.run(target, lengths=torch.tensor([3, 2]))
        size = sum((g**2).sum() for g in s.slopes(result, create_graph=True))
        assert isinstance(size, Tensor)
        grads = torch.autograd.grad(size, s.leaves, allow_unused=True, retain_graph=True)
        found.append([torch.zeros_like(t) if g is None else g for t, g in zip(s.leaves, grads, strict=True)])
    same(found[1], found[0])


def test_a_state_without_gradient_and_frozen_weights() -> None:
    s = Setting("lstm")
    s.cell.get_parameter("R").requires_grad_(False)
    s.state[1].requires_grad_(False)
    s.leaves = [t for t in s.leaves if t.requires_grad]
    expected, found = s.run("eager"), s.run("llvm")
    same(s.slopes(found), s.slopes(expected))


def layer() -> tuple[Recurrent, Tensor]:
    made = Recurrent(cells.PeepholeLSTM(WIDE, N, dtype=D), layers=2, bidirectional=True)
    return made, torch.randn(T, B, WIDE, dtype=D, requires_grad=True)


def grads_of(y: Tensor, leaves: Iterable[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(y.sin().sum(), list(leaves)))


def test_checkpoint() -> None:
    made, x = layer()
    leaves = [x, *made.parameters()]
    expected = grads_of(made(x)[0], leaves)
    for reentrant in (False,):
        same(grads_of(checkpoint(lambda x: made(x)[0], x, use_reentrant=reentrant), leaves), expected)


def test_copies_and_functional_call() -> None:
    made, x = layer()
    expected = made(x)[0]
    same(copy.deepcopy(made)(x)[0], expected)
    others = {k: torch.randn_like(v) for k, v in made.named_parameters()}
    changed = torch.func.functional_call(made, others, (x,))[0]
    made.load_state_dict(others)
    same(changed, made(x)[0])
    assert not torch.allclose(changed, expected)


@pytest.mark.filterwarnings("ignore")
def test_torch_compile_takes_it_without_a_break() -> None:
    made, x = layer()
    leaves = [x, *made.parameters()]
    expected = made(x)[0]
    found = torch.compile(made, backend="aot_eager", fullgraph=True)(x)[0]
    same(found, expected)
    same(grads_of(found, leaves), grads_of(expected, leaves))


def test_two_threads_at_once() -> None:
    made, x = layer()
    leaves = list(made.parameters())
    expected = grads_of(made(x)[0], leaves)
    results: list[Any] = []

    def work() -> None:
        results.extend(grads_of(made(x.detach())[0], leaves) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 40
    for found in results:
        same(found, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_after_fork() -> None:
    made, x = layer()
    expected = made(x)[0]
    child = os.fork()
    if not child:
        os._exit(0 if torch.equal(made(x)[0], expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def train_in_a_child(results: Any) -> None:
    """Sizes that PyTorch gives to its threads: its own products, states and sums of more than 32768 numbers."""
    made = Recurrent(cells.LSTM(8, 128))
    y, _ = made(torch.ones(3, 512, 8))
    y.square().sum().backward()
    results.put((torch.get_num_threads(), torch.isfinite(made.cell.R.grad).all().item()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_training_in_a_child_of_a_process_that_used_threads() -> None:
    torch.set_num_threads(2)
    try:
        torch.ones(512, 512) @ torch.ones(512, 512) + torch.ones(512, 512)
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        child = context.Process(target=train_in_a_child, args=(results,))
        child.start()
        try:
            assert results.get(timeout=60) == (1, True)
        finally:
            child.kill()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def only_torch(results: Any) -> None:
    results.put(torch.get_num_threads())


class Rows(torch.utils.data.Dataset[Tensor]):
    """What a layer makes of each item, large enough for the threads that a worker does not have."""

    def __init__(self, made: nn.Module) -> None:
        self.made = made

    def __len__(self) -> int:
        return 2

    def __getitem__(self, k: int) -> Tensor:
        with torch.no_grad():
            found: Tensor = self.made(torch.full((3, 512, 8), float(k)))[0]
        return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("is_first", [False, True])
def test_children_take_one_thread_only_where_they_run_a_layer(is_first: bool, two_threads: None) -> None:
    made = Recurrent(cells.LSTM(8, 128))
    torch.ones(512, 512) @ torch.ones(512, 512) + torch.ones(512, 512)
    if is_first:
        made(torch.ones(3, 512, 8))
    context = multiprocessing.get_context("fork")
    for work, expected in ((only_torch, 2), (train_in_a_child, (1, True))):
        results = context.Queue()
        child = context.Process(target=work, args=(results,))
        child.start()
        assert results.get(timeout=60) == expected
        child.join()
    assert torch.get_num_threads() == 2
    loaded = list(torch.utils.data.DataLoader(Rows(made), num_workers=1, multiprocessing_context="fork", timeout=60))
    torch.testing.assert_close(torch.cat(loaded), torch.stack([Rows(made)[k] for k in range(2)]))


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


class Odd(Cell):
    """A step outside the table."""

    h = state(H)
    W = param(H, I)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return h.sort(-1).values + x @ self.W.T


class Tunable(Cell):
    """A step with an attribute that changes, a buffer and a plain tensor."""

    alpha: float = 0.5

    h = state(H)
    W = param(H, I)
    mask: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("mask", torch.ones(self.hidden_size, dtype=self.W.dtype))
        self.inner = nn.Linear(self.hidden_size, self.hidden_size, dtype=self.W.dtype)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.alpha * h * self.mask + self.inner(x @ self.W.T))


def test_what_cannot_compile_says_the_operation_and_its_line() -> None:
    cell = Odd(WIDE, N, dtype=D)
    x, start = torch.randn(T, B, WIDE, dtype=D), cell.zeros(B, torch.zeros((), dtype=D))
    values = Bindings(dict(cell.named_parameters()))
    reason = why(cell, values, x)
    assert "'sort'" in reason
    assert "test_dispatch.py:" in reason
    with pytest.warns(UserWarning, match=r"Odd runs on eager, because .*'sort'.*test_dispatch\.py:"):
        found = run(cell, values, x, start)
    same(found, run(cell, values, x, start, target="eager"))
    same(found, run(cell, values, x, start))  # it is said once
    with pytest.raises(UnsupportedError, match="sort"):
        run(cell, values, x, start, target="llvm")
    with pytest.raises(OptionError, match="llvm"):
        run(cell, values, x, start, target="lvm")


def test_attributes_and_buffers_are_seen_when_they_change() -> None:
    cell = Tunable(WIDE, N, dtype=D)
    made = Recurrent(cell)
    x = torch.randn(T, B, WIDE, dtype=D)
    before = made(x)[0]
    for change in (lambda: setattr(cell, "alpha", 0.9), lambda: cell.mask.mul_(0.5)):
        change()
        assert why(cell, Bindings(dict(cell.named_parameters())), x) == ""
        after = made(x)[0]
        made.target = "eager"
        same(after, made(x)[0])
        made.target = None
        assert not torch.allclose(after, before)
        before = after
