"""The words of a declaration: sizes as letters, and what a cell's body says is carried and learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from everloop.errors import CellError


@dataclass(frozen=True)
class Size:
    """A size that is known when the cell is made: a sum of multiples of letters, such as `4 * H`, `I + H`, `H * P`.

    terms: (letter, how many); a product of letters stands as one, its letters joined by *.
    """

    terms: tuple[tuple[str, int], ...]

    def __add__(self, other: Size | int) -> Size:
        return Size(self.terms + as_size(other).terms)

    def __radd__(self, other: int) -> Size:
        return as_size(other) + self

    def __mul__(self, factor: Size | int) -> Size:
        if isinstance(factor, int):
            return Size(tuple((letter, factor * count) for letter, count in self.terms))
        return Size(tuple((_joined(a, b), n * m) for a, n in self.terms for b, m in as_size(factor).terms))

    __rmul__ = __mul__

    def __call__(self, sizes: Mapping[str, int]) -> int:
        """Return the number this size stands for, given the value of each letter (the letter "" is one)."""
        total = 0
        for letter, count in self.terms:  # no generator: this runs at every call of a layer
            total += count * (sizes[letter] if letter in sizes else _product(letter, sizes))
        return total

    @property
    def letters(self) -> frozenset[str]:
        return frozenset(letter for product, _ in self.terms for letter in _split(product))

    def __str__(self) -> str:
        short = {"input_size": "I", "hidden_size": "H"}
        parts = (("*".join(short.get(letter, letter) for letter in _split(p)) or "1", n) for p, n in self.terms)
        return " + ".join((f"{n}*" if n != 1 else "") + part for part, n in parts)


def _split(product: str) -> list[str]:
    """Return the letters of a term; the product of none is the number one."""
    return product.split("*") if product else []


def _joined(left: str, right: str) -> str:
    return "*".join(sorted(_split(left) + _split(right)))


def _product(product: str, sizes: Mapping[str, int]) -> int:
    return math.prod([sizes[letter] for letter in _split(product)])


def size(name: str) -> Size:
    """Return a further letter, given by the keyword `name` when the cell is made (`P = size("proj_size")`)."""
    return Size(((name, 1),))


def as_size(value: Size | int) -> Size:
    """Return `value` as a Size. Raises CellError if it is neither that nor an integer of at least 0."""
    if isinstance(value, Size):
        return value
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise CellError(f"a size is {value!r}; expected an integer or letters, such as H, 4 * H or I + H")
    return Size((("", value),))


I = size("input_size")  # noqa: E741 - the letter of the axis, as in the equations
H = size("hidden_size")


@dataclass(frozen=True)
class State:
    """What a cell carries from one step to the next: rows of `size` numbers, one row a sequence."""

    size: Size


@dataclass(frozen=True)
class Output:
    """What a cell gives at every step and does not carry: rows of `size` numbers, one row a sequence."""

    size: Size


@dataclass(frozen=True)
class Param:
    """What a cell learns. `init` is None (uniform, as torch.nn), a number, or a function that fills a tensor."""

    shape: tuple[Size, ...]
    init: float | Callable[[Tensor], Any] | None
    is_bias: bool


# Declared as Any: inside `step` these names are tensors, and a type checker should let the mathematics pass.
def state(size: Size | int) -> Any:
    """Declare a state of `size` numbers. The first is the cell's output, unless it declares outputs."""
    return State(as_size(size))


def output(size: Size | int) -> Any:
    """Declare an output of `size` numbers that no step reads back; `step` returns it behind the states."""
    return Output(as_size(size))


def param(*shape: Size | int, init: float | Callable[[Tensor], Any] | None = None) -> Any:
    """Declare a learned vector or matrix of this shape.

    `init` None draws from U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)) as torch.nn does; a number fills; a
    function is called with the tensor and fills it in place.
    """
    return Param(tuple(as_size(s) for s in shape), init, is_bias=False)


def bias(*shape: Size | int, init: float | Callable[[Tensor], Any] | None = None) -> Any:
    """Declare a learned offset: as `param`, and the number 0 in a cell made with `bias=False`."""
    return Param(tuple(as_size(s) for s in shape), init, is_bias=True)
