"""The large products: values and gradients of both orders, against PyTorch's own in float64."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everloop.compiler.targets.llvm import gemm, machine, matrices, pages

pytest.importorskip("llvmlite")

DTYPES = (torch.float32, torch.float64)
HERE = [isa for isa in ("avx512", "avx2", "sse2") if machine.runs(isa)]


@pytest.fixture(params=["kernel", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Take the kernel for products of any size, or never."""
    monkeypatch.setattr(gemm, "MIN_MULTIPLICATIONS", 0)
    monkeypatch.setattr(gemm, "ROWS", 0)
    if request.param == "torch":
        monkeypatch.setattr(gemm, "is_available", lambda: False)
    gemm._has_kernel.cache_clear()
    yield str(request.param)
    gemm._has_kernel.cache_clear()


def close(got: Tensor, want: Tensor, length: int, size: float) -> None:
    """Compare a sum of `length` random products of about `size` with float64: sums grow, and so does their rounding."""
    eps = torch.finfo(got.dtype).eps
    torch.testing.assert_close(got.double(), want.double(), rtol=8 * eps, atol=2 * eps * length * size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_kernel_on_every_edge(isa: str, threads: int, dtype: torch.dtype) -> None:
    product = matrices.products(dtype, isa)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    sizes = [(1, 1, 1), (6, 16, 64), (7, 3, 5), (100, 50, 70), (13, 650, 650), (300, 1500, 130), (129, 257, 1100)]
    for m, k, n in sizes:
        for a_lies in (False, True):
            for b_lies in (False, True):
                a = torch.randn(k, m, dtype=dtype).T if a_lies else torch.randn(m, k, dtype=dtype)
                b = torch.randn(n, k, dtype=dtype).T if b_lies else torch.randn(k, n, dtype=dtype)
                bias = torch.randn(n, dtype=dtype) if b_lies else None
                sums = torch.full((m,), 2.0, dtype=dtype) if a_lies else None
                out = torch.full((m + 1, n + 3), math.nan, dtype=dtype)
                product(out[:m, :n], a, b, bias, sums)
                want = a.double() @ b.double() + (0 if bias is None else bias.double())
                close(out[:m, :n], want, k, 1.0)
                assert out[m].isnan().all()
                assert out[:, n:].isnan().all()
                if sums is not None:
                    close(sums, a.double().sum(1) + 2, k, 1.0)
    torch.set_num_threads(before)


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("size", [(1, 1, 1), (13, 650, 50), (129, 257, 1100)])
def test_the_kernel_adds(isa: str, size: tuple[int, int, int]) -> None:
    product, (m, k, n) = matrices.products(torch.float32, isa), size
    a, b, out = torch.randn(k, m).T, torch.randn(k, n), torch.randn(m, n)
    want = out.double() + a.double() @ b.double()
    product(out, a, b, add=True)
    close(out, want, k + 1, 1.0)


@pytest.mark.parametrize("mkl", [True, False])
def test_who_multiplies(mkl: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "has_quick_mkl", lambda: mkl)
    a, b, out = torch.randn(64, 128), torch.randn(128, 256), torch.full((64, 256), 3.0)
    assert gemm.multiply(out, a, b, None, False) is not mkl
    assert bool((out == 3).all()) is mkl
    assert not gemm.multiply(out[:3], a[:3], b, None, False)  # fewer rows than pay for packing
    assert not gemm.multiply(out.T, b.T, a.T, None, False)  # columns that are apart


@pytest.mark.parametrize(("maker", "quick"), [("vendor_id : GenuineIntel", True), ("vendor_id : AuthenticAMD", False)])
def test_mkl_is_quick_on_processors_of_its_maker(maker: str, quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "processor", lambda: maker)
    gemm.has_quick_mkl.cache_clear()
    assert gemm.has_quick_mkl() is (quick and torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]
    gemm.has_quick_mkl.cache_clear()


def test_strides_of_any_kind() -> None:
    product = matrices.products(torch.float32)
    a, b = torch.randn(40, 60)[::2, ::3], torch.randn(60, 90)[::3, ::2]
    out = torch.empty(20, 45)
    product(out, a, b)
    close(out, a.double() @ b.double(), 20, 1.0)
    product(out, torch.ones(()).expand(20, 20), b)
    close(out, b.double().sum(0).expand(20, 45), 20, 1.0)


@pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 4), (3, 0, 4), (3, 4, 0)])
def test_nothing_to_multiply(m: int, k: int, n: int) -> None:
    bias, out = torch.randn(n), torch.full((m, n), math.nan)
    matrices.products(torch.float32)(out, torch.empty(m, k), torch.empty(k, n), bias)
    torch.testing.assert_close(out, bias.expand(m, n))


def test_long_sums_stay_exact() -> None:
    length = 100_000
    left, right = torch.rand(length, 8), torch.rand(length, 8)
    exact = left.double().T @ right.double()
    error = (gemm.over_rows(left, right).double() - exact).abs().max() / exact.max()
    assert error < 4 * torch.finfo(torch.float32).eps * math.sqrt(128)  # blocks of 128: far from length * eps
    weight = torch.rand(8, 8, requires_grad=True)
    bias = torch.zeros(8, requires_grad=True)
    _, by_bias = torch.autograd.grad(gemm.linear(right, weight, bias), (weight, bias), left)
    torch.testing.assert_close(by_bias.double(), left.double().sum(0), rtol=1e-5, atol=0)


