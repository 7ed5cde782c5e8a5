"""The products of a step with whole numbers of 8 bits in the place of floats: the matrix row by row, and what it meets.

A matrix becomes whole numbers from -127 to 127 and one scale for each number of its result. What it multiplies becomes
whole numbers too: with one scale for all rows within a bound that is proved or was measured, otherwise with the scale
of its own largest number. The bound is a number that the step reads, 0 where there is none, so that the step is the
same for any weights, and a row beyond the bound, which a first state may bring, is rounded and not cut off. Sums are
exact; all else of the step stays as it was. That a product's factors are whole is seen from the dtype of the matrix,
int8, so that a target with instructions for it need not look for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from everloop.compiler.dtypes import arithmetic
from everloop.compiler.expression import Expression, of
from everloop.compiler.intervals import SIGNED, Interval
from everloop.compiler.ir import Builder, Graph, Type, Value, walk
from everloop.compiler.ranges import ZERO, Analysis, fixed
from everloop.compiler.rewrite import rebuild, same
from everloop.compiler.simplify import local_rules, push_slices, simplify, split_products

LEVELS = 127.0  # the largest whole number
LEAST = 2.0**-100  # of the numbers of a row, so that one of zeros has a scale; floats hold it
SCALE, BOUND = "scale", "bound"  # behind the name of a matrix: one number a result, and the size of its rows or 0
Kind = Literal["proved", "measured", "own"]
absolute, floor, maximum, minimum, largest = of("abs"), of("floor"), of("maximum"), of("minimum"), of("max")


@dataclass(frozen=True)
class Factors:
    """What a product multiplies.

    name: that the numbers of the matrix are kept under; kind: whether the range of the row is proved for any weights,
    has to be measured, or is that of each row itself; bound: the size of the row's numbers, 0 where it is not known or
    not wanted; most: the size that is proved, where one is; because: the states without a bound, for which it has to be
    measured.
    """

    name: str
    product: Value
    kind: Kind
    bound: float = 0.0
    most: float = 0.0
    because: tuple[str, ...] = ()

    @property
    def row(self) -> Value:
        return self.product.args[0]

    @property
    def matrix(self) -> Value:
        return self.product.args[1]


def prepared(step: Graph) -> Graph:
    """Return a step in which what comes from x and what comes from the states have matrices of their own."""
    return simplify(step, passes=[local_rules, split_products, push_slices])


def factors(step: Graph, tensors: Mapping[str, Tensor]) -> list[Factors]:
    """Return the factors of each product of a prepared step with parameters.

    tensors: the parameters by name. A range is proved for any weights; what these tell is whether a state without one
    may grow, so that its row has to be measured.
    """
    proved, these = Analysis(step).run(), Analysis(step, tensors).run()
    given = {v.name for v in step.inputs if v.group in ("x", "rows", "steps")}
    of_bounded_inputs = Analysis(step, tensors, dict.fromkeys(given, SIGNED)).step(these.states)
    found: list[Factors] = []
    for value in step.values:
        if value.kind != "product" or not any(v.op == "input" for v in walk([value.args[1]])):
            continue
        row, name = value.args[0], _name(value.args[1], [f.name for f in found])
        if proved.values[row].is_bounded:
            size = max(proved.values[row].size, LEAST)
            found.append(Factors(name, value, "proved", size, size))
        elif of_bounded_inputs[row].is_bounded:
            found.append(Factors(name, value, "own"))
        else:
            read = {v.name for v in walk([row]) if v.op == "input" and v.group == "state"}
            because = tuple(name for name in these.unbounded if name in read)
            found.append(Factors(name, value, "measured", because=because))
    return found


def states(
    step: Graph,
    found: Sequence[Factors],
    tensors: Mapping[str, Tensor],
    initial: Mapping[str, Interval],
) -> dict[str, Interval]:
    """Return the ranges of the states of what `quantized` made of a step.

    tensors: what it reads, by name; initial: the ranges of the states before the first step, beside 0.
    """
    floats = {name: t.to(step.dtype) for name, t in tensors.items()}
    rounded = {
        f.product: (floats[f.name] * floats[f"{f.name}_{SCALE}"][:, None], float(floats[f"{f.name}_{BOUND}"]))
        for f in found
    }
    begin = {name: interval.joined(ZERO) for name, interval in initial.items()}
    return Analysis(step, floats, rounded=rounded).run(begin).states


def quantized(step: Graph, found: Sequence[Factors]) -> Graph:
    """Return a prepared step whose products multiply whole numbers; `tensors` says what it reads."""
    b, at, most = Builder(), {f.product: f for f in found}, torch.finfo(arithmetic(step.dtype)).max

    def vector(name: str, width: int) -> Value:
        return b.input("fixed", name, Type((width,), dtype=step.dtype))

    def formula(value: Value) -> Expression:
        return Expression(lambda op, *args: b.make(op, *map(b.lift, args)), value)

    def rule(value: Value, args: tuple[Value, ...]) -> Value:
        each = at.get(value)
        if each is None:
            return same(b, value, args)
        row = formula(args[0])
        matrix = b.input("fixed", each.name, Type((value.width, args[0].width), dtype=torch.int8))
        scale, bound = (formula(vector(f"{each.name}_{what}", n)) for what, n in ((SCALE, value.width), (BOUND, 1)))
        top = maximum(maximum(largest(absolute(row)), bound), LEAST)
        size = minimum(top, most)
        whole = floor(row * (LEVELS / size) + 0.5)
        whole = minimum(maximum(whole, -LEVELS), LEVELS)  # what is infinite
        beyond = minimum(top / size, most)  # 1 but for infinite rows, whose products are infinite or 0, not NaN
        product: Value = (formula(b.make("linear", whole.value, matrix)) * beyond * (scale * (size / LEVELS))).value
        return product

    result = rebuild(step, b, rule)
    result.verify()
    return result


def in_dtype(graph: Graph, dtype: torch.dtype) -> Graph:
    """Return a step that `quantized` made, for the arithmetic of another dtype, which has another largest number."""
    before, most = (torch.finfo(arithmetic(d)).max for d in (graph.dtype, dtype))
    if before == most:
        return graph
    b = Builder()

    def rule(value: Value, args: tuple[Value, ...]) -> Value:
        is_most = value.op == "constant" and abs(value.number) == before
        return b.constant(math.copysign(most, value.number), value.type) if is_most else same(b, value, args)

    return rebuild(graph, b, rule)


def tensors(step: Graph, found: Sequence[Factors], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what `quantized` reads in the place of the parameters `given` by name."""
    made, known = dict[str, Tensor](), matrices(step, found, given)
    for each in found:
        matrix = known[each.name]
        whole, scale = rounded(matrix)
        made[each.name] = whole
        made[f"{each.name}_{SCALE}"] = scale.to(matrix.dtype)
        made[f"{each.name}_{BOUND}"] = matrix.new_tensor([each.bound])
    return made


