"""Symbols that a layer reads: the numbers of their rows, products once a symbol."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import everloop
from everloop import H, I, cells, param, state
from everloop.cell import Cell
from everloop.compiler import embedded as module
from everloop.compiler.targets.llvm.target import LLVM
from everloop.compiler.time_axis import Empty
from everloop.data.datasets.examples import Examples, ExamplesConfig, Part
from everloop.data.datasets.tagged import Tagged, TaggedConfig
from everloop.diagnose import agree
from everloop.errors import ShapeError
from everloop.layers import Embedded, Recurrent, VariationalDropout
from everloop.models import Classifier, Model, Tagger, body, classifier, encoder_decoder, tagger
from everloop.models import language_model as language
from tests.models.test_symbols_loss import language_model, translator

pytest.importorskip("llvmlite")

T, B, V, E, N = 23, 6, 9, 7, 5
LENGTHS = torch.tensor([23, 20, 22, 1, 23, 18])


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW", 0)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many rows each product of a call has that is not a gradient."""
    found: list[int] = []
    own = LLVM.linear

    def noted(self: LLVM, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        found.append(x.shape[:-1].numel())
        return own(self, x, weight, bias)

    monkeypatch.setattr(LLVM, "linear", noted)
    return found


def given(symbols: int = V) -> tuple[Tensor, Tensor]:
    """Return numbers [T, B] of all but the last symbol, and a table [V, E]."""
    return torch.randint(symbols - 1, (T, B)), torch.randn(symbols, E, dtype=torch.float64, requires_grad=True)


def results(layer: Recurrent, x: Tensor | Embedded, table: Tensor, **options: Any) -> list[Tensor]:
    """Return outputs, states and all gradients."""
    y, after = layer(x, **options)
    leaves = [*layer.parameters(), table]
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return [y, *torch.autograd.grad((y * weights).sum() + sum(s.sum() for s in _flat(after)), leaves)]


def _flat(nested: Any) -> list[Tensor]:
    return [nested] if isinstance(nested, Tensor) else [t for part in nested for t in _flat(part)]


CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "ragged": lambda: {"lengths": LENGTHS},
    "short": lambda: {"lengths": torch.tensor([23, 1, 2, 1, 3, 0])},
    "reset": lambda: {"reset": torch.rand(T, B) < 0.2},
    "both": lambda: {"lengths": LENGTHS, "reset": torch.rand(T, B) < 0.2},
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", [cells.GRU, cells.LayerNormLSTM, cells.SRU])
def test_results_are_those_of_the_rows(cell: type[Cell], batch_first: bool, call: str) -> None:
    options = {"bidirectional": True, "batch_first": batch_first, "layers": 2}
    layer = Recurrent(cell(E, N), **options).double()  # type: ignore[arg-type]
    numbers, table = given()
    kept = CALLS[call]()
    if batch_first:
        numbers = numbers.T.contiguous()
        kept |= {"reset": kept["reset"].T} if "reset" in kept else {}
    x = Embedded(numbers, table)
    torch.testing.assert_close(results(layer, x, table, **kept), results(layer, x.rows(), table, **kept))


def test_each_symbol_is_multiplied_once(rows: list[int]) -> None:
    layer = Recurrent(cells.LSTM(E, N)).double()
    numbers, table = given()
    used = len({*numbers.flatten().tolist()})
    layer(Embedded(numbers, table))
    assert rows == [used]
    layer(Embedded(numbers, table).rows())
    assert rows == [used, T * B]
    layer(Embedded(torch.arange(T * B).view(T, B), torch.randn(T * B, E, dtype=torch.float64)))
    assert rows == [used, T * B, T * B]


def test_each_symbol_is_multiplied_once_in_each_segment(rows: list[int]) -> None:
    layer = Recurrent(cells.LSTM(E, N + 1), recompute=12).double()  # a size of its own: programs keep what they call
    numbers, table = given()
    used = [len({*part.flatten().tolist()}) for part in torch.split(numbers, 12)]
    y, _ = layer(Embedded(numbers, table))
    assert rows == used
    y.sum().backward()
    assert rows == [*used, *reversed(used)]


def test_numbers_of_any_kind(rows: list[int]) -> None:
    layer = Recurrent(cells.LSTM(E, N)).double()
    numbers, table = given()
    want = layer(Embedded(numbers, table))[0]
    torch.testing.assert_close(layer(Embedded(numbers.int(), table))[0], want)
    torch.testing.assert_close(layer(Embedded(numbers.T.contiguous().T, table))[0], want)
    torch.testing.assert_close(layer(Embedded(numbers[:, 2], table))[0], want[:, 2])
    torch.testing.assert_close(layer.step(Embedded(numbers[0], table))[0], want[0])
    torch.testing.assert_close(layer.record(Embedded(numbers, table), "c")[0], want)
    assert layer(Embedded(numbers[:0], table))[0].shape == (0, B, N)
    assert layer(Embedded(numbers[:, :0], table))[0].shape == (T, 0, N)


def test_padding_has_no_gradient() -> None:
    layer, (numbers, table) = Recurrent(cells.GRU(E, N)).double(), given()
    theirs = nn.Embedding(V, E, padding_idx=2, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight.copy_(table)
    got = results(layer, Embedded(numbers, table, 2), table)
    torch.testing.assert_close(got, results(layer, theirs(numbers), theirs.weight))
    assert not got[-1][2].any()
    assert got[-1][1].any()


class Direction(Cell):
    """Reads of x only where it points to."""

    h = state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh((x / (x * x).sum(-1, keepdim=True).sqrt()) @ self.W.T + h @ self.R.T)


@pytest.mark.parametrize("call", ["plain", "ragged"])
def test_a_symbol_that_is_not_there_reaches_no_gradient(call: str) -> None:
    layer, (numbers, table) = Recurrent(Direction(E, N)).double(), given()
    with torch.no_grad():
        table[-1] = 0  # points nowhere: NaN, and its gradient too
    kept = CALLS[call]()
    if "lengths" in kept:
        numbers[torch.arange(T)[:, None] >= kept["lengths"]] = V - 1
    found = results(layer, Embedded(numbers, table), table, **kept)
    assert all(t.isfinite().all() for t in found)
    torch.testing.assert_close(found, results(layer, Embedded(numbers, table).rows(), table, **kept))


def test_noise_of_each_sequence_on_the_way_in(rows: list[int]) -> None:
    layer, (numbers, table) = Recurrent(VariationalDropout(cells.GRU(E, N), inputs=0.5)).double(), given()
    found = []
    for x in (Embedded(numbers, table), Embedded(numbers, table).rows()):
        generator = torch.Generator().manual_seed(3)
        found.append(results(layer, x, table, generator=generator))
    torch.testing.assert_close(*found)
    assert set(rows) == {T * B}


@pytest.mark.parametrize("options", [{"target": "eager"}, {"recompute": 5}, {"check": True}, {"learned_state": True}])
def test_other_ways_to_run(options: dict[str, Any]) -> None:
    layer, (numbers, table) = Recurrent(cells.GRU(E, N), **options).double(), given()
    x = Embedded(numbers, table)
    torch.testing.assert_close(results(layer, x, table), results(layer, x.rows(), table))


def test_gradients_of_gradients() -> None:
    layer = Recurrent(cells.Elman(2, 3)).double()
    numbers = torch.randint(2, (4, 2))
    table = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda rows: layer(Embedded(numbers, rows))[0], (table,))
    assert torch.autograd.gradgradcheck(lambda rows: layer(Embedded(numbers, rows))[0], (table,))


def test_many_gradients_at_once() -> None:
    layer, (numbers, table) = Recurrent(cells.GRU(E, N)).double(), given()
    leaves, slopes = (table, *layer.parameters()), torch.randn(3, T, B, N, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad(layer(x)[0], leaves, slopes, is_grads_batched=True)
        for x in (Embedded(numbers, table), Embedded(numbers, table).rows())
    )
    torch.testing.assert_close(ours, theirs)


def test_autocast_rounds_the_same_numbers(rows: list[int]) -> None:
    layer, (numbers, table) = Recurrent(cells.GRU(E, N)), given()
    table = table.detach().float().requires_grad_()
    found = []
    for x in (Embedded(numbers, table), Embedded(numbers, table).rows()):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(results(layer, x, table))
    tolerance = 2.0**-7 * (T * B) ** 0.5
    torch.testing.assert_close(*found, rtol=2.0**-7, atol=tolerance)
    assert {t.dtype for t in found[0]} == {torch.bfloat16, torch.float32}


def test_slopes_of_bfloat16_are_added_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    numbers, table = torch.randint(7, (50, 9)), torch.randn(7, 5).bfloat16().requires_grad_()
    slopes = torch.randn(50, 9, 5).bfloat16()
    monkeypatch.setattr(module, "WIDENED", 100)  # 22 parts of 21 rows or fewer
    rows = module.LookedUp(table, numbers).rows(lambda shape, like: like.new_zeros(shape))
    (found,) = torch.autograd.grad(rows, table, slopes)
    exact = torch.zeros(7, 5, dtype=torch.double).index_add_(0, numbers.flatten(), slopes.double().flatten(0, 1))
    torch.testing.assert_close(found.double(), exact, rtol=2.0**-8, atol=1e-5)


def test_errors() -> None:
    layer, (numbers, table) = Recurrent(cells.GRU(E + 1, N)).double(), given()
    with pytest.raises(ShapeError, match="x has 7 features; expected input size 8"):
        layer(Embedded(numbers, table))
    with pytest.raises(IndexError):
        Recurrent(cells.GRU(E, N)).double()(Embedded(numbers + V, table))
    fits: Any = Recurrent(cells.GRU(E, N)).double()
    for x, said in (
        (Embedded(numbers.double(), table), "numbers are torch.float64; expected int64 or int32"),
        (Embedded(numbers.tolist(), table), "numbers is list; expected a tensor of integers"),  # type: ignore[arg-type]
        (Embedded(numbers, table[0]), "table has 1 axes; expected 2"),
    ):
        for call in (fits, fits.step):
            with pytest.raises(ShapeError, match=said):
                call(x)
    for kind in (everloop.LSTM, everloop.GRU, everloop.RNN):
        with pytest.raises(ShapeError, match=f"{kind.__name__}: input is Embedded"):
            kind(E, N).double()(Embedded(numbers, table))
    with pytest.raises(ShapeError, match="agree: x is Embedded"):
        agree(fits, Embedded(numbers, table))  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [language_model, translator])
