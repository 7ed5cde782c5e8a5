"""The graph of one step: values made by the operations of the table from inputs, states and parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from everloop.compiler.operations import OPERATIONS, Operation
from everloop.compiler.view import View

# x: the input of the step; state: by name; fixed, rows, steps: as in `Bindings`; literal: tensors the step made itself
Group = Literal["x", "state", "fixed", "rows", "steps", "literal"]


@dataclass(frozen=True)
class Type:
    """A row [B, n] has `rows` and shape (n,); a vector (n,), a matrix (m, k), a scalar ().

    dtype: None of numbers, which take that of what they meet; int8 of matrices alone, which products with rows of whole
    numbers of at most 127 read.
    """

    shape: tuple[int, ...]
    rows: bool = False
    dtype: torch.dtype | None = None

    @property
    def width(self) -> int:
        """How many features; a scalar has one."""
        return self.shape[-1] if self.shape else 1

    @property
    def kind(self) -> str:
        if self.rows:
            return "row"
        return ("scalar", "vector", "matrix")[len(self.shape)] if len(self.shape) < 3 else "tensor"

    def of(self, dtype: torch.dtype | None) -> Type:
        """Return the same of another dtype."""
        return replace(self, dtype=dtype)

    def stands_for(self, other: Type) -> bool:
        """Whether a value of this type may stand where one of the other is."""
        return (self.shape, self.rows) == (other.shape, other.rows) and self.dtype in (None, other.dtype)

    def __str__(self) -> str:
        return f"{self.kind}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, eq=False)
class Value:
    """One result of one operation. Values are compared by identity; `Builder` makes equal ones once.

    data: input (group, name); constant (number,); slice (start, stop); call (function, template); cast (dtype,); a
          product whose result has another dtype than its arguments, (dtype,); view, its numbers; a sum or maximum over
          some axes, (width, *numbers of the view that takes each argument's feature to the result's).
    where: the line of the cell that made it, "file:line".
    """

    op: str
    args: tuple[Value, ...]
    type: Type
    data: tuple[Any, ...] = ()
    where: str = ""

    @property
    def operation(self) -> Operation:
        return OPERATIONS[self.op]

    @property
    def kind(self) -> str:
        return self.operation.kind

    @property
    def width(self) -> int:
        return self.type.width

    @property
    def number(self) -> float:
        """The number of a constant."""
        return float(self.data[0])

    @property
    def group(self) -> str:
        """Where an input comes from."""
        return str(self.data[0])

    @property
    def name(self) -> str:
        """The name of an input."""
        return str(self.data[1])

    def __repr__(self) -> str:
        inside = [*(f"<{a.op}>" for a in self.args), *map(str, self.data)]
        return f"{self.op}({', '.join(inside)}): {self.type}"


@dataclass
class Graph:
    """Named results and everything they are made of. `names` are the names the cell gave to values, for printing."""

    outputs: dict[str, Value]
    names: dict[Value, str] = field(default_factory=dict)

    @property
    def values(self) -> list[Value]:
        """Every value, arguments before results."""
        return list(walk(self.outputs.values()))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the step."""
        return next(v.type.dtype for v in self.values if v.type.dtype and v.type.dtype.is_floating_point)

    @property
    def inputs(self) -> list[Value]:
        return [v for v in self.values if v.op == "input"]

    def verify(self) -> None:
        """Check what every pass relies on; a failure is a defect of the compiler."""
        for value in self.values:
            arity = value.operation.arity
            assert arity < 0 or len(value.args) == arity, f"{value!r} has {len(value.args)} arguments"
            assert value.type == infer(value.op, value.args, value.data, value.type), f"{value!r} has a wrong type"

    def __str__(self) -> str:
        """Return one line a value, then one a result; `equations.text` is for reading."""
        at = {value: f"%{k}" for k, value in enumerate(self.values)}
        lines = [f"{at[v]} = {v.op}({', '.join([*(at[a] for a in v.args), *map(str, v.data)])}): {v.type}" for v in at]
        return "\n".join([*lines, *(f"{name} = {at[v]}" for name, v in self.outputs.items())])


def walk(roots: Iterable[Value]) -> Iterator[Value]:
    """Yield the values `roots` are made of, arguments first, each once."""
    seen: set[Value] = set()
    for root in roots:
        stack: list[tuple[Value, int]] = [(root, 0)] if root not in seen else []
        while stack:
            value, position = stack.pop()
            if value in seen:
                continue
            if position < len(value.args):
                stack.append((value, position + 1))
                if value.args[position] not in seen:
                    stack.append((value.args[position], 0))
            else:
                seen.add(value)
                yield value


def common(types: Iterable[Type]) -> torch.dtype | None:
    """Return the one dtype of some types. Raises ValueError where there are several: nothing is promoted."""
    found: torch.dtype | None = None
    for t in types:
        if t.dtype is not None and t.dtype is not found:
            if found is not None:
                raise ValueError(f"{found} and {t.dtype} do not meet without a cast")
            found = t.dtype
    return found


