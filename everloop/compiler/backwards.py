"""Gradients that custom_gradient says in general: lines of operations on g and on values of the step, as text.

As text they are compared, kept on disk and moved through the passes as the data of one value, `replaced`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from everloop.own_gradient import CustomGradient

# An operation, the numbers of its arguments, its data and its shape. Numbers count g, what is read, and the lines.
Line = tuple[str, list[int], list[Any], list[int]]


def text_of(targets: int, lines: Sequence[Line], results: Sequence[int]) -> str:
    """Return as text what gives the gradients of some targets: the numbers of its results."""
    return json.dumps([targets, lines, results])


@lru_cache(256)
def _parsed(text: str) -> tuple[int, list[Line], list[int]]:
    targets, lines, results = json.loads(text)
    return targets, lines, results


def targets_of(text: str) -> int:
    """Return how many values get a gradient: the first arguments of a `replaced`, behind the value itself."""
    return _parsed(text)[0]


def gradients(text: str, g: Any, read: Sequence[Any], make: Callable[..., Any]) -> list[Any]:
    """Return the gradient of each target; make(operation, arguments, data, shape) makes each line of it."""
    _, lines, results = _parsed(text)
    found = [g, *read]
    for op, args, data, shape in lines:
        found.append(make(op, [found[a] for a in args], data, tuple(shape)))
    return [found[k] for k in results]


def on_tensors(table: Mapping[str, Any], text: str, g: Tensor, read: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradient of each target for tensors."""

    def make(op: str, args: list[Tensor], data: list[Any], shape: tuple[int, ...]) -> Tensor:
        found: Tensor = g.new_full(shape, data[0]) if op == "constant" else table[op].meaning(*args, *data)
        return found

    return gradients(text, g, read, make)


def with_gradient(table: Mapping[str, Any], value: Tensor, *rest: Any) -> Tensor:
    """Return a value whose gradient is what a text says; rest: the targets, what else is read, and the text."""
    *args, text = rest
    count = targets_of(text)

    def backward(value: Tensor, *given: Tensor) -> tuple[Tensor | None, ...]:
        *args, g = given
        found = on_tensors(table, text, g, args[count:])
        return None, *found, *[None] * (len(args) - count)

    shape = torch.broadcast_shapes(value.shape, *((*a.shape[:-1], 1) for a in args if a.dim() > 1))  # type: ignore[no-untyped-call]
    result: Tensor = CustomGradient(lambda value, *_: value.expand(shape), backward)(value, *args)
    return result