@pytest.mark.parametrize("training", [True, False])
def test_models_learn_the_same(
    make: Callable[[], tuple[Model, Any]], training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = make()
    model.double().train(training)
    weights = [p for p in model.parameters() if p.requires_grad]
    found, looked_up = [], list[int]()
    own = module.LookedUp.rows

    def rows(self: module.LookedUp, empty: Empty) -> Tensor:
        looked_up.append(len(self.table))
        return own(self, empty)

    monkeypatch.setattr(module.LookedUp, "rows", rows)
    for fewer in (1, 1000):
        monkeypatch.setattr(module, "FEWER", fewer)
        loss = model.loss(batch)
        found.append([loss.total, *torch.autograd.grad(loss.mean, weights)])
        assert bool(looked_up) is (fewer == 1)
        looked_up.clear()
    torch.testing.assert_close(*found)


class Tenfold(nn.Embedding):
    """Has a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch.nn's name
        return 10 * super().forward(input)


class LowRank(nn.Module):
    """Adds a product of two small tables to another module's rows; has no `weight`."""

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Embedding(base.num_embeddings, 2), nn.Linear(2, base.embedding_dim)
        self.double()

    def forward(self, numbers: Tensor) -> Tensor:
        rows: Tensor = self.base(numbers) + self.up(self.down(numbers))
        return rows


def tenfold(found: nn.Embedding) -> nn.Module:
    return Tenfold(found.num_embeddings, found.embedding_dim, dtype=torch.float64)


def own_forward(found: nn.Embedding) -> nn.Module:
    inner = found.forward
    found.forward = lambda numbers: 3 * inner(numbers)  # type: ignore[method-assign,assignment]
    return found


def with_hook(found: nn.Embedding) -> nn.Module:
    found.register_forward_hook(lambda _, __, rows: rows + 1)
    return found


def with_early_hook(found: nn.Embedding) -> nn.Module:
    found.register_forward_pre_hook(lambda _, given: (given[0] * 0 + 1,))
    return found


def with_backward_hook(found: nn.Embedding) -> nn.Module:
    def doubled(_: nn.Module, slopes: Any) -> Any:
        return (2 * slopes[0],)

    found.register_full_backward_pre_hook(doubled)
    return found


def with_max_norm(found: nn.Embedding) -> nn.Module:
    found.max_norm = 0.1
    return found


def with_scaled_gradients(found: nn.Embedding) -> nn.Module:
    found.scale_grad_by_freq = True
    return found


def with_sparse_gradients(found: nn.Embedding) -> nn.Module:
    found.sparse = True
    return found


class Cube(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight**3


def parametrised(found: nn.Embedding) -> nn.Module:
    return nn.utils.parametrize.register_parametrization(found, "weight", Cube())


ALTERED = [
    tenfold, LowRank, own_forward, with_hook, with_early_hook, with_backward_hook, with_max_norm,
    with_scaled_gradients, with_sparse_gradients, parametrised,
]  # fmt: skip


def classified() -> tuple[Model, Any]:
    texts = ["abcab", "cabba", "bb"] * 3
    data = Examples({"train": Part(texts.__getitem__, "xyx" * 3, True, "")}, ExamplesConfig(units="characters"))
    model = Classifier(data.tokenizer or 0, data.labels, hidden=4, embedding=5, dropout=0.0)
    return model, data.epoch("train", 0, batch=6)[0]


def tagged(characters: int) -> tuple[Model, Any]:
    sentences = [(["they", "walk"], ["P", "V"]), (["she", "sings"], ["P", "V"])]
    data = Tagged({"train": sentences * 4}, TaggedConfig(min_freq=1))
    settings: dict[str, Any] = {"hidden": 4, "embedding": 5, "char_hidden": 3, "dropout": 0.0}
    return Tagger(data.tokenizer or 0, data.labels, char_embedding=characters, **settings), data.epoch(
        "train", 0, batch=8
    )[0]


MODELS: dict[str, tuple[Any, str, Callable[[], tuple[Model, Any]]]] = {
    "language model": (language, "embedding", language_model),
    "classifier": (classifier, "embedding", classified),
    "tagger": (tagger, "embedding", lambda: tagged(0)),
    "spelling tagger": (tagger, "character", lambda: tagged(3)),
    "encoder": (encoder_decoder, "read_embedding", translator),
    "decoder": (encoder_decoder, "embedding", translator),
}


def learned(model: Model, batch: Any) -> list[Tensor]:
    """Return the loss, all gradients, and the weights afterwards."""
    model.zero_grad()
    loss = model.loss(batch)
    loss.mean.backward()  # type: ignore[no-untyped-call]
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(grads) > 3
    return [loss.total.detach(), *(g.to_dense() for g in grads), *(p.detach().clone() for p in model.parameters())]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("alter", ALTERED)
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_models_call_an_embedding_that_does_more_than_look_up(
    alter: Callable[[nn.Embedding], nn.Module], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the same model in float64 whose layers read what the module gave."""
    home, attribute, make = MODELS[name]
    torch.manual_seed(1)
    model, batch = make()
    model.double()
    if name == "decoder" and alter in (parametrised, with_sparse_gradients):
        model.head.weight = nn.Parameter(model.head.weight.detach().clone())  # type: ignore[union-attr,operator]
    setattr(model, attribute, alter(getattr(model, attribute)))
    before = copy.deepcopy(model.state_dict())
    found = learned(model, batch)
    model.load_state_dict(before)
    monkeypatch.setattr(home, "embedded", lambda embedding, numbers, dropout: dropout(embedding(numbers)))
    torch.testing.assert_close(found, learned(model, batch))


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward"])
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_hooks_of_all_modules_see_the_embedding(kind: str) -> None:
    model, batch = language_model()
    seen: list[nn.Module] = []
    handle = getattr(nn.modules.module, f"register_module_{kind}_hook")(lambda module, *_: seen.append(module))
    try:
        model.loss(batch).mean.backward()  # type: ignore[no-untyped-call]
    finally:
        handle.remove()
    assert model.embedding in seen
    count = len(seen)
    model.loss(batch)
    assert len(seen) == count


def test_a_plain_embedding_is_looked_up_by_the_layer() -> None:
    embedding, none = nn.Embedding(5, 3, padding_idx=0), body.Dropout(0.0)
    numbers = torch.tensor([[1, 0], [4, 1]])
    assert isinstance(body.embedded(embedding, numbers, none), Embedded)
    for alter in ALTERED:
        assert isinstance(body.embedded(alter(nn.Embedding(5, 3).double()), numbers, none), Tensor)
