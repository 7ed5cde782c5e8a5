"""A sequence as one custom operator of PyTorch, so that `torch.compile` takes a layer without a break.

The operator knows its cell by a key: the cell as text, so that a graph can be saved, or the number of one that cannot
be written so. Its backward runs the forward loop once more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, library

from everloop import torch_private
from everloop.cell import Cell, bind
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call, Results
from everloop.compiler.time_axis import is_batch_major
from everloop.errors import UnsupportedError
from everloop.layers import precision
from everloop.layers.guards import INTERNAL, PLAIN, Cache, programs, version
from everloop.layers.serialization import read, write
from everloop.layers.validation import check_range

GRAPHS = 1024  # cells in graphs that are known; of more, the first graphs must be made anew
Implementation = Callable[..., Results]


@dataclass(frozen=True)
class Registered:
    """A cell without its tensors, the names of the tensors it is given, and which target was asked for, how."""

    cell: Cell
    names: Sequence[Sequence[str]]
    target: str | None
    check: bool

    def values(self, tensors: Sequence[Sequence[Tensor]]) -> Bindings:
        return Bindings(*(dict(zip(n, t, strict=True)) for n, t in zip(self.names, tensors, strict=True)))


_known: Cache[Registered] = Cache(GRAPHS)
_runs: list[Implementation] = []
_numbers = count()


def watch(cell: Cell) -> None:
    """Make the graph that is being traced depend on the cell's options: what is compared becomes a guard."""
    for path, expected in _options(cell):
        found: Any = cell
        for name in path:
            found = getattr(found, name)
        if found != expected:
            continue


@torch_private.constant_in_graphs
def _options(cell: Cell) -> list[tuple[tuple[str, ...], Any]]:
    """Return the paths and values of all plain attributes of the cell and of what is inside it."""
    return [
        ((*filter(None, inside.split(".")), name), value)
        for inside, module in cell.named_modules()
        for name, value in module.__dict__.items()
        if name not in INTERNAL and _is_plain(value)
    ]


def _is_plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(map(_is_plain, value)))


def runs(run: Implementation) -> Implementation:
    """Make this function what the operator runs. Decorates `dispatch.run`, which knows more than this file."""
    _runs[:] = [run]
    return run


def call(key: str, given: Call) -> Results:
    """Return (output [T, B, n], final states) of the cell with this key; under autocast all of it has that dtype."""
    low = precision.autocast_dtype(given.x)
    if low is not None:
        given, low = precision.under_autocast(given, low)
        given = given if low is None else precision.converted(given, low)
    values, state = given.values, given.state
    x = given.x.to(state[0].dtype)
    is_zero = all(r is None for r in given.restart)
    origin = [] if is_zero else [s.new_zeros(s.shape[-1]) if r is None else r
                                 for r, s in zip(given.restart, state, strict=True)]  # fmt: skip
    groups = (list(group.values()) for group in (values.fixed, values.rows, values.steps))
    y, *final = sequence(key, x, *groups, list(state), origin, **given.time.options())
    return y, tuple(final)


@torch_private.constant_in_graphs
def key_of(cell: Cell, fixed: str, rows: str, steps: str, target: str | None, check: bool, is_saved: bool) -> str:
    """Return the key under which the operator finds the cell. Names come joined by spaces.

    Raises:
        UnsupportedError: the graph is to be saved, and the cell cannot.
    """
    names = [part.split() for part in (fixed, rows, steps)]
    try:
        key = json.dumps({"cell": write(cell), "names": names, "target": target, "check": check})
    except UnsupportedError:
        if is_saved:
            raise
        kind = ("a graph", fixed, rows, steps, target, check, version(cell))
        key = programs.get(kind) or programs.put(kind, f"{type(cell).__name__} {next(_numbers)}")
        if _known.get(key) is None:
            twin = bind(cell, dict.fromkeys(name for part in names for name in part))
            _known.put(key, Registered(twin, names, target, check))
    return key


def known(key: str) -> Registered:
    """Return the cell with this key; one from another process is made anew."""
    found = _known.get(key)
    if found is None:
        if not key.startswith("{"):
            raise UnsupportedError(
                f"this graph holds {key}, a cell that only the process that made it knows, and only the last {GRAPHS}"
                " of them; make the graph anew"
            )
        text = json.loads(key)
        found = _known.put(key, Registered(read(text["cell"]), text["names"], text["target"], text["check"]))
    return found


