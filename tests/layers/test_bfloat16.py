"""bfloat16 on a processor: a layer of it, and autocast, run compiled, with the dtypes of PyTorch's own layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import everloop
from everloop import cells
from everloop.compiler import reduced
from everloop.compiler.targets.llvm import narrow_gemm
from everloop.compiler.targets.llvm.launch import NativeKernel
from everloop.layers import Recurrent, compare, recompute
from everloop.layers.nested import leaves
from tests.zoo import ALL, given, make

LOW = torch.bfloat16
UNIT = torch.finfo(LOW).eps


def autocast(dtype: torch.dtype = LOW) -> torch.autocast:
    return torch.autocast("cpu", dtype)


@pytest.mark.parametrize("name", ALL)
def test_every_cell(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the step in float64, values and gradients: within one unit of bfloat16 times the root of the steps, or 4
    times what the reference itself moves where each number that it reads moves by one unit."""
    monkeypatch.setattr(compare, "SLACK", 0)
    torch.manual_seed(4)
    layer = Recurrent(make(name, 3, 36).to(LOW), check=True)
    x = torch.randn(6, 3, 3).to(LOW).requires_grad_()
    options: Any = {"lengths": [4, 0, 6], "reset": torch.rand(6, 3) < 0.3}
    y = layer(x, **options, **given(layer, x).at())[0]
    assert (y[0] if isinstance(y, tuple) else y).dtype == LOW
    text = layer.explain()
    for said in ("target llvm", "bfloat16: what is given", "checked against float64"):
        assert said in text


# What torch.nn gives on processors, by layer and by how it is called: the dtypes of the output and of each state, of
# the gradient of x, of the gradients of the parameters. PyTorch's LSTM runs under autocast only where the processor has
# instructions for bfloat16, its GRU there computes in float32.
WIDE = torch.float32
AS_TORCH = {
    ("LSTM", "layer"): (LOW, LOW, LOW),
    ("LSTM", "autocast"): (LOW, WIDE, WIDE),
    ("LSTM", "autocast, state given"): (LOW, WIDE, WIDE),
    ("LSTM", "autocast, x of bfloat16"): (LOW, LOW, WIDE),
    ("GRU", "layer"): (LOW, LOW, LOW),
    ("GRU", "autocast"): (WIDE, WIDE, WIDE),
    ("GRU", "autocast, state given"): (WIDE, WIDE, WIDE),
    ("GRU", "autocast, x of bfloat16"): (LOW, LOW, WIDE),
    ("RNN", "layer"): (LOW, LOW, LOW),
    ("RNN", "autocast"): (LOW, WIDE, WIDE),
    ("RNN", "autocast, state given"): (LOW, WIDE, WIDE),
    ("RNN", "autocast, x of bfloat16"): (LOW, LOW, WIDE),
}


def called(module: Any, kind: str, mode: str) -> tuple[Tensor, tuple[Any, ...]]:
    """Return the output of a layer, and the dtypes that it gave: as a row of the table."""
    torch.manual_seed(1)
    layer = getattr(module, kind)(8, 16, num_layers=2, bidirectional=True)
    x = torch.randn(5, 3, 8)
    x = (x.to(LOW) if mode in ("layer", "autocast, x of bfloat16") else x).requires_grad_()
    start: Any = torch.zeros(4, 3, 16) if "state" in mode else None
    start = (start, start.clone()) if "state" in mode and kind == "LSTM" else start
    if mode == "layer":
        y, state = layer.to(LOW)(x)
    else:
        with autocast():
            y, state = layer(x, start)
    y.float().sum().backward()
    results = {y.dtype, *(s.dtype for s in (state if isinstance(state, tuple) else (state,)))}
    parameters = {p.grad.dtype for p in layer.parameters()}
    assert x.grad is not None
    assert len(results) == len(parameters) == 1
    return y.detach().float(), (*results, x.grad.dtype, *parameters)


@pytest.mark.parametrize(("kind", "mode"), AS_TORCH)
def test_dtypes_are_those_of_torch(kind: str, mode: str) -> None:
    y, found = called(everloop, kind, mode)
    assert found == AS_TORCH[kind, mode]
    torch.manual_seed(1)
    exact = getattr(everloop, kind)(8, 16, num_layers=2, bidirectional=True)(torch.randn(5, 3, 8))[0]
    torch.testing.assert_close(y, exact, rtol=0, atol=2 * UNIT)