def test_the_rule_takes_large_products_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.dtype] = []
    kernel = gemm._kernel

    def counted(dtype: torch.dtype) -> matrices.Products:
        calls.append(dtype)
        return kernel(dtype)

    monkeypatch.setattr(gemm, "_kernel", counted)
    monkeypatch.setattr(gemm, "has_quick_mkl", lambda: False)
    gemm.linear(torch.randn(3, 512), torch.randn(512, 512))  # fewer rows than pay for packing
    gemm.linear(torch.randn(32, 16), torch.randn(64, 16))  # too small
    gemm.linear(torch.randn(32, 64).half(), torch.randn(256, 64).half())
    assert calls == []
    gemm.linear(torch.randn(32, 64), torch.randn(256, 64))
    gemm.linear(torch.randn(32, 64).double(), torch.randn(256, 64).double())
    assert calls == [torch.float32, torch.float64]


def test_errors_are_those_of_pytorch(path: str) -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        gemm.linear(torch.randn(8, 5), torch.randn(7, 6))
    with pytest.raises(RuntimeError, match="dtype"):
        gemm.linear(torch.randn(8, 5), torch.randn(7, 5).double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(70, 4), (3, 70), (1, 1), (0, 5)])
def test_linear_and_its_gradients(shape: tuple[int, ...], bias: bool, dtype: torch.dtype, path: str) -> None:
    x = torch.randn(*shape, 40, dtype=dtype, requires_grad=True)
    weight = torch.randn(50, 40, dtype=dtype, requires_grad=True)
    offset = torch.randn(50, dtype=dtype, requires_grad=True) if bias else None
    leaves = [x, weight, *([offset] if offset is not None else [])]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    got = gemm.linear(x, weight, offset)
    want = F.linear(exact[0], exact[1], exact[2] if bias else None)
    close(got, want, 40, 1.0)
    for value, reference in zip(
        torch.autograd.grad(got.square().sum(), leaves), torch.autograd.grad(want.square().sum(), exact), strict=True
    ):
        assert value.is_contiguous()
        close(value, reference, 40 * max(math.prod(shape), 50), 4.0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradient(mode: type[torch.no_grad], path: str) -> None:
    x, weight = torch.randn(9, 8, 7), torch.randn(6, 7, requires_grad=True)
    with mode():
        got = gemm.linear(x, weight)
    assert not got.requires_grad
    close(got, F.linear(x.double(), weight.detach().double()), 7, 1.0)


def test_strides_of_batch_major_input_are_kept_right(path: str) -> None:
    x, weight = torch.randn(40, 30, 64).transpose(0, 1), torch.randn(50, 64)
    close(gemm.linear(x, weight), F.linear(x.double(), weight.double()), 64, 1.0)
    close(gemm.matmul(x, weight.T), F.linear(x.double(), weight.double()), 64, 1.0)


def test_a_gradient_without_strides(path: str) -> None:
    x, weight, bias = torch.randn(6, 5), torch.randn(4, 5, requires_grad=True), torch.randn(4, requires_grad=True)
    by_weight, by_bias = torch.autograd.grad(gemm.linear(x, weight, bias).sum(), (weight, bias))
    close(by_weight, x.double().sum(0).expand(4, 5), 6, 1.0)
    close(by_bias, torch.full((4,), 6.0), 6, 1.0)


def test_second_gradient(path: str) -> None:
    def second(function: object, leaves: list[Tensor]) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(function(*leaves).pow(3).sum(), leaves, create_graph=True)  # type: ignore[operator]
        return torch.autograd.grad(torch.cat([f.flatten() for f in first]).square().sum(), leaves)

    leaves = [torch.rand(n, requires_grad=True) for n in ((6, 5), (4, 5), (4,))]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    for got, want in zip(second(gemm.linear, leaves), second(F.linear, exact), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("m", "k"), [(7, 3), (3, 7), (1, 1)])
def test_over_rows(m: int, k: int, path: str) -> None:
    left, right = torch.randn(5, 4, m), torch.randn(5, 4, k)
    close(gemm.over_rows(left, right), torch.einsum("tbm,tbk->mk", left.double(), right.double()), 20, 1.0)


def _child(queue: object) -> None:
    x, weight = torch.ones(64, 128), torch.ones(256, 128)
    queue.put(gemm.linear(x, weight).sum().item())  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_fork() -> None:
    gemm.linear(torch.ones(64, 128), torch.ones(256, 128))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_child, args=(queue,))
    process.start()
    assert queue.get(timeout=60) == 64 * 128 * 256
    process.join()


def test_fresh_memory_holds_what_is_written() -> None:
    big = pages.fresh((pages.MIN_ADVISED // 4 + 3, 2), torch.float32)
    assert big.shape == (pages.MIN_ADVISED // 4 + 3, 2)
    assert big.is_contiguous()
    big.fill_(2.0)
    assert big.sum().item() == 2 * big.numel()
    assert pages.fresh((0, 3), torch.float64).shape == (0, 3)


def test_a_thread_is_not_given_a_single_column() -> None:
    assert matrices._division(6, 64, 4096, 65, 512, 2, False)[:2] == (2, 1)
    assert matrices._division(6, 64, 4096, 128, 512, 2, False)[:2] == (1, 2)
    assert matrices._division(6, 64, 12, 4096, 512, 2, False)[:2] == (1, 2)
