"""Functions whose gradient is replaced: spikes with a surrogate, straight-through estimates, reversed gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from everloop.errors import CellError


def custom_gradient(forward: Callable[..., Any], backward: Callable[..., Any]) -> CustomGradient:
    """Return a function of tensors that computes `forward` and whose gradient is what `backward` says.

    forward: takes the arguments, tensors and numbers; its result gets their dtype, so that a comparison is a spike of 0
        and 1. A comparison with NaN is 0, which hides that a network diverged; `torch.where(u.isnan(), u, u > 0)` keeps
        NaN. It reads no tensors that ask for a gradient besides: those are arguments.
    backward: takes the arguments and g, the gradient of the result, and returns that of the argument, of several a
        tuple in their order; None for those that get none. What was broadcast is summed to its argument's shape.

    `custom_gradient(lambda u: u > 0, lambda u, g: g / (1 + 10 * u.abs()) ** 2)` is the spike of Zenke and Ganguli,
    "SuperSpike", Neural Computation 2018. A gradient of the gradient is that of `backward`. Forward-mode derivatives
    (`torch.func.jvp`) are those of which `backward` is the transpose, where it is linear in g; at g = 0 elsewhere.

    Raises:
        CellError: when it is called: an argument is None, or what the two functions return does not fit.
    """
    for name, function in (("forward", forward), ("backward", backward)):
        if not callable(function):
            raise CellError(f"custom_gradient: {name} is {type(function).__name__}; expected a function")
    return CustomGradient(forward, backward)


@dataclass(frozen=True)
class CustomGradient:
    """What `custom_gradient` returns; see there."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]

    def __call__(self, *args: Tensor | float) -> Any:
        return with_custom_gradient(self, *args)

    def gradients(self, args: tuple[Any, ...], g: Any) -> list[Any]:
        """Return what `backward` says, a gradient or None for each argument."""
        found = self.backward(*args, g)
        each = list(found) if isinstance(found, tuple | list) else [found]
        if len(each) != len(args):
            raise CellError(
                f"custom_gradient: backward returns {len(each)} gradients; expected {len(args)}, one for each argument "
                "of forward in their order, None for those that get none"
            )
        return each


def with_custom_gradient(rule: CustomGradient, *args: Any) -> Any:
    """Return `rule` of tensors, or of other things that stand for tensors."""
    for k, arg in enumerate(args):
        if arg is None:
            raise CellError(f"custom_gradient: argument {k} is None; expected tensors and numbers")
    if has_torch_function(args):
        return handle_torch_function(with_custom_gradient, args, rule, *args)
    if not any(isinstance(a, Tensor) and a.is_floating_point() for a in args):
        raise CellError("custom_gradient: no argument is a tensor of floating-point numbers; there is no gradient")
    return _Replaced.apply(rule, *args)  # type: ignore[no-untyped-call]


class _Replaced(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(rule: CustomGradient, *args: Any) -> Tensor:
        with torch.enable_grad():
            result = rule.forward(*(a.detach() if isinstance(a, Tensor) else a for a in args))
        if not isinstance(result, Tensor):
            raise CellError(f"custom_gradient: forward returns {type(result).__name__}; expected one tensor")
        if result.is_complex():
            raise CellError(f"custom_gradient: forward returns {result.dtype}; expected real numbers")
        if result.requires_grad:
            raise CellError(
                "custom_gradient: forward reads a tensor that asks for a gradient and is no argument, so that it would "
                "get none; give it as an argument"
            )
        kinds = [a.dtype for a in args if isinstance(a, Tensor) and a.is_floating_point()]
        return result.to(reduce(torch.promote_types, kinds), copy=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.rule, *args = inputs
        ctx.numbers = [None if isinstance(a, Tensor) else a for a in args]
        tensors = [a for a in args if isinstance(a, Tensor)]
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.like = output.detach()

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Any) -> Tensor:
        """The transpose of `backward`, which is its gradient with respect to g."""
        args = _all_args(ctx)
        moved = [k for k, t in enumerate(tangents) if t is not None and isinstance(args[k], Tensor)]

        def pulled(g: Tensor) -> tuple[Tensor, ...]:
            found = ctx.rule.gradients(args, g)
            each = (_fitted(k, found[k], args[k]) for k in moved)
            return tuple(torch.zeros_like(args[k]) if f is None else f for k, f in zip(moved, each, strict=True))

        transposed: Any = torch.func.vjp(pulled, torch.zeros_like(ctx.like))[1]
        result: Tensor = transposed(tuple(tangents[k] for k in moved))[0]
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        args = _all_args(ctx)
        found = ctx.rule.gradients(args, g)
        return None, *(_fitted(k, each, arg) for k, (each, arg) in enumerate(zip(found, args, strict=True)))


def _all_args(ctx: Any) -> tuple[Any, ...]:
    """Return the arguments of the function, tensors and numbers."""
    saved = iter(ctx.saved_tensors)
    return tuple(next(saved) if number is None else number for number in ctx.numbers)


def _fitted(k: int, gradient: Any, arg: Any) -> Tensor | None:
    """Return the gradient of argument k, summed to its shape."""
    if gradient is None or not isinstance(arg, Tensor):
        return None
    if not isinstance(gradient, Tensor):
        came = type(gradient).__name__
        raise CellError(f"custom_gradient: backward returns {came} for argument {k}; expected a tensor, or None")
    if gradient.shape == arg.shape:
        return gradient
    try:
        return gradient.expand(torch.broadcast_shapes(gradient.shape, arg.shape)).sum_to_size(arg.shape)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        came, shape = f"{list(gradient.shape)}", list(arg.shape)
        raise CellError(f"custom_gradient: backward returns {came} for argument {k}; expected {shape}") from error
