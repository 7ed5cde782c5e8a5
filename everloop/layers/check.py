"""Is the compiled cell right? Part of a call goes through it and, row by row, through the step in float64."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from everloop import torch_private
from everloop.cell import Cell
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call, Runner
from everloop.compiler.time_axis import is_batch_major
from everloop.errors import MismatchError
from everloop.layers.compare import Comparison, compare, unit_of
from everloop.layers.nested import named
from everloop.layers.reference import in_float64, loop, step_in_float64

BATCH, STEPS = 6, 12  # the piece that is verified
LARGE_CELL = 2**20  # parameters; of a cell with more than these, half as many sequences and a third of the steps
PERTURBED = 4  # references with inputs rounded otherwise, where something differs


def verify(run: Runner, cell: Cell, call: Call, record: dict[Any, str]) -> None:
    """Compare `run` with the float64 loop on a piece of a call; once for each kind of call, which `record` keeps.

    Raises:
        MismatchError: they differ by more than rounding explains.
    """
    kind = _kind(call)
    if kind in record:
        return
    piece, is_trained = _piece(call), any(kind[-1])
    if not piece.time.num_nonempty:
        return  # no sequence has a step: the next call may tell more

    def found(by: Runner) -> dict[str, Tensor]:
        return _results(by, cell, piece, is_trained)

    with _unseen():
        expected = found(in_float64(loop))  # first: a wrong kernel may write over what it was given
        with poisoned():
            results = found(run)
        unit = unit_of(call.values.fixed.values())
        comparisons = compare("compiled", results, expected, len(piece.x), lambda: map(found, _others(loop)), unit)
    where = f"{len(piece.x)} step(s) of {piece.x.shape[1]} sequence(s)"
    options = [n for n, is_on in zip(("lengths", "reset", "reverse"), kind, strict=False) if is_on]
    _judge(type(cell).__name__, comparisons, f"{where}{', with ' * bool(options)}{' and '.join(options)}", kind, record)


def verify_step(core: Any, x: Tensor, state: Any, found: tuple[Any, Any], record: dict[Any, str]) -> None:
    """Compare what one compiled step of rows [B, I] has `found`, (output, state), with the step in float64.

    Raises:
        MismatchError: they differ by more than rounding explains.
    """

    def expected(noise: torch.Generator | None = None) -> dict[str, Tensor]:
        return named(*step_in_float64(core, x, state, noise))

    with torch.no_grad():
        others, unit = (lambda: map(expected, _noises())), unit_of(core.buffers())
        comparisons = compare("compiled", named(*found), expected(), 1, others, unit)
    _judge(type(core).__name__, comparisons, f"a single step of {len(x)} row(s)", "step", record)


def noted(record: Mapping[Any, str]) -> str:
    """Return what was verified, a line a kind of call."""
    return (
        "\n".join(record.values())
        or "not checked against float64; Recurrent(…, check=True) does so at the first call with numbers other than 0"
    )


@contextmanager
def poisoned() -> Iterator[None]:
    """Let fresh memory hold NaN inside the block, so that what is read before it is written shows."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")  # PyTorch fills what it allocates then
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


def _judge(name: str, comparisons: Sequence[Comparison], where: str, kind: Hashable, record: dict[Any, str]) -> None:
    wrong = [c for c in comparisons if not c.agrees]
    if wrong:
        listed = "; ".join(
            f"{c.what} {c.bias_text}" if c.is_biased
            else f"{c.what} by {c.difference:.1e}, where rounding explains {c.allowed:.1e}"
            for c in wrong
        )  # fmt: skip
        raise MismatchError(
            f"{name}: what was compiled differs from the step in float64, seen on {where} of this call: {listed}. "
            'Its numbers are wrong: run this cell with target="eager", and report the cell with this message'
        )
    if not any(c.count and c.largest for c in comparisons if c.what.startswith("output")):
        return  # nothing but zeros, or no finite number: the next call may tell more
    worst = {
        part: max((c.relative for c in comparisons if c.what.startswith(part)), default=None)
        for part in ("output", "state", "gradient")
    }
    figures = ", ".join(f"{part} {worst:.0e}" for part, worst in worst.items() if worst is not None)
    record[kind] = f"checked against float64, on {where}; differences: {figures} of the largest number"


