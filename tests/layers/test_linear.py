"""The linear layer of all models, against PyTorch's own in float64, and who multiplies for it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import everloop
from everloop.compiler.targets.llvm import gemm
from everloop.compiler.targets.llvm.target import LLVM
from everloop.layers import linear as module
from everloop.layers.linear import Linear, linear

pytest.importorskip("llvmlite")


@pytest.fixture
def multiplied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Note the sizes of the products that a target makes; take products of any size to it."""
    found: list[tuple[int, ...]] = []
    own = LLVM.linear

    def noted(self: LLVM, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        found.append((*x.shape, len(weight)))
        return own(self, x, weight, bias)

    monkeypatch.setattr(LLVM, "linear", noted)
    monkeypatch.setattr(module, "SMALL", 0)
    monkeypatch.setattr(gemm, "MIN_MULTIPLICATIONS", 0)
    monkeypatch.setattr(gemm, "ROWS", 0)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mkl", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (0, 3, 2), (5, 3, 2), (7, 2, 33, 65), (2, 0, 3, 4), (130, 64, 70)])
def test_values_and_gradients_are_pytorchs(
    shape: tuple[int, ...], bias: bool, mkl: bool, dtype: torch.dtype, multiplied: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(gemm, "has_quick_mkl", lambda: mkl)
    *rows, inputs, outputs = shape
    ours = Linear(inputs, outputs, bias=bias, dtype=dtype)
    theirs = nn.Linear(inputs, outputs, bias=bias, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(*rows, 2 * inputs, dtype=dtype)[..., ::2]
    grad = torch.randn(*rows, outputs, dtype=dtype)
    results = []
    for layer, given, slope in ((ours, x, grad), (theirs, x.double(), grad.double())):
        leaf = given.detach().requires_grad_()
        y = layer(leaf)
        results.append([y, *torch.autograd.grad(y, (leaf, *layer.parameters()), slope)])
    assert multiplied
    eps = torch.finfo(dtype).eps
    for got, want in zip(*results, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, rtol=16 * eps, atol=16 * eps * max(1, x.numel()) ** 0.5)


def test_gradients_of_gradients(multiplied: list[object]) -> None:
    layer = Linear(5, 7, dtype=torch.float64)
    x = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, w, b: linear(x, w, b).tanh(), (x, layer.weight, layer.bias))
    assert multiplied


def test_small_products_are_pytorchs(multiplied: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Linear(4, 6), torch.randn(10, 4)
    monkeypatch.setattr(module, "SMALL", 241)
    layer(x)
    assert not multiplied
    monkeypatch.setattr(module, "SMALL", 240)
    layer(x)
    assert multiplied == [(10, 4, 6)]


class _Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore")  # torch.export itself uses what is deprecated
def test_pytorch_multiplies_what_must_be_its_own(multiplied: list[object]) -> None:
    layer, x = Linear(4, 6), torch.randn(3, 10, 4)
    want = F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(torch.func.vmap(layer)(x), want)
    tangent = torch.func.jvp(layer, (x,), (x,))[1]
    torch.testing.assert_close(tangent, F.linear(x, layer.weight))
    with _Watching():  # type: ignore[no-untyped-call]
        torch.testing.assert_close(layer(x), want)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), want)
    layer.to("meta")
    assert layer(x.to("meta")).shape == want.shape
    assert not multiplied


def test_fx_traces_it() -> None:
    model = nn.Sequential(Linear(3, 4), nn.Tanh(), Linear(4, 2, bias=False))
    traced, x = torch.fx.symbolic_trace(model), torch.randn(5, 3)
    torch.testing.assert_close(traced(x), model(x))


def test_autocast_is_pytorchs(multiplied: list[object]) -> None:
    layer, x = Linear(4, 6), torch.randn(10, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
        torch.testing.assert_close(found, F.linear(x, layer.weight, layer.bias))
    assert found.dtype == torch.bfloat16
    assert not multiplied
    half = layer.bfloat16()(x.bfloat16())
    torch.testing.assert_close(half, F.linear(x.bfloat16(), layer.weight, layer.bias))


def test_errors_are_pytorchs(multiplied: list[object]) -> None:
    for wrong in (torch.randn(10, 5), torch.randn(10, 4, dtype=torch.float64)):
        messages = []
        for layer in (Linear(4, 6), nn.Linear(4, 6)):
            with pytest.raises(RuntimeError) as caught:
                layer(wrong)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


def test_equal_calls_give_equal_numbers() -> None:
    layer, x = Linear(256, 300), torch.randn(700, 256)
    first = layer(x)
    for _ in range(3):
        assert torch.equal(layer(x), first)


def test_models_have_no_other_linear_layer() -> None:
    root = Path(everloop.__file__).parent / "models"
    calls = [
        f"{path.name}:{node.lineno}"
        for path in root.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("nn.Linear", "F.linear", "torch.nn.Linear")
    ]
    assert not calls
