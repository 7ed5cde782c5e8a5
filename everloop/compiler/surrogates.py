"""What `custom_gradient` does to symbols: the value of one function, and the slope that another one says."""

from __future__ import annotations

from typing import Any

from everloop.compiler.ir import Type, Value, walk
from everloop.compiler.locations import unsupported
from everloop.compiler.rewrite import Depends, same
from everloop.compiler.rules import is_number
from everloop.compiler.symbol import Number, Symbol, elementwise, known, spread, symbol_of
from everloop.own_gradient import CustomGradient


@known("with_custom_gradient")
def with_custom_gradient(rule: CustomGradient, *args: Any) -> Symbol:
    """The value of the rule, tied to each argument by what its gradient is for a gradient of one."""
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
    for arg, gradient in zip(given, rule.gradients(tuple(given), g), strict=True):
        if gradient is None or not (isinstance(arg, Symbol) and arg.dtype.is_floating_point):
            continue
        if not isinstance(gradient, Symbol):
            raise unsupported("custom_gradient whose backward returns no tensor; None is for no gradient")
        slope = gradient.like(_for_one(gradient.value, g.value, like), gradient.axes)
        y = elementwise("surrogate", y, arg, slope)
        if y.axes != result.axes:
            raise unsupported("custom_gradient whose result has another shape than its arguments; eager runs it")
    return y


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


def _for_one(value: Value, g: Value, like: Symbol) -> Value:
    """Return what a gradient is for g = 1, of which it is that many times g.

    Raises:
        UnsupportedError: it is not proportional to g, feature by feature.
    """
    b, has_g = like.builder, Depends(lambda v: v is g)
    found: dict[Value, Value] = {g: b.constant(1.0, Type(g.type.shape, rows=True))}
    if not (has_g(value) or is_number(value, 0.0)):
        raise unsupported("custom_gradient whose backward does not multiply g")
    for each in walk([value]):
        if each is not g and has_g(each):
            if not _is_proportional(each, has_g):
                raise unsupported(
                    f"custom_gradient whose backward is not proportional to g, feature by feature ({each.op} of it); "
                    "eager runs it"
                )
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
