"""What PyTorch says a call gives, asked on tensors of ones; and whether the loop, which has floats only, can hold that.

Truth values are 0 and 1 in the loop, and integers are floats. An integer comes with a bound of its size: as
long as that is small enough, floats hold it exactly.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from everloop import torch_private
from everloop.compiler.operations import Integers

_MOVES = ("move", "negation", "choice")  # each number of the result is one that is given, but for its sign


_ARITHMETIC = {torch.bfloat16: torch.float32, torch.float16: torch.float32}


def arithmetic(storage: torch.dtype) -> torch.dtype:
    """Return the dtype in which a step of this dtype is computed."""
    return _ARITHMETIC.get(storage, storage)


def on_examples(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Return what `function` makes of example inputs; raises what PyTorch raises."""
    with warnings.catch_warnings(), torch.no_grad(), torch_private.without_torch_function():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


@lru_cache(256)
def example_input(dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of ones, which needs no memory."""
    with torch.inference_mode(False), torch_private.without_torch_function():
        return torch.ones((), dtype=dtype).expand(shape)


def computing(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """Return the floating type in which PyTorch computes with tensors of these types and Python's numbers."""
    floats = [d for d in dtypes if d.is_floating_point]
    return max(floats, key=_bits) if floats else torch.get_default_dtype()


def is_narrower(dtype: torch.dtype, than: torch.dtype) -> bool:
    return dtype.is_floating_point and _bits(dtype) < _bits(than)


def is_held(dtype: torch.dtype, loop: torch.dtype) -> bool:
    """Whether each number of `dtype` comes out of the loop's type as another computation in floats would have it."""
    return dtype == loop or is_narrower(dtype, loop) or not (dtype.is_floating_point or dtype.is_complex)


def _bits(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits


def converted(number: float, dtype: torch.dtype) -> float:
    """Return a number as a tensor of `dtype` holds it."""
    return float(torch.tensor(number, dtype=torch.float64 if isinstance(number, float) else torch.int64).to(dtype))


def bound_of(thing: Any) -> float | None:
    """Return the size of an integer, the largest in a tensor of integers, None of others."""
    if isinstance(thing, bool | int | float):
        return abs(float(thing)) if float(thing).is_integer() else None
    if isinstance(thing, Tensor) and not (thing.is_floating_point() or thing.is_complex()):
        return float(thing.double().abs().max()) if thing.numel() else 0.0
    return None


def bound(integers: Integers, given: Sequence[float | None], width: int, alpha: Any = 1) -> float | None:
    """Return a bound of the integers that a call gives; None where they may be any numbers.

    integers: as in the table of operations; given: the bounds of what the call is given; width: features of the first;
    alpha: a factor of the second.
    """
    first = given[0]
    if integers in ("move", "negation", "cast"):
        return first
    if integers == "total":
        return None if first is None else first * width
    sizes = [each for each in given if each is not None]
    if len(sizes) < len(given) or bound_of(alpha) is None:
        return None
    if integers == "choice":
        return max(sizes)
    if integers in ("product", "square"):
        return sizes[0] * sizes[-1]
    return (sizes[0] + sizes[1]) * max(abs(alpha), 1) if integers == "sum" else None


def unsupported_reason(
    integers: Integers, dtype: torch.dtype, loop: torch.dtype, size: float | None, given: Sequence[Any]
) -> str:
    """Return why floats of type `loop` cannot hold a result of type `dtype`; "" where they can.

    size: a bound of it, as an integer; given: the types of what the call is given.
    """
    if dtype in (loop, torch.bool):
        return ""
    if not is_held(dtype, loop):
        return f"a result of {dtype} in a loop of {loop}"
    if size is not None and size <= _exact(dtype, loop):
        return ""
    if not dtype.is_floating_point:
        return f"integers of {dtype} that may be too large for {loop}"
    floats = [d for d in given if d != torch.bool]
    is_move = integers in _MOVES or (integers == "product" and len(floats) < len(given))  # a truth value times it
    is_exact = (is_move and not any(d == loop for d in floats)) or integers == "fill"
    if integers == "cast" and floats and is_narrower(floats[0], loop):
        is_exact |= _bits(floats[0]) <= _bits(dtype)
    return "" if is_exact else f"rounding to dtype {dtype} in a loop of {loop}"


def _exact(dtype: torch.dtype, loop: torch.dtype) -> float:
    """Return up to which size a float of type `loop` holds the integers of type `dtype` exactly."""
    limits = [2 / torch.finfo(d).eps for d in (dtype, loop) if d.is_floating_point]
    if dtype.is_floating_point:
        return min(limits)
    return min(*limits, torch.iinfo(dtype).max) if dtype.is_signed else -1.0
