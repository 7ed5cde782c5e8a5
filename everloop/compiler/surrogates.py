"""What `custom_gradient` does to symbols: the value of one function, and the slope that another one says."""

from __future__ import annotations

import math
from typing import Any

import torch

from everloop.compiler import backwards, dtypes
from everloop.compiler.ir import Type, Value, walk
from everloop.compiler.locations import unsupported
from everloop.compiler.operations import OPERATIONS
from everloop.compiler.rewrite import Depends, same
from everloop.compiler.rules import is_number
from everloop.compiler.symbol import Number, Symbol, elementwise, features, known, spread, spread_to, symbol_of
from everloop.own_gradient import CustomGradient


@known("with_custom_gradient")
def with_custom_gradient(rule: CustomGradient, *args: Any) -> Symbol:
    """The value of the rule, tied to each argument by what its gradient is for a gradient of one, or as it says."""
    like = next(a for a in args if isinstance(a, Symbol))
    given = [a if isinstance(a, Number) else symbol_of(a, like) for a in args]
    symbols = [a for a in given if isinstance(a, Symbol)]
    if not any(a.rows for a in symbols):
        raise unsupported("custom_gradient of parameters alone")  # PyTorch computes it before the loop
    result = rule.forward(*given)
    if not isinstance(result, Symbol) or not result.rows:
        raise unsupported("custom_gradient whose forward does not compute with its arguments")
    _check_reads(result.value, symbols)
    y, b = result.like(spread(result, result.value.width), result.axes), like.builder
    g = y.like(b.make("input", data=("literal", rule), type=y.value.type), y.axes)
    y = elementwise("stop", y)
    pairs: list[tuple[Symbol, Symbol]] = []
    for arg, gradient in zip(given, rule.gradients(tuple(given), g), strict=True):
        if gradient is None or not (isinstance(arg, Symbol) and arg.dtype.is_floating_point):
            continue
        if not isinstance(gradient, Symbol):
            raise unsupported("custom_gradient whose backward returns no tensor; None is for no gradient")
        pairs.append((arg, gradient))
    slopes = [_for_one(gradient.value, g.value, like) for _, gradient in pairs]
    ranks = {len(gradient.axes) for _, gradient in pairs}
    if None in slopes or any(_together(*pair) != y.axes for pair in pairs) or len(ranks) > 1:
        return _replaced(y, pairs, g.value)
    for (arg, gradient), slope in zip(pairs, slopes, strict=True):
        assert slope is not None
        y = elementwise("surrogate", y, arg, gradient.like(slope, gradient.axes))
    return y


def check_additive(rule: CustomGradient, *args: Any) -> None:
    """Refuse a rule of parameters alone, which runs once for all steps, unless its gradients of steps add up so."""

    def example(a: Any) -> Any:
        if not isinstance(a, Symbol):
            return a
        numbers = torch.linspace(-1.7, 2.3, math.prod(a.value.type.shape), dtype=torch.float64)
        return numbers.view(a.value.type.shape)

    def backward(g: torch.Tensor) -> list[Any]:
        return [f for f in rule.gradients(given, g) if isinstance(f, torch.Tensor)]

    given = tuple(map(example, args))
    y = dtypes.on_examples(rule.forward, given, {})
    one = torch.linspace(-1.1, 0.7, y.numel(), dtype=torch.float64).view(y.shape)
    for size in (1e-9, 1.0, 1e9):
        parts = [dtypes.on_examples(backward, (size * g,), {}) for g in (one, 2 - one, one + (2 - one))]
        if not all(torch.allclose(a + b, c, 1e-9, 0.0) for a, b, c in zip(*parts, strict=True)):
            raise unsupported("custom_gradient of parameters alone, whose backward is not linear in g; eager runs it")


def _together(arg: Symbol, gradient: Symbol) -> tuple[int, ...]:
    """Return the axes of an argument and its gradient side by side."""
    rank = len(gradient.axes)
    if arg.rows and len(arg.axes) != rank:
        raise unsupported("custom_gradient whose backward returns another number of axes than its argument has")
    return tuple(torch.broadcast_shapes(gradient.axes, features(arg, rank)))  # type: ignore[no-untyped-call]


