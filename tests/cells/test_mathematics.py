"""Every cell against the second writing of its equations, and against torch.nn where that has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from everloop import cells
from everloop.cell import Cell
from everloop.layers import Recurrent
from everloop.layers.dropout import values_of
from everloop.layers.extras import checked_extras, example
from everloop.layers.input_form import InputForm
from tests.cells.references import REFERENCES, over_time
from tests.zoo import make

SIZES = [(1, 1, 1, 1), (2, 3, 5, 4), (7, 1, 2, 3), (5, 4, 3, 17)]


def problem(name: str, steps: int, batch: int, inputs: int, hidden: int) -> tuple[Cell, Tensor, list[Tensor]]:
    cell = make(name, inputs, hidden, dtype=torch.float64)
    x = torch.randn(steps, batch, inputs, dtype=torch.float64, requires_grad=True)
    states = [torch.randn(batch, *n, dtype=torch.float64, requires_grad=True) for n in cell.state_shapes.values()]
    return cell, x, states


def joined(results: tuple[Any, Any]) -> tuple[Tensor, Any]:
    """Return the outputs of a layer side by side."""
    return torch.cat(results[0], -1) if isinstance(results[0], tuple) else results[0], results[1]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", REFERENCES)
def test_values_equal_the_formula_written_twice(name: str, sizes: tuple[int, int, int, int]) -> None:
    cell, x, states = problem(name, *sizes)
    weights = {k: v.detach().numpy() for k, v in cell.named_parameters()}
    told: dict[str, Any] = example(cell, x)
    told |= {f"{k}_lengths": torch.arange(x.shape[1]) * 2 for k, c in type(cell).contexts.items() if c.free}
    drawn = values_of(cell, len(x), x.shape[1], checked_extras(cell, told, x, InputForm(), seeded()))
    steps, rows = ({k: v.numpy() for k, v in group.items()} for group in (drawn.steps, drawn.rows))
    expected, last = over_time(name, weights | rows, x.detach().numpy(), [s.detach().numpy() for s in states], steps)
    output, final = joined(Recurrent(cell)(x, tuple(states), generator=seeded(), **told))
    np.testing.assert_allclose(output.detach().numpy(), expected, rtol=1e-12, atol=1e-13)
    for got, want in zip(final, last, strict=True):
        np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in (*cells.names(), "elman-relu") if name != "lif"])  # a surrogate's
def test_gradients_equal_finite_differences(name: str) -> None:
    cell, x, states = problem(name, 3, 2, 2, 3)
    layer = Recurrent(cell)
    parameters = list(cell.parameters())
    told = {k: v.requires_grad_() for k, v in example(cell, x).items()}

    def loss(x: Tensor, *rest: Tensor) -> Tensor:
        output, final = joined(layer(x, rest[: len(states)], generator=seeded(), **told))
        weights = torch.linspace(-1, 2, output.numel(), dtype=torch.float64)
        total = (output.flatten() * weights).sum()
        for k, last in enumerate(final):
            total = total + (k + 0.5) * last.square().sum()
        return total

    everything = (x, *states, *parameters, *told.values())
    got = torch.autograd.grad(loss(*everything), everything, allow_unused=True, materialize_grads=True)
    for value, gradient in zip(everything, got, strict=True):
        assert value.shape == gradient.shape
        with torch.no_grad():
            flat = value.view(-1)
            for j in range(0, flat.numel(), max(1, flat.numel() // 7)):
                old = flat[j].item()
                sides = []
                for step in (1e-6, -1e-6):
                    flat[j] = old + step
                    sides.append(loss(*everything).item())
                flat[j] = old
                numeric = (sides[0] - sides[1]) / 2e-6
                assert gradient.flatten()[j].item() == pytest.approx(numeric, rel=1e-5, abs=1e-7)


def torch_twin(name: str, cell: Cell, inputs: int, hidden: int) -> nn.Module:
    kinds: dict[str, Any] = {
        "elman": lambda: nn.RNN(inputs, hidden),
        "elman-relu": lambda: nn.RNN(inputs, hidden, nonlinearity="relu"),
        "lstm": lambda: nn.LSTM(inputs, hidden),
        "projected-lstm": lambda: nn.LSTM(inputs, hidden, proj_size=cell.output_size),
        "gru": lambda: nn.GRU(inputs, hidden),
    }
    twin: nn.Module = kinds[name]().double()
    own = dict(cell.named_parameters())
    names = {"W": "weight_ih_l0", "R": "weight_hh_l0", "b": "bias_ih_l0", "d": "bias_hh_l0", "V": "weight_hr_l0"}
    with torch.no_grad():
        twin.bias_hh_l0.zero_()  # type: ignore[operator]
        for mine, theirs in names.items():
            if mine in own:
                getattr(twin, theirs).copy_(own[mine])
    return twin


@pytest.mark.parametrize("name", ["elman", "elman-relu", "lstm", "projected-lstm", "gru"])
@pytest.mark.parametrize("sizes", SIZES)
def test_values_and_gradients_equal_torch_nn(name: str, sizes: tuple[int, int, int, int]) -> None:
    if name == "projected-lstm" and sizes[-1] == 1:
        pytest.skip("torch.nn requires proj_size to be smaller than hidden_size")
    cell, x, states = problem(name, *sizes)
    twin = torch_twin(name, cell, *sizes[2:])
    output, final = Recurrent(cell)(x, tuple(states))
    weights = torch.randn_like(output)
    ((output * weights).sum() + sum(s.square().sum() for s in final)).backward()
    mine = [x.grad, *(s.grad for s in states)]
    theirs_in = [v.detach().clone().requires_grad_() for v in (x, *states)]
    start = tuple(s[None] for s in theirs_in[1:])
    expected, last = twin(theirs_in[0], start if len(start) > 1 else start[0])
    last = last if isinstance(last, tuple) else (last,)
    ((expected * weights).sum() + sum(s.square().sum() for s in last)).backward()
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-13)
    for got, want in zip(mine, theirs_in, strict=True):
        torch.testing.assert_close(got, want.grad, rtol=1e-10, atol=1e-11)
    names = {"W": "weight_ih_l0", "R": "weight_hh_l0", "b": "bias_ih_l0", "d": "bias_hh_l0", "V": "weight_hr_l0"}
    for key, value in cell.named_parameters():
        torch.testing.assert_close(value.grad, getattr(twin, names[key]).grad, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", cells.names())
def test_without_bias_equals_biases_of_zero(name: str) -> None:
    cell = make(name, 3, 4)
    bare = make(name, 3, 4, bias=False)
    own = dict(bare.named_parameters())
    with torch.no_grad():
        for key, value in cell.named_parameters():
            if key in own:
                own[key].copy_(value)
            else:
                value.zero_()
    x = torch.randn(4, 2, 3)
    told = example(cell, x)
    torch.testing.assert_close(
        joined(Recurrent(bare).eval()(x, **told))[0], joined(Recurrent(cell).eval()(x, **told))[0]
    )
    assert (len(own) < len(dict(cell.named_parameters()))) == any(p.is_bias for p in type(cell).params.values())


def test_update_gate_conventions_differ_by_the_sign_of_z() -> None:
    """Negating the z rows turns h = z * h + (1 - z) * n into h = (1 - z) * h + z * n."""
    cell = cells.GRU(2, 3, dtype=torch.float64)
    x, h = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    _, (kept,) = cell(x, (h,))
    n = 3
    with torch.no_grad():
        for p in cell.parameters():
            p[n : 2 * n] *= -1
    r_x, z_x, n_x = (x @ cell.W.T + cell.b).chunk(3, -1)
    r_h, z_h, n_h = (h @ cell.R.T + cell.d).chunk(3, -1)
    z = torch.sigmoid(z_x + z_h)
    textbook = (1 - z) * h + z * torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
    torch.testing.assert_close(textbook, kept)


def test_the_gradient_of_a_spike_is_that_of_its_surrogate() -> None:
    cell = cells.LIF(1, 1, dtype=torch.float64, slope=10.0)
    for u, spikes in ((1.2, 1.0), (0.7, 0.0)):
        before = torch.tensor([[u]], dtype=torch.float64, requires_grad=True)
        zero = torch.zeros(1, 1, dtype=torch.float64)
        s, _ = Recurrent(cell)(zero[None], (zero, before / 0.9, zero))
        assert s.item() == spikes
        s.backward()
        assert before.grad is not None
        assert before.grad.item() == pytest.approx(1 / (1 + 10 * abs(u - 1)) ** 2)


def test_linear_recurrent_units_keep_the_size_of_their_input() -> None:
    cell = cells.LRU(1, 1, state_size=1000, dtype=torch.float64)
    radius, scale = torch.exp(-cell.nu.exp()), cell.gamma.exp()
    torch.testing.assert_close(scale**2, 1 - radius**2)
    assert 0.45 < (radius**2).mean().item() < 0.55  # even over the disc


def test_a_legendre_memory_holds_its_window() -> None:
    """The number of half a window ago is read off the memory by the Legendre polynomials of 1/2."""
    cell = cells.LMU(1, 1, order=8, theta=50.0, dtype=torch.float64)
    with torch.no_grad():
        for p in cell.parameters():
            p.zero_()
        cell.e_x.fill_(1.0)
    signal = torch.sin(torch.arange(120, dtype=torch.float64) / 12)
    _, (_, m) = Recurrent(cell)(signal[:, None, None])
    at_half = torch.tensor([1, 0, -1 / 2, 0, 3 / 8, 0, -5 / 16, 0], dtype=torch.float64)
    assert (m[0] @ at_half).item() == pytest.approx(signal[119 - 25 : 121 - 25].mean().item(), abs=0.05)
