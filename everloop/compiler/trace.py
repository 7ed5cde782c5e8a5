"""Trace: call the step of a cell once on symbols and keep what it did as a Graph."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from traceback import walk_tb
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from everloop.cell import Cell, bind, step_results
from everloop.compiler import torch_function
from everloop.compiler.effects import Watch
from everloop.compiler.ir import Builder, Graph, Group, Type, Value
from everloop.compiler.locations import is_inside, unsupported
from everloop.compiler.pytree import tree_leaves
from everloop.compiler.randomness import Randomness
from everloop.compiler.symbol import BATCH_SIZE, BatchSize, Symbol, value_of
from everloop.errors import CellError, UnsupportedError

assert torch_function, "its import lets symbols be called"
TRACES = 3  # of a step that seems to draw from a generator from which another thread may have drawn


class _Names:
    """While a step runs, notes the local names its values get."""

    def __init__(self, step: Any) -> None:
        self.code = getattr(step, "__code__", None)
        self.found: dict[Value, str] = {}

    def __enter__(self) -> _Names:
        self.before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: Any) -> None:
        sys.settrace(self.before)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._line if frame.f_code is self.code else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        for name, thing in frame.f_locals.items():
            if isinstance(thing, Symbol) and thing.value.op != "input":
                self.found.setdefault(thing.value, name)
        return self._line


_IN_PLACE = {f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")}
_IN_PLACE |= {"__setitem__", "__set__"}


class _Plain(TorchFunctionMode):
    """Refuses what PyTorch would do to other things than symbols only once: draws of a generator, changes in place."""

    def __init__(self, watch: Watch, like: Symbol) -> None:
        super().__init__()
        self.watch, self.like = watch, like

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = list(tree_leaves((args, kwargs)))
        if any(isinstance(leaf, torch.Generator) for leaf in leaves):
            raise unsupported(
                "random numbers of a torch.Generator; give the mask as a value of the layer (see Zoneout)"
            )
        name = getattr(function, "__name__", "")
        if any(isinstance(leaf, BatchSize) for leaf in leaves) and not any(isinstance(leaf, Symbol) for leaf in leaves):
            return self._filled(name, *args, **kwargs)
        if args and (name in _IN_PLACE or (name.endswith("_") and not name.startswith("__"))):
            self.watch.change(args[0])
        return function(*args, **kwargs)

    def _filled(self, name: str, *sizes: Any, **options: Any) -> Any:
        """Return rows of one number, made of the batch size."""
        if name not in ("zeros", "ones", "full", "empty") or "out" in options or not sizes:
            raise unsupported(f"torch.{name} with the batch size; zeros, ones, full and empty are known")
        dtype = torch.full((), sizes[1]).dtype if name == "full" and len(sizes) > 1 else torch.get_default_dtype()
        method = f"new_{name}"
        given = {"dtype": dtype} | options
        return Symbol.call(method, self.like, *sizes, function=getattr(torch.Tensor, method), **given)


def trace(
    cell: Cell,
    fixed: Mapping[str, torch.Tensor],
    rows: Mapping[str, torch.Tensor] | None = None,
    steps: Mapping[str, torch.Tensor] | None = None,
    dtype: torch.dtype | None = None,
    *,
    names: bool = False,
) -> Graph:
    """Return the graph of one step of `cell`: its outputs are what the cell declares as such side by side, if it does,
    and the new states by name.

    fixed, rows, steps: as in `Bindings`; only shapes and dtypes are read. `names` notes the local names of the
    step for printing.

    Raises:
        UnsupportedError: the step does something outside the table; the message names it and its line.
    """
    randomness = Randomness(cell)
    with randomness.put_back_on_error():
        for _ in range(TRACES):
            graph = _traced(cell, fixed, rows, steps, dtype or torch.get_default_dtype(), names, randomness)
            if not randomness.is_drawn:
                return graph
        raise UnsupportedError(
            f"{cell.__class__.__name__}.step draws random numbers, which differ from step to step; "
            "give the mask as a value of the layer (see Zoneout)"
        )


def _traced(
    cell: Cell,
    fixed: Mapping[str, torch.Tensor],
    rows: Mapping[str, torch.Tensor] | None,
    steps: Mapping[str, torch.Tensor] | None,
    dtype: torch.dtype,
    names: bool,
    randomness: Randomness,
) -> Graph:
    """Return the graph of one step; `randomness` then knows whether it has drawn random numbers."""
    builder = Builder()
    groups: list[tuple[Group, Mapping[str, torch.Tensor]]] = [
        ("fixed", fixed), ("rows", rows or {}), ("steps", steps or {})
    ]  # fmt: skip
    symbols: dict[str, Symbol] = {}
    for group, tensors in groups:
        for name, tensor in tensors.items():
            axes = tuple(tensor.shape[("fixed", "rows", "steps").index(group) :])
            kind = Type(axes if group == "fixed" else (math.prod(axes),), rows=group != "fixed", dtype=dtype)
            symbol = _given(Symbol(builder.input(group, name, kind), builder, dtype, tensor.dtype))
            is_flat = group == "fixed" or len(axes) == 1
            with torch.inference_mode(False), torch.enable_grad():  # as the step
                symbols[name] = symbol if is_flat else symbol.reshape(BATCH_SIZE, *axes)
    x = _given(Symbol(builder.input("x", "x", Type((cell.input_size,), rows=True, dtype=dtype)), builder, dtype))
    states = [_given(Symbol(builder.input("state", s, Type((n,), rows=True, dtype=dtype)), builder, dtype))
              for s, n in cell.state_sizes.items()]  # fmt: skip
    twin: Any = bind(cell, symbols)
    watch = Watch(cell)
    if watch.refused is not None:
        watch.close()
    seen = _Names(type_of_step(cell)) if names else None
    try:  # with gradients, whoever calls first: the program is for training, too
        with (
            torch.inference_mode(False), torch.enable_grad(), _Plain(watch, x),
            randomness, seen or nullcontext(), watch,
        ):  # fmt: skip
            results = step_results(twin, x, states)
    except (UnsupportedError, CellError):
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError, ArithmeticError, StopIteration) as error:
        raise UnsupportedError(
            f"the compiler cannot follow {cell.__class__.__name__}.step: {error}{_line_of(error)}"
        ) from error
    finally:
        watch.compare(cell, twin, symbols)
        watch.close()
    if builder.refused is not None:
        raise builder.refused
    graph = Graph({}, seen.found if seen else {})
    sizes = cell.state_sizes | cell.output_sizes
    made = [_row(cell, name, n, r, builder, x) for (name, n), r in zip(sizes.items(), results, strict=True)]
    outputs = made[len(cell.state_sizes) :]
    if outputs:
        graph.outputs[", ".join(cell.output_sizes)] = outputs[0] if len(outputs) == 1 else builder.make("cat", *outputs)
    graph.outputs |= zip(cell.state_sizes, made, strict=False)
    graph.verify()
    return graph


def _given(symbol: Symbol) -> Symbol:
    symbol.is_given = True
    return symbol


def named_outputs(graph: Graph, cell: Cell) -> Graph:
    """Return a traced graph with each declared output under a name of its own, for reading."""
    names, outputs = list(cell.output_sizes), dict(graph.outputs)
    if len(names) > 1:
        joined = outputs.pop(", ".join(names))
        outputs = dict(zip(names, joined.args, strict=True)) | outputs
    return Graph(outputs, graph.names)


def _line_of(error: Exception) -> str:
    """Return where in the cell an error arose, in brackets."""
    frames = [f"{frame.f_code.co_filename}:{line}" for frame, line in walk_tb(error.__traceback__)
              if not is_inside(frame.f_code.co_filename)]  # fmt: skip
    return f" ({frames[-1]})" if frames else ""


def type_of_step(cell: Cell) -> Any:
    """Return the function that is the step of `cell`."""
    return cell.__class__.step


def _row(cell: Cell, name: str, size: int, thing: Any, builder: Builder, x: Symbol) -> Value:
    if not isinstance(thing, Symbol | torch.Tensor | float | int):
        raise unsupported(f"a {thing.__class__.__name__} as the new {name}")
    value = value_of(thing, x)
    if isinstance(thing, Symbol | torch.Tensor) and (thing.ndim != 2 or thing.dtype != x.dtype):
        raise unsupported(f"the new {name} of shape {tuple(thing.shape)} and dtype {thing.dtype}")
    if not Type((size,), rows=True).stands_for(value.type):
        if value.type.rows or value.width not in (1, size) or len(value.type.shape) > 1:
            raise CellError(f"{cell.__class__.__name__}.step returned {value.type} for {name}; expected row[{size}]")
        value = builder.make("add", value, builder.constant(0.0, Type((size,), rows=True)))
    if value.op == "constant":
        return builder.constant(value.number, value.type.of(x.float_dtype))
    if value.type.dtype is None:  # made of numbers alone
        value = builder.make("add", value, builder.constant(0.0, value.type.of(x.float_dtype)))
    return value