def has_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@pytest.mark.parametrize(("kind", "mode"), AS_TORCH)
def test_the_table_is_true_of_torch(kind: str, mode: str) -> None:
    if kind == "LSTM" and mode in ("autocast", "autocast, state given") and not has_bfloat16():
        pytest.skip("PyTorch's own LSTM refuses bfloat16 under autocast on this processor")
    y, found = called(nn, kind, mode)
    assert found == AS_TORCH[kind, mode]
    torch.testing.assert_close(y, called(everloop, kind, mode)[0], rtol=0, atol=2 * UNIT)


@pytest.mark.parametrize("name", ["lstm", "gru", "elman", "peephole-lstm", "layer-norm-lstm"])
def test_gradients_point_where_those_of_float32_do(name: str) -> None:
    """Roundings are at random and of half a unit each: together they turn a gradient by less than one unit.

    Normalisation makes a small state large, and with it what was rounded: there, by half as much again as they do in
    PyTorch's own autocast of the step.
    """
    torch.manual_seed(2)
    steps = 30
    layer, x = Recurrent(cells.named(name)(24, 40)), torch.randn(steps, 5, 24)

    def gradients(run: Callable[[], Tensor]) -> Tensor:
        layer.zero_grad()
        run().float().square().sum().backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())
        return torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None]).double()

    def ours() -> Tensor:
        return layer(x)[0]

    def torch_own() -> Tensor:
        state, rows = layer.cell.zeros(5, like=x), []
        for row in x:
            found = layer.cell.step(row, *state)
            state = found if isinstance(found, tuple) else (found,)
            rows.append(state[0])
        return torch.stack(rows)

    exact = gradients(ours)

    def angle(run: Callable[[], Tensor]) -> float:
        with autocast():
            found = gradients(run)
        return math.acos(min(float(torch.dot(exact, found) / (exact.norm() * found.norm())), 1.0))

    bound = 1.5 * angle(torch_own) if "norm" in name else UNIT
    assert 0 < angle(ours) < bound


def test_autocast_in_a_stack_with_resets_and_steps() -> None:
    torch.manual_seed(3)
    layer = Recurrent(cells.GRU(6, 20), layers=2, bidirectional=True)
    x, reset = torch.randn(7, 4, 6), torch.rand(7, 4) < 0.3
    expected = layer(x, lengths=[7, 2, 0, 5], reset=reset)
    with autocast():
        found = layer(x, lengths=[7, 2, 0, 5], reset=reset)
    assert found[0].dtype == LOW
    torch.testing.assert_close(found[0].float(), expected[0], rtol=0, atol=4 * UNIT)
    single = Recurrent(cells.LSTM(6, 20)).to(LOW)
    with torch.no_grad():
        whole = single(x.to(LOW))[0]
        state, rows = None, []
        for row in x.to(LOW):
            y, state = single.step(row, state)
            rows.append(y)
    torch.testing.assert_close(torch.stack(rows), whole, rtol=0, atol=4 * UNIT)


