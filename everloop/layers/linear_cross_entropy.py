"""A linear layer and the cross entropy of what it says, in one operation: logits of all rows are never kept."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from everloop import torch_private
from everloop.compiler.batched import is_batched
from everloop.compiler.target import products
from everloop.errors import OptionError, ShapeError, unknown
from everloop.layers.linear import linear, needs_torch
from everloop.layers.precision import autocast_dtype

NUMBERS = 1 << 22  # logits at a time: enough rows for products at full speed
FEW = 1 << 21  # logits that are no burden: PyTorch's two operations are as quick or quicker


def linear_cross_entropy(
    input: Tensor,  # noqa: A002 - PyTorch's name
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return `F.cross_entropy(F.linear(input, linear_weight, linear_bias), target, …)` without keeping the logits.

    Logits are made for some rows at a time, and turned into gradients where they lie; so training takes the memory of
    the gradients, however many rows and symbols there are. Rows of `ignore_index` are left out before anything is
    computed. As in the first line, with all logits, are computed: few logits, gradients of gradients, `torch.func`,
    `torch.compile`, forward-mode derivatives, reduction "none", probabilities as targets.

    Args:
        input: rows [..., I].
        linear_weight: [V, I].
        target: symbols [...] from 0 to V - 1.
        linear_bias: [V].
        weight: of each symbol [V].
        reduction: "mean", "sum" or "none".
        ignore_index: the target of rows that do not count.
        label_smoothing: how much of each target is spread over all symbols.

    Raises:
        ShapeError: sizes do not fit.
        OptionError: the reduction is unknown.
        IndexError: a target is no symbol.
    """
    if reduction not in ("mean", "sum", "none"):
        raise OptionError(unknown("reduction", reduction, ("mean", "sum", "none")))
    size = len(linear_weight)
    is_symbols = not target.is_floating_point()
    if input.shape[-1:] != linear_weight.shape[1:] or target.shape != (
        *input.shape[:-1],
        *([] if is_symbols else [size]),
    ):
        raise ShapeError(
            f"linear_cross_entropy: input is {list(input.shape)}, linear_weight {list(linear_weight.shape)}, target "
            f"{list(target.shape)}; expected [..., I], [V, I] and [...]"
        )
    x = input.reshape(math.prod(input.shape[:-1]), input.shape[-1])
    symbols = target.reshape(-1) if is_symbols else target.reshape(len(x), size)
    options: dict[str, Any] = {"weight": weight, "label_smoothing": label_smoothing}
    is_own = len(x) * size > FEW and reduction != "none" and target.dtype == torch.int64
    if is_own and not _is_special(x, linear_weight, linear_bias, weight):
        counts = symbols != ignore_index
        if not bool(counts.all()):
            x, symbols = x[counts], symbols[counts]
        if len(symbols) and _are_symbols(symbols, size):
            count: float | Tensor = 1.0
            if reduction == "mean":
                count = len(symbols) if weight is None else weight[symbols].sum(dtype=_wide(weight.dtype))
            return _total(_Task(x, linear_weight, linear_bias, symbols, weight, label_smoothing), count)
    logits = linear(x, linear_weight, linear_bias)
    loss = F.cross_entropy(logits, symbols, reduction=reduction, ignore_index=ignore_index, **options)
    return loss.reshape(input.shape[:-1]) if reduction == "none" else loss


