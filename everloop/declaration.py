"""The words of a declaration: sizes as letters, and what a cell's body says is carried and learned."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from everloop.errors import CellError, OptionError


@dataclass(frozen=True)
class Size:
    """A size that is known when the cell is made, made of letters: `4 * H`, `I + H`, `H * P`, `H // heads`.

    terms: (letter, how many); a product of letters stands as one, its letters joined by *; a quotient too, as a/b with
    the factors of a and of b joined by a dot.
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

    def __floordiv__(self, divisor: Size | int) -> Size:
        above, below = (_factors(each) for each in (self, as_size(divisor)))
        return Size(((f"{above}/{below}", 1),))

    def __call__(self, sizes: Mapping[str, int]) -> int:
        """Return the number this size stands for, given the value of each letter (the letter "" is one)."""
        total = 0
        for letter, count in self.terms:  # no generator: this runs at every call of a layer
            total += count * (sizes[letter] if letter in sizes else _product(letter, sizes))
        return total

    @property
    def letters(self) -> frozenset[str]:
        factors = (factor for product, _ in self.terms for part in _split(product) for factor in re.split("[./]", part))
        return frozenset(factor for factor in factors if not factor.isdigit())

    def __str__(self) -> str:
        parts = (("*".join(map(_shown, _split(p))) or "1", n) for p, n in self.terms)
        return " + ".join((f"{n}*" if n != 1 else "") + part for part, n in parts)


def _split(product: str) -> list[str]:
    """Return the letters of a term; the product of none is the number one."""
    return product.split("*") if product else []


def _joined(left: str, right: str) -> str:
    return "*".join(sorted(_split(left) + _split(right)))


def _product(product: str, sizes: Mapping[str, int]) -> int:
    return math.prod([_value(factor, sizes) for factor in _split(product)])


def _value(factor: str, sizes: Mapping[str, int]) -> int:
    """Return the number of a letter or of a quotient."""
    if "/" not in factor:
        return int(factor) if factor.isdigit() else sizes[factor]
    above, below = (math.prod([_value(f, sizes) for f in side.split(".")]) for side in factor.split("/"))
    if not below or above % below:
        raise OptionError(f"the size {_shown(factor)} is {above} // {below}; expected a size that can be divided so")
    return above // below


def _factors(size: Size) -> str:
    """Return the factors of a size that is a product, joined by dots."""
    if len(size.terms) != 1 or "/" in size.terms[0][0]:
        raise CellError(f"the size {size} in a quotient; expected products, such as H // heads or 4 * H // heads")
    ((product, count),) = size.terms
    return ".".join([*(_split(product) if product else []), *([str(count)] if count != 1 or not product else [])])


def _shown(factor: str) -> str:
    short = {"input_size": "I", "hidden_size": "H"}
    if "/" not in factor:
        return short.get(factor, factor)
    above, below = ("*".join(short.get(f, f) for f in side.split(".")) for side in factor.split("/"))
    return f"({above} // {below})"


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
    """What a cell carries from one step to the next: a tensor of `shape` for each sequence."""

    shape: tuple[Size, ...]

    @property
    def size(self) -> Size:
        """How many numbers it has."""
        total = self.shape[0]
        for axis in self.shape[1:]:
            total *= axis
        return total


@dataclass(frozen=True)
class Output:
    """What a cell gives at every step and does not carry: rows of `size` numbers, one row a sequence."""

    size: Size


@dataclass(frozen=True)
class Input:
    """What a step reads anew at every step: rows of `size` numbers, one row a sequence."""

    size: Size


@dataclass(frozen=True)
class Context:
    """What every step of a sequence reads: numbers of this shape for each sequence.

    The first of several axes is one whose length comes with each call, such as the steps of a memory.
    """

    shape: tuple[Size, ...]

    @property
    def free(self) -> frozenset[str]:
        """The letters whose value comes with each call."""
        return self.shape[0].letters if len(self.shape) > 1 else frozenset()


