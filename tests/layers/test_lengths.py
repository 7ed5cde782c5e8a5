"""Sequences of different lengths: compact rows and padded rows against eager, and the rule that chooses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop import cells
from everloop.compiler import compact
from everloop.compiler.compact import Compact
from everloop.compiler.targets import llvm
from everloop.compiler.time_axis import TimeAxis
from everloop.layers import Recurrent
from tests.layers.calls import run
from tests.layers.test_dispatch import Setting, same
from tests.zoo import NAMES, make

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
D = torch.float64


def choose(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Let the rule always or never gather."""
    monkeypatch.setattr(compact, "MAX_VALID", 1.0)
    monkeypatch.setattr(compact, "MIN_PADDING", 0 if way == "compact" else 1 << 60)


@pytest.fixture(params=["compact", "padded"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    choose(monkeypatch, request.param)
    return str(request.param)


@pytest.fixture
def gathers(monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, "compact")


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def compare(s: Setting, **options: Any) -> None:
    """Hold outputs, final states and every gradient against eager."""
    expected, found = (s.run(target, restart=s.restart, **options) for target in ("eager", "llvm"))
    same(found, expected)
    same(s.slopes(found, more=s.restart), s.slopes(expected, more=s.restart))
    with torch.no_grad():
        same(s.run("llvm", restart=s.restart, **options), expected)


def swap(s: Setting) -> None:
    """Lay x out batch-major."""
    s.x = s.x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    s.leaves[0] = s.x


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [(), ("reverse", "batch-major"), ("reverse", "reset"), ("reset", "batch-major")])
@pytest.mark.usefixtures("gathers")
def test_every_cell_on_compact_rows(name: str, options: tuple[str, ...]) -> None:
    s = Setting(name, 6, 4)
    if "batch-major" in options:
        swap(s)
    given = {"reset": torch.rand(6, 4) < 0.4, "reverse": True}
    compare(s, lengths=torch.tensor([2, 0, 6, 5]), **{k: v for k, v in given.items() if k in options})


@pytest.mark.parametrize("lengths", [[0, 0, 0], [1, 1, 1], [0, 7, 0], [3, 7, 3], [7, 7, 7], [6, 0, 1]], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths(way: str, lengths: list[int], reverse: bool) -> None:
    for name in ("gru", "counter"):
        compare(Setting(name, 7, 3), lengths=torch.tensor(lengths), reverse=reverse)


@pytest.mark.parametrize("length", [0, 1, 4])
def test_one_sequence(way: str, length: int) -> None:
    compare(Setting("peephole-lstm", 5, 1), lengths=torch.tensor([length]))


@pytest.mark.parametrize("layout", ["strided features", "every other step", "expanded", "every other sequence"])
def test_any_strides(way: str, layout: str) -> None:
    s = Setting("lstm", 5, 3)
    s.x = {
        "strided features": torch.randn(5, 3, 8, dtype=D)[..., ::2],
        "every other step": torch.randn(10, 3, 4, dtype=D)[::2],
        "expanded": torch.randn(5, 1, 4, dtype=D).expand(5, 3, 4),
        "every other sequence": torch.randn(6, 5, 4, dtype=D)[::2].transpose(0, 1),
    }[layout].requires_grad_()
    s.leaves[0] = s.x
    compare(s, lengths=torch.tensor([2, 5, 4]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("gathers")
def test_gradients_of_gradients(name: str) -> None:
    s = Setting(name, steps=3, batch=3)
    found = []
    for target in ("eager", "llvm"):
        result = s.run(target, lengths=torch.tensor([1, 3, 2]), reverse=True)
        size = sum((g**2).sum() for g in s.slopes(result, create_graph=True))
        assert isinstance(size, Tensor)
        grads = torch.autograd.grad(size, s.leaves, allow_unused=True, retain_graph=True)
        found.append([torch.zeros_like(t) if g is None else g for t, g in zip(s.leaves, grads, strict=True)])
    same(found[1], found[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("gathers")
def test_torch_compile() -> None:
    s = Setting("lstm", 6, 3)
    swap(s)
    lengths = torch.tensor([2, 6, 1])

    def call(x: Tensor, state: Any, lengths: Tensor) -> Any:
        return run(s.cell, s.values, x, state, lengths=lengths, reverse=True)

    expected = s.run("eager", lengths=lengths, reverse=True)
    found = torch.compile(call, backend="aot_eager", fullgraph=True)(s.x, s.state, lengths)
    same(found, expected)
    same(s.slopes(found), s.slopes(expected))


@pytest.mark.parametrize(("batch", "hidden"), [(37, 24), (5, 128)], ids=["threads split rows", "threads split columns"])
@pytest.mark.parametrize("reverse", [False, True])
def test_threads(way: str, threads: int, batch: int, hidden: int, reverse: bool) -> None:
    torch.manual_seed(1)
    cell, steps = make("lstm", 6, hidden).to(D), 30
    values = Setting("lstm").values.__class__(dict(cell.named_parameters()))
    x = torch.randn(steps, batch, 6, dtype=D, requires_grad=True)
    start = tuple(torch.randn(batch, hidden, dtype=D) for _ in range(2))
    options: dict[str, Any] = {"lengths": torch.randint(0, steps + 1, (batch,)), "reverse": reverse}
    options["reset"] = torch.rand(steps, batch) < 0.05
    found = []
    for target in ("eager", "llvm"):
        y, final = run(cell, values, x, start, target=target, **options)
        loss = y.sin().sum() + sum(f.cos().sum() for f in final)
        found.append([y, *final, *torch.autograd.grad(loss, [x, *cell.parameters()])])
    same(found[1], found[0])


@pytest.mark.parametrize("name", ["lstm", "reset-before-gru", "counter"])
@pytest.mark.parametrize("batch_major", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [40, 0, 12, 39]], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5])
def test_resets_few_and_many(
    monkeypatch: pytest.MonkeyPatch, name: str, batch_major: bool, reverse: bool, lengths: Any, share: float
) -> None:
    choose(monkeypatch, "padded")
    s = Setting(name, 40, 4)
    if batch_major:
        swap(s)
    reset = torch.rand(40, 4) < share
    compare(s, lengths=lengths and torch.tensor(lengths), reset=reset if share else None, reverse=reverse)


@pytest.mark.parametrize("batch_major", [False, True])
def test_what_a_reset_cuts_off_may_be_infinite(batch_major: bool) -> None:
    s = Setting("elman-relu", 30, 2)
    with torch.no_grad():
        s.x[9, 0] = 1.7e308 * s.cell.get_parameter("W")[0].sign()
        s.cell.get_parameter("W")[0] = 1.0
        s.x[9, 0] = 1e308
    if batch_major:
        swap(s)
    reset = torch.zeros(30, 2, dtype=torch.bool)
    reset[10, 0] = True
    results = [s.run(target, reset=reset)[0] for target in ("eager", "llvm")]
    assert results[0][9, 0].isinf().any()
    keep = torch.ones(30, 2, 1, dtype=torch.bool)
    keep[9, 0] = False
    found = [torch.autograd.grad(torch.where(keep, y, 0).sum(), list(s.cell.parameters())) for y in results]
    assert all(g.isfinite().all() for g in found[0])
    same(found[1], found[0])


def test_the_rule() -> None:
    x = torch.randn(100, 16, 128)

    def rows(lengths: Tensor, given: Tensor = x) -> int | None:
        found = TimeAxis.of(given, lengths).for_kernel(given).compact
        return None if found is None else len(found)

    full, half = torch.full((16,), 100), torch.full((16,), 50)
    assert TimeAxis.of(x, full, reverse=True).for_kernel(x).lengths is None
    assert (axis := TimeAxis.of(x, half)).for_kernel(x).lengths is axis.lengths
    assert rows(half) == 800
    assert rows(torch.full((16,), 90)) is None
    assert rows(torch.full((16,), 5), x[:10]) is None


@pytest.mark.parametrize("batch_major", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_order_of_compact_rows(batch_major: bool, reverse: bool) -> None:
    lengths, steps = [2, 0, 4, 3], 5
    found = Compact(torch.tensor(lengths), steps, batch_major=batch_major, reverse=reverse)
    expected: list[tuple[int, int]] = []
    before = []
    for s in range(steps):
        for b in (2, 3, 0):  # by falling length
            if s < lengths[b]:
                if s:
                    before.append(expected.index((s - 1, b)))
                expected.append((s, b))
    padded = torch.arange(steps)[:, None, None] * 10.0 + torch.arange(4)[:, None]
    times = [(lengths[b] - 1 - s if reverse else s) * 10.0 + b for s, b in expected]
    assert found.gather(padded)[:, 0].tolist() == times
    assert found.before()[3:].tolist() == before
    assert found.starts.tolist() == [0, 3, 6, 8, 9]
    again = found.pad(found.gather(padded + 1))
    assert again.sum() == found.gather(padded + 1).sum()
    assert found.gather(again).equal(found.gather(padded + 1))


def test_memory_holds_no_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Recurrent(cells.LSTM(64, 64))
    x, lengths = torch.randn(60, 32, 64, requires_grad=True), torch.full((32,), 20)

    def saved() -> int:
        sizes: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y, _ = layer(x, lengths=lengths)
        parameters = {p.data_ptr() for p in layer.parameters()}
        visible = {x.data_ptr(), y.data_ptr(), *parameters}
        return sum(n for place, n in sizes.items() if place not in visible)

    compact_bytes = saved()
    choose(monkeypatch, "padded")
    assert compact_bytes < 0.5 * saved()


def test_an_empty_batch_has_an_empty_list_of_lengths() -> None:
    y, (h,) = Recurrent(cells.GRU(3, 4))(torch.randn(5, 0, 3), lengths=[])
    assert (y.shape, h.shape) == ((5, 0, 4), (0, 4))
