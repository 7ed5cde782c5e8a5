"""A cell whose products with parameters multiply whole numbers of 8 bits: the same states, sizes and mathematics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from everloop.cell import Cell
from everloop.compiler.bindings import Bindings
from everloop.compiler.dtypes import arithmetic
from everloop.compiler.evaluate import evaluate
from everloop.compiler.intervals import Interval, of
from everloop.compiler.ir import Graph, Value
from everloop.compiler.quantize import BOUND, LEAST, Factors, factors, in_dtype, prepared, quantized, states, tensors
from everloop.compiler.rewrite import rebuild, same
from everloop.compiler.symbol import Symbol, value_of
from everloop.compiler.trace import trace
from everloop.errors import CellError, UnsupportedError
from everloop.layers.dropout import Wrapper
from everloop.layers.extras import NOTHING, Extras, declared, example_extras


class Draft:
    """What is known of a cell before its numbers are rounded. It does not change, and copies of its owner share it.

    cell: a copy in evaluation, in float32 where its numbers are of 16 bits: a matrix that is a function of parameters
    may need more than these; dtype: what the cell had; step: in floats, prepared; found: the factors of its products;
    known: its tensors by name.
    """

    __slots__ = ("cell", "dtype", "found", "known", "step")  # no guard looks into what has no __dict__

    def __init__(self, cell: Cell) -> None:
        if any(expected.is_memory for expected in declared(cell).values()):
            raise CellError(
                f"quantize: {type(cell).__name__} reads a memory of as many rows as a call brings, and such a step has"
                " no plan in 8 bits; leave this cell as it is"
            )
        self.dtype = next(cell.parameters(), torch.empty(0)).dtype
        self.cell = copy.deepcopy(cell).requires_grad_(False).eval().to(arithmetic(self.dtype))
        inside, like = Wrapper(self.cell), next(self.cell.parameters(), torch.empty(0))
        values = inside.draw(1, 1, example_extras(self.cell, like.new_zeros(1, 1, cell.input_size)))
        self.known = values.fixed | {f"cell.{name}": t for name, t in self.cell.named_buffers()}
        try:
            with torch.autocast("cpu", enabled=False):
                graph = trace(inside, self.known, values.rows, values.steps, like.dtype)
        except UnsupportedError as error:
            raise UnsupportedError(f"quantize: only what the compiler takes has a plan in 8 bits; {error}") from error
        self.step = prepared(graph)
        self.found = factors(self.step, self.known)


class OfGraph(Wrapper):
    """A cell that does what a graph says, made of the step of the cell inside."""

    def _outputs(self, graph: Graph, x: Any, states: Sequence[Any]) -> dict[str, Any]:
        known = dict(zip(self.state_sizes, states, strict=True))

        def leaf(value: Value) -> Any:
            if value.group in ("x", "literal"):
                return x if value.group == "x" else value.data[1]
            return known[value.name] if value.group == "state" else attrgetter(value.name)(self)

        return (_on_symbols if isinstance(x, Symbol) else _on_tensors)(graph, leaf, x)

    def _results(self, found: dict[str, Any]) -> tuple[Any, ...]:
        """Return what a step returns: the states, then each output."""
        states, sizes = [found[name] for name in self.state_sizes], self.output_sizes
        return *states, *(torch.split(found[", ".join(sizes)], list(sizes.values()), -1) if sizes else ())


class Observed(OfGraph):
    """A cell in floats that notes how large the finite numbers are that its products multiply, in `seen`."""

    def __init__(self, draft: Draft) -> None:
        super().__init__(copy.deepcopy(draft.cell).to(draft.dtype))
        rows = {f"the row of {f.name}": f.row for f in draft.found}
        self._graph, self.seen = [Graph(draft.step.outputs | rows)], dict.fromkeys((f.name for f in draft.found), 0.0)

    def step(self, x: Tensor, *states: Tensor) -> Any:
        found = self._outputs(self._graph[0], x, states)
        for name in self.seen:
            row = found[f"the row of {name}"].abs()
            self.seen[name] = max(self.seen[name], float(torch.where(row.isfinite(), row, 0).max()))
        return self._results(found)


class QuantizedCell(OfGraph):
    """A cell in 8 bits, for inference: matrices as int8 with a scale for each row, factors rounded at every step.

    `quantize` makes it. A parameter that only products read is no longer there. Each matrix is a buffer under its
    name; NAME_scale has a number for each of its rows, and NAME_bound the size up to which all rows that it meets have
    one scale, or 0. What it computes and what it says follow from these, so that loaded numbers need nothing else.
    """

    inference_only = True
    not_exported = "a layer in 8 bits is not exported; export the one in floats that it was made from"

    def __init__(self, draft: Draft, found: Sequence[Factors]) -> None:
        super().__init__(draft.cell)
        self.of = type(draft.cell).__name__
        self._computed = _Computed(quantized(draft.step, found), draft.step, found)
        for name, tensor in tensors(draft.step, found, draft.known).items():
            if tensor.dtype == torch.int8:
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        read = {v.name for v in self._computed.graph.inputs if v.group == "fixed"}
        for path, module in self.cell.named_modules(prefix="cell"):
            for name in [n for n in module._parameters if f"{path}.{n}" not in read]:
                del module._parameters[name]
        self.to(draft.dtype).train()

    def train(self, mode: bool = True) -> QuantizedCell:
        """Stay in evaluation."""
        return super().train(False)

    def draw(self, steps: int, batch: int, extras: Extras = NOTHING) -> Bindings:
        return replace(super().draw(steps, batch, extras), fixed=dict(self.named_parameters()))

    def step(self, x: Tensor, *states: Tensor) -> Any:
        dtype = x.float_dtype if isinstance(x, Symbol) else x.dtype
        return self._results(self._outputs(self._computed.in_dtype(dtype), x, states))

    def like(self, input_size: int) -> Cell:
        raise CellError(f"a quantized {self.of} cannot be repeated; repeat the cell, and quantize that")

    def summary(self, start: Sequence[Tensor] = ()) -> str:
        """The range of each state, what has which scale, and what stays float, a line each."""
        lines = [f"{self.of} in 8 bits"]
        lines += [f"state {name}: {_proved(interval)}" for name, interval in self.ranges(start).items()]
        for each in self._computed.found:
            shape = " × ".join(map(str, getattr(self, each.name).shape))
            bound = float(getattr(self, f"{each.name}_{BOUND}"))
            lines.append(f"{each.name}: int8 [{shape}], {_described(each, bound)}")
        rest = [n for n, p in self.named_parameters() if n.startswith("cell.")]
        return "\n".join([*lines, f"float: states, sums, element-wise mathematics{', ' * bool(rest)}{', '.join(rest)}"])

    def ranges(self, start: Sequence[Tensor] = ()) -> dict[str, Interval]:
        """Return the range of each state, for any x; `start`: first states, one a state, beside 0."""
        begin = {n: of((float(s.min()), float(s.max()))) for n, s in zip(self.state_sizes, start, strict=False)}
        known = dict(self.named_buffers()) | {n: p.detach() for n, p in self.named_parameters()}
        found = states(self._computed.step, self._computed.found, known, begin)
        return {name: found[name] for name in self.state_sizes}

    def extra_repr(self) -> str:
        return f"int8: {', '.join(f.name for f in self._computed.found)}"


class _Computed:
    """What a quantized cell does and why; as a draft, it does not change."""

    __slots__ = ("found", "graph", "graphs", "step")

    def __init__(self, graph: Graph, step: Graph, found: Sequence[Factors]) -> None:
        self.graph, self.step, self.found = graph, step, tuple(found)
        self.graphs: dict[torch.dtype, Graph] = {}

    def in_dtype(self, dtype: torch.dtype) -> Graph:
        """Return the graph for a layer that was converted to another dtype."""
        if dtype not in self.graphs:
            self.graphs[dtype] = in_dtype(self.graph, dtype)
        return self.graphs[dtype]

    def __deepcopy__(self, memo: Any) -> _Computed:
        return self


def _proved(interval: Interval) -> str:
    if interval.is_bounded:
        return f"in {interval}, proved if it begins there"
    return f"in {interval}, not bounded; it stays float"


def _described(each: Factors, bound: float) -> str:
    own = "the scale of their own largest number"
    if not bound:
        return f"rows with {own}"
    how = "measured" if bound < 0.99 * each.most or each.kind == "measured" else "proved"  # 16 bits round a bound
    how += f" (to {each.most:.4g} is proved)" if each.most and how == "measured" else ""
    if bound <= LEAST:
        return f"rows of 0, {how}; others with {own}"
    return f"rows from {-bound:.4g} to {bound:.4g}, {how}; larger ones with {own}"


def _on_tensors(graph: Graph, leaf: Callable[[Value], Tensor], x: Tensor) -> dict[str, Any]:
    """Evaluate a graph in the arithmetic of x: sums of products of whole numbers are too large for float16."""
    like = x.to(arithmetic(x.dtype))

    def row(value: Value) -> Tensor:
        tensor = leaf(value)
        return (tensor.flatten(1) if value.type.rows else tensor).to(like.dtype)

    return {name: tensor.to(x.dtype) for name, tensor in evaluate(graph, row, like).items()}


def _on_symbols(graph: Graph, leaf: Callable[[Value], Any], x: Symbol) -> dict[str, Any]:
    """Put a graph in the place of the step that is being traced."""
    b, loop = x.builder, x.float_dtype

    def rule(value: Value, args: tuple[Value, ...]) -> Value:
        if value.op == "input":
            found = value_of(leaf(value), x)
            whole = value.type.of(torch.int8)
            return b.make("input", data=found.data, type=whole) if value.type.dtype == torch.int8 else found
        kind = value.type.of(loop if value.type.dtype else None)
        return b.make(value.op, *args, data=value.data, type=kind) if value.op == "call" else same(b, value, args)

    result = rebuild(graph, b, rule)
    return {name: x.like(value) for name, value in result.outputs.items()}
