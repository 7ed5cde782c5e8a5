"""What padding holds never matters: not to a bit of values and gradients, on any way through a layer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn, tanh
from torch.nn.utils.rnn import pack_padded_sequence

import everloop
from everloop.cell import Cell, H, I, param, state
from everloop.compiler.bindings import Bindings
from everloop.compiler.targets import llvm
from everloop.layers import Bidirectional, Recurrent, Stack
from tests.layers.calls import run
from tests.layers.test_lengths import choose

D = torch.float64
STEPS, BATCH, WIDE, N = 5, 4, 3, 6
LENGTHS = [torch.tensor(lengths) for lengths in ([3, 5, 0, 1], [2, 4, 4, 1], [0, 0, 0, 0], [0, 0, 3, 0])]
CONTENTS = [0.0, math.inf, math.nan]
WAYS = ["eager", "padded", "compact"] if llvm.is_available() else ["eager"]


class Normed(Cell):
    """Its input is divided by its length: 0 / 0 where padding is zero."""

    h = state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return tanh(x / x.norm(dim=-1, keepdim=True) @ self.W.T + h @ self.R.T)


class Logarithm(Cell):
    """A logarithm before a product, and one of the product."""

    h = state(H)
    W, V, R = param(H, I), param(H, H), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = x.abs().log() @ self.W.T
        return tanh((1 / u) @ self.V.T + h @ self.R.T)


class Late(Cell):
    """Singular behind the loop, for every step and for the last one, where a state is zero."""

    y, c, z = state(2), state(H), state(H)
    W, R, V, Z = param(H, I), param(H, H), param(2, H), param(H, H)

    def step(self, x: Tensor, y: Tensor, c: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c = tanh(x @ self.W.T + c @ self.R.T)
        u = c / c.norm(dim=-1, keepdim=True)
        return u @ self.V.T, c, (c / x.norm(dim=-1, keepdim=True)).abs().log() @ self.Z.T


class Distance(Cell):
    """Singular where the state is the input, and where the state is zero."""

    h = state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = x @ self.W.T
        return tanh(h / h.norm(dim=-1, keepdim=True) + (1 / (u - h)) @ self.R.T)


class Plain(Cell):
    """The input itself is the factor of a product in the loop, and a row that a state meets."""

    h, n = state(H), state(1)
    W, R = param(H, I + H), param(H, H)

    def step(self, x: Tensor, h: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        v = torch.cat([x * torch.sigmoid(n), h], -1) @ self.W.T
        return tanh(v + h @ self.R.T), n + x.sum(-1, keepdim=True)


class Given(Cell):
    """Reads a row for each sequence and a row for each step, and is singular in both."""

    context: Tensor
    mask: Tensor
    h = state(H)
    W, R, C, S = param(H, I), param(H, H), param(H, 2), param(H, 2)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        context, mask = self.context, self.mask
        u = (context / context.norm(dim=-1, keepdim=True)) @ self.C.T + mask.log() @ self.S.T
        return tanh(x @ self.W.T + u + h @ self.R.T) * mask[..., :1]


CELLS: dict[str, type[Cell]] = {c.__name__.lower(): c for c in (Normed, Logarithm, Late, Distance, Plain)}


@pytest.fixture(params=WAYS)
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The target of each way to run; "llvm" lays its rows out in both manners."""
    if request.param == "eager":
        return "eager"
    choose(monkeypatch, request.param)
    return "llvm"


def made(name: str) -> Cell:
    torch.manual_seed(3)
    return CELLS[name](WIDE, N, dtype=D)


def ended(lengths: Tensor) -> Tensor:
    return torch.arange(STEPS)[:, None] >= lengths


def padded(x: Tensor, lengths: Tensor, content: float) -> Tensor:
    """Return x with `content` where a sequence has ended."""
    return torch.where(ended(lengths)[..., None], content, x.detach()).requires_grad_()


def begin(cell: Cell, lengths: Tensor) -> tuple[Tensor, ...]:
    """Return states, which are zero for the sequences without a step."""
    torch.manual_seed(5)
    rows = (torch.randn(BATCH, n, dtype=D) * (lengths > 0)[:, None] for n in cell.state_sizes.values())
    return tuple(r.requires_grad_() for r in rows)


