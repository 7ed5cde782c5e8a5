"""Large products with factors in bfloat16: against float64 of the rounded factors, at every edge and stride."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm import machine, narrow_gemm
from everloop.compiler.targets.llvm.pairs import in_pairs

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
LOW = torch.bfloat16
HAS = {
    "tiles": llvm.is_available() and machine.has_tiles(),
    "dots": llvm.is_available() and machine.narrow(machine.host()).has("avx512bf16"),
    "PyTorch": True,
}
LAYOUTS: list[Callable[[Tensor], Tensor]] = [
    lambda t: t,
    lambda t: t.T.contiguous().T,
    lambda t: t.repeat(1, 2)[:, : t.shape[1]],
    lambda t: t.repeat(1, 2)[:, ::2],
]
SIZES = [(1, 1, 1), (2, 3, 2), (7, 64, 33), (50, 97, 130), (301, 31, 64), (64, 1500, 70), (33, 4200, 40)]


@pytest.fixture(params=["tiles", "dots"])
def _kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the kernels that this processor runs."""
    _use(request.param, monkeypatch)


@pytest.fixture(params=HAS)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels for products of any size, or PyTorch."""
    _use(request.param, monkeypatch)


def _use(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not HAS[way]:
        pytest.skip(f"this processor has no {way}")
    monkeypatch.setattr(narrow_gemm, "_has_kernel", lambda: way != "PyTorch")
    monkeypatch.setattr(narrow_gemm, "has_tiles", lambda: way == "tiles")
    monkeypatch.setattr(narrow_gemm, "takes", lambda *_: True)


@pytest.fixture(params=[1, 2])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def exact(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return a @ b of the rounded factors, and what sums in float32 of those magnitudes may be off by.

    A sum of k products in any order: k times the unit roundoff, 2^-24, twice for two roundings in a dot product of two.
    """
    a, b = a.to(LOW).double(), b.to(LOW).double()
    return a @ b, a.shape[1] * torch.finfo(torch.float32).eps * (a.abs() @ b.abs())


