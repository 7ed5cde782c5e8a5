"""One sequence through one cell: the place where a layer meets the compiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from everloop import torch_private
from everloop.cell import Cell
from everloop.compiler import forks
from everloop.compiler import target as targets
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call, Results, Runner
from everloop.compiler.dtypes import arithmetic
from everloop.compiler.program import Program
from everloop.compiler.reduced import Reduced, running
from everloop.compiler.report import plan_text
from everloop.compiler.target import CellTarget, LoopTarget
from everloop.errors import PlanError, UnsupportedError
from everloop.layers import custom_operator, precision
from everloop.layers.autograd_function import compute
from everloop.layers.check import noted, verify
from everloop.layers.guards import programs, unsupported_reason, version, warn_once
from everloop.layers.recompute import in_segments

_KINDS = {Tensor, nn.Parameter}
_chosen: ContextVar[str | None] = ContextVar("target", default=None)
_instead: ContextVar[Runner | None] = ContextVar("instead", default=None)


@contextmanager
def using(target: str) -> Iterator[None]:
    """Run every layer in the block that names no target itself by `target`."""
    before = _chosen.set(targets.find(target).name)
    try:
        yield
    finally:
        _chosen.reset(before)


@contextmanager
def replaced(by: Runner) -> Iterator[None]:
    """Run every cell in the block by `by`, whatever the target."""
    before = _instead.set(by)
    try:
        yield
    finally:
        _instead.reset(before)


def chosen(target: str | None) -> str | None:
    """Return the target that runs a layer which names `target`."""
    return _chosen.get() if target is None else targets.find(target).name


@custom_operator.runs
def run(cell: Cell, call: Call, target: str | None = None, check: bool = False) -> Results:
    """Return (output [T, B, n], final states) of `cell`.

    check: whether a compiled cell is verified before its first call of a kind.

    Raises:
        MismatchError: it was, and is wrong.
        OptionError: there is no such target.
        UnsupportedError: the named target cannot run this cell; `target=None` runs `eager` then.
    """
    if torch.compiler.is_compiling() and (torch.compiler.is_exporting() or not call.time.segment):
        return _as_operator(cell, call, target, check)
    if torch.compiler.is_compiling() or torch_private.dynamo_callback() is not None:
        return _without_dynamo(cell, call, target, check)  # type: ignore[no-any-return]
    forks.prepare()
    x, target = call.x, chosen(target)
    low = precision.autocast_dtype(x)
    if low is None:
        return _run(cell, call, target, check)
    with torch.autocast(x.device.type, enabled=False):
        call, low = precision.under_autocast(call, low)
        return precision.results_in(_run(cell, call, target, check, low), low)


def _run(cell: Cell, call: Call, target: str | None, check: bool, low: torch.dtype | None = None) -> Results:
    """Run without autocast; `low` is the dtype that it asked large products to have."""
    x, values = call.x, with_tensors(cell, call.values)
    if values is not call.values:
        call = replace(call, values=values)
    whole = decomposition_reason(x, *call.state, *values.fixed.values())
    if call.time.segment and torch.is_grad_enabled() and not whole:
        return in_segments(lambda part: _run(cell, part, target, check, low), call, call.time.segment)
    if (instead := _instead.get()) is not None:
        return instead(cell, precision.as_states(call, low))
    named = None if target is None else targets.find(target)
    if isinstance(named, CellTarget):
        if reason := named.refusal(x.dtype, x.device):
            raise UnsupportedError(reason)
        return named.run(cell, precision.as_states(call, low))
    program = whole or program_of(cell, values, x if low is None else call.state[0], named, low)
    if isinstance(program, Program) and call.time.num_nonempty:
        try:
            if check:
                checked = call if low is None else precision.converted(call, low)
                verify(partial(_computed, program), cell, checked, program.checked)
            return _computed(program, cell, call)
        except PlanError as error:
            program = _withdraw(program, error)
    if isinstance(program, str):
        if named is not None:
            raise UnsupportedError(program)
        _tell(cell, program)
    return eagerly(cell, precision.as_states(call, low))


# What Dynamo left to Python it would look into, function by function.
_without_dynamo: Any = torch_private.without_dynamo(run)


def _computed(program: Program, _: Cell, call: Call) -> Results:
    if isinstance(program.target, Reduced):
        results = compute(program, precision.converted(call, program.dtype, states_only=True))
        # Under autocast x has the dtype of the loop, and who asked for another one converts what is not in it.
        return results if call.x.dtype == program.dtype else precision.results_in(results, call.x.dtype)
    return compute(program, call)


def eagerly(cell: Cell, call: Call) -> Results:
    """Run on the reference target."""
    return targets.reference().run(cell, call)


def _as_operator(cell: Cell, call: Call, target: str | None, check: bool) -> Results:
    """Run inside torch.compile, as one operator."""
    held = with_tensors(cell, call.values)
    custom_operator.watch(cell)
    names = (" ".join(group) for group in (held.fixed, held.rows, held.steps))
    key = custom_operator.key_of(cell, *names, target, check, torch.compiler.is_exporting())
    return custom_operator.call(key, replace(call, values=held))


def why(cell: Cell, values: Bindings, x: Tensor) -> str:
    """Return why no compiling target runs this cell over this input; "" where one does."""
    found = program_of(cell, with_tensors(cell, values), x)
    return found if isinstance(found, str) else ""


def explain(cell: Cell, values: Bindings, x: Tensor, target: str | None, *, with_gradient: bool = True) -> str:
    """Return which target runs this cell over this input and why; for a compiled cell its whole plan.

    with_gradient: whether the cell has gradients, whose loops are in the plan then.
    """
    low = precision.autocast_dtype(x) if x.dtype == torch.float32 else None
    named = None if target is None else targets.find(target)
    if isinstance(named, CellTarget):
        reason = named.refusal(x.dtype, x.device)
        return f"no target, because {reason}" if reason else f"target {target}, as requested"
    found = program_of(cell, with_tensors(cell, values), x, named, low)
    if isinstance(found, str):
        return f"target {targets.reference().name}, because {found}"
    try:
        kernel = found.inference().kernel
    except PlanError as error:
        return f"target {targets.reference().name}, because {_withdraw(found, error)}"
    head = f"target {found.target.name}, {kernel.description}"
    if isinstance(found.target, Reduced):
        head += f"\n{found.target.description}"
    head += f"\n{noted(found.checked)}"
    return f"{head}\n\n{plan_text(found.split, with_gradient=with_gradient)}"


def program_of(
    cell: Cell, values: Bindings, x: Tensor, target: LoopTarget | None = None, low: torch.dtype | None = None
) -> Program | str:
    """Return the compiled program of a cell, or why there is none; by the best target where none is named.

    low: the dtype that autocast asks large products to have.
    """
    key = (
        target,
        low,
        x.dtype,
        x.device.type,
        *((name, v.shape, v.dtype) for name, v in values.fixed.items()),
        *((name, v.shape[1:], v.dtype) for name, v in values.rows.items()),
        *((name, v.shape[-1], v.dtype) for name, v in values.steps.items()),
    )
    found: Program | str | None = programs.get((*key, version(cell)))
    if found is None:
        found = _new_program(cell, values, x, target, low)
        programs.put((*key, version(cell, is_traced=True)), found)
    return found


def with_tensors(cell: Cell, values: Bindings) -> Bindings:
    """Return `values` with the cell's buffers, which a step may read too."""
    if not _has_buffers(cell):
        return values
    missing = {n: b for n, b in cell.named_buffers() if n not in values.fixed}
    return Bindings({**values.fixed, **missing}, values.rows, values.steps) if missing else values