@pytest.mark.parametrize("name", ["lstm", "gru", "elman"])
def test_upper_layers_read_bfloat16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the layer below gave is multiplied as it is; elsewhere x is float32 as before."""
    torch.manual_seed(3)
    read: list[torch.dtype] = []
    product = narrow_gemm.linear_low

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        read.append(x.dtype)
        return product(x, weight, bias)

    quick = reduced.Reduced(reduced.running(LOW, torch.device("cpu")).target, LOW)  # type: ignore[union-attr]
    quick.narrow = LOW  # on every processor
    monkeypatch.setattr(reduced, "reduced", lambda inner, storage: quick)
    everloop.layers.guards.programs.clear()
    layer, x = Recurrent(cells.named(name)(12, 40), layers=3), torch.randn(5, 4, 12, requires_grad=True)
    expected = layer(x)[0]
    monkeypatch.setattr(narrow_gemm, "linear_low", linear)
    with autocast():
        found = layer(x)[0]
        assert read == [torch.float32, LOW, LOW]
        found.float().sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == torch.float32
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=6 * UNIT)
    everloop.layers.guards.programs.clear()


@pytest.mark.parametrize("run", [Recurrent, everloop.LSTM])
@pytest.mark.filterwarnings("ignore")
def test_torch_compile_gives_the_same(run: Callable[..., nn.Module]) -> None:
    torch.manual_seed(4)
    layer = Recurrent(cells.LSTM(6, 20)) if run is Recurrent else run(6, 20)
    x = torch.randn(5, 3, 6)
    with autocast():
        expected = layer(x)[0]
        with torch._dynamo.config.patch(allow_rnn=True):
            found = torch.compile(layer, backend="aot_eager", fullgraph=True)(x)[0]
    torch._dynamo.reset()
    assert found.dtype == expected.dtype == LOW
    torch.testing.assert_close(found, expected, rtol=0, atol=2 * UNIT)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e-40])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_odd_numbers_pass_as_in_torch(kind: str, number: float) -> None:
    """Where results are not finite, and what they are elsewhere: 6 steps, of which each rounds its output by half a
    unit of 1, and what goes into it and its products likewise."""
    torch.manual_seed(5)
    theirs = getattr(nn, kind)(4, 20).to(LOW)
    ours = getattr(everloop, kind)(4, 20).to(LOW)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(6, 3, 4).to(LOW)
    x[2, 1, 3] = number
    found, expected = ours(x)[0], theirs(x)[0]
    assert torch.equal(found.isnan(), expected.isnan())
    torch.testing.assert_close(found, expected, rtol=0, atol=4 * UNIT, equal_nan=True)
    wide = getattr(everloop, kind)(4, 20)
    wide.load_state_dict(theirs.state_dict())
    with autocast(), torch.no_grad():
        found = wide(x.float())[0]
    assert torch.equal(found.isnan(), expected.isnan())
    torch.testing.assert_close(found.to(LOW), expected, rtol=0, atol=4 * UNIT, equal_nan=True)


def test_a_processor_that_multiplies_bfloat16_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(6)
    x = torch.randn(9, 3, 12).to(LOW)
    quick = Recurrent(cells.LSTM(12, 20)).to(LOW)
    y = quick(x)[0]
    plain = reduced.Reduced(reduced.running(LOW, x.device).target, LOW)  # type: ignore[union-attr]
    plain.narrow = None
    monkeypatch.setattr(reduced, "reduced", lambda inner, storage: plain)
    slow = Recurrent(copy.deepcopy(quick.cell))
    everloop.layers.guards.programs.clear()
    assert "products in float32, because" in slow.explain()
    torch.testing.assert_close(slow(x)[0], y, rtol=0, atol=2 * UNIT)
    everloop.layers.guards.programs.clear()


def test_float16_is_stored_and_computed_in_float32() -> None:
    torch.manual_seed(7)
    layer, x = Recurrent(cells.GRU(5, 20)), torch.randn(8, 3, 5)
    expected = layer(x)[0]
    half = copy.deepcopy(layer).half()
    assert "target llvm" in half.explain()
    assert "float16: what is given" in half.explain()
    torch.testing.assert_close(half(x.half())[0].float(), expected, rtol=0, atol=8 * torch.finfo(torch.float16).eps)
    with autocast(torch.float16), torch.no_grad():
        assert layer(x)[0].dtype == torch.float16


@pytest.mark.parametrize("name", ["lstm", "layer-norm-lstm", "sru"])
def test_long_inference_goes_by_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are the same, with resets and in both directions; ragged batches stay whole, and so does all where
    the processor multiplies bfloat16 no faster."""
    torch.manual_seed(9)
    layer, x = Recurrent(cells.named(name)(64, 64), layers=2, bidirectional=True), torch.randn(13, 64, 64)
    reset, lengths, calls = torch.rand(13, 64) < 0.3, torch.arange(64) % 14, []
    kernel = NativeKernel.__call__

    def called(self: NativeKernel, time: Any, *given: Any, **named: Any) -> None:
        calls.append(time.steps)
        kernel(self, time, *given, **named)

    monkeypatch.setattr(NativeKernel, "__call__", called)
    with torch.no_grad(), autocast():
        expected = layer(x, reset=reset)
        ragged = layer(x, lengths=lengths)
        assert max(calls) == 13
        monkeypatch.setattr(recompute, "FRESH", 4 * 64 * 3 * 64 * 5)
        assert torch.equal(layer(x, lengths=lengths)[0], ragged[0])
        calls.clear()
        found = layer(x, reset=reset)
    is_narrow = reduced.running(LOW, x.device).narrow is not None  # type: ignore[union-attr]
    assert (max(calls) < 13) is is_narrow
    assert torch.equal(found[0], expected[0])
    for a, b in zip(leaves(found[1]), leaves(expected[1]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("target", ["eager", "llvm"])
def test_x_of_bfloat16_and_weights_of_float32(target: str) -> None:
    torch.manual_seed(7)
    layer = Recurrent(cells.GRU(5, 20), target=target)
    x = torch.randn(8, 3, 5).to(LOW)
    with torch.no_grad():
        expected = layer(x.float())[0]
        with autocast():
            found = layer(x)[0]
    assert found.dtype == LOW
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=2 * UNIT)


@pytest.mark.parametrize("recompute", [None, 3])
@pytest.mark.parametrize("sizes", [(6, 2, 8, 24), (12, 8, 64, 48)])
@pytest.mark.parametrize("dtype", [LOW, torch.float16])
def test_gradients_are_the_same_where_backward_is_called_under_autocast(
    dtype: torch.dtype, sizes: tuple[int, int, int, int], recompute: int | None
) -> None:
    steps, batch, inner, hidden = sizes
    found = []
    for is_inside in (True, False):
        torch.manual_seed(0)
        layer = Recurrent(cells.GRU(inner, hidden), layers=2, recompute=recompute)
        x = torch.randn(steps, batch, inner, requires_grad=True)
        with autocast(dtype):
            loss = layer(x)[0].float().square().sum()
            if is_inside:
                loss.backward()
        if not is_inside:
            loss.backward()
        assert x.grad is not None
        found.append([x.grad, *(p.grad for p in layer.parameters())])
    for inside, outside in zip(*found, strict=True):
        assert inside.dtype == torch.float32
        # PyTorch's own products, of few rows, round their factors there
        torch.testing.assert_close(inside, outside, rtol=0, atol=torch.finfo(dtype).eps * float(outside.abs().max()))


def test_float64_is_left_alone_by_autocast() -> None:
    layer, x = Recurrent(cells.GRU(5, 7)).double(), torch.randn(8, 3, 5).double()
    expected = layer(x)[0]
    with autocast():
        assert torch.equal(layer(x)[0], expected)


def test_gradients_of_gradients() -> None:
    torch.manual_seed(8)
    layer, x = Recurrent(cells.Elman(4, 9)), torch.randn(5, 2, 4, requires_grad=True)

    def second() -> Tensor:
        (first,) = torch.autograd.grad(layer(x)[0].float().square().sum(), x, create_graph=True)
        (found,) = torch.autograd.grad(first.square().sum(), x)
        return found

    expected = second()
    with autocast():
        found = second()
    assert (found - expected).norm() < 8 * UNIT * expected.norm()


class Extremes(everloop.Cell):
    h = everloop.state(everloop.H)
    W, R = everloop.param(everloop.H, everloop.I), everloop.param(everloop.H, everloop.H)

    def step(self, x: Any, h: Any) -> Any:
        a = torch.tanh(x @ self.W.T + h @ self.R.T)
        return a - h.amax(-1, keepdim=True) + 0.5 * (2 * h).amin(-1, keepdim=True)


def test_a_largest_value_is_found_again_in_the_gradient() -> None:
    """The state that it is of is not rounded between, and the gradient is that of a loop in float64."""
    torch.manual_seed(0)
    layer = Recurrent(Extremes(4, 6))
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(p.to(LOW))
    x, weight = torch.randn(20, 16, 4).to(LOW).float(), torch.randn(20, 16, 6).to(LOW).float()
    with autocast():
        y = layer(x)[0]
    found = torch.autograd.grad((y.float() * weight).sum(), [layer.cell.W, layer.cell.R])
    exact = copy.deepcopy(layer.cell).double()
    h, total = torch.zeros(16, 6).double(), torch.zeros(()).double()
    for x_t, weight_t in zip(x.double(), weight.double(), strict=True):
        h = exact.step(x_t, h)
        total = total + (h * weight_t).sum()
    for ours, theirs in zip(found, torch.autograd.grad(total, [exact.W, exact.R]), strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < math.sqrt(20) * UNIT
