"""Runs what stands before or after the loop, as ordinary PyTorch with its gradients, for all steps and sequences."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from everloop.compiler.bindings import Bindings
from everloop.compiler.compact import Compact
from everloop.compiler.embedded import Embedded, LookedUp
from everloop.compiler.hoist import frequency
from everloop.compiler.ir import Graph, Value
from everloop.compiler.rewrite import users
from everloop.compiler.target import LoopTarget


@dataclass(frozen=True)
class Line:
    """results[out] = function(results of args). every_step: whether args have a form for all steps and sequences."""

    function: Callable[..., Any]
    args: tuple[int, ...]
    every_step: bool


class HoistedGraph:
    """A graph outside the loop, ready to run.

    Outputs are sequences [T, B, n], rows [B, n], vectors [n] and matrices [m, k] by name. In batch-major order
    sequences are computed as [B, T, n], so that nothing is copied on the way; with compact rows as [N, n], and that is
    how they come out, but for those that are inputs.
    """

    def __init__(self, graph: Graph, dtype: torch.dtype, target: LoopTarget) -> None:
        self.dtype, self.target = dtype, target
        self.sources: list[tuple[str, Any]] = []
        self.dtypes: list[tuple[torch.dtype, ...]] = []  # that each source may have; others become the first
        self.lines: list[Line] = []
        self.of_symbol: set[int] = set()  # what depends on x alone, x itself and products among it
        self.at: dict[Value, int] = {}
        self.readers = users(graph.outputs.values())
        self.roots = set(graph.outputs.values())
        self.frequencies: dict[Value, str] = {}
        self.when: list[str] = []
        self.passed: set[int] = set()  # matrices that only the loop reads, in any dtype that its kernels take
        for leaf in graph.inputs:
            self.at[leaf] = len(self.sources)
            if leaf.type.kind == "matrix" and self._is_passed(leaf):
                self.passed.add(self.at[leaf])
            self.sources.append((leaf.group, leaf.data[1]))
            self.dtypes.append(self._dtypes_of(leaf))
            if leaf.group == "x":
                self.of_symbol.add(self.at[leaf])
            self.when.append(frequency(leaf, self.frequencies))
        forms = {value: self._form(value) for value in graph.values if value.op != "input"}
        needed, stack = set[Value](), list(self.roots)
        while stack:
            value = stack.pop()
            if value not in needed:
                needed.add(value)
                stack += forms[value][1] if value in forms else ()
        multiplies = False
        for value, (function, args) in forms.items():
            if value in needed:
                self._add(value, function, args)
                multiplies = multiplies or (self.at[value] in self.of_symbol and _multiplies(value))
        if not multiplies:
            self.of_symbol.clear()  # nothing worth looking up
        self.outputs = [(name, self.at[v], frequency(v, self.frequencies), v.type) for name, v in graph.outputs.items()]
        # What is needed for every step, even where it has been computed once a symbol.
        self.read_by_step = {at for _, at, _, _ in self.outputs}
        for at, line in enumerate(self.lines, len(self.sources)):
            self.read_by_step |= set() if at in self.of_symbol else {*line.args}
        self.moving = {name for name, _, when, _ in self.outputs if when == "sequence"}
        # Outputs that can come in the dtype that products round to: those of a product that nobody else reads.
        self.may_be_low = {
            name for name, v in graph.outputs.items()
            if target.narrow and name in self.moving and v in forms and forms[v][0] == target.linear
            and not self.readers[v]
        }  # fmt: skip
        # Outputs whose memory nobody else reads.
        self.owned = {name for name, v in graph.outputs.items() if not self.readers[v] and not _is_kept(v)}

    def _dtypes_of(self, leaf: Value) -> tuple[torch.dtype, ...]:
        """Return the dtypes that a source may have: what is only multiplied, also the one that products round to."""
        if leaf.type.dtype == torch.int8:
            return (torch.int8,)
        is_factor = leaf not in self.roots and all(r.op in ("linear", "matmul") for r in self.readers[leaf])
        return (self.dtype, self.target.narrow) if is_factor and self.target.narrow else (self.dtype,)

    def _is_passed(self, value: Value) -> bool:
        """Whether nothing reads the numbers of a value here, whole or in parts."""
        return all(reader.kind == "layout" and self._is_passed(reader) for reader in self.readers[value])

    def _is_inside(self, value: Value) -> bool:
        """Whether a product is part of the one addition that reads it."""
        readers = self.readers[value]
        return (
            value.op == "linear" and value not in self.roots and len(readers) == 1
            and readers[0].op == "add" and readers[0].args[0] is value and readers[0].args[1].type.kind == "vector"
            and readers[0].args[1].width == value.width
        )  # fmt: skip

    def _form(self, value: Value) -> tuple[Callable[..., Any], tuple[Value, ...]]:
        """Return the function that makes a value, and of what."""
        if value.op == "constant":
            tensor = torch.full(value.type.shape, value.number, dtype=self.dtype)
            return lambda: tensor, ()
        if value.op == "call":
            return value.data[0], value.args
        if value.kind == "product" and value.args[1].type.dtype == torch.int8:
            return self._whole, value.args
        if value.op == "linear":
            return self.target.linear, value.args
        if value.op == "matmul":
            return lambda rows, matrix: self.target.linear(rows, matrix.mT), value.args
        if value.op == "add" and self._is_inside(value.args[0]):
            return self.target.linear, (*value.args[0].args, value.args[1])
        if value.op == "add" and not value.type.rows and any(a.kind == "layout" for a in value.args):
            return _add, value.args
        return _softmax(value) or (self._meaning(value), value.args)

    def _whole(self, rows: Tensor, matrix: Tensor) -> Tensor:
        """The product of whole numbers: floats hold it."""
        return self.target.linear(rows, self.target.converted(matrix, rows.dtype))

    def _meaning(self, value: Value) -> Callable[..., Any]:
        meaning, data = value.operation.meaning, value.data
        return (lambda *args: meaning(*args, *data)) if data else meaning

    def _add(self, value: Value, function: Callable[..., Any], args: tuple[Value, ...]) -> None:
        self.when.append(frequency(value, self.frequencies))
        self.lines.append(Line(function, tuple(self.at[a] for a in args), self.when[-1] == "sequence"))
        self.at[value] = at = len(self.sources) + len(self.lines) - 1
        given = [self.at[a] for a in args]
        if self.when[at] == "sequence" and all(a in self.of_symbol or self.when[a] == "fixed" for a in given):
            self.of_symbol.add(at)

    def __call__(
        self,
        values: Bindings,
        x: Tensor,
        *,
        batch_major: bool,
        compact: Compact | None = None,
        embedded: Embedded | None = None,
        low: Collection[str] = (),
    ) -> dict[str, Tensor]:
        """Return the outputs by name. embedded: the rows of a table that x is; low: those of `may_be_low` that are."""
        of_low = {at for name, at, _, _ in self.outputs if name in low and name in self.may_be_low}
        groups: dict[str, Mapping[str, Tensor]] = {"fixed": values.fixed, "rows": values.rows, "steps": values.steps}
        results: list[Tensor] = []
        passed = () if torch.is_grad_enabled() else self.passed  # gradients have the dtype of the loop
        for at, ((group, name), dtypes) in enumerate(zip(self.sources, self.dtypes, strict=True)):
            tensor = x if group == "x" else name if group == "literal" else groups[group][name]
            if tensor.dtype not in dtypes and not (at in passed and tensor.dtype in self.target.matrices):
                convert = self.target.converted if group == "fixed" else torch.Tensor.to
                tensor = convert(tensor, dtypes[0])
            if group == "rows" and tensor.dim() > 2:
                tensor = tensor.flatten(1)
            results.append(tensor)
        formed: dict[int, Tensor] = {}
        looked_up = None if embedded is None or not self.of_symbol else _looked_up(embedded, batch_major, compact)
        of_symbols: dict[int, Tensor] = {}  # what has been computed once a symbol
        if looked_up is not None:
            of_symbols = {at: looked_up.table.to(self.dtype) for at in self.of_symbol if at < len(self.sources)}

        def form(at: int) -> Tensor:
            """Return a source, or a row for each sequence, as it meets rows of every step."""
            if at not in formed:
                formed[at] = _formed(results[at], self.when[at], batch_major, compact)
            return formed[at]

        count = len(self.sources)
        for at, line in enumerate(self.lines, count):
            function = self.target.linear_low if at in of_low else line.function
            if looked_up is not None and at in self.of_symbol:
                found_once = function(*(of_symbols[a] if a in of_symbols else results[a] for a in line.args))
                of_symbols[at] = found_once
                is_read = at in self.read_by_step
                results.append(looked_up._replace(table=found_once).rows(self.target.empty) if is_read else found_once)
                continue
            if line.every_step:
                is_formed = [a >= count and self.when[a] == "sequence" for a in line.args]
                args = [results[a] if done else form(a) for a, done in zip(line.args, is_formed, strict=True)]
            else:
                args = [results[a] for a in line.args]
            results.append(function(*args))
        found = {}
        for name, at, when, kind in self.outputs:
            tensor = results[at]
            if when == "sequence":
                back = batch_major and compact is None and at >= count
                tensor = adjacent(tensor.transpose(0, 1) if back else tensor)
            elif when == "row":
                tensor = adjacent(tensor)
            elif len(kind.shape) < 2:
                tensor = tensor.reshape(-1).contiguous()
            found[name] = tensor
        return found


def _looked_up(embedded: Embedded, batch_major: bool, compact: Compact | None) -> LookedUp | None:
    """Return the row of each symbol, and which belongs where in the form in which sequences are computed."""
    numbers = embedded.numbers
    if compact is not None:
        return embedded.once(compact.gather(numbers[..., None])[:, 0])
    return embedded.once(numbers.transpose(0, 1) if batch_major else numbers)


def _multiplies(value: Value) -> bool:
    """Whether a value is a product, or one with a bias."""
    return value.kind == "product" or (value.op == "add" and value.args[0].kind == "product")


def _formed(tensor: Tensor, when: str, batch_major: bool, compact: Compact | None) -> Tensor:
    """Return [T, B, n] or [B, n] in a form in which they meet each other and [n]; compact rows [N, n] have it."""
    if when == "fixed" or (compact is None and not batch_major) or (when == "sequence" and tensor.dim() == 2):
        return tensor
    if compact is not None:
        return compact.gather(tensor) if when == "sequence" else compact.spread(tensor)
    return tensor.transpose(0, 1) if when == "sequence" else tensor.unsqueeze(1)


def _softmax(value: Value) -> tuple[Callable[..., Any], tuple[Value, ...]] | None:
    """Return PyTorch's own softmax or its logarithm for a value that is one: fewer passes over the rows."""
    form = value.op, *(a.op for a in value.args)
    if form == ("div", "exp", "sum"):
        shares, shifted, function = value.args[0], value.args[0].args[0], torch.softmax
        fits = value.args[1].args == (shares,) and not value.args[1].data
    elif form == ("sub", "sub", "log"):
        shifted, sums, function = value.args[0], value.args[1].args[0], torch.log_softmax
        fits = sums.op == "sum" and not sums.data and sums.args[0].op == "exp" and sums.args[0].args == (shifted,)
    else:
        return None
    if not fits or shifted.op != "sub" or shifted.args[1].op != "stop":
        return None
    row, top = shifted.args[0], shifted.args[1].args[0]
    return (partial(function, dim=-1), (row,)) if top.op == "max" and top.args == (row,) and not top.data else None


def _is_kept(value: Value) -> bool:
    """Whether PyTorch's gradient may read the result."""
    return value.operation.keeps_result or _softmax(value) is not None


def _add(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b, whose gradients do not share memory.

    PyTorch gives both arguments one gradient; as parts of it, two parameters would keep the same memory in `.grad`.
    """
    return a + b * 1


def adjacent(tensor: Tensor) -> Tensor:
    """Return rows whose features lie side by side."""
    return tensor if tensor.stride(-1) == 1 or tensor.size(-1) == 1 else tensor.contiguous()