def slopes(results: list[Tensor], leaves: list[Tensor], **options: Any) -> list[Tensor]:
    torch.manual_seed(7)
    loss = torch.stack([(r * torch.randn(r.shape, dtype=r.dtype)).sum() for r in results]).sum()
    return list(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True, **options))


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def one_by_one(cell: Cell, x: Tensor, start: tuple[Tensor, ...], lengths: Tensor, reverse: bool) -> list[Tensor]:
    """Return the output and the final states, made by calls of the step, one sequence after the other."""
    columns, finals = [], []
    for b, length in enumerate(lengths.tolist()):
        states, rows = tuple(s[b : b + 1] for s in start), []
        for t in reversed(range(length)) if reverse else range(length):
            states = as_tuple(cell.step(x[t, b : b + 1], *states))
            rows.append(states[0])
        rest = x.new_zeros(STEPS - length, 1, cell.output_size)
        columns.append(torch.cat([*([torch.stack(rows[::-1] if reverse else rows)] if rows else []), rest]))
        finals.append(states)
    return [torch.cat(columns, 1), *(torch.cat(parts) for parts in zip(*finals, strict=True))]


def as_tuple(states: Any) -> tuple[Tensor, ...]:
    return states if isinstance(states, tuple) else (states,)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_whatever_padding_holds(target: Any, name: str, lengths: Tensor, reverse: bool) -> None:
    cell, start = made(name), begin(made(name), lengths)
    x = torch.randn(STEPS, BATCH, WIDE, dtype=D)
    leaves = [*start, *cell.parameters()]
    whole = padded(x, lengths, 1.0)
    alone = one_by_one(cell, whole, start, lengths, reverse)
    expected = [*alone, *slopes(alone, [whole, *leaves])]
    assert all(torch.isfinite(t).all() for t in expected)
    before: list[Tensor] = []
    for content in CONTENTS:
        given = padded(x, lengths, content)
        values = Bindings(dict(cell.named_parameters()))
        y, final = run(cell, values, given, start, lengths=lengths, reverse=reverse, target=target)
        found = [y, *final, *slopes([y, *final], [given, *leaves])]
        assert_close(found, expected)
        assert_same(found, before or found)
        assert not found[1 + len(final)][ended(lengths)].any()
        with torch.no_grad():
            y, final = run(cell, values, given, start, lengths=lengths, reverse=reverse, target=target)
        assert_close([y, *final], alone)
        before = found


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_rows_and_steps_that_only_padding_has(target: Any, lengths: Tensor) -> None:
    torch.manual_seed(3)
    cell, start = Given(WIDE, N, dtype=D), begin(made("normed"), lengths)
    x, context = torch.randn(STEPS, BATCH, WIDE, dtype=D), torch.randn(BATCH, 2, dtype=D)
    mask = torch.rand(STEPS, BATCH, 2, dtype=D) + 0.1
    before: list[Tensor] = []
    for content in CONTENTS:
        rows = torch.where((lengths > 0)[:, None], context, content).requires_grad_()
        given, steps = padded(x, lengths, content), padded(mask, lengths, content)
        values = Bindings(dict(cell.named_parameters()), {"context": rows}, {"mask": steps})
        y, final = run(cell, values, given, start, lengths=lengths, target=target)
        grads = slopes([y, *final], [*start, *cell.parameters(), given, steps, rows])
        assert all(torch.isfinite(g).all() for g in grads)
        assert not grads[-3][ended(lengths)].any()
        assert not grads[-2][ended(lengths)].any()
        assert not grads[-1][lengths == 0].any()
        found = [y, *final, *grads]
        assert_same(found, before or found)
        before = found