@dataclass(frozen=True)
class Noise:
    """Random rows of `size` numbers that the layer draws.

    rate: None draws from the normal distribution; else the probability of a zero, where the rest is 1 / (1 - rate).
    per: whether a row is drawn for each step or for each sequence; always: whether in evaluation too.
    """

    size: Size
    rate: float | None
    per: Literal["step", "sequence"]
    always: bool

    @property
    def absent(self) -> float:
        """The number in the place of what is not drawn."""
        return 0.0 if self.rate is None else 1.0

    def draw(self, *shape: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return random numbers of a shape, of the dtype and on the device of `like`."""
        fresh = torch.empty(shape, dtype=like.dtype, device=like.device)
        if self.rate is None:
            return fresh.normal_(generator=generator)
        return fresh.bernoulli_(1 - self.rate, generator=generator).div_(1 - self.rate)


@dataclass(frozen=True)
class Param:
    """What a cell learns. `init` is None (uniform, as torch.nn), a number, or a function that fills a tensor."""

    shape: tuple[Size, ...]
    init: float | Callable[[Tensor], Any] | None
    is_bias: bool


# Declared as Any: inside `step` these names are tensors, and a type checker should let the mathematics pass.
def state(*shape: Size | int) -> Any:
    """Declare a state of this shape, such as `state(H)` or the matrix `state(V, K)`.

    The first is the cell's output, and has one axis, unless the cell declares outputs.
    """
    if not shape:
        raise CellError("state() has no size; expected one or more, such as state(H) or state(V, K)")
    return State(tuple(map(as_size, shape)))


def output(size: Size | int) -> Any:
    """Declare an output of `size` numbers that no step reads back; `step` returns it behind the states."""
    return Output(as_size(size))


def inputs(*sizes: Size | int) -> Any:
    """Declare several inputs, as in `x, dt = inputs(I, 1)`: x of I numbers, then further ones, given by name.

    `step` takes them in this order, before the states. The layer is called as `layer(x, dt=dt)`, with [T, B, size].
    """
    if len(sizes) < 2 or as_size(sizes[0]) != I:
        came = ", ".join(map(str, sizes))
        raise CellError(f"inputs({came}): expected the size of x, which is I, then those of further inputs")
    return tuple(Input(as_size(s)) for s in sizes)


def context(*shape: Size | int) -> Any:
    """Declare what every step reads as `self.NAME`, one for each sequence, given by name: `layer(x, NAME=…)`.

    `context(H)` is a vector; `context(S, H)` with `S = size("slots")` a memory of as many rows as a call brings, whose
    lengths may be given as `NAME_lengths=…`, and which of them exist is read as `self.NAME_mask`, bool [B, S].

    Raises:
        CellError: the shape is none of these.
    """
    sizes = tuple(map(as_size, shape))
    terms = sizes[0].terms if sizes else ()
    is_letter = len(terms) == 1 and terms[0][1] == 1 and terms[0][0] not in ("", "input_size", "hidden_size")
    if not (len(sizes) == 1 or (len(sizes) == 2 and is_letter)):
        came = ", ".join(map(str, shape))
        raise CellError(f"context({came}): expected one size, or a letter of its own and a size, as in context(S, H)")
    return Context(sizes)


def noise(size: Size | int, *, per: Literal["step", "sequence"] = "step", always: bool = False) -> Any:
    """Declare `size` numbers of the normal distribution, which the layer draws and the step reads as `self.NAME`.

    per: whether they are drawn for each step or for each sequence; always: whether in evaluation too, where they are 0.
    """
    return Noise(as_size(size), None, _checked_per("noise", per), always)


def mask(size: Size | int, *, p: float, per: Literal["step", "sequence"] = "step", always: bool = False) -> Any:
    """Declare `size` numbers that are 0 with probability p, 1 / (1 - p) otherwise; as `noise`, in evaluation 1."""
    if not isinstance(p, int | float) or not 0 <= p < 1:
        raise CellError(f"mask: p is {p!r}; expected a number from 0 up to, not including, 1")
    return Noise(as_size(size), float(p), _checked_per("mask", per), always)


def _checked_per(name: str, per: Any) -> Any:
    if per not in ("step", "sequence"):
        raise CellError(f"{name}: per is {per!r}; expected 'step' or 'sequence'")
    return per


def param(*shape: Size | int, init: float | Callable[[Tensor], Any] | None = None) -> Any:
    """Declare a learned vector or matrix of this shape.

    `init` None draws from U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)) as torch.nn does; a number fills; a
    function is called with the tensor and fills it in place.
    """
    return Param(tuple(as_size(s) for s in shape), init, is_bias=False)


def bias(*shape: Size | int, init: float | Callable[[Tensor], Any] | None = None) -> Any:
    """Declare a learned offset: as `param`, and the number 0 in a cell made with `bias=False`."""
    return Param(tuple(as_size(s) for s in shape), init, is_bias=True)
