"""What PyTorch's products do to symbols: rows with matrices, and rows with rows over any axes (einsum)."""

from __future__ import annotations

import math
import string
from dataclasses import dataclass
from typing import Any

import torch

from everloop.compiler.features import sum_
from everloop.compiler.functions import add
from everloop.compiler.ir import Type, Value
from everloop.compiler.locations import unsupported
from everloop.compiler.shapes import permute
from everloop.compiler.symbol import Symbol, elementwise, known, symbol_of, viewed
from everloop.compiler.view import View, contiguous


@known("matmul", "mm", has_matrix=True)
def matmul(a: Any, b: Any) -> Symbol:
    like = next(t for t in (a, b) if isinstance(t, Symbol))
    left, right = symbol_of(a, like), symbol_of(b, like)
    if left.rows and len(left.axes) == 1 and right.value.type.kind == "matrix":
        return like.like(like.builder.make("matmul", left.value, right.value))
    if left.rows and len(left.axes) == 1 and right.value.type.kind == "vector":
        return sum_(elementwise("mul", left, right), -1)
    if not (left.rows or right.rows) or min(left.ndim, right.ndim) < 1 or max(left.ndim, right.ndim) < 3:
        raise unsupported(
            f"the product of a {left.value.type.kind} and a {right.value.type.kind}; expected a row and a matrix, or "
            "rows with two axes of features each"
        )
    return _matrices(left, right)


known("rmatmul", has_matrix=True)(lambda a, b: matmul(b, a))
known("mv", has_matrix=True)(lambda a, b: matmul(a, b))
known("bmm")(lambda a, b: matmul(a, b))


def _matrices(left: Symbol, right: Symbol) -> Symbol:
    """The product over the last axis of one and the last but one of the other, all before them side by side."""
    batch = max(left.ndim, right.ndim) - 2
    letters = string.ascii_lowercase[:batch]
    a = letters[batch - (left.ndim - 2) :] + ("yz" if left.ndim > 1 else "z") if left.ndim > 1 else "z"
    b = letters[batch - (right.ndim - 2) :] + "zx" if right.ndim > 1 else "z"
    for symbol, own in ((left, a), (right, b)):
        if symbol.rows and not own.startswith(letters[:1]):
            raise unsupported("a product in which the batch meets features; give both as many axes")
    out = letters + ("y" if left.ndim > 1 else "") + ("x" if right.ndim > 1 else "")
    return contract([(left, a), (right, b)], out)


@known("linear", has_matrix=True)
def linear(a: Any, weight: Any, bias: Any = None) -> Symbol:
    like = next(t for t in (a, weight) if isinstance(t, Symbol))
    left, right = symbol_of(a, like), symbol_of(weight, like)
    if not left.rows or right.value.type.kind != "matrix" or not left.axes:
        raise unsupported(f"linear of a {left.value.type.kind} and a {right.value.type.kind}")
    if len(left.axes) == 1:
        product = like.like(like.builder.make("linear", left.value, right.value))
    else:
        letters = string.ascii_lowercase[: left.ndim - 1]
        product = contract([(left, letters + "z"), (right, "xz")], letters + "x")
    return product if bias is None else add(product, bias)


@known("addmm", has_matrix=True)
def addmm(bias: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Symbol:
    return add(_scaled(matmul(a, b), alpha), _scaled(bias, beta))


@known("baddbmm")
def baddbmm(bias: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Symbol:
    return add(_scaled(matmul(a, b), alpha), _scaled(bias, beta))


def _scaled(a: Any, factor: float) -> Any:
    return a if factor == 1 else elementwise("mul", a, factor)


@known("inner")
def inner(a: Any, b: Any) -> Symbol:
    like = next(t for t in (a, b) if isinstance(t, Symbol))
    if symbol_of(b, like).rows:
        raise unsupported("inner of rows, which multiplies every sequence with every other; write (a * b).sum(-1)")
    return linear(a, b) if symbol_of(b, like).value.type.kind == "matrix" else matmul(a, symbol_of(b, like))


@known("linalg_vecdot", "vecdot")
def vecdot(a: Any, b: Any, dim: int = -1) -> Symbol:
    return sum_(elementwise("mul", a, b), dim)


@known("outer", "ger")
def outer(a: Any, b: Any) -> Symbol:
    raise unsupported("outer, which takes vectors, not rows; write a.unsqueeze(-1) * b.unsqueeze(-2)")


@known("einsum", is_view=True)  # of one operand, where nothing is summed
def einsum(equation: str, *operands: Any) -> Symbol:
    things = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], list | tuple) else list(operands)
    like = next(t for t in things if isinstance(t, Symbol))
    symbols = [symbol_of(t, like) for t in things]
    given, arrow, out = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    if not arrow:
        joined = given.replace(",", "")
        out = "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    if len(terms) != len(symbols):
        raise unsupported(f"einsum of {equation!r} with {len(symbols)} operand(s)")
    if "..." in given:
        terms, out = _without_ellipsis(terms, [s.ndim for s in symbols], out if arrow else f"...{out}")
    batch = next(term[:1] for term, s in zip(terms, symbols, strict=True) if s.rows)
    if not out.startswith(batch) or any(s.rows and term[:1] != batch for term, s in zip(terms, symbols, strict=True)):
        raise unsupported(f"einsum of {equation!r}; the batch is the first letter of all rows and of the result")
    if any(term.count(batch) != s.rows for term, s in zip(terms, symbols, strict=True)):
        raise unsupported(f"einsum of {equation!r}, in which the batch meets features")
    for term, s in zip(terms, symbols, strict=True):
        if len(term) != s.ndim or (len(set(term)) != len(term) and not s.rows):
            raise unsupported(f"einsum of {equation!r}: the term {term!r} of a value of {s.ndim} axes")
    return contract([_diagonal(s, term) for term, s in zip(terms, symbols, strict=True)], out)


