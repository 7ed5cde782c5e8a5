"""A linear layer and its cross entropy in one operation, against PyTorch's two."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from everloop import linear_cross_entropy
from everloop.errors import OptionError, ShapeError
from everloop.layers import linear_cross_entropy as module

FLOATS = (torch.float64, torch.float32)
SIZES = [(1, 1, 1), (1, 3, 2), (2, 5, 1), (7, 4, 2), (37, 5, 11), (64, 33, 130)]  # N, I, V


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the operation for any size, in chunks of a few rows, the last one shorter."""
    monkeypatch.setattr(module, "FEW", 0)
    monkeypatch.setattr(module, "NUMBERS", 150)


class Given:
    """Random rows, weights, bias and targets; some of the targets do not count."""

    def __init__(self, size: tuple[int, int, int], dtype: torch.dtype = torch.float64, ignored: bool = True) -> None:
        count, inputs, symbols = size
        self.x = torch.randn(count, inputs, dtype=dtype, requires_grad=True)
        self.weight = torch.randn(symbols, inputs, dtype=dtype, requires_grad=True)
        self.bias = torch.randn(symbols, dtype=dtype, requires_grad=True)
        self.target = torch.randint(symbols, (count,))
        if ignored and count > 2:
            self.target[1::3] = -100
        self.of_symbols = torch.rand(symbols, dtype=dtype) + 0.5

    def results(self, ours: bool, **options: Any) -> list[Tensor]:
        """Return the loss and the gradients of all that needs one."""
        leaves = [t for t in (self.x, self.weight, self.bias) if t.requires_grad]
        if ours:
            loss = linear_cross_entropy(self.x, self.weight, self.target, linear_bias=self.bias, **options)
        else:
            loss = F.cross_entropy(F.linear(self.x, self.weight, self.bias), self.target, **options)
        return [loss, *(torch.autograd.grad(3 * loss, leaves) if leaves else ())]


def compare(got: list[Tensor], want: list[Tensor], count: int) -> None:
    """Compare with a tolerance for sums of `count` numbers of about one."""
    for a, b in zip(got, want, strict=True):
        eps = torch.finfo(a.dtype).eps
        torch.testing.assert_close(a, b, rtol=64 * eps, atol=16 * eps * math.sqrt(count + 1))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_losses_and_gradients_are_pytorchs(
    size: tuple[int, int, int], dtype: torch.dtype, smoothing: float, weighted: bool, reduction: str
) -> None:
    given = Given(size, dtype)
    weight = given.of_symbols if weighted else None
    options: dict[str, Any] = {"label_smoothing": smoothing, "weight": weight, "reduction": reduction}
    if reduction == "none":
        loss = linear_cross_entropy(given.x, given.weight, given.target, linear_bias=given.bias, **options)
        torch.testing.assert_close(
            loss, F.cross_entropy(F.linear(given.x, given.weight, given.bias), given.target, **options)
        )
        return
    compare(given.results(True, **options), given.results(False, **options), math.prod(size))


@pytest.mark.parametrize("frozen", ["x", "weight", "bias", "all"])
def test_what_is_frozen_has_no_gradient(frozen: str) -> None:
    given = Given((37, 5, 11))
    for name in ("x", "weight", "bias") if frozen == "all" else (frozen,):
        getattr(given, name).requires_grad_(False)
    got = given.results(True)
    assert got[0].requires_grad is (frozen != "all")
    compare(got, given.results(False), 37)


def test_without_gradients_and_without_a_bias() -> None:
    given = Given((37, 5, 11))
    want = F.cross_entropy(F.linear(given.x, given.weight), given.target)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            got = linear_cross_entropy(given.x, given.weight, given.target)
        assert got.requires_grad is (mode is torch.enable_grad)
        torch.testing.assert_close(got, want)


def test_any_axes_and_strides() -> None:
    x = torch.randn(6, 9, 4, dtype=torch.float64).transpose(0, 1).requires_grad_()
    weight = torch.randn(5, 11, dtype=torch.float64).T[:, :4].requires_grad_()
    target = torch.randint(11, (6, 9)).T
    got = linear_cross_entropy(x, weight, target)
    want = F.cross_entropy(F.linear(x, weight).flatten(0, 1), target.flatten())
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, (x, weight)), torch.autograd.grad(want, (x, weight)))
    torch.testing.assert_close(
        linear_cross_entropy(x[0, 0], weight, target[0, 0]), F.cross_entropy(F.linear(x[0, 0], weight), target[0, 0])
    )


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("count", [0, 5])
def test_where_nothing_counts(count: int, reduction: str) -> None:
    given = Given((count, 5, 11))
    given.target[:] = -100
    got, want = given.results(True, reduction=reduction), given.results(False, reduction=reduction)
    torch.testing.assert_close(got, want, equal_nan=True)
    assert all(g.eq(0).all() for g in got[1:])


