"""The drop-ins against torch.nn: results, gradients, states, forms of input, errors; and `accelerate`."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from everloop.errors import ShapeError
from everloop.layers import torch_nn
from everloop.layers.torch_nn import accelerate

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu"}),
    ("LSTM", {}),
    ("LSTM", {"proj_size": 2}),
    ("GRU", {}),
]


@pytest.fixture(autouse=True, params=[True, False], ids=["own", "torch"])
def _own_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test on the library's own path, and once riding on torch.nn's."""
    monkeypatch.setattr(torch_nn, "compiles", lambda cell, x: request.param)


def pair(name: str, *args: Any, **kwargs: Any) -> tuple[nn.Module, nn.Module]:
    theirs = getattr(nn, name)(*args, **kwargs).double()
    mine = getattr(torch_nn, name)(*args, **kwargs).double()
    mine.load_state_dict(theirs.state_dict())
    return mine, theirs


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, PackedSequence):
        return [value.data, value.batch_sizes]
    return [t for part in value for t in tensors(part)] if isinstance(value, tuple) else [value]


def same(got: Any, want: Any) -> None:
    for a, b in zip(tensors(got), tensors(want), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def compare(mine: nn.Module, theirs: nn.Module, x: Any, hx: Any = None) -> None:
    got, want = mine(x, hx), theirs(x, hx)
    same(got, want)
    for result, module in ((got, mine), (want, theirs)):
        module.zero_grad()
        floating = [t for t in tensors(result) if t.is_floating_point()]
        total = torch.stack([(t * torch.arange(t.numel()).view_as(t).sin()).sum() for t in floating]).sum()
        torch.autograd.backward(total)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("layers", "both"), [(1, False), (2, True), (3, False)])
@pytest.mark.parametrize(("name", "extra"), KINDS)
def test_results_and_gradients(
    name: str, extra: dict[str, Any], layers: int, both: bool, batch_first: bool, bias: bool
) -> None:
    mine, theirs = pair(name, 3, 5, num_layers=layers, bidirectional=both, batch_first=batch_first, bias=bias, **extra)
    compare(mine, theirs, torch.randn(6, 4, 3, dtype=torch.float64))


@pytest.mark.parametrize(("name", "extra"), KINDS)
def test_given_states_unbatched_and_packed(name: str, extra: dict[str, Any]) -> None:
    mine, theirs = pair(name, 3, 5, num_layers=2, bidirectional=True, **extra)

    def start(*batch: int) -> Any:
        h = torch.randn(4, *batch, extra.get("proj_size", 5), dtype=torch.float64)
        return (h, torch.randn(4, *batch, 5, dtype=torch.float64)) if name == "LSTM" else h

    compare(mine, theirs, torch.randn(6, 4, 3, dtype=torch.float64), start(4))
    compare(mine, theirs, torch.randn(6, 3, dtype=torch.float64))
    compare(mine, theirs, torch.randn(6, 3, dtype=torch.float64), start())
    sequences = [torch.randn(n, 3, dtype=torch.float64) for n in (2, 6, 1, 6)]
    packed = pack_sequence(sequences, enforce_sorted=False)
    compare(mine, theirs, packed)
    compare(mine, theirs, packed, start(4))
    compare(mine, theirs, pack_sequence(sorted(sequences, key=len, reverse=True)))


@pytest.mark.parametrize(("name", "extra"), KINDS)
def test_errors_are_those_of_torch(name: str, extra: dict[str, Any]) -> None:
    mine, theirs = pair(name, 3, 5, **extra)
    wrong: list[tuple[Any, Any]] = [
        (torch.zeros(2, 2, 4).double(), None),
        (torch.zeros(3).double(), None),
        (torch.zeros(2, 2, 2, 3).double(), None),
    ]
    h = torch.zeros(1, 9, 5).double()
    wrong.append((torch.zeros(6, 4, 3).double(), (h, h) if name == "LSTM" else h))
    flat = torch.zeros(1, 5).double()
    wrong.append((torch.zeros(6, 4, 3).double(), (flat, flat) if name == "LSTM" else flat))
    wrong += [(torch.zeros(6, 4, 3), None), (torch.zeros(0, 4, 3).double(), None), (torch.zeros(0, 3).double(), None)]
    single = torch.zeros(1, 4, 5)
    wrong.append((torch.zeros(6, 4, 3).double(), (single, single) if name == "LSTM" else single))
    for x, hx in wrong:
        with pytest.raises((RuntimeError, ValueError)) as expected:
            theirs(x, hx)
        with pytest.raises(expected.type) as got:
            mine(x, hx)
        assert str(got.value) == str(expected.value)


def test_arguments_are_those_of_torch() -> None:
    with pytest.raises(ValueError, match="proj_size"):
        torch_nn.GRU(3, 4, proj_size=2)
    with pytest.raises(ValueError, match="dropout"):
        torch_nn.LSTM(3, 4, dropout=1.5)
    with pytest.raises(TypeError):
        torch_nn.LSTM(3)


def test_dropout_between_layers() -> None:
    mine, theirs = pair("GRU", 3, 5, num_layers=3, dropout=0.5)
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    assert not torch.equal(mine(x)[0], mine(x)[0])
    mine.eval()
    theirs.eval()
    same(mine(x), theirs(x))


def test_state_dicts_copies_and_pickles() -> None:
    mine, theirs = pair("LSTM", 3, 5, num_layers=2)
    theirs.load_state_dict(mine.state_dict())
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    same(copy.deepcopy(mine)(x), theirs(x))
    same(pickle.loads(pickle.dumps(mine))(x), theirs(x))
    assert list(mine.state_dict()) == list(theirs.state_dict())