@known("tensordot")
def tensordot(a: Any, b: Any, dims: Any = 2, out: None = None) -> Symbol:
    first, second = (range(a.ndim - dims, a.ndim), range(dims)) if isinstance(dims, int) else dims
    left, right = list(string.ascii_lowercase[: a.ndim]), list(string.ascii_uppercase[: b.ndim])
    for k, n in zip(first, second, strict=True):
        right[n] = left[k]
    rest = "".join(c for c in left + right if (c in left) != (c in right))
    return einsum(f"{''.join(left)},{''.join(right)}->{rest}", a, b)


def _diagonal(a: Symbol, letters: str) -> Term:
    """Return the features of a row at which axes of the same letter have the same place."""
    own = "".join(dict.fromkeys(letters))
    if own == letters:
        return a, letters
    steps, sizes = dict.fromkeys(own[1:], 0), dict(zip(letters[1:], a.axes, strict=True))
    for letter, size, step in zip(letters[1:], a.axes, contiguous(a.axes), strict=True):
        steps[letter] += step
        if size != sizes[letter]:
            raise ValueError(f"axes of {size} and {sizes[letter]} have the letter {letter}")
    return viewed(a, tuple(sizes[c] for c in own[1:]), View(tuple((sizes[c], steps[c]) for c in own[1:]))), own


def _without_ellipsis(terms: list[str], ranks: list[int], out: str) -> tuple[list[str], str]:
    """Return the terms and the result of an equation with letters for the axes that dots stand for."""
    counts = [max(rank - len(term) + 3, 0) if "..." in term else 0 for term, rank in zip(terms, ranks, strict=True)]
    fresh = "".join(c for c in string.ascii_letters if c not in "".join([*terms, out]))[: max(counts)]
    named = [term.replace("...", fresh[len(fresh) - n :]) for term, n in zip(terms, counts, strict=True)]
    return named, out.replace("...", fresh)


Term = tuple[Symbol, str]


def contract(terms: list[Term], out: str) -> Symbol:
    """Return the sum of products over the axes that are not in `out`.

    terms: values with a letter for each axis; the first letter of rows and of `out` is the batch.
    """
    sizes: dict[str, int] = {}
    for symbol, letters in terms:
        for letter, size in zip(letters[symbol.rows :], symbol.axes if symbol.rows else symbol.shape, strict=True):
            known_size = sizes.setdefault(letter, size)
            if size not in (1, known_size):
                if known_size != 1:
                    raise ValueError(f"axes of {known_size} and {size} do not fit")
                sizes[letter] = size
    if any(letter not in sizes for letter in out[1:]):
        raise ValueError(f"{out!r} has an axis that no argument has")
    while len(terms) > 2:
        terms = _with_a_pair(terms, out, sizes)
    if len(terms) == 2:
        (first, second), is_fixed = terms, [not s.rows for s, _ in terms]
        if any(is_fixed):
            row, fixed = (second, first) if is_fixed[0] else (first, second)
            over = [c for c in row[1][1:] if c in fixed[1] and c not in out]
            if over and _are_whole(terms, sizes):
                return _with_matrices(row, fixed, over, out, sizes)
    inside = out[1:] + "".join(c for c in sizes if c not in out)
    result: Symbol | None = None
    for symbol, letters in terms:
        spread = _spread(symbol, letters, inside, sizes)
        result = spread if result is None else elementwise("mul", result, spread)
    assert result is not None
    summed = len(inside) - len(out) + 1
    return sum_(result, tuple(range(-summed, 0))) if summed else result


