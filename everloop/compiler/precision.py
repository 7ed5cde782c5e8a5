"""Which numbers of a loop are stored in the dtype of the step, and which in that of arithmetic.

A step of float32 or float64 is stored and computed in its own dtype. A step of bfloat16 or float16 is computed in
float32. Stored as the step says: matrices, vectors, what is read, saved or written for every step, and rows that meet a
matrix. float32: arithmetic, results of products, sums over features, totals over time, gradients
carried from step to step, and states that accumulate. These are found in the graph: a state accumulates where its new
value is made of its old one, perhaps by way of other states, by operations alone that hand an error on undiminished
(`accumulates` in the table), as in c = f * c + i * g; an output o * tanh(c) does not.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from everloop.compiler.dtypes import arithmetic
from everloop.compiler.ir import Builder, Graph, Value, walk
from everloop.compiler.lower import lower
from everloop.compiler.rewrite import rebuild, same


def accumulating(loop: Graph) -> frozenset[str]:
    """Return the states of a step that accumulate."""
    origins = {name: _handed_on(value) & loop.outputs.keys() for name, value in loop.outputs.items()}
    for _ in origins:
        origins = {name: found.union(*(origins[n] for n in found)) for name, found in origins.items()}
    return frozenset(name for name, found in origins.items() if name in found)


def _handed_on(value: Value) -> frozenset[str]:
    """Return the old states whose errors a value has undiminished."""
    found: dict[Value, frozenset[str]] = {}
    for each in walk([value]):
        if each.op == "input":
            found[each] = frozenset({each.name} if each.group == "state" else ())
        elif each.operation.accumulates:
            found[each] = frozenset().union(*(found[a] for a in each.args))
        else:
            found[each] = frozenset()
    return found[value]


def lowered(graph: Graph, wide: Collection[str], storage: torch.dtype) -> Graph:
    """Return a graph of core operations, with a cast wherever storage and arithmetic meet.

    wide: the states among its inputs, and the outputs, that are held in the dtype of arithmetic; storage: the dtype of
    the step.
    """
    computed = arithmetic(storage)
    b = Builder()

    def rule(value: Value, args: tuple[Value, ...]) -> Value:
        if value.op == "constant":
            return b.constant(value.number, value.type.of(computed))
        if value.op == "input" and value.group == "state" and value.name in wide:
            return b.make("input", data=value.data, type=value.type.of(computed))
        if value.kind == "product":
            row, matrix = args
            if matrix.type.dtype == torch.int8:
                return b.make(value.op, cast(b, row, computed), matrix)
            return b.make(value.op, cast(b, row, storage), matrix, data=(computed,) if computed != storage else ())
        if value.kind in ("map", "reduce") or len({a.type.dtype for a in args}) > 1:
            args = tuple(cast(b, a, computed) for a in args)
        return lower(b, value, args) if value.kind == "map" else same(b, value, args)

    result = rebuild(graph, b, rule)
    for name, value in result.outputs.items():
        result.outputs[name] = cast(b, value, computed if name in wide else storage)
    result.verify()
    return result


def cast(b: Builder, value: Value, dtype: torch.dtype) -> Value:
    """Return a value in this dtype."""
    if value.type.dtype in (None, dtype):
        return value
    if value.op == "constant":
        return b.constant(value.number, value.type.of(dtype))
    if value.op == "cast" and value.args[0].type.dtype == dtype:  # it was widened just before
        return value.args[0]
    if value.op == "cat":
        return b.make("cat", *(cast(b, a, dtype) for a in value.args))
    return b.make("cast", value, data=(dtype,))