def _has_buffers(module: nn.Module) -> bool:
    return bool(module._buffers) or any(_has_buffers(m) for m in module._modules.values() if m is not None)


def _new_program(
    cell: Cell, values: Bindings, x: Tensor, target: LoopTarget | None, low: torch.dtype | None
) -> Program | str:
    found, dtype = running(x.dtype, x.device, target, low), x.dtype
    if isinstance(found, str):
        return found
    if reason := unsupported_reason(cell):
        return _Refusal(reason)
    if isinstance(found, Reduced):
        dtype = arithmetic(dtype)
        values = precision.converted_values(values, dtype)
    try:
        with torch.autocast("cpu", enabled=False):
            return Program.of(cell, values, dtype, found)
    except UnsupportedError as error:
        return _Refusal(error)


def _withdraw(program: Program, error: PlanError) -> _Refusal:
    """Let `eager` run what a program would have, from now on."""
    reason = _Refusal(f"its plan is wrong: {error}; this is a defect of everloop, please report it with the cell")
    programs.replace(program, reason)
    return reason


class _Refusal(str):
    """Why a step cannot be compiled, which the user can mend."""

    __slots__ = ()


def _tell(cell: Cell, reason: str) -> None:
    """Say once that a step runs slowly, and why."""
    if isinstance(reason, _Refusal):
        name, eager = cell.__class__.__name__, targets.reference().name
        text = f'{name} runs on {eager}, because {reason}; with target="{eager}" it does so without this message'
        warn_once(text, str(reason))


def decomposition_reason(*tensors: Tensor) -> str:
    """Return what needs to see each single operation of PyTorch, on these tensors or at all; "" where nothing does."""
    if torch_private.has_transforms():
        return "transforms of torch.func see only PyTorch's own operations"
    if torch_private.is_forward_mode():
        return "forward-mode differentiation sees only PyTorch's own operations"
    if torch_private.tracing_state():
        return "torch.jit.trace records only PyTorch's own operations"
    if torch_private.count_dispatch_modes():
        return "a TorchDispatchMode sees only PyTorch's own operations"
    if not tensors:
        return ""
    kinds = {*map(type, tensors)} - _KINDS
    own = Tensor.__torch_dispatch__
    odd = [kind.__name__ for kind in kinds if getattr(kind, "__torch_dispatch__", own) is not own]
    return f"a {odd[0]} may have no numbers in memory" if odd else ""


def compiles(cell: Cell, x: Tensor) -> bool:
    """Return whether the compiled target runs this cell over x, in the dtype of the parameters where autocast is on."""
    return not (decomposition_reason(x) or why(cell, Bindings(dict(cell.named_parameters())), x))


def rewritten() -> bool:
    """Return whether PyTorch's own fused layers have no rule for what is going on: vmap and forward-mode."""
    stack = torch_private.transforms() or ()
    return torch_private.is_forward_mode() or any(i.key() == torch_private.VMAP for i in stack)