def _with_a_pair(terms: list[Term], out: str, sizes: dict[str, int]) -> list[Term]:
    """Return the terms with a row and one other replaced by their product, the smallest there is."""
    row = next(n for n, (symbol, _) in enumerate(terms) if symbol.rows)
    found: list[tuple[int, int, str]] = []
    for other in (n for n in range(len(terms)) if n != row):
        later = out + "".join(letters for n, (_, letters) in enumerate(terms) if n not in (row, other))
        kept = dict.fromkeys(c for c in terms[row][1][1:] + terms[other][1][terms[other][0].rows :] if c in later)
        found.append((math.prod(sizes[c] for c in kept), other, out[0] + "".join(kept)))
    _, other, letters = min(found)
    pair = contract([terms[row], terms[other]], letters)
    return [(pair, letters), *(term for n, term in enumerate(terms) if n not in (row, other))]


def _are_whole(terms: list[Term], sizes: dict[str, int]) -> bool:
    """Whether no axis is one that stands for more."""
    return all(
        size == sizes[letter]
        for symbol, letters in terms
        for letter, size in zip(letters[symbol.rows :], symbol.axes if symbol.rows else symbol.shape, strict=True)
    )


def _spread(symbol: Symbol, letters: str, inside: str, sizes: dict[str, int]) -> Symbol:
    """Return a value with the axes `inside`, one where it has none."""
    if not symbol.rows:
        kind = Type(tuple(sizes[c] if c in letters else 1 for c in inside), dtype=symbol.value.type.dtype)
        laid = Laid(letters, inside)
        return symbol.like(symbol.builder.make("call", symbol.value, data=(laid,), type=kind))
    own = letters[1:]
    order = [c for c in inside if c in own]
    if [*own] != order:
        symbol = permute(symbol, [0, *(1 + own.index(c) for c in order)])
        own = "".join(order)
    size = dict(zip(own, symbol.axes, strict=True))
    return symbol.like(symbol.value, tuple(size.get(c, 1) for c in inside))


@dataclass(frozen=True)
class Laid:
    """Lays the axes of a fixed tensor, named by letters, in another order, with axes of one where it has none."""

    letters: str
    inside: str

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        order = [c for c in self.inside if c in self.letters]
        turned = tensor.permute([self.letters.index(c) for c in order])
        size = dict(zip(order, turned.shape, strict=True))
        return turned.reshape([size.get(c, 1) for c in self.inside])


def _with_matrices(row: Term, fixed: Term, over: list[str], out: str, sizes: dict[str, int]) -> Symbol:
    """A row's parts by matrices: one for each place of the axes that both have and the result keeps."""
    (a, a_letters), (w, w_letters) = row, fixed
    alone = [c for c in a_letters[1:] if c not in w_letters and c in out]
    gone = [c for c in a_letters[1:] if c not in w_letters and c not in out]
    shared = [c for c in a_letters[1:] if c in w_letters and c in out]
    new = [c for c in w_letters if c not in a_letters and c in out]
    lost = [c for c in w_letters if c not in a_letters and c not in out]
    if gone:
        a = sum_(a, tuple(1 + a_letters[1:].index(c) for c in gone))
        a_letters = a_letters[0] + "".join(c for c in a_letters[1:] if c not in gone)
    a = permute(a, [0, *(a_letters.index(c) for c in (*shared, *alone, *over))])
    builder, inner = a.builder, math.prod(sizes[c] for c in over)
    width = math.prod(sizes[c] for c in new)
    pieces: list[Value] = []
    for s in range(math.prod(sizes[c] for c in shared)):
        matrix = Matrix(w_letters, tuple(shared), tuple(over), tuple(new), tuple(lost), s)
        kind = Type((width, inner), dtype=w.value.type.dtype)
        weight = builder.make("call", w.value, data=(matrix,), type=kind)
        for k in range(count := math.prod(sizes[c] for c in alone)):
            start = (s * count + k) * inner
            pieces.append(builder.make("linear", builder.slice(a.value, start, start + inner), weight))
    axes = tuple(sizes[c] for c in (*shared, *alone, *new))
    result = a.like(pieces[0] if len(pieces) == 1 else builder.make("cat", *pieces), axes)
    order = [*shared, *alone, *new]
    return permute(result, [0, *(1 + order.index(c) for c in out[1:])])


@dataclass(frozen=True)
class Matrix:
    """Takes from a fixed tensor, whose axes have letters, the matrix [new, over] at one place of the shared axes."""

    letters: str
    shared: tuple[str, ...]
    over: tuple[str, ...]
    new: tuple[str, ...]
    lost: tuple[str, ...]
    place: int

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        order = [*self.shared, *self.new, *self.over, *self.lost]
        turned = tensor.permute([self.letters.index(c) for c in order])
        if self.lost:
            turned = turned.sum(tuple(range(-len(self.lost), 0)))
        shape = turned.shape
        height = math.prod(shape[len(self.shared) : len(self.shared) + len(self.new)])
        width = math.prod(shape[len(self.shared) + len(self.new) :])
        return turned.reshape(-1, height, width)[self.place]