def broadcast(types: Iterable[Type]) -> Type:
    """Return the type of an element-wise result. Raises ValueError where the shapes do not fit."""
    types = list(types)
    rows = any(t.rows for t in types)
    rank = max(len(t.shape) for t in types)
    if rows and rank > 1:
        raise ValueError(f"{' and '.join(map(str, types))} do not fit element by element")
    shape = []
    for axis in range(-rank, 0):
        sizes = {t.shape[axis] for t in types if len(t.shape) >= -axis} - {1}
        if len(sizes) > 1:
            raise ValueError(f"{' and '.join(map(str, types))} do not fit element by element")
        shape.append(sizes.pop() if sizes else 1)
    return Type(tuple(shape), rows, common(types))


def infer(op: str, args: tuple[Value, ...], data: tuple[Any, ...], given: Type | None) -> Type:
    """Return the type of a result; inputs, constants and calls have the one they are `given`."""
    kind = OPERATIONS[op].kind
    types = [a.type for a in args]
    if op == "cast":
        return types[0].of(*data)
    if op == "replaced":
        return types[0]
    if kind == "map":
        return broadcast(types)
    if op == "view":
        return replace(types[0], shape=(View.of(data).width,))
    if kind == "reduce" and data:
        return replace(types[0], shape=(data[0],))
    if kind == "reduce":
        return replace(types[0], shape=(*types[0].shape[:-1], 1))
    if kind == "product":
        row, matrix = types
        expected, width = matrix.shape[::-1] if op == "linear" else matrix.shape
        if not row.rows or matrix.kind != "matrix" or row.width != expected:
            raise ValueError(f"the product of {row} and {matrix}{'.T' if op == 'linear' else ''} does not exist")
        factors = types[:1] if matrix.dtype == torch.int8 else types
        return Type((width,), rows=True, dtype=data[0] if data else common(factors))
    if op == "slice":
        start, stop = data
        assert 0 <= start <= stop <= types[0].width, f"slice {start}:{stop} of {types[0]}"
        return replace(types[0], shape=(*types[0].shape[:-1], stop - start))
    if op == "cat":
        if any(len(t.shape) != 1 for t in types):
            raise ValueError(f"{' and '.join(map(str, types))} cannot be concatenated along features")
        return Type((sum(t.width for t in types),), any(t.rows for t in types), common(types))
    if op == "block":
        start, stop = data
        return replace(types[0], shape=(stop - start, *types[0].shape[1:]))
    if op == "stack":
        if len({t.shape[1:] for t in types}) > 1 or any(t.rows for t in types):
            raise ValueError(f"{' and '.join(map(str, types))} cannot be stacked")
        return Type((sum(t.shape[0] for t in types), *types[0].shape[1:]), dtype=common(types))
    if op == "transpose":
        return replace(types[0], shape=types[0].shape[::-1])
    assert given is not None
    return given


def _is_empty(op: str, args: tuple[Value, ...], result: Type) -> bool:
    """Whether rows have no features, or are sums over none."""
    is_product = op in ("matmul", "linear") and args[0].op == "constant"
    return not math.prod((args[0].type if is_product else result).shape)


class Builder:
    """Makes values; two equal values are one (common subexpressions)."""

    def __init__(self) -> None:
        self.known: dict[tuple[Any, ...], Value] = {}
        self.line = ""
        self.refused: Exception | None = None  # what a step may have caught itself
        self.views: list[Any] = []  # symbols that may lie in the memory of others

    def make(self, op: str, *args: Value, data: tuple[Any, ...] = (), type: Type | None = None) -> Value:  # noqa: A002
        """Return the value `op` of `args`."""
        result = infer(op, args, data, type)
        if result.rows and op not in ("input", "constant") and _is_empty(op, args, result):
            return self.constant(0.0, result)
        key = (op, args, data, result)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = Value(op, args, result, data, self.line)
        return found

    def input(self, group: Group, name: str, type: Type) -> Value:  # noqa: A002
        return self.make("input", data=(group, name), type=type)

    def constant(self, number: float, type: Type = Type(())) -> Value:  # noqa: A002
        return self.make("constant", data=(float(number),), type=type)

    def __getattr__(self, op: str) -> Callable[..., Value]:
        """Let a pass write `b.add(x, y)`; slices and constants have their own methods."""
        if op not in OPERATIONS:
            raise AttributeError(op)
        return lambda *args: self.make(op, *map(self.lift, args))

    def lift(self, value: Value | float) -> Value:
        return value if isinstance(value, Value) else self.constant(value)

    def view(self, value: Value, view: View) -> Value:
        """Return the features that a view takes of a row."""
        return value if view == View(((value.width, 1),)) else self.make("view", value, data=view.numbers)

    def reduce(self, op: str, value: Value, width: int, view: View) -> Value:
        """Return the sum or maximum (`op`) of all features that a view takes for one of `width` features."""
        return self.make(op, value, data=() if width == 1 else (width, *view.numbers))

    def slice(self, value: Value, start: int, stop: int) -> Value:
        """Return features start to stop (exclusive)."""
        return value if (start, stop) == (0, value.width) else self.make("slice", value, data=(start, stop))