def _kind(call: Call) -> tuple[Any, ...]:
    """Return what other kernels or other code run for. Its last part: which tensors want a gradient."""
    values, (steps, batch) = call.values, call.x.shape[:2]
    tensors = (
        call.x,
        *values.fixed.values(),
        *values.rows.values(),
        *values.steps.values(),
        *call.state,
        *call.restart,
    )
    wanted = tuple(t is not None and t.requires_grad for t in tensors) if torch.is_grad_enabled() else ()
    time = call.time
    has = (time.lengths is not None, time.reset is not None, time.reverse)
    return (*has, is_batch_major(call.x), steps > 1, batch > 1, tuple(r is None for r in call.restart), wanted)


def _piece(call: Call) -> Call:
    """Return the first steps of a few sequences, the longest and the shortest among them, as tensors of their own."""
    steps, batch = call.x.shape[:2]
    is_large = sum(t.numel() for t in call.values.fixed.values()) > LARGE_CELL
    steps, count = min(steps, STEPS // 3 if is_large else STEPS), min(batch, BATCH // 2 if is_large else BATCH)
    ends = call.time.lengths
    order = torch.arange(batch) if ends is None else ends.argsort(descending=True).cpu()
    if ends is not None and count > 1:
        order = order[torch.arange(count) * (batch - 1) // (count - 1)]
    rows = order[:count].to(call.x.device)

    def own(tensor: Tensor, like: Tensor) -> Tensor:
        return tensor.detach().requires_grad_(like.requires_grad and torch.is_grad_enabled())

    def of_steps(t: Tensor) -> Tensor:
        if is_batch_major(call.x):
            return own(t.detach().transpose(0, 1).index_select(0, rows)[:, :steps].contiguous().transpose(0, 1), t)
        return own(t.detach()[:steps].index_select(1, rows), t)

    def of_rows(t: Tensor) -> Tensor:
        return own(t.detach().index_select(0, rows), t)

    values = Bindings(
        {n: own(t, t) for n, t in call.values.fixed.items()},
        {n: of_rows(t) for n, t in call.values.rows.items()},
        {n: of_steps(t) for n, t in call.values.steps.items()},
    )
    return replace(
        call, values=values, x=of_steps(call.x), state=tuple(map(of_rows, call.state)),
        restart=tuple(None if r is None else own(r, r) for r in call.restart), time=call.time.select(rows, steps),
    )  # fmt: skip


def _results(run: Runner, cell: Cell, call: Call, is_trained: bool) -> dict[str, Tensor]:
    """Return the output, the final states and, for random gradients of these, the gradients of all that want one."""
    with torch.set_grad_enabled(is_trained):
        y, finals = run(cell, call)
        found = {"output": y} | {f"state {n}": s for n, s in zip(cell.state_sizes, finals, strict=True)}
        if not is_trained:
            return found
        draw = torch.Generator().manual_seed(0)  # the user's random numbers stay as they are
        given = [torch.randn(t.shape, generator=draw, dtype=t.dtype).to(t.device) for t in found.values()]
        values = call.values
        sources = {"x": call.x, **values.fixed, **values.rows, **values.steps}
        sources |= {f"state {n}": s for n, s in zip(cell.state_sizes, call.state, strict=True)}
        sources |= {f"restart {n}": s for n, s in zip(cell.state_sizes, call.restart, strict=True) if s is not None}
        wanted = {f"gradient of {n}": t for n, t in sources.items() if t.requires_grad}
        loss = sum((t * g).sum() for t, g in zip(found.values(), given, strict=True))
        assert isinstance(loss, Tensor)
        is_reached = loss.requires_grad and wanted
        gradients = (
            torch.autograd.grad(loss, list(wanted.values()), allow_unused=True) if is_reached else [None] * len(wanted)
        )
    return found | {
        n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(wanted.items(), gradients, strict=True)
    }


def _noises() -> Iterator[torch.Generator]:
    return (torch.Generator().manual_seed(seed) for seed in range(1, PERTURBED + 1))


def _others(run: Runner) -> Iterable[Runner]:
    """Return what rounding may make of the reference: in the dtype of the call, and with inputs rounded otherwise."""
    return [run, *(in_float64(run, noise) for noise in _noises())]


def _unseen() -> AbstractContextManager[Any]:
    """Hide from hooks on saved tensors, which would count what is saved here; where there are none, make none."""
    if torch_private.saved_tensors_hooks(False) is None:
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