def test_accelerate_keeps_objects_hooks_and_sharing() -> None:
    shared = nn.GRU(3, 3)

    class Own(nn.LSTM):
        pass

    model = nn.ModuleDict({"a": shared, "b": nn.ModuleList([shared, nn.LSTM(3, 3)]), "c": Own(3, 3), "d": nn.RNN(3, 3)})
    seen: list[str] = []
    shared.register_forward_hook(lambda module, args, out: seen.append(type(module).__module__))
    parameters = list(model.parameters())
    x = torch.randn(4, 2, 3)
    before = [shared(x)[0], model["b"][1](x)[0], model["d"](x)[0]]  # type: ignore[index]
    assert accelerate(model) is model
    assert type(model["a"]) is torch_nn.GRU
    assert model["a"] is model["b"][0]  # type: ignore[index]
    assert type(model["b"][1]) is torch_nn.LSTM  # type: ignore[index]
    assert type(model["c"]) is Own
    assert all(p is q for p, q in zip(parameters, model.parameters(), strict=True))
    after = [shared(x)[0], model["b"][1](x)[0], model["d"](x)[0]]  # type: ignore[index]
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b)
    assert len(seen) == 2
    assert type(accelerate(nn.LSTM(2, 2))) is torch_nn.LSTM


class Tagging(nn.Module):
    """A model around a layer of PyTorch's own, which its class makes."""

    def __init__(self, *, fast: bool = False) -> None:
        super().__init__()
        self.encoder = nn.GRU(3, 4, bidirectional=True)
        self.head = nn.Linear(8, 2)
        if fast:
            accelerate(self)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.encoder(x)[0])
        return y


def test_accelerate_survives_saving_and_loading(tmp_path: Path) -> None:
    x, model = torch.randn(5, 2, 3), Tagging(fast=True)
    expected = model(x)
    torch.save(model, tmp_path / "whole.pt")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    whole = torch.load(tmp_path / "whole.pt", weights_only=False)
    assert type(whole.encoder) is torch_nn.GRU
    for again in (whole, copy.deepcopy(model), Tagging(fast=True), Tagging(), accelerate(Tagging())):
        again.load_state_dict(torch.load(tmp_path / "weights.pt"))
        torch.testing.assert_close(again(x), expected)
    assert type(Tagging(fast=True).encoder) is torch_nn.GRU


@pytest.mark.parametrize("kind", [torch_nn.RNN, torch_nn.LSTM, torch_nn.GRU])
@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_and_resets(kind: Any, batch_first: bool) -> None:
    rnn = kind(3, 4, num_layers=2, bidirectional=True, batch_first=batch_first, dtype=torch.float64)
    theirs = getattr(nn, kind.__name__)(3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
    theirs.load_state_dict(rnn.state_dict())
    x, lengths = torch.randn(7, 4, 3, dtype=torch.float64, requires_grad=True), [5, 7, 2, 1]
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    expected, state = theirs(packed)
    expected = nn.utils.rnn.pad_packed_sequence(expected)[0]
    found, after = rnn(x.transpose(0, 1) if batch_first else x, lengths=lengths)
    found = found.transpose(0, 1) if batch_first else found
    torch.testing.assert_close((found, after), (expected, state))
    slopes = [torch.autograd.grad(y.sin().sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_a_reset_cuts_the_sequence(dtype: torch.dtype) -> None:
    rnn, x, reset = torch_nn.LSTM(3, 4), torch.randn(7, 1, 3), torch.zeros(7, 1, dtype=dtype)
    reset[3] = 1
    hx = (torch.randn(1, 1, 4), torch.randn(1, 1, 4))
    found, last = rnn(x, hx, reset=reset)
    before, (after, final) = rnn(x[:3], hx)[0], rnn(x[3:])
    torch.testing.assert_close(found, torch.cat([before, after]))
    torch.testing.assert_close(last, final)


def test_lengths_and_resets_that_do_not_fit() -> None:
    rnn, x = torch_nn.GRU(3, 4), torch.randn(7, 2, 3)
    with pytest.raises(ShapeError, match="GRU: lengths go from 1 to 8; expected 0 to 7 steps"):
        rnn(x, lengths=[8, 1])
    with pytest.raises(ShapeError, match=r"GRU: reset is torch.float32 with other numbers than 0 and 1"):
        rnn(x, reset=torch.full((7, 2), 0.5))
    with pytest.raises(ShapeError, match="GRU: a PackedSequence has its own lengths"):
        rnn(nn.utils.rnn.pack_sequence([x[:, 0]]), lengths=[7])
    with pytest.raises(ShapeError, match="GRU: the hidden state or an empty sequence does not fit"):
        rnn(x, torch.zeros(1, 3, 4), lengths=[7, 7])
    with pytest.raises(ShapeError, match="x has 2 features; expected input size 3"):
        rnn(x[..., :2], lengths=[7, 7])


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("given", [None, torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_under_autocast(kind: str, dtype: torch.dtype, given: torch.dtype | None) -> None:
    mine, theirs = (module.float() for module in pair(kind, 3, 4, num_layers=2))
    x, hx = torch.randn(5, 2, 3, dtype=dtype), None if given is None else torch.rand(2, 2, 4, dtype=given)
    state = (hx, hx) if kind == "LSTM" and hx is not None else hx
    with torch.autocast("cpu", torch.bfloat16):
        if given == torch.float64:
            for module in (mine, theirs):
                with pytest.raises(RuntimeError):
                    module(x, state)
            return
        got, want = tensors(mine(x, state)), tensors(theirs(x, state))
    assert [t.dtype for t in got] == [t.dtype for t in want]
    for found, expected in zip(got, want, strict=True):
        torch.testing.assert_close(found.float(), expected.float(), rtol=0, atol=0.03)