def _replaced(y: Symbol, pairs: list[tuple[Symbol, Symbol]], g: Value) -> Symbol:
    """A value whose gradient is what operations on g and on values of the step make of it."""
    has_g, b = Depends(lambda v: v is g), y.builder
    if not any(v.op == "input" and v.group in ("x", "steps", "state") for v in walk([y.value])):
        raise unsupported(
            "custom_gradient of what is the same at every step, whose backward is not proportional to g; eager runs it"
        )
    targets, found = list[Value](), list[Value]()
    for arg, gradient in pairs:
        axes = _together(arg, gradient)
        targets.append(spread_to(arg, features(arg, len(axes)), axes).value)
        wide = spread_to(gradient, gradient.axes, axes)
        found.append(spread(wide, math.prod(axes)) if targets[-1].width > 1 else wide.value)
    inside = [v for v in walk(found) if has_g(v) and v is not g]
    read = list(dict.fromkeys(a for v in [*inside, g] for a in v.args if not has_g(a) and a.op != "constant"))
    read += [v for v in dict.fromkeys(found) if not has_g(v) and v not in read]
    for each in [*inside, *read]:
        if (each.kind in ("product", "call") and each in inside) or len(each.type.shape) > 1:
            raise unsupported("custom_gradient whose backward multiplies g by a matrix; eager runs it")
    at, lines = {v: k for k, v in enumerate([g, *read])}, list[backwards.Line]()
    for each in inside:
        for a in each.args:
            if a not in at:  # a number
                lines.append(("constant", [], list(a.data), list(a.type.shape)))
                at[a] = len(at)
        lines.append((each.op, [at[a] for a in each.args], list(each.data), list(each.type.shape)))
        at[each] = len(at)
    text = backwards.text_of(len(targets), lines, [at[v] for v in found])
    _check_zero(text, g, read)
    return y.like(b.make("replaced", y.value, *targets, *read, data=(text,)), y.axes)


def _check_zero(text: str, g: Value, read: list[Value]) -> None:
    """Refuse gradients that are not 0 for g = 0, as beyond the end of a sequence."""
    numbers = [torch.linspace(-1.7, 2.3, v.width, dtype=torch.float64).view(1, *v.type.shape) for v in read]
    zero = torch.zeros((1, *g.type.shape), dtype=torch.float64)
    for found in backwards.on_tensors(OPERATIONS, text, zero, numbers):
        if found.count_nonzero() or found.isnan().any():
            raise unsupported("custom_gradient whose backward is not 0 where g is 0; eager runs it")


def _check_reads(value: Value, args: list[Symbol]) -> None:
    """Refuse a forward that reads what could want a gradient and is no argument."""
    ends, stack = {a.value for a in args}, [value]
    seen = set[Value]()
    while stack:
        each = stack.pop()
        if each in ends or each in seen:
            continue
        seen.add(each)
        if each.op == "input" and each.group != "literal":
            raise unsupported(f"custom_gradient whose forward reads {each.name}, no argument of it; give it as one")
        stack += each.args


def _for_one(value: Value, g: Value, like: Symbol) -> Value | None:
    """Return what a gradient is for g = 1, of which it is that many times g.

    None of one that is not proportional to g, feature by feature.
    """
    b, has_g = like.builder, Depends(lambda v: v is g)
    found: dict[Value, Value] = {g: b.constant(1.0, Type(g.type.shape, rows=True))}
    if not (has_g(value) or is_number(value, 0.0)):
        return None
    for each in walk([value]):
        if each is not g and has_g(each):
            if not _is_proportional(each, has_g):
                return None
            found[each] = same(b, each, tuple(found.get(a, a) for a in each.args))
    return found.get(value, value)


def _is_proportional(value: Value, has_g: Depends) -> bool:
    """Whether a value is proportional to those of its arguments that are to g, and these are all that matter."""
    those = [has_g(a) for a in value.args]
    rest = [a for a, is_one in zip(value.args, those, strict=True) if not is_one]
    if value.op in ("add", "sub"):
        return all(is_number(a, 0.0) for a in rest)
    if value.op == "where":
        return not those[0] and all(is_number(a, 0.0) for a in rest[1:])
    if value.op == "mul":
        return len(rest) == 1
    return value.op in ("neg", "stop") or (value.op == "div" and those == [True, False])