@pytest.mark.parametrize("lengths", LENGTHS[::2], ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_gradients_of_gradients(target: Any, name: str, lengths: Tensor) -> None:
    cell, start = made(name), begin(made(name), lengths)
    x = torch.randn(STEPS, BATCH, WIDE, dtype=D)

    def twice(results: list[Tensor], given: Tensor) -> list[Tensor]:
        leaves = [given, *start, *cell.parameters()]
        first = slopes(results, leaves, create_graph=True)
        return slopes([g.square() for g in first], leaves)

    whole = padded(x, lengths, 1.0)
    results = one_by_one(cell, whole, start, lengths, False)
    expected = twice(results, whole)
    before: list[Tensor] = []
    for content in CONTENTS:
        given = padded(x, lengths, content)
        y, final = run(cell, Bindings(dict(cell.named_parameters())), given, start, lengths=lengths, target=target)
        found = twice([y, *final], given)
        assert_close(found, expected)
        assert_same(found, before or found)
        before = found


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_resets_in_padding_do_nothing(target: Any, lengths: Tensor) -> None:
    x, inside = torch.randn(STEPS, BATCH, WIDE, dtype=D), torch.rand(STEPS, BATCH) < 0.3
    cell, start = made("plain"), begin(made("plain"), lengths)
    restart = [torch.randn(n, dtype=D) for n in cell.state_sizes.values()]
    for reverse in (False, True):
        before: list[Tensor] = []
        for is_reset in (False, True):
            reset = torch.where(ended(lengths), is_reset, inside)
            values = Bindings(dict(cell.named_parameters()))
            y, final = run(
                cell, values, x, start, restart=restart, lengths=lengths, reset=reset, reverse=reverse, target=target
            )
            found = [y, *final, *slopes([y, *final], [*start, *cell.parameters()])]
            assert_same(found, before or found)
            before = found


LAYERS: dict[str, Any] = {
    "stack": lambda **k: Recurrent(Stack([made("normed"), Logarithm(N, N, dtype=D)]), **k),
    "residual": lambda **k: Recurrent(Stack([made("normed"), Logarithm(N, N, dtype=D)], residual=True), **k),
    "bidirectional": lambda **k: Recurrent(made("normed"), bidirectional=True, layers=2, **k),
    "sum": lambda **k: Recurrent(Bidirectional(made("normed"), made("logarithm"), merge="sum"), **k),
    "batch first": lambda **k: Recurrent(made("logarithm"), batch_first=True, **k),
}


@pytest.mark.parametrize("lengths", LENGTHS[::2], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_several_cells(target: Any, name: str, lengths: Tensor) -> None:
    torch.manual_seed(4)
    layer = LAYERS[name](target=target)
    x, before = torch.randn(STEPS, BATCH, WIDE, dtype=D), list[Tensor]()
    for content in CONTENTS:
        given = padded(x, lengths, content)
        y, final = layer(given.transpose(0, 1) if layer.batch_first else given, lengths=lengths)
        results = [y.transpose(0, 1) if layer.batch_first else y, *flat(final)]
        found = [*results, *slopes(results, [given, *layer.parameters()])]
        assert all(torch.isfinite(t).all() for t in found)
        assert not results[0][ended(lengths)].any()
        assert not found[len(results)][ended(lengths)].any()
        assert_same(found, before or found)
        before = found


def flat(nested: Any) -> list[Tensor]:
    return [leaf for part in nested for leaf in flat(part)] if isinstance(nested, tuple) else [nested]


@pytest.mark.filterwarnings("ignore")
def test_under_torch_compile(target: Any) -> None:
    torch._dynamo.reset()
    lengths, layer = LENGTHS[0], LAYERS["bidirectional"](target=target)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(STEPS, BATCH, WIDE, dtype=D)
    given = [padded(x, lengths, content) for content in (1.0, math.nan)]
    y, final = layer(given[0], lengths=lengths)
    expected = [y, *flat(final), *slopes([y, *flat(final)], [given[0], *layer.parameters()])]
    y, final = compiled(given[1], lengths=lengths)  # type: ignore[no-untyped-call]
    assert_close([y, *flat(final), *slopes([y, *flat(final)], [given[1], *layer.parameters()])], expected)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_packed_sequences(kind: str) -> None:
    torch.manual_seed(2)
    ours = getattr(everloop, kind)(WIDE, N, num_layers=2, bidirectional=True, dtype=D)
    theirs = getattr(nn, kind)(WIDE, N, num_layers=2, bidirectional=True, dtype=D)
    theirs.load_state_dict(ours.state_dict())
    lengths, results = torch.tensor([3, 5, 2, 1]), []
    x = torch.randn(STEPS, BATCH, WIDE, dtype=D)
    for layer, content in ((theirs, 0.0), (ours, math.nan)):
        given = padded(x, lengths, content)
        y, final = layer(pack_padded_sequence(given, lengths, enforce_sorted=False))
        found = [y.data, *flat(final)]
        results.append([*found, *slopes(found, [given, *layer.parameters()])])
    assert_close(results[1], results[0])
