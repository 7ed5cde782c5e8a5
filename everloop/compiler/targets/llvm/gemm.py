"""The large products outside the loop, with gradients of every order.

They run in the library's own kernel (targets/llvm/large.py). On an AMD Zen 5 with AVX-512 PyTorch's products call MKL,
which reaches half to nine tenths of what the kernel does (float32 and float64); oneDNN (float32 only) is 0 to 25 %
behind on one thread, most where time is summed over, and took a thousand times longer where that operand was a slice
of wider rows. What the kernel does not take goes to PyTorch; on Intel's processors all do, because on a Xeon "Sapphire
Rapids" MKL is at 0.97 to 1.4 times the kernel's speed. Sizes and the processor decide, never a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everloop.compiler.autocast import without_autocast
from everloop.compiler.batched import is_batched
from everloop.compiler.targets.llvm import pages
from everloop.compiler.targets.llvm.formats import FORMATS
from everloop.compiler.targets.llvm.machine import host, is_available, processor
from everloop.compiler.targets.llvm.matrices import Products, products

MIN_MULTIPLICATIONS = 1 << 18  # from which the kernel is quicker than PyTorch, its call of 5 µs included
ROWS = 4  # a matrix that meets fewer rows is packed in vain
KINDS = (Tensor, nn.Parameter)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias, as torch.nn.functional.linear, with gradients of every order."""
    if not takes(x, weight, bias):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call,no-any-return]
    return _linear(x, weight, bias)


def matmul(x: Tensor, matrix: Tensor) -> Tensor:
    """Return x @ matrix."""
    return linear(x, matrix.mT)


def over_rows(left: Tensor, *right: Tensor) -> Tensor:
    """Return left.T @ right, summed over all leading axes, for left [..., m] and right [..., k].

    The rows of several `right` stand one behind the other; these have no gradient.
    """
    parts = [*map(flat, right)]
    lefts = flat(left).split_with_sizes([len(part) for part in parts])
    found = linear(lefts[0].T, parts[0].T)
    for rows, part in zip(lefts[1:], parts[1:], strict=True):
        if not multiply(found, rows.T, part, None, add=True):
            found.addmm_(rows.T, part)
    return found


def multiply(out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, add: bool) -> bool:
    """Write a @ b + bias to `out`, or add a @ b to it; return False, with nothing done, where PyTorch is quicker."""
    if has_quick_mkl() or not takes(a, b.T, bias) or out.dtype != a.dtype or out.stride(1) != 1:
        return False
    _kernel(a.dtype)(out, a, b, None if bias is None else bias.contiguous(), add=add)
    return True


def flat(rows: Tensor) -> Tensor:
    """Return rows [..., n] as [N, n]."""
    return rows if rows.dim() == 2 else rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1])


def takes(x: Tensor, weight: Tensor, bias: Tensor | None = None, dtypes: Collection[torch.dtype] = ()) -> bool:
    """Whether the kernel is for x @ weight.T + bias, all of one of the dtypes; errors are left to PyTorch.

    dtypes: what each may have; by default all have one format of the table.
    """
    multiplications = x.numel() * weight.shape[0]
    return (
        multiplications >= max(MIN_MULTIPLICATIONS, 1)
        and multiplications >= ROWS * weight.numel()
        and (bool(dtypes) or x.dtype in FORMATS)
        and all(t is None or (type(t) in KINDS and t.dtype in (dtypes or (x.dtype,)) and t.device.type == "cpu")
                for t in (x, weight, bias))
        and weight.shape[1:] == x.shape[-1:]
        and (bias is None or bias.shape == weight.shape[:1])
        and not is_batched(x, weight)
        and _has_kernel()
    )  # fmt: skip


@lru_cache(maxsize=1)
def _has_kernel() -> bool:
    return is_available() and host().arch == "x86_64"  # what it was measured on


@lru_cache(maxsize=1)
def has_quick_mkl() -> bool:
    """Return whether PyTorch's products are MKL's, on a processor of the maker that it is quick on."""
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return has_mkl and "GenuineIntel" in processor()


@lru_cache
def _kernel(dtype: torch.dtype) -> Products:
    return products(dtype)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows, columns = flat(x), weight.shape[0]
    out = pages.fresh((rows.shape[0], columns), x.dtype)
    if not has_quick_mkl():
        _kernel(x.dtype)(out, rows, weight.T, None if bias is None else bias.contiguous())
    elif bias is None:
        torch.mm(rows, weight.T, out=out)
    else:
        torch.addmm(bias, rows, weight.T, out=out)
    return out if x.dim() == 2 else out.view(*x.shape[:-1], columns)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _linear(x, weight, bias)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        by_x = matmul(grad, weight) if needs_x else None
        if needs_weight and needs_bias and not torch.is_grad_enabled():
            return by_x, *_of_weight_and_bias(flat(grad), flat(x))
        return by_x, over_rows(grad, x) if needs_weight else None, flat(grad).sum(0) if needs_bias else None


def _of_weight_and_bias(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return grad.T @ x and grad.sum(0), reading grad once."""
    if has_quick_mkl() or grad.stride(1) != 1 or not takes(grad.T, x.T):
        return over_rows(grad, x), grad.sum(0)
    product, sums = pages.fresh((grad.shape[1], x.shape[1]), x.dtype), x.new_zeros(grad.shape[1])
    _kernel(x.dtype)(product, grad.T, x, None, sums)
    return product, sums