@library.custom_op("everloop::sequence", mutates_args=())
def sequence(
    key: str,
    x: Tensor,
    fixed: Sequence[Tensor],
    rows: Sequence[Tensor],
    steps: Sequence[Tensor],
    state: Sequence[Tensor],
    restart: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> list[Tensor]:
    """Return the output and the final states, as `dispatch.run`."""
    held = known(key)
    if lengths is not None:
        check_range("Recurrent", lengths, x.shape[0])
    values = held.values((fixed, rows, steps))
    given = Call.of(values, x, state, restart or None, lengths=lengths, reset=reset, reverse=reverse)
    y, final = _runs[0](held.cell, given, held.target, held.check)
    taken = {_memory(t) for t in (x, *fixed, *rows, *steps, *state, *restart)}
    results = []
    for found, expected in zip((y, *final), _outputs(held, x, state), strict=True):
        is_own = found.stride() == expected.stride() and _memory(found) not in taken
        results.append(found if is_own else expected.copy_(found))
        taken.add(_memory(results[-1]))
    return results


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _outputs(held: Registered, x: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
    """Return memory laid out as the results are."""
    T, B, n = x.shape[0], x.shape[1], held.cell.output_width
    y = x.new_empty(B, T, n).transpose(0, 1) if is_batch_major(x) else x.new_empty(T, B, n)
    return [y, *(s.new_empty(s.shape) for s in state)]


# Its place in PyTorch's table of meta functions keeps the one in `decomposition` from being taken for one.
@torch_private.register_decomposition(torch.ops.everloop.sequence.default, type="meta")
@sequence.register_fake
def _(key: str, x: Tensor, fixed: Any, rows: Any, steps: Any, state: Any, *_: Any) -> list[Tensor]:
    torch_private.allow_inductor_fallback("everloop::sequence")
    return _outputs(known(key), x, state)


@library.custom_op("everloop::sequence_backward", mutates_args=())
def sequence_backward(
    key: str,
    tensors: Sequence[Tensor],
    counts: Sequence[int],
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    grads: Sequence[Tensor],
) -> list[Tensor]:
    """Return the gradients of all `tensors`: x, fixed, rows, steps, state, restart, in groups of `counts`."""
    held = known(key)
    leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in tensors]
    x, fixed, rows, steps, state, restart = _groups(leaves, counts)
    with torch_private.with_autograd(), torch.enable_grad():
        values = held.values((fixed, rows, steps))
        given = Call.of(values, x[0], state, restart or None, lengths=lengths, reset=reset, reverse=reverse)
        y, final = _runs[0](held.cell, given, held.target, held.check)
        wanted = [t for t in leaves if t.requires_grad]
        found = iter(torch.autograd.grad([y, *final], wanted, list(grads), allow_unused=True))
    results = [next(found) if t.requires_grad else None for t in leaves]
    return [torch.empty_like(t).copy_(g) if g is not None else torch.zeros_like(t)
            for g, t in zip(results, tensors, strict=True)]  # fmt: skip


@sequence_backward.register_fake
def _(key: str, tensors: Any, *_: Any) -> list[Tensor]:
    return [torch.empty_like(t) for t in tensors]


def _groups(items: Sequence[Any], counts: Sequence[int]) -> list[list[Any]]:
    remaining = iter(items)
    return [[next(remaining) for _ in range(n)] for n in counts]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    key, x, *groups, lengths, reset, reverse = inputs
    ctx.key, ctx.reverse = key, reverse
    ctx.counts = [1, *map(len, groups)]
    ctx.has = [lengths is not None, reset is not None]
    ctx.shapes = [(t.shape, t.dtype, t.device) for t in output]
    extra = [t for t in (lengths, reset) if t is not None]
    ctx.save_for_backward(x, *(t for group in groups for t in group), *extra)


def _backward(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    saved = list(ctx.saved_tensors)
    count = sum(ctx.counts)
    extra = iter(saved[count:])
    lengths, reset = (next(extra) if has else None for has in ctx.has)
    filled = [torch.zeros(s, dtype=d, device=p) if g is None else g.contiguous()
              for g, (s, d, p) in zip(grads, ctx.shapes, strict=True)]  # fmt: skip
    found = sequence_backward(ctx.key, saved[:count], ctx.counts, lengths, reset, ctx.reverse, filled)
    gradients = [g if t.is_floating_point() else None for g, t in zip(found, saved, strict=False)]
    x, *groups = _groups(gradients, ctx.counts)
    return None, x[0], *groups, None, None, None


sequence.register_autograd(_backward, setup_context=_setup)
