"""Models with drop-ins under torch.compile: as with torch.nn, in pieces by default, in one graph with allow_rnn."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config as inductor
from torch.nn.utils.rnn import pack_sequence

from everloop import cells
from everloop.layers import Recurrent, torch_nn
from everloop.layers.torch_nn import accelerate

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.compile itself uses what is deprecated
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {"nonlinearity": "relu"}),
    ("LSTM", {"proj_size": 2}),
    ("LSTM", {"batch_first": True}),
    ("GRU", {"num_layers": 2, "bidirectional": True}),
]
I_, H_ = 4, 5


@pytest.fixture(autouse=True)
def _no_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()  # or functions that Dynamo gave up stay so


class Tagger(nn.Module):
    """A layer between others."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.below, self.rnn = nn.Linear(I_, I_), rnn

    def forward(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            x = torch.tanh(self.below(x))
        y, state = self.rnn(x)
        return (y if isinstance(y, Tensor) else y.data) * 2, state


def pair(name: str, options: dict[str, Any], **kwargs: Any) -> tuple[nn.Module, nn.Module]:
    theirs = Tagger(getattr(nn, name)(I_, H_, **options, **kwargs)).double()
    mine = accelerate(copy.deepcopy(theirs))
    assert type(mine.rnn) is getattr(torch_nn, name)
    return mine, theirs


class Graphs:
    """A back end that keeps the graphs it is given."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, graph: Any, example: Any) -> Any:
        self.seen.append(graph)
        return graph.forward

    def names(self) -> list[str]:
        return [str(node.target) for graph in self.seen for node in graph.graph.nodes if node.op == "call_function"]


def same(got: Any, want: Any) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def trained(model: nn.Module, compiled: Any, x: Any) -> list[Tensor | None]:
    model.zero_grad()
    y, state = compiled(x)
    leaves = torch.utils._pytree.tree_leaves((y, state))
    torch.autograd.backward(torch.stack([t.sin().sum() for t in leaves]).sum())
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("is_first", [True, False], ids=["compiled at once", "after an eager call"])
@pytest.mark.parametrize(("name", "options"), KINDS)
def test_by_default_the_same_graphs_as_with_torch(name: str, options: dict[str, Any], is_first: bool) -> None:
    mine, theirs = pair(name, options)
    x = torch.randn(6, 3, I_, dtype=torch.float64)
    if not is_first:
        mine(x)
    backends = Graphs(), Graphs()
    compiled: list[Any] = [torch.compile(m, backend=b) for m, b in zip((mine, theirs), backends, strict=True)]
    for size in (3, 3, 2):
        same(compiled[0](x[:, :size]), compiled[1](x[:, :size]))
    same(trained(mine, compiled[0], x), trained(theirs, compiled[1], x))
    assert len(backends[0].seen) == len(backends[1].seen)
    assert backends[0].names() == backends[1].names()


@pytest.mark.parametrize("backend", ["aot_eager", "eager"])
@pytest.mark.parametrize(("name", "options"), KINDS)
def test_one_graph_with_one_operator_a_sweep(name: str, options: dict[str, Any], backend: str) -> None:
    mine, theirs = pair(name, options)
    x = torch.randn(6, 3, I_, dtype=torch.float64)
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled: Any = torch.compile(mine, backend=backend, fullgraph=True)
        same(compiled(x), theirs(x))
        same(trained(mine, compiled, x), trained(theirs, theirs, x))
        graphs = Graphs()
        torch._dynamo.reset()
        torch.compile(mine, backend=graphs, fullgraph=True)(x)
    sweeps = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    assert [n for n in graphs.names() if "everloop" in n] == ["everloop.sequence.default"] * sweeps


def test_default_back_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")  # with it Inductor refuses operators that have a decomposition
    model = torch_nn.GRU(I_, H_).double()
    x, start = torch.randn(6, 3, I_, dtype=torch.float64), torch.randn(1, 3, H_, dtype=torch.float64)
    expected = trained(model, lambda x: model(x, start), x)  # with a state, or zeros are a C++ kernel of seconds
    with torch._dynamo.config.patch(allow_rnn=True), inductor.patch(force_disable_caches=True):
        compiled = torch.compile(model, fullgraph=True)
        same(trained(model, lambda x: compiled(x, start), x), expected)


def test_packed_batches() -> None:
    mine, theirs = pair("LSTM", {"bidirectional": True})
    packed = pack_sequence([torch.randn(n, I_, dtype=torch.float64) for n in (2, 5, 1)], enforce_sorted=False)
    for allowed in (False, True):
        torch._dynamo.reset()
        with torch._dynamo.config.patch(allow_rnn=allowed):
            same(torch.compile(mine, backend="aot_eager")(packed), theirs(packed))


def test_what_is_left_to_torch_stays_so() -> None:
    """Complex numbers are not this library's: the graph holds PyTorch's own operator."""
    mine = torch_nn.GRU(I_, H_).to(torch.complex64)
    x, graphs = torch.randn(6, 3, I_).to(torch.complex64), Graphs()
    with torch._dynamo.config.patch(allow_rnn=True):
        found = torch.compile(mine, backend=graphs, fullgraph=True)(x)
    torch.testing.assert_close(found, nn.GRU.forward(mine, x))
    assert not any("everloop" in name for name in graphs.names())


def test_errors_are_those_of_torch() -> None:
    mine, theirs = pair("GRU", {})
    wrong = torch.zeros(6, 3, I_ + 1, dtype=torch.float64)
    with pytest.raises(RuntimeError) as expected:
        theirs.rnn(wrong)  # type: ignore[operator]
    with pytest.raises(RuntimeError) as got:
        torch.compile(mine.rnn, backend="eager")(wrong)  # type: ignore[arg-type]
    assert str(got.value) == str(expected.value)


def test_sequential_copies_and_states() -> None:
    model = nn.Sequential(nn.Linear(I_, I_), torch_nn.GRU(I_, H_)).double()
    x = torch.randn(6, 3, I_, dtype=torch.float64)
    compiled: Any = torch.compile(model, backend="aot_eager")
    expected = model(x)
    same(compiled(x), expected)
    same(copy.deepcopy(compiled)(x), expected)
    kept = io.BytesIO()
    torch.save(compiled.state_dict(), kept)
    kept.seek(0)
    other: Any = torch.compile(copy.deepcopy(model), backend="aot_eager")
    other.load_state_dict(torch.load(kept))
    same(other(x), expected)


def test_autocast() -> None:
    mine, x = torch_nn.LSTM(I_, 3), torch.randn(6, 3, I_)
    with torch.autocast("cpu", torch.bfloat16):
        expected = mine(x)
        assert torch_nn.LSTM(I_, 7)(x)[0].dtype == torch.bfloat16  # at a first use, too
        same(torch.compile(mine, backend="aot_eager")(x), expected)
        torch._dynamo.reset()
        with torch._dynamo.config.patch(allow_rnn=True):
            found = torch.compile(mine, backend="aot_eager", fullgraph=True)(x)
    for a, b in zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2**-7)  # here biases are rounded too


def test_more_layers_than_dynamo_compiles() -> None:
    """Where Dynamo gives up a function, it must not go on with those which that calls."""
    with torch._dynamo.config.patch(recompile_limit=2):
        for width in range(3, 9):
            for layer in (Recurrent(cells.GRU(I_, width)), torch_nn.GRU(I_, width)):
                x = torch.randn(4, 2, I_)

                def model(x: Tensor, layer: Any = layer) -> Any:
                    torch._dynamo.graph_break()
                    return layer(x)[0]

                torch.testing.assert_close(torch.compile(model, backend="eager")(x), layer(x)[0])
    step = Recurrent(cells.GRU(I_, H_)).requires_grad_(False)
    with torch._dynamo.config.patch(recompile_limit=1):
        compiled: Any = torch.compile(step.step, backend="eager")
        for size in (1, 2, 3, 4):
            torch.testing.assert_close(compiled(torch.ones(size, I_)), step.step(torch.ones(size, I_)))
