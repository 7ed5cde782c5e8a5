"""Layers in 8 bits: near the floats as the format allows, the same on every way to run, saved and loaded."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import everloop
from everloop import Cell, H, I, cells, param, quantize, state
from everloop.compiler.ir import Value, walk
from everloop.compiler.quantize import LEVELS, Factors
from everloop.errors import CellError, OptionError, UnsupportedError
from everloop.layers import Bidirectional, Recurrent, Stack
from everloop.layers.quantized_cell import Draft, OfGraph, QuantizedCell
from tests import zoo
from tests.random_cells.build import build
from tests.random_cells.campaign import drawn

TRIES, FACTOR = 6, 4.0  # of noise as large as that of the format, and how much less likely than its largest
# Cells whose states may grow, in what a product multiplies.
UNBOUNDED = {"elman-relu": "h", "counter": "h"}


class Noisy(OfGraph):
    """A cell in which both factors of each product are wrong at random by at most half a step of 8 bits."""

    def __init__(self, draft: Draft, small: QuantizedCell) -> None:
        super().__init__(draft.cell)
        self.draft, self.small = [draft], [small]

    def step(self, x: Tensor, *states: Tensor) -> Any:
        draft, known = self.draft[0], dict(zip(self.state_sizes, states, strict=True))
        by_name = {f.name: f for f in self.small[0]._computed.found}
        found = {f.product: by_name[f.name] for f in draft.found}
        done: dict[Value, Any] = {}
        for v in draft.step.values:
            args = [done[a] for a in v.args]
            if v.op == "input":
                groups = {"x": {"x": x}, "state": known, "literal": {v.data[1]: v.data[1]}}
                thing = groups.get(v.group, draft.known).get(v.data[1])
                thing = _attribute(self, v.name) if thing is None else thing
                done[v] = (thing.flatten(1) if v.type.rows else thing).to(x.dtype)
            elif v.op == "constant":
                rows = x.shape[:1] if v.type.rows else ()
                done[v] = x.new_full((*rows, *v.type.shape), v.number)
            elif v.op == "call":
                done[v] = v.data[0](*args)
            elif v in found:
                done[v] = v.operation.meaning(*_noisy(found[v], *args))
            else:
                done[v] = v.operation.meaning(*args, *v.data)
        return self._results({name: done[v] for name, v in draft.step.outputs.items()})


def _attribute(cell: Any, path: str) -> Any:
    for name in path.split("."):
        cell = getattr(cell, name)
    return cell


def _noisy(factors: Factors, row: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    own = row.abs().amax(-1, keepdim=True)
    size = own.clamp(min=factors.bound)
    along = -1 if factors.product.op == "linear" else -2
    step = matrix.abs().amax(along, keepdim=True) / LEVELS
    return row + (torch.rand_like(row) - 0.5) * size / LEVELS, matrix + (torch.rand_like(matrix) - 0.5) * step


def allowed(
    layer: Recurrent, small: Any, x: Tensor, state: tuple[Tensor, ...] | None = None, **given: Any
) -> tuple[Tensor, float]:
    """Return the output in float64, and by how much rounding to 8 bits may change it."""
    exact, inside = copy.deepcopy(layer).double(), dict[str, Any]({k: t.double() for k, t in given.items()})
    inside["state"] = None if state is None else tuple(s.double() for s in state)
    with torch.no_grad():
        y, _ = each_output(exact(x.double(), **inside))
        worst = 0.0
        for seed in range(TRIES):
            torch.manual_seed(seed)
            noisy = Recurrent(Noisy(Draft(exact.cell), small.cell).eval(), target="eager")
            worst = max(worst, float((each_output(noisy(x.double(), **inside))[0] - y).abs().max()))
    return y, FACTOR * worst


@pytest.mark.parametrize("name", [n for n in zoo.ALL if n != "attention-gru"])
def test_a_cell_of_the_zoo(name: str) -> None:
    torch.manual_seed(1)
    layer = Recurrent(zoo.make(name, 6, 9)).eval()
    x = torch.randn(7, 3, 6)
    given = zoo.given(layer.cell, x)
    small = quantize(layer, lambda own: own(x, **given.at()))
    y, tolerance = allowed(layer, small, x, **given.at())
    eager = Recurrent(copy.deepcopy(small.cell), target="eager")
    with torch.no_grad():
        found, _ = each_output(small(x, **given.at()))
        meaning, _ = each_output(eager(x, **given.at()))
        steps, state = [], None
        for t in range(7):
            y_t, state = each_output(small.step(x[t], state, **given.at(t)))
            steps.append(y_t)
    assert (found - y).abs().max() <= tolerance
    assert (meaning - y).abs().max() <= tolerance
    # Two ways round alike but for what is halfway, within rounding of float32.
    torch.testing.assert_close(found, meaning, rtol=0, atol=max(1e-5, tolerance / 10))
    torch.testing.assert_close(torch.stack(steps), found, rtol=0, atol=max(1e-5, tolerance / 10))


@pytest.mark.parametrize("number", range(40))
def test_a_random_layer_runs_as_its_meaning_says(number: int) -> None:
    drawn_cell, case = drawn(7, number)
    layer = build(drawn_cell, replace(case, double=False, batch_first=False)).layer.eval()
    torch.manual_seed(number)
    x = torch.randn(4, 3, layer.input_size)
    given = zoo.given(layer.cell, x).at()
    try:
        small = quantize(layer, lambda own: own(x, **given))
    except (CellError, UnsupportedError, OptionError) as error:
        pytest.skip(f"a memory, a step that is not compiled, or no product: {error}")
    with torch.no_grad():
        y, _ = each_output(small(x, **given))
        small.target = "eager"
        expected, _ = each_output(small(x, **given))
    if expected.isfinite().all() and not any(v.op == "floor" for v in floats_of(small)):
        scale = max(1.0, float(expected.abs().max()))
        assert ((y - expected).abs() > 1e-3 * scale).float().mean() < 0.1  # what is halfway may be rounded either way


def each_output(results: Any) -> Any:
    y, after = results
    return (torch.cat(list(y), -1) if isinstance(y, tuple) else y), after


def floats_of(small: nn.Module) -> list[Value]:
    """Return the values of the steps in floats."""
    cells_inside = [m for m in small.modules() if isinstance(m, QuantizedCell)]
    return [v for cell in cells_inside for f in cell._computed.found for v in walk([f.product])]


@pytest.mark.parametrize("name", UNBOUNDED)
def test_a_state_that_may_grow_needs_data(name: str) -> None:
    layer = Recurrent(zoo.make(name, 3, 4))
    with pytest.raises(OptionError, match=rf"reads {UNBOUNDED[name]}, which may grow.*data=x"):
        quantize(layer)
    x = torch.randn(5, 2, 3)
    assert "measured" in quantize(layer, x).explain()


def test_data_that_tells_nothing() -> None:
    with pytest.raises(OptionError, match="met no finite number but 0 in the data"):
        quantize(Recurrent(cells.Elman(3, 4, nonlinearity="relu", bias=False)), torch.zeros(2, 1, 3))


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_data_without_a_finite_number(number: float) -> None:
    layer, x = Recurrent(cells.Elman(3, 4, nonlinearity="relu")), torch.randn(5, 2, 3)
    broken = torch.full_like(x, number)
    with pytest.raises(OptionError, match="product with R met no finite number but 0 in the data"):
        quantize(layer, broken)
    in_part = torch.cat([x, broken], 1)
    bound = quantize(layer, torch.cat([x, x], 1)).get_parameter("cell.R_bound")  # as many rows: sums round alike
    assert torch.equal(quantize(layer, in_part).get_parameter("cell.R_bound"), bound)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite(number: float) -> None:
    layer = Recurrent(cells.GRU(3, 4))
    with torch.no_grad():
        layer.cell.R[2, 1] = number
    with pytest.raises(OptionError, match="in GRU the weight R has numbers that are infinite or NaN"):
        quantize(layer)


class Orthogonal(Cell):
    """A matrix that is a function of a parameter, and is not finite where that is computed in 16 bits."""

    h = state(H)
    A, W = param(H, H), param(H, I)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(h @ torch.linalg.matrix_exp(self.A - self.A.T).T + x @ self.W.T)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("with_data", [False, True])
def test_a_matrix_that_needs_more_than_16_bits(dtype: torch.dtype, with_data: bool) -> None:
    torch.manual_seed(0)
    layer, x = Recurrent(Orthogonal(4, 64)).eval(), torch.randn(9, 2, 4, dtype=dtype)
    layer.cell.A.normal_()
    layer.to(dtype)
    small = quantize(layer, x if with_data else None)
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert next(layer.parameters()).dtype == dtype
    y = layer.double()(x.double())[0]
    torch.testing.assert_close(small(x)[0].double(), y, rtol=0, atol=0.1)


@torch.no_grad()
def test_data_narrow_a_proved_range() -> None:
    torch.manual_seed(0)
    layer, x = Recurrent(cells.GRU(8, 64)).eval(), torch.randn(30, 4, 8) * 0.05
    layer.cell.b.zero_()
    layer.cell.d.zero_()
    y, _ = layer(x)
    by_proof, by_data = quantize(layer), quantize(layer, x)
    errors = [float((small(x)[0] - y).square().mean().sqrt()) for small in (by_proof, by_data)]
    assert y.abs().max() < 0.2
    assert errors[1] < 0.5 * errors[0]
    assert re.search(r"R: int8 .*measured \(to 1 is proved\); larger ones with", by_data.explain())
    assert "measured" not in by_proof.explain()
    by_proof.load_state_dict(by_data.state_dict())
    assert by_proof.explain() == by_data.explain()
    far = torch.rand(4, 64) * 2 - 1  # states that the data never had are rounded, and not cut off
    for small in (by_data, Recurrent(copy.deepcopy(by_data.cell), target="eager")):
        torch.testing.assert_close(small(x, state=(far,))[0], layer(x, state=(far,))[0], rtol=0, atol=0.03)
    torch.testing.assert_close(by_data.step(x[0], (far,))[0], layer.step(x[0], (far,))[0], rtol=0, atol=0.03)


def test_what_explain_says_of_rows_of_0() -> None:
    class Still(Cell):
        h = state(H)
        W, R = param(H, I), param(H, H)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return (x @ self.W.T + h @ self.R.T).relu() * 0.0

    assert "R: int8 [4 × 4], rows of 0, proved; others with" in quantize(Recurrent(Still(3, 4))).explain()


def test_what_explain_says() -> None:
    text = quantize(Recurrent(cells.LSTM(3, 4))).explain()
    assert "gradient" not in text
    assert "training" not in text
    assert "state h: in [-1, 1], proved" in text
    assert "state c: in (-∞, ∞), not bounded; it stays float" in text
    assert "R: int8 [16 × 4], rows from -1 to 1, proved" in text
    assert "W: int8 [16 × 3], rows with the scale of their own largest number" in text
    assert "step: one native call" in text


def test_lengths_resets_directions_and_stacks() -> None:
    torch.manual_seed(0)
    core = Stack([cells.GRU(5, 8), Bidirectional(cells.LSTM(8, 6))])
    layer = Recurrent(core, learned_state=True, batch_first=True).eval()
    small = quantize(layer)
    x, lengths = torch.randn(3, 9, 5), torch.tensor([9, 0, 4])
    reset = torch.rand(3, 9) < 0.3
    with torch.no_grad():
        y, state = layer(x, lengths=lengths, reset=reset)
        found, after = small(x, lengths=lengths, reset=reset)
        small.target = "eager"
        expected, _ = small(x, lengths=lengths, reset=reset)
    torch.testing.assert_close(found, y, rtol=0, atol=0.03)
    torch.testing.assert_close(after, state, rtol=0, atol=0.05)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert not found[1].any()


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU, everloop.LSTM])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False}])
def test_layers_of_torch(kind: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = kind(6, 7, **options)
    small = quantize(layer)
    count = 4 if options else 1
    x, hx = torch.randn(5, 3, 6), torch.rand(count, 5 if options else 3, 7)
    given = (hx, hx) if isinstance(layer, nn.LSTM) else hx
    with torch.no_grad():
        for state in (None, given):
            y, after = layer(x, state)
            found, end = small(x, state)
            torch.testing.assert_close(found, y, rtol=0, atol=0.03)
            torch.testing.assert_close(end, after, rtol=0, atol=0.04)
        packed = nn.utils.rnn.pack_padded_sequence(x, [3, 1, 2, 2, 1] if options else [5, 2, 4],
                                                   batch_first=bool(options), enforce_sorted=False)  # fmt: skip
        torch.testing.assert_close(small(packed)[0].data, layer(packed)[0].data, rtol=0, atol=0.03)


def test_a_layer_inside_a_model_and_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), everloop.GRU(6, 8))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    small = quantize(model)
    x = torch.randn(7, 2, 4)
    y, _ = small(x)  # without no_grad: nothing in it has a gradient
    torch.testing.assert_close(y, model(x)[0], rtol=0, atol=0.03)
    assert not y.requires_grad
    assert all(torch.equal(model.state_dict()[name], t) for name, t in before.items())


def test_there_is_no_gradient() -> None:
    small = quantize(Recurrent(cells.GRU(3, 4)))
    with pytest.raises(OptionError, match="for inference"):
        small(torch.randn(2, 1, 3, requires_grad=True))
    assert not small.train().cell.training


def test_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = Recurrent(cells.LSTM(128, 128), layers=2)
    x = torch.randn(5, 2, 128)
    small = quantize(layer)
    save_file(layer.state_dict(), tmp_path / "float.safetensors")
    save_file(small.state_dict(), tmp_path / "small.safetensors")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("float", "small")]
    assert sizes[1] < 0.3 * sizes[0]
    other = quantize(Recurrent(cells.LSTM(128, 128), layers=2))
    with torch.no_grad():
        y, _ = small(x)
        other.step(x[0])  # what was compiled for other numbers reads the new ones
        other.load_state_dict(load_file(tmp_path / "small.safetensors"))
        assert torch.equal(other(x)[0], y)
        torch.testing.assert_close(other.step(x[0])[0], y[0], rtol=0, atol=1e-5)
        assert torch.equal(copy.deepcopy(small)(x)[0], y)


def test_other_dtypes() -> None:
    torch.manual_seed(0)
    small = quantize(Recurrent(cells.GRU(5, 6)))
    x = torch.randn(4, 2, 5)
    with torch.no_grad():
        y, _ = small(x)
        double = copy.deepcopy(small).double()
        torch.testing.assert_close(double(x.double())[0].float(), y, rtol=0, atol=1e-3)
        torch.testing.assert_close(double.step(x[0].double())[0].float(), y[0], rtol=0, atol=1e-3)
        torch.testing.assert_close(small.bfloat16()(x.bfloat16())[0].float(), y, rtol=0, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_layer_of_float64_becomes_one_of_less(dtype: torch.dtype) -> None:
    """The largest number, by which infinite rows are divided, is that of the dtype of arithmetic."""
    torch.manual_seed(0)
    exact = Recurrent(cells.LSTM(5, 6)).double()
    small, x = quantize(exact).to(dtype), torch.randn(4, 2, 5).double()
    with torch.no_grad():
        y, _ = exact(x)
        found = small(x.to(dtype))[0], Recurrent(small.cell, target="eager")(x.to(dtype))[0]
        step, _ = small.step(x[0].to(dtype))
    for each in found:
        assert each.dtype == dtype
        torch.testing.assert_close(each.double(), y, rtol=0, atol=0.03)
    torch.testing.assert_close(step.double(), y[0], rtol=0, atol=0.03)


@pytest.mark.parametrize("target", [None, "eager"])
def test_rows_too_large_for_float32_in_a_layer_that_became_float64(target: str | None) -> None:
    torch.manual_seed(0)
    layer = Recurrent(cells.Elman(3, 4, nonlinearity="relu"))
    x = torch.tensor([[[1e50, 3e49, -4e49]], [[2e49, -5e49, 1e49]]], dtype=torch.float64)
    small = Recurrent(quantize(layer, torch.randn(2, 1, 3)).cell.double(), target=target)
    with torch.no_grad():
        y = layer.double()(x)[0]
        assert y.max() > 1e49
        torch.testing.assert_close(small(x)[0], y, rtol=0, atol=0.02 * float(y.max()))


def test_quantized_and_run_under_autocast() -> None:
    torch.manual_seed(0)
    layer, x = Recurrent(cells.LSTM(5, 6)), torch.randn(4, 2, 5)
    small = quantize(layer)
    with torch.autocast("cpu", torch.float16), torch.no_grad():
        found = quantize(layer)(x)[0]
        assert found.dtype == torch.float16
        torch.testing.assert_close(found, small(x)[0])
    with torch.no_grad():
        torch.testing.assert_close(found.float(), small(x)[0], rtol=0, atol=0.01)


def test_of_what_is_no_number_the_result_is_none() -> None:
    small = quantize(Recurrent(cells.Elman(3, 4)))
    x = torch.randn(3, 1, 3)
    x[0, 0, 1] = torch.nan
    state = None
    with torch.no_grad():
        assert small(x)[0].isnan().all()
        for x_t in x:
            y, state = small.step(x_t, state)
            assert y.isnan().all()


def test_what_is_refused() -> None:
    with pytest.raises(OptionError, match="no cell inside"):
        quantize(nn.Linear(3, 4))
    with pytest.raises(OptionError, match="Sequential is in 8 bits already"):
        quantize(nn.Sequential(quantize(Recurrent(cells.GRU(3, 4)))))
    for layer in (Recurrent(cells.GRU(3, 4)).to("meta"), nn.GRU(3, 4, device="meta")):
        with pytest.raises(OptionError, match="is on the device meta and has no numbers"):
            quantize(layer)
    with pytest.raises(CellError, match="memory"):
        quantize(Recurrent(zoo.make("attention-gru", 3, 4)))
    with pytest.raises(UnsupportedError, match="a layer in 8 bits is not exported; export the one in floats"):
        torch.export.export(quantize(Recurrent(cells.GRU(3, 4))), (torch.randn(2, 1, 3),))
    with pytest.raises(CellError, match="repeated"):
        quantize(cells.GRU(3, 4)).like(5)
