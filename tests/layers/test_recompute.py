"""Sequences in segments: the same numbers and gradients as in one piece, in less memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from everloop.cell import Cell, H, I, output, param, state
from everloop.cells import GRU, LSTM
from everloop.compiler.call import Call, Results
from everloop.errors import OptionError
from everloop.layers import Bidirectional, Recurrent, Stack, VariationalDropout, Zoneout, recompute


class Outer(Cell):
    S = state(H, H)
    y = output(H)
    A, B = param(H, I), param(H, I)

    def step(self, x: Tensor, S: Tensor) -> Any:
        k = torch.tanh(x @ self.A.T)
        S = 0.9 * S + (x @ self.B.T).unsqueeze(-1) * k.unsqueeze(-2)
        return S, (S @ k.unsqueeze(-1)).squeeze(-1)


CORES: dict[str, Any] = {
    "lstm": lambda: LSTM(3, 4),
    "stack of wrappers": lambda: Stack([Zoneout(GRU(3, 4), h=0.2), VariationalDropout(LSTM(4, 5), recurrence=0.3)]),
    "both directions": lambda: Bidirectional(LSTM(3, 4)),
    "matrix": lambda: Outer(3, 4),
}


def gradients(layer: Recurrent, x: Tensor, **options: Any) -> list[Tensor]:
    torch.manual_seed(5)
    x = x.clone().requires_grad_()
    y, final = layer(x, **options)
    loss = (y * torch.arange(y.numel(), dtype=y.dtype).view(y.shape).cos()).sum() + sum(
        s.square().sum() for s in leaves(final)
    )
    found = torch.autograd.grad(loss, [x, *layer.parameters()])
    return [y.detach(), *(s.detach() for s in leaves(final)), *found]


def leaves(final: Any) -> list[Tensor]:
    return [leaf for part in final for leaf in leaves(part)] if isinstance(final, tuple) else [final]


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("target", ["eager", None])
@pytest.mark.parametrize("steps", [1, 3, 7, 20])
def test_segments_change_no_number(name: str, target: str | None, steps: int) -> None:
    torch.manual_seed(0)
    layer = Recurrent(CORES[name](), learned_state=True, target=target).double()
    x, reset = torch.randn(11, 4, 3, dtype=torch.float64), torch.rand(11, 4) < 0.2
    options: list[dict[str, Any]] = [{}, {"lengths": [11, 3, 0, 7], "reset": reset}]
    for each in options:
        layer.recompute = 0
        expected = gradients(layer, x, **each)
        layer.recompute = steps
        for found, whole in zip(gradients(layer, x, **each), expected, strict=True):
            torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-12)


def test_matrices_that_are_many_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Recurrent(Outer(3, 16)).double()
    x = torch.randn(50, 2, 3, dtype=torch.float64)
    whole = gradients(layer, x)
    asked: list[int] = []
    segments = recompute.in_segments
    total = 50 * 2 * 256 * 8
    monkeypatch.setattr(recompute, "KEEP", total - 1)

    def watched(run: Any, call: Call, steps: int) -> Results:
        asked.append(steps)
        return segments(run, call, steps)

    monkeypatch.setattr("everloop.layers.autograd_function.in_segments", watched)
    for found, expected in zip(gradients(layer, x), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert asked == [25]
    monkeypatch.setattr(recompute, "KEEP", total // 1000)
    for found, expected in zip(gradients(layer, x), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert asked == [25, 8]  # 7 segments, the root of 50
    with torch.no_grad():
        layer(x)
    layer.recompute = 0
    gradients(layer, x)
    gradients(Recurrent(LSTM(3, 300)).double(), x)  # its states are as wide as its output
    assert asked == [25, 8]


@pytest.mark.parametrize("target", ["eager", None])
def test_gradients_of_gradients_of_segments(target: str | None) -> None:
    torch.manual_seed(0)
    layer = Recurrent(Outer(3, 4), target=target).double()
    layer.cell.A.requires_grad_(False)
    x = torch.randn(7, 2, 3, dtype=torch.float64, requires_grad=True)

    def second(steps: int) -> tuple[Tensor, ...]:
        layer.recompute = steps
        (first,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, layer.cell.B])

    for found, expected in zip(second(3), second(0), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
def test_transforms_see_the_whole_sequence() -> None:
    torch.manual_seed(0)
    layer = Recurrent(LSTM(3, 4)).double()
    x, along = torch.randn(2, 7, 2, 3, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return layer(x)[0].square().sum()

    def forward_mode(x: Tensor) -> Any:
        with forward_ad.dual_level():
            given = forward_ad.make_dual(x, along)  # type: ignore[no-untyped-call]
            return forward_ad.unpack_dual(loss(given)).tangent  # type: ignore[no-untyped-call]

    ways: list[Callable[[Tensor], Tensor]] = [
        torch.func.grad(loss),
        torch.func.vmap(lambda row: layer(row[:, None])[0], in_dims=1),
        lambda x: torch.func.jvp(loss, (x,), (along,))[1],
        forward_mode,
    ]
    expected = [way(x) for way in ways]
    layer.recompute = 3
    for way, want in zip(ways, expected, strict=True):
        torch.testing.assert_close(way(x), want, rtol=1e-10, atol=1e-12)


def test_segments_under_autocast_compute_as_the_whole() -> None:
    torch.manual_seed(0)
    layer, x = Recurrent(Outer(3, 16)), torch.randn(9, 2, 3)

    def all_gradients(steps: int) -> list[Tensor]:
        layer.recompute = steps
        with torch.autocast("cpu", torch.bfloat16):
            y, _ = layer(x)
        return [y.detach(), *torch.autograd.grad(y.float().square().sum(), [*layer.parameters()])]

    for found, expected in zip(all_gradients(4), all_gradients(0), strict=True):
        assert found.dtype == expected.dtype
        # Large products are rounded to bfloat16, of 8 bits: those of a segment, and their sum, once more.
        torch.testing.assert_close(found, expected, rtol=2**-6, atol=2**-6 * float(expected.abs().max()))


def test_after_the_backward_pass_no_segment_is_held() -> None:
    layer, x = Recurrent(Outer(3, 16), recompute=4), torch.randn(9, 2, 3, requires_grad=True)
    inner = x * 2
    held = weakref.ref(inner)
    y, _ = layer(inner)
    del inner
    y.sum().backward()
    assert held() is None


def test_memory_is_that_of_a_segment() -> None:
    def kept(steps: int) -> int:
        layer = Recurrent(Outer(3, 32), recompute=steps)
        held: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer(torch.randn(400, 1, 3))
        return sum(held.values())

    assert kept(20) < 0.1 * kept(0)


@pytest.mark.parametrize(("steps", "expected"), [(50, []), (64, []), (65, [64]), (200, [112])])
def test_segments_chosen_by_the_length(monkeypatch: pytest.MonkeyPatch, steps: int, expected: list[int]) -> None:
    asked: list[int] = []
    segments = recompute.in_segments

    def watched(run: Any, call: Call, steps: int) -> Results:
        asked.append(steps)
        return segments(run, call, steps)

    monkeypatch.setattr("everloop.layers.dispatch.in_segments", watched)
    layer, x = Recurrent(LSTM(3, 4), recompute="auto").double(), torch.randn(steps, 2, 3, dtype=torch.float64)
    found = gradients(layer, x)
    assert asked == expected
    layer.recompute = 0
    for auto, whole in zip(found, gradients(layer, x), strict=True):
        torch.testing.assert_close(auto, whole, rtol=1e-10, atol=1e-12)


def test_what_cannot_be_is_said() -> None:
    layer, x = Recurrent(LSTM(3, 4), recompute=2**80), torch.randn(5, 2, 3)  # one segment
    torch.testing.assert_close(layer(x)[0], Recurrent(layer.cell)(x)[0])
    for wrong in (-1, 2.5, True, "many"):
        with pytest.raises(OptionError, match=r"recompute is .*; expected steps, 0 for none, or None; or 'auto'"):
            Recurrent(LSTM(3, 4), recompute=wrong)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_torch_compile_leaves_a_layer_in_segments_to_python() -> None:
    layer = Recurrent(LSTM(3, 4), recompute=2).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    compiled = torch.compile(layer, backend="eager")
    torch.testing.assert_close(compiled(x)[0], layer(x)[0])
    compiled(x)[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
