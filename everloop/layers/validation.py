"""What a layer accepts: the checks of x, lengths, resets and states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from everloop.errors import ShapeError
from everloop.layers.nested import describe
from everloop.layers.precision import autocast_dtype
from everloop.torch_private import FakeTensor


def checked_state(name: str, state: Any, expected: Any) -> Any:
    """Return `state` if it is nested as `expected` and every tensor has the expected shape."""
    if isinstance(expected, tuple):
        if not isinstance(state, tuple | list) or len(state) != len(expected):
            got = f"{len(state)} part(s)" if isinstance(state, tuple | list) else type(state).__name__
            raise ShapeError(f"{name}: state is {got}; expected a tuple of {len(expected)}: {describe(expected)}")
        return tuple(checked_state(name, s, e) for s, e in zip(state, expected, strict=True))
    if not isinstance(state, Tensor) or state.shape != expected.shape:
        came = list(state.shape) if isinstance(state, Tensor) else type(state).__name__
        raise ShapeError(f"{name}: a state is {came}; expected {list(expected.shape)}, [B, H]")
    if state.dtype != expected.dtype and autocast_dtype(state) is None:
        raise ShapeError(f"{name}: a state is {state.dtype}; expected {expected.dtype}, as the parameters")
    return state


def checked_input(name: str, x: Tensor, input_size: int, dtype: torch.dtype | None) -> None:
    """Raise ShapeError unless x is [T, B, I] or [T, I] with this input size and dtype (None: any)."""
    if not isinstance(x, Tensor):
        raise ShapeError(f"{name}: x is {type(x).__name__}; expected a tensor or a PackedSequence")
    if x.dim() not in (2, 3):
        raise ShapeError(f"{name}: x has {x.dim()} axes, {list(x.shape)}; expected 3, [T, B, I], or 2 without a batch")
    if x.shape[-1] != input_size:
        raise ShapeError(f"{name}: x has {x.shape[-1]} features; expected input size {input_size}")
    if dtype is not None and x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
        raise ShapeError(f"{name}: x is {x.dtype}, the parameters are {dtype}; convert one with .to(dtype)")


def checked_lengths(name: str, lengths: Tensor | Sequence[int] | None, x: Tensor) -> Tensor | None:
    """Return the lengths of the sequences in x [T, B, I] as integers [B] from 0 to T."""
    if lengths is None:
        return None
    steps, batch = x.shape[:2]
    try:
        lengths = torch.as_tensor(lengths, device=x.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(f"{name}: lengths are {lengths!r}; expected {batch} integers") from error
    lengths = lengths[None] if lengths.dim() == 0 else lengths
    lengths = lengths.long() if lengths.shape == (0,) else lengths  # an empty list has no integers in it
    if lengths.is_floating_point() or lengths.dtype == torch.bool or lengths.shape != (batch,):
        raise ShapeError(f"{name}: lengths are {lengths.dtype} {list(lengths.shape)}; expected {batch} integers")
    # The operator that torch.compile takes checks them when it runs; some tensors have no numbers to check.
    if not (torch.compiler.is_compiling() or lengths.is_meta or isinstance(lengths, FakeTensor)):
        check_range(name, lengths, steps)
    return lengths.to(torch.int64)


def check_range(name: str, lengths: Tensor, steps: int) -> None:
    """Raise ShapeError unless every length is from 0 to `steps`."""
    numbers = lengths.tolist()
    if numbers and not (min(numbers) >= 0 and max(numbers) <= steps):
        raise ShapeError(f"{name}: lengths go from {min(numbers)} to {max(numbers)}; expected 0 to {steps} steps")


def checked_reset(name: str, reset: Tensor | None, x: Tensor) -> Tensor | None:
    """Return the resets of x [..., I] as a boolean for each of its rows; numbers are 0 or 1."""
    if reset is None:
        return None
    if not isinstance(reset, Tensor):
        raise ShapeError(f"{name}: reset is {type(reset).__name__}; expected a tensor, bool {list(x.shape[:-1])}")
    if reset.dtype.is_complex or reset.shape != x.shape[:-1]:
        raise ShapeError(f"{name}: reset is {reset.dtype} {list(reset.shape)}; expected bool {list(x.shape[:-1])}")
    if reset.dtype == torch.bool:
        return reset
    is_set = reset != 0
    is_unknown = torch.compiler.is_compiling() or reset.is_meta or isinstance(reset, FakeTensor)
    if not (is_unknown or bool((is_set == reset).all())):
        raise ShapeError(f"{name}: reset is {reset.dtype} with other numbers than 0 and 1; expected bool, or 0 and 1")
    return is_set