def matrices(step: Graph, found: Sequence[Factors], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the matrix of each product by name, a row for each number of the result."""
    known = fixed(step, {name: t.detach() for name, t in given.items()})
    return {f.name: known[f.matrix] if f.product.op == "linear" else known[f.matrix].mT for f in found}


def rounded(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix as whole numbers of 8 bits, row after row in memory, and the scale of each row, in float64."""
    matrix = matrix.double().contiguous()
    scale = matrix.abs().amax(1) / LEVELS
    scale = torch.where(scale == 0, 1.0, scale)
    return (matrix / scale[:, None]).round().to(torch.int8), scale


def measured(found: Sequence[Factors], sizes: Mapping[str, float]) -> list[Factors]:
    """Return factors with the bounds that were measured, by name; a proved one becomes smaller at most."""
    return [replace(f, bound=_narrowed(f, sizes)) for f in found]


def _narrowed(each: Factors, sizes: Mapping[str, float]) -> float:
    if each.kind == "measured":
        return sizes[each.name]
    seen = sizes.get(each.name, 0.0) if each.kind == "proved" else 0.0
    return min(each.bound, max(seen, LEAST)) if seen else each.bound


def _name(matrix: Value, taken: Sequence[str]) -> str:
    """Return a name for what a product reads: that of the first parameter in it, with a number if there are several."""
    of_parameter = (v.name for v in walk([matrix]) if v.op == "input" and v.group == "fixed")
    name = unique = next(of_parameter, "constant").removeprefix("cell.").replace(".", "_")
    number = 1
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    return unique