def test_another_index_is_ignored() -> None:
    given = Given((37, 5, 11), ignored=False)
    compare(given.results(True, ignore_index=3), given.results(False, ignore_index=3), 37)


def test_rows_that_do_not_count_may_hold_anything() -> None:
    given = Given((37, 5, 11))
    with torch.no_grad():
        given.x[given.target == -100] = torch.nan
    assert all(t.isfinite().all() for t in given.results(True))


def test_far_apart_logits_stay_finite() -> None:
    weight, target = torch.eye(3).requires_grad_(), torch.tensor([1, 0])
    x = torch.tensor([[1000.0, -1000.0, 0.0], [-math.inf, 3.0, 80.0]])
    got = linear_cross_entropy(x[:1], weight, target[:1], reduction="sum")
    assert float(got.detach()) == 2000.0
    bias = torch.tensor([0.0, -math.inf, 0.0])
    loss = linear_cross_entropy(x[:1], weight, torch.tensor([0]), linear_bias=bias)
    assert float(loss.detach()) == 0.0
    assert float(linear_cross_entropy(x[:1], weight.detach(), target[:1], linear_bias=bias)) == math.inf


@pytest.mark.parametrize("retain", [True, False])
def test_gradients_by_backward_add_up(retain: bool) -> None:
    given = Given((37, 5, 11))
    leaves = (given.x, given.weight, given.bias)
    loss = linear_cross_entropy(given.x, given.weight, given.target, linear_bias=given.bias)
    want = torch.autograd.grad(F.cross_entropy(F.linear(*leaves), given.target), leaves)
    if retain:
        torch.autograd.backward(loss, retain_graph=True)
    torch.autograd.backward(2 * loss)
    for leaf, grad in zip(leaves, want, strict=True):
        torch.testing.assert_close(leaf.grad, (3 if retain else 2) * grad)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.backward(loss)


def test_gradients_numerically_and_of_gradients() -> None:
    given = Given((9, 4, 5))

    def loss(*leaves: Tensor) -> Tensor:
        x, weight, bias = leaves
        return linear_cross_entropy(
            x, weight, given.target, linear_bias=bias, weight=given.of_symbols, label_smoothing=0.1
        )

    leaves = (given.x, given.weight, given.bias)
    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(loss, leaves)
    kept = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
    torch.testing.assert_close(kept, torch.autograd.grad(loss(*leaves), leaves))


def test_used_twice_and_of_one_matrix_that_is_tied() -> None:
    given = Given((12, 5, 11), ignored=False)
    numbers = torch.randint(11, (12,))
    found = []
    for ours in (True, False):
        x = F.embedding(numbers, given.weight).tanh()
        first = linear_cross_entropy(x, given.weight, given.target) if ours else F.cross_entropy(
            F.linear(x, given.weight), given.target)  # fmt: skip
        second = linear_cross_entropy(2 * x, given.weight, numbers) if ours else F.cross_entropy(
            F.linear(2 * x, given.weight), numbers)  # fmt: skip
        found.append(torch.autograd.grad(first + second, given.weight))
    torch.testing.assert_close(*found)


def test_weights_that_change_before_the_gradient_are_noticed() -> None:
    given = Given((37, 5, 11))
    loss = linear_cross_entropy(given.x, given.weight, given.target)
    with torch.no_grad():
        given.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("by", ["autocast", "module"])
def test_low_precision(dtype: torch.dtype, by: str) -> None:
    given = Given((37, 40, 11), torch.float32)
    exact = given.results(False)
    if by == "module":
        for name in ("x", "weight", "bias"):
            setattr(given, name, getattr(given, name).detach().to(dtype).requires_grad_())
    with torch.autocast("cpu", dtype, enabled=by == "autocast"):
        got, want = given.results(True), given.results(False)
    assert [g.dtype for g in got] == [w.dtype for w in want]
    eps = torch.finfo(dtype).eps
    for g, w in zip(got, exact, strict=True):
        torch.testing.assert_close(g.float(), w, rtol=8 * eps, atol=8 * eps * max(1.0, float(w.detach().abs().max())))


@pytest.mark.filterwarnings("ignore")  # torch.compile itself uses what is deprecated
def test_transforms_and_compilation_compute_the_same() -> None:
    given = Given((12, 5, 11), ignored=False)
    x, weight, target = given.x.detach(), given.weight.detach(), given.target

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return linear_cross_entropy(x, weight, target)

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x, weight), target)

    both = (0, 1)
    torch.testing.assert_close(torch.func.grad(ours, both)(x, weight), torch.func.grad(plain, both)(x, weight))
    many = torch.randn(3, 12, 5, dtype=torch.float64)
    torch.testing.assert_close(
        torch.func.vmap(ours, (0, None))(many, weight), torch.func.vmap(plain, (0, None))(many, weight)
    )
    tangents = (torch.randn_like(x), torch.randn_like(weight))
    torch.testing.assert_close(
        torch.func.jvp(ours, (x, weight), tangents), torch.func.jvp(plain, (x, weight), tangents)
    )
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    leaves = (given.x, given.weight)
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*leaves), leaves), torch.autograd.grad(plain(*leaves), leaves)
    )