def with_likeliest(x: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return (the cross entropy of rows x [N, I] in all, the likeliest symbols [N]); logits are kept for gradients."""
    is_small = len(x) * len(weight) <= FEW or autocast_dtype(x) is not None
    if is_small or torch.is_grad_enabled() or _is_special(x, weight, bias, None):
        logits = linear(x, weight, bias)
        return F.cross_entropy(logits, target, reduction="sum"), logits.argmax(-1)
    best = torch.zeros_like(target)
    total, _ = _chunks(_Task(x, weight, bias, target), (False, False, False), best)
    return total, best


def _is_special(x: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, weight: Tensor | None) -> bool:
    """Return whether only PyTorch's own operations will do."""
    tensors = [t for t in (x, linear_weight, linear_bias, weight) if t is not None]
    dtypes = {t.dtype for t in tensors}
    is_cast = autocast_dtype(x) is not None
    return (
        needs_torch(*tensors)
        or any(t.device != x.device for t in tensors)
        or not all(dtype.is_floating_point for dtype in dtypes)
        or (torch.float64 in dtypes if is_cast else len(dtypes) > 1)
        or not linear_weight.numel()
        or (weight is not None and weight.requires_grad)
    )


def _are_symbols(symbols: Tensor, size: int) -> bool:
    """Return whether all are from 0 to `size` - 1; devices other than the processor say it themselves, later."""
    if symbols.device.type != "cpu":
        return True
    least, most = symbols.aminmax()
    return int(least) >= 0 and int(most) < size


class _Task(NamedTuple):
    """Rows x [N, I], weight [V, I], bias [V], the targets [N], the weights of the symbols [V]."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    symbols: Tensor
    class_weight: Tensor | None = None
    smoothing: float = 0.0


def _total(task: _Task, count: float | Tensor) -> Tensor:
    """Return the sum of the losses over a count; float16 may hold the quotient alone."""
    device, dtype = task.x.device.type, task.x.dtype
    if (low := autocast_dtype(task.x)) is not None:
        dtype = _wide(dtype)
        bias = None if task.bias is None else task.bias.to(low)
        task = _Task(task.x.to(low), task.weight.to(low), bias, *task[3:])
    with torch.autocast(device, enabled=False):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in task[:3]):
            total = _LinearCrossEntropy.apply(*task)  # type: ignore[no-untyped-call]
        else:
            total, _ = _chunks(task, (False, False, False))
        return (total / count).to(dtype)  # type: ignore[no-any-return]


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradients are made with the losses, while the logits are there."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        task = _Task(*given)
        total, grads = _chunks(task, ctx.needs_input_grad[:3])
        ctx.smoothing = task.smoothing
        ctx.is_unseen = torch_private.saved_tensors_hooks(False) is None
        ctx.save_for_backward(*task[:5], *grads)
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = slopes
        x, weight, bias, symbols, class_weight, *grads = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: the gradient itself must be differentiable
            wanted = [t for t, needs in zip((x, weight, bias), ctx.needs_input_grad, strict=False) if needs]
            loss = F.cross_entropy(
                F.linear(x, weight, bias),
                symbols,
                weight=class_weight,
                reduction="sum",
                label_smoothing=ctx.smoothing,
            )
            made = iter(torch.autograd.grad(loss, wanted, slope.to(loss.dtype), create_graph=True))
            return *(next(made) if needs else None for needs in ctx.needs_input_grad[:3]), None, None, None
        if ctx.is_unseen and not torch_private.keeps_graph() and not is_batched(slope):
            grads = [None if g is None else g.mul_(slope.to(g.dtype)) for g in grads]
        else:
            grads = [None if g is None else g * slope.to(g.dtype) for g in grads]
        return *(None if g is None else g.to(x.dtype) for g in grads), None, None, None


def _chunks(task: _Task, wanted: tuple[bool, ...], best: Tensor | None = None) -> tuple[Tensor, list[Tensor | None]]:
    """Return (the sum of the losses, the gradients of x, weight and bias that are wanted), some rows at a time.

    best: where to write the likeliest symbols, if at all.
    """
    x, weight, bias, symbols, class_weight, smoothing = task
    count, size, target = len(x), len(weight), products(x.dtype, x.device)
    wide = _wide(x.dtype)
    rows = max(1, -(-count // max(1, -(-count * size // NUMBERS))))
    memory = target.empty((min(rows, count), size), x)
    of_x = target.empty(x.shape, x) if wanted[0] else None
    of_weight = torch.zeros(weight.shape, dtype=wide, device=x.device) if wanted[1] else None
    of_bias = torch.zeros(size, dtype=wide, device=x.device) if wanted[2] else None
    losses = torch.zeros(count, dtype=wide, device=x.device)
    for begin in range(0, count, rows):
        part = slice(begin, begin + rows)
        read = x[part]
        stored = memory[: len(read)]
        target.multiply(stored, read, weight.T, bias)
        logits = stored.to(wide)
        if best is not None:
            best[part] = logits.argmax(1)
        losses[part] = _losses(logits, symbols[part, None], class_weight, smoothing, any(wanted))
        if stored is not logits and any(wanted):
            stored.copy_(logits)
        if of_bias is not None:
            of_bias.add_(logits.sum(0))
        if of_x is not None:
            target.multiply(of_x[part], stored, weight)
        if of_weight is not None:
            if wide == x.dtype:
                target.multiply(of_weight, stored.T, read, add=True)
            else:
                of_weight.add_(stored.T @ read)
    return losses.sum(), [of_x, of_weight, of_bias]


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums."""
    return torch.promote_types(dtype, torch.float32)


def _losses(
    logits: Tensor, symbols: Tensor, class_weight: Tensor | None, smoothing: float, with_gradient: bool
) -> Tensor:
    """Return the losses of logits [n, V], which lose their numbers: to their gradients, if asked."""
    size, share = logits.shape[1], smoothing / logits.shape[1]
    each: Tensor
    total: float | Tensor
    logits.sub_(logits.amax(1, keepdim=True))
    of_symbol = logits.gather(1, symbols)
    if class_weight is None:
        each, total = torch.full_like(of_symbol, 1 - smoothing), share * size
    else:
        class_weight = class_weight.to(logits.dtype)
        each, total = (1 - smoothing) * class_weight[symbols], share * class_weight.sum()
    if smoothing:
        others = logits.sum(1, keepdim=True) if class_weight is None else (logits @ class_weight)[:, None]
    sums = logits.exp_().sum(1, keepdim=True)
    logarithm = sums.log()
    losses = each * (logarithm - of_symbol)
    if smoothing:
        losses += total * logarithm - share * others
    if with_gradient:
        logits.mul_((each + total) / sums)
        if smoothing:
            logits.sub_(share if class_weight is None else share * class_weight)
        logits.scatter_add_(1, symbols, -each)
    return losses[:, 0]