@pytest.mark.usefixtures("_threads", "_kernel")
@pytest.mark.parametrize("size", SIZES)
def test_every_edge_and_stride(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    m, k, n = size
    for of_a in LAYOUTS:
        for of_b in LAYOUTS:
            a, b, bias = of_a(torch.randn(m, k)), of_b(torch.randn(k, n)), torch.randn(n)
            expected, most = exact(a, b)
            for given, added in ((None, 0), (bias, bias.double())):
                out = torch.full((m, n + 3), math.nan)
                narrow_gemm.multiply(out[:, :n], a, b, given)
                assert ((out[:, :n] - expected - added).abs() <= most + 1e-6).all()
                assert out[:, n:].isnan().all()


@pytest.mark.usefixtures("_threads", "_way")
@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", [*SIZES, (2100, 1400, 600)])
def test_results_in_bfloat16_are_sums_rounded_once(size: tuple[int, int, int], low: bool) -> None:
    torch.manual_seed(5)
    m, k, n = size
    for of_x in LAYOUTS:
        x, w, bias = of_x(torch.randn(m, k)).to(LOW if low else torch.float32), torch.randn(n, k), torch.randn(n)
        expected, most = exact(x, w.T)
        for given, added in ((None, 0), (bias.to(LOW).float(), bias.to(LOW).double())):
            y = narrow_gemm.linear_low(x, w, given)
            assert y.dtype == LOW
            expected_y = expected + added
            off = (y - expected_y).abs()
            assert (off <= torch.finfo(LOW).eps / 2 * expected_y.abs() + most + 1e-6).all()


@pytest.mark.usefixtures("_kernel")
def test_odd_numbers_pass_and_denormals_are_zero() -> None:
    a, b = torch.ones(40, 33), torch.ones(33, 20)
    a[0, 3], a[1, 32], a[2, 0] = math.nan, math.inf, -math.inf
    b[7, 2] = math.nan
    a[4, :] = 1e-39  # AVX512-BF16 takes it as zero
    out = torch.empty(40, 20)
    narrow_gemm.multiply(out, a, b)
    expected, _ = exact(a, b)
    expected[4, [j for j in range(20) if j != 2]] = 0
    assert torch.equal(out.nan_to_num(5e5, 6e5, 7e5), expected.float().nan_to_num(5e5, 6e5, 7e5))


@pytest.mark.usefixtures("_way")
def test_gradients_are_those_of_rounded_factors() -> None:
    torch.manual_seed(1)
    x, w, b = torch.randn(5, 9, 31), torch.randn(18, 31), torch.randn(18)
    given = [t.requires_grad_() for t in (x, w, b)]
    y = narrow_gemm.linear(x, w, b)
    unit = torch.finfo(LOW).eps
    torch.testing.assert_close(y, torch.nn.functional.linear(x, w, b), rtol=0, atol=unit * 31**0.5 * 3)
    g = torch.randn(5, 9, 18)
    found = torch.autograd.grad(y, given, g)
    flat, rows = g.flatten(0, 1), x.detach().flatten(0, 1)
    for one, (a, c) in zip(found, ((flat, w.detach()), (flat.T, rows)), strict=False):
        expected, most = exact(a, c)
        difference = (one.flatten(0, -2) - expected).abs()
        assert (difference <= most + unit * expected.abs()).all()  # PyTorch rounds results too
    torch.testing.assert_close(found[2], flat.sum(0), rtol=unit, atol=unit)


@pytest.mark.usefixtures("_threads", "_way")
@pytest.mark.parametrize("size", [(1, 2, 1), (301, 5, 37), (1200, 64, 260)])
def test_gradients_of_results_in_bfloat16(size: tuple[int, int, int]) -> None:
    """That of the bias is a sum of numbers of bfloat16 in float32."""
    torch.manual_seed(4)
    rows, k, n = size
    x, w, b = (torch.randn(*shape, requires_grad=True) for shape in ((rows, k), (n, k), (n,)))
    g = torch.randn(rows, n).to(LOW)
    _, by_w, by_b = torch.autograd.grad(narrow_gemm.linear_low(x, w, b), (x, w, b), g)
    expected, most = exact(g.T, x.detach())
    unit = torch.finfo(LOW).eps
    assert ((by_w - expected).abs() <= most + unit * expected.abs()).all()  # PyTorch rounds results too
    assert by_b.dtype == torch.float32
    off, wide = (by_b - g.double().sum(0)).abs(), g.double().abs().sum(0)
    assert (off <= rows * torch.finfo(torch.float32).eps * wide).all()


@pytest.mark.usefixtures("_threads", "_way")
@pytest.mark.parametrize("sizes", [(1, 6), (6, 301), (300, 0, 2, 5)])
def test_rows_in_several_tensors(sizes: tuple[int, ...]) -> None:
    torch.manual_seed(6)
    left, parts = torch.randn(sum(sizes), 33).to(LOW), [torch.randn(size, 70) for size in sizes]
    expected, most = exact(left.T, torch.cat(parts))
    off = (narrow_gemm.over_rows(left, *parts) - expected).abs()
    assert (off <= most + torch.finfo(LOW).eps * expected.abs()).all()


@pytest.mark.usefixtures("_way")
def test_gradients_of_gradients() -> None:
    torch.manual_seed(2)
    x, w = torch.randn(12, 16, requires_grad=True), torch.randn(8, 16, requires_grad=True)
    (first,) = torch.autograd.grad(narrow_gemm.linear(x, w).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), w)
    wide = torch.nn.functional.linear(x, w).square().sum()
    (expected,) = torch.autograd.grad(torch.autograd.grad(wide, x, create_graph=True)[0].sum(), w)
    assert (second - expected).norm() < 4 * torch.finfo(LOW).eps * expected.norm()


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("dtype", [torch.float32, LOW])
@pytest.mark.parametrize("size", [(1, 1), (2, 16), (5, 37), (400, 33), (2101, 512)])
def test_pairs_are_neighbours(dtype: torch.dtype, size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    whole = torch.randn(size[0], size[1] + 5).to(dtype)
    whole[0, 0] = math.nan
    rows = whole[:, : size[1]]
    found = in_pairs(rows).view(torch.int16).view(-1, size[1], 2)
    low = torch.nn.functional.pad(rows.to(LOW), (0, 0, 0, size[0] % 2))
    expected = low.view(torch.int16).view(-1, 2, size[1]).transpose(1, 2)
    is_number = ~low.view(-1, 2, size[1]).transpose(1, 2).isnan()
    assert torch.equal(found * is_number, expected * is_number)
    assert found.contiguous().view(LOW)[0, 0, 0].isnan()