def test_a_batch_of_gradients() -> None:
    given = Given((12, 5, 11))
    slopes = torch.tensor([1.0, -2.0], dtype=torch.float64)
    got = torch.autograd.grad(
        linear_cross_entropy(given.x, given.weight, given.target), given.weight, slopes, is_grads_batched=True
    )
    (one,) = torch.autograd.grad(F.cross_entropy(F.linear(given.x, given.weight), given.target), given.weight)
    torch.testing.assert_close(got[0], slopes[:, None, None] * one)


def test_probabilities_as_targets() -> None:
    given = Given((4, 5, 11))
    target = torch.rand(4, 11, dtype=torch.float64).softmax(1)
    got = linear_cross_entropy(given.x, given.weight, target, linear_bias=given.bias)
    torch.testing.assert_close(got, F.cross_entropy(F.linear(given.x, given.weight, given.bias), target))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_the_likeliest_symbols(mode: type[torch.no_grad]) -> None:
    given = Given((37, 5, 11), ignored=False)
    with mode():
        logits = F.linear(given.x, given.weight, given.bias)
        total, best = module.with_likeliest(given.x, given.weight, given.target, given.bias)
    torch.testing.assert_close(total, F.cross_entropy(logits, given.target, reduction="sum"))
    assert torch.equal(best, logits.argmax(1))


def test_logits_are_never_kept() -> None:
    sizes: list[int] = []

    class Sizes(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in (found if isinstance(found, tuple) else [found]) if isinstance(t, Tensor))
            return found

    given = Given((200, 4, 30))
    with Sizes():  # type: ignore[no-untyped-call]
        given.results(True)
    assert max(sizes) <= 4 * 200  # a gradient of x; all logits are 6,000


def test_few_logits_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Given((37, 5, 11))
    monkeypatch.setattr(module, "_total", None)
    monkeypatch.setattr(module, "FEW", 37 * 11)
    assert all(map(torch.equal, given.results(True), given.results(False)))


def test_what_does_not_fit_is_refused() -> None:
    given = Given((37, 5, 11))
    with pytest.raises(OptionError, match=r"unknown reduction 'avg'; known: mean, sum, none"):
        linear_cross_entropy(given.x, given.weight, given.target, reduction="avg")
    expected = "input is [37, 5], linear_weight [11, 4], target [37]; expected [..., I], [V, I] and [...]"
    with pytest.raises(ShapeError, match=re.escape(expected)):
        linear_cross_entropy(given.x, given.weight[:, 1:], given.target)
    with pytest.raises(ShapeError, match=r"target \[36\]"):
        linear_cross_entropy(given.x, given.weight, given.target[1:])
    for wrong in (-1, 11):
        given.target[0] = wrong
        with pytest.raises(IndexError, match=f"Target {wrong} is out of bounds"):
            linear_cross_entropy(given.x, given.weight, given.target)


def test_tensors_without_numbers() -> None:
    x, weight = torch.randn(3000, 8, device="meta"), torch.randn(1000, 8, device="meta")
    target = torch.zeros(3000, dtype=torch.int64, device="meta")
    assert linear_cross_entropy(x, weight, target).is_meta
    with torch.no_grad():
        total, best = module.with_likeliest(x, weight, target, None)
    assert (total.shape, best.shape) == ((), (3000,))


@pytest.mark.parametrize("weighted", [False, True])
def test_a_mean_whose_sum_float16_does_not_hold(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """65504 is the largest number of float16; the sum of these losses is three times as large."""
    monkeypatch.setattr(module, "NUMBERS", 1 << 20)
    torch.manual_seed(0)
    given = Given((40_000, 4, 100), torch.float32)
    options = {"weight": given.of_symbols} if weighted else {}
    want = given.results(False, **options)
    for name in ("x", "weight", "bias", "of_symbols"):
        setattr(given, name, getattr(given, name).detach().half().requires_grad_(name != "of_symbols"))
    got = given.results(True, **({"weight": given.of_symbols} if weighted else {}))
    assert all(t.dtype == torch.float16 for t in got)
    torch.testing.assert_close(got[0].float(), want[0], rtol=2e-3, atol=0)
    for found, expected in zip(got[2:], want[2:], strict=True):
        torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))
