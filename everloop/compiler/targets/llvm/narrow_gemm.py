"""The large products outside the loop with factors rounded to bfloat16 and sums in float32.

By tiles of AMX, or by dot products of AVX512-BF16 where these are as quick as multiplications. Results are float32
(PyTorch's products of bfloat16 round theirs, which has to be widened again), or are rounded once, with a bias, for
loops that read them so. What no kernel takes goes to PyTorch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from everloop.compiler.batched import is_batched
from everloop.compiler.targets.llvm import pages
from everloop.compiler.targets.llvm.bfloat import multiply_add
from everloop.compiler.targets.llvm.gemm import KINDS, flat, takes
from everloop.compiler.targets.llvm.kept import kept
from everloop.compiler.targets.llvm.machine import doubles, has_tiles, host, is_available, narrow
from everloop.compiler.targets.llvm.matrices import MOST_LOW, Products
from everloop.compiler.targets.llvm.pairs import in_pairs
from everloop.compiler.targets.llvm.tile_products import tiled_product

LOW = torch.bfloat16


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias in float32, as torch.nn.functional.linear, with gradients of every order."""
    return _with_gradients(x, weight, bias, torch.float32)


def linear_low(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the same rounded to bfloat16."""
    return _with_gradients(x, weight, bias, LOW)


def over_rows(left: Tensor, *right: Tensor) -> Tensor:
    """Return left.T @ right in float32, summed over all leading axes, for left [..., m] and right [..., k].

    The rows of several `right` stand one behind the other; these have no gradient.
    """
    left, parts = flat(left), [*map(flat, right)]
    lefts = left.split_with_sizes([len(part) for part in parts])
    if has_tiles() and _takes(lefts[-1].T, parts[-1].T):
        product = pages.fresh((left.shape[1], parts[0].shape[1]), torch.float32)
        for n, (rows, part) in enumerate(zip(lefts, parts, strict=True)):
            _by_tiles(product, rows.T, part, add=n > 0)
        return product
    if len(parts) > 1 and all(_takes(rows.T, part.T) for rows, part in zip(lefts, parts, strict=True)):
        product = pages.fresh((left.shape[1], parts[0].shape[1]), torch.float32)
        _by_words(product, left.T, in_pairs(*parts))
        return product
    rows = parts[0] if len(parts) == 1 else torch.cat(parts)
    return _with_gradients(left.T, rows.T, None, torch.float32, may_keep=False)


def multiply(
    out: Tensor,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    sums: Tensor | None = None,
    made: Tensor | None = None,
) -> None:
    """Write a @ b + bias to `out`: a [m, k], b [k, n], out [m, n] with adjacent columns.

    sums: what the sums of the rows of `a` are added to, where a.T is row-major; made: what `_made` made of b.
    """
    bias = None if bias is None else bias.contiguous()
    if has_tiles():
        _by_tiles(out, a, b, bias, sums, made)
    else:
        _by_words(out, a, _made(b) if made is None else made, bias, sums)


def _made(b: Tensor) -> Tensor:
    """Return b as the kernel reads it."""
    return tiled_product(LOW, b.dtype, LOW).packed(b) if has_tiles() else _words(b.T).T.contiguous()


def _by_tiles(
    out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None, sums: Tensor | None = None,
    packed: Tensor | None = None, add: bool = False,
) -> None:  # fmt: skip
    a = a if 1 in a.stride() else a.contiguous()
    tiled_product(a.dtype, b.dtype, out.dtype)(out, a, b, bias, sums, packed=packed, add=add)


def _by_words(out: Tensor, a: Tensor, words: Tensor, bias: Tensor | None = None, sums: Tensor | None = None) -> None:
    _kernel(out.dtype == LOW)(out, _words(a), words, bias, sums)


def _words(rows: Tensor) -> Tensor:
    """Return rows [m, k] as words of two neighbours along k, with a zero behind an odd k."""
    if rows.stride(0) == 1 and rows.stride(1) != 1:
        return in_pairs(rows.T).T
    low = rows.to(LOW, memory_format=torch.contiguous_format)
    low = F.pad(low, (0, 1)) if low.shape[1] % 2 else low.contiguous()
    return low.view(torch.int32)


def _with_gradients(
    x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, may_keep: bool = True
) -> Tensor:
    if any(type(t) not in KINDS for t in (x, weight)) or is_batched(x, weight):
        return _by_torch(x, weight, bias, dtype)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return _Linear.apply(x, weight, bias, dtype)  # type: ignore[no-untyped-call,no-any-return]
    return _linear(x, weight, bias, dtype, may_keep)


def _by_torch(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    low = (None if t is None else t.to(LOW) for t in (x, weight, bias))
    return F.linear(*low).to(dtype)  # type: ignore[arg-type]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, may_keep: bool = False) -> Tensor:
    in_one_go = dtype == torch.float32 or has_tiles() or (weight.shape[1] <= 2 * MOST_LOW and x.stride(-1) == 1)
    if not (in_one_go and _takes(x, weight, bias)):
        return _by_torch(x, weight, bias, dtype)
    rows, columns = flat(x), weight.shape[0]
    out = pages.fresh((rows.shape[0], columns), dtype)
    made = kept.get("factor", (weight,), lambda: _made(weight.T)) if may_keep else None
    multiply(out, rows, weight.T, bias, made=made)
    return out if x.dim() == 2 else out.view(*x.shape[:-1], columns)


def _takes(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    return _has_kernel() and takes(x, weight, bias, (torch.float32, LOW))


@lru_cache(maxsize=1)
def _has_kernel() -> bool:
    return is_available() and (doubles() or has_tiles())


@lru_cache
def _kernel(is_low: bool) -> Products:
    isa = narrow(host())
    return Products(torch.float32, isa, multiply_add(isa), is_low)


class _Linear(torch.autograd.Function):
    """Keeps x and weight as they are, which others hold too, and rounds them again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _linear(x, weight, bias, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        by_x = linear(grad, weight.mT) if needs_x else None
        if needs_weight and needs_bias and grad.dtype == LOW and not torch.is_grad_enabled():
            return by_x, *_of_weight_and_bias(flat(grad), flat(x)), None
        by_bias = _sum(grad) if needs_bias else None
        return by_x, over_rows(grad, x) if needs_weight else None, by_bias, None


def _of_weight_and_bias(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return grad.T @ x and grad.sum(0) of a gradient of bfloat16, reading it once."""
    if grad.stride(1) != 1 or not _takes(grad.T, x.T):
        return over_rows(grad, x), _sum(grad)
    product = pages.fresh((grad.shape[1], x.shape[1]), torch.float32)
    sums = product.new_zeros(grad.shape[1])
    multiply(product, grad.T, x, None, sums)
    return product, sums


def _sum(grad: Tensor) -> Tensor:
    return flat(grad).sum(0, dtype=torch.float32)
