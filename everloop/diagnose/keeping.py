"""By what a step multiplies an old state: the new one is that factor times the old one, plus something."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from everloop.compiler.ir import Builder, Graph, Value, walk

Factors = Sequence[Value | None]  # of the arguments of a value; None of those that do not hold the old state
Rule = Callable[[Builder, Value, Factors], Value | None]


def keep_factors(graph: Graph) -> dict[str, Value]:
    """Return the factor of each state whose new value is made of the old one by products and sums.

    A gate may itself depend on the old state, as that of a GRU does: it counts as a number that the old state is
    multiplied by. None of a state that meets itself in a product, as in h * (1 - h), and of two states of which each
    is made of both, as the two parts of a complex number: neither keeps what it holds by itself.
    """
    found = {(new, old): _factor(old, graph.outputs[new]) for new in graph.outputs for old in graph.outputs}
    mixed = {new for new, old in found if new != old and found[new, old] and found[old, new]}
    factors = {state: found[state, state] for state in graph.outputs if state not in mixed}
    return {state: factor for state, factor in factors.items() if factor is not None}


def _factor(old: str, new: Value) -> Value | None:
    """Return what `new` multiplies the state `old` by."""
    b, known, unclear = Builder(), dict[Value, Value](), set[Value]()
    for value in walk([new]):
        factors = [known.get(arg) for arg in value.args]
        if value.op == "input" and value.group == "state" and value.name == old:
            known[value] = b.constant(1.0)
        elif value.op in RULES and not unclear.isdisjoint(value.args):
            unclear.add(value)
        elif value.op in RULES and any(factors):
            factor = RULES[value.op](b, value, factors)
            if factor is None:
                unclear.add(value)
            else:
                known[value] = factor
    return known.get(new)


def _sum(b: Builder, value: Value, factors: Factors) -> Value | None:
    left, right = factors
    if right is not None and value.op == "sub":
        right = _product(b, b.constant(-1.0), right)
    return b.add(left, right) if left and right else left or right


def _times(b: Builder, value: Value, factors: Factors) -> Value | None:
    left, right = factors
    if left and right:
        return None
    return _product(b, left, value.args[1]) if left else _product(b, right, value.args[0]) if right else None


def _product(b: Builder, left: Value, right: Value) -> Value:
    one = b.constant(1.0)
    return right if left is one else left if right is one else b.mul(left, right)


def _over(b: Builder, value: Value, factors: Factors) -> Value | None:
    above, below = factors
    return b.div(above, value.args[1]) if above and not below else None


def _choice(b: Builder, value: Value, factors: Factors) -> Value | None:
    _, yes, no = factors
    return b.where(value.args[0], yes, no) if yes and no else None


RULES: dict[str, Rule] = {
    "add": _sum,
    "sub": _sum,
    "neg": lambda b, value, factors: _product(b, b.constant(-1.0), factors[0]) if factors[0] else None,
    "mul": _times,
    "div": _over,
    "where": _choice,
}
