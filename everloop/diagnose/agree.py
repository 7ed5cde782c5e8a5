"""Do the targets agree? Values and every gradient of a layer, each installed target against a reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from everloop.cell import Cell
from everloop.compiler.call import Call, Results, Runner
from everloop.compiler.embedded import Embedded
from everloop.compiler.target import names
from everloop.diagnose.stepped import can_step, stepped
from everloop.errors import CellError, OptionError, ShapeError, UnsupportedError, unknown
from everloop.layers.check import PERTURBED, poisoned
from everloop.layers.compare import SLACK, Comparison, compare, unit_of
from everloop.layers.dispatch import eagerly, replaced, using
from everloop.layers.dropout import Wrapper
from everloop.layers.nested import leaves, named
from everloop.layers.precision import autocast_dtype
from everloop.layers.recurrent import Recurrent
from everloop.layers.reference import in_float64, loop

REFERENCES: dict[str, Runner] = {"eager": eagerly, "float64": in_float64(eagerly), "loop": in_float64(loop)}


@dataclass(frozen=True)
class Agreement:
    """What `agree` found; true if every target that ran agrees, with at least one finite number in every tensor.

    absent: why the other targets did not run, by target.
    """

    reference: str
    comparisons: tuple[Comparison, ...]
    absent: Mapping[str, str]

    def __bool__(self) -> bool:
        return all(c.agrees and c.count for c in self.comparisons)

    def __str__(self) -> str:
        said = {"eager": "eager", "float64": "eager in float64", "loop": "the step in float64, one row at a time"}
        head = (
            f"against {said[self.reference]}; allowed, relative to the largest number: {SLACK} units in the last place"
        )
        head += " of arithmetic, and one of bfloat16, float16 or int8 where these store or multiply"
        lines = [f"{head}, times the root of the steps", *map(str, self.comparisons)]
        return "\n".join([*lines, *(f"{target:6} did not run: {why}" for target, why in self.absent.items())])


def agree(
    layer: nn.Module, x: Tensor, *, reference: Literal["eager", "float64", "loop"] = "eager", **options: Any
) -> Agreement:
    """Run `layer` over x on every installed target and compare with a reference.

    The outputs, the final states, the gradients of x, of given states and of all parameters are compared, with the same
    random numbers (dropout masks) on every target, once with the gradient of x and once without; the larger difference
    is told. So are the first steps of a layer that can be streamed, by `layer.step` with gradients and without. Allowed
    is what rounding explains, relative to the largest number of a tensor: 64 units in the last place of the dtype of
    arithmetic, and one of bfloat16, float16 or the whole numbers of int8 where numbers are rounded to these, times the
    square root of the number of steps. Where numbers are so rounded, the factor that all numbers of a tensor have in
    common is compared too: rounding leaves it at 1, within one such unit. More is allowed only where the reference
    itself moves as much when its inputs are rounded otherwise. A layer in 8 bits has no gradients to compare.

    Args:
        layer: any layer or model of this library whose call returns tensors, nested in tuples.
        x: its input.
        reference: what computes each cell: "eager", eager in "float64", or a "loop" in float64 that takes one row at
            a time and shares no code with any target (slow: a few short sequences are enough). With the last two, eager
            is a target like the others. What a layer does around its cells (stacking, directions) is the same for all.
        options: further arguments of the call, such as lengths, reset, state, and what the cells declare besides x;
            of such tensors the gradients are compared too.

    Raises:
        CellError: a bare cell was given.
        ShapeError: x is Embedded symbols.
        UnsupportedError: there was nothing to compare; the message says why.
    """
    if isinstance(layer, Cell):
        raise CellError(f"agree: {type(layer).__name__} is a bare cell, which no target runs; wrap it in Recurrent")
    if isinstance(x, Embedded):
        raise ShapeError("agree: x is Embedded; give its rows(), of which the gradient is compared")
    if reference not in REFERENCES:
        raise OptionError("agree: " + unknown("reference", reference, REFERENCES))
    low = _of_autocast(x)
    steps: list[int] = []  # of the longest sequence, in each call of a cell

    def counted(cell: Cell, call: Call) -> Results:
        steps.append(call.time.longest)
        return REFERENCES[reference](cell, call)

    def by_steps(runner: Runner) -> dict[str, Tensor]:
        return stepped(layer, x, options, replaced(runner), as_sequences=True) if has_steps else {}

    def by(runner: Runner) -> dict[str, Tensor]:
        return _results(layer, x, options, replaced(runner)) | by_steps(runner)

    def perturbed() -> Iterator[dict[str, Tensor]]:
        run = loop if reference == "loop" else eagerly
        yield by(run)
        for seed in range(1, PERTURBED + 1):
            yield by(in_float64(run, torch.Generator().manual_seed(seed), low))

    unit, has_steps = max(unit_of(layer.buffers()), low), can_step(layer, x, options)
    comparisons: list[Comparison] = []
    absent: dict[str, str] = {}
    with _plain(layer):
        expected = _results(layer, x, options, replaced(counted))
        if not max(steps, default=0):
            why = "no sequence has a step" if steps else f"{type(layer).__name__} ran no cell of this library"
            raise UnsupportedError(f"agree: there was nothing to compare, because {why}")
        expected |= by_steps(REFERENCES[reference])
        for target in names():
            if target == reference:
                continue
            try:
                with poisoned():
                    found = _results(layer, x, options, using(target))
                    fewer = _results(layer, x, options, using(target), of_x=False)  # other kernels run then
                    found |= stepped(layer, x, options, using(target)) if has_steps else {}
            except UnsupportedError as error:
                absent[target] = str(error)
                continue
            fewer = expected | fewer
            pairs = (compare(target, each, expected, max(steps), perturbed, unit) for each in (found, fewer))
            comparisons += [max(pair, key=lambda c: (not c.agrees, c.difference)) for pair in zip(*pairs, strict=True)]
    if not sum(c.count for c in comparisons):
        why = "; ".join(f"{t} did not run: {w}" for t, w in absent.items()) or f"{reference} gave no finite number"
        raise UnsupportedError(f"agree: there was nothing to compare, because {why}")
    return Agreement(reference, tuple(comparisons), absent)


@contextmanager
def _plain(layer: nn.Module) -> Iterator[None]:
    """Let no layer name a target of its own, or check what it compiles, inside the block."""
    named = [(m, m.target, m.check) for m in layer.modules() if isinstance(m, Recurrent)]
    try:
        for m, *_ in named:
            m.target, m.check = None, False
        yield
    finally:
        for m, target, check in named:
            m.target, m.check = target, check


def _results(
    layer: nn.Module, x: Tensor, options: dict[str, Any], way: AbstractContextManager[None], *, of_x: bool = True
) -> dict[str, Tensor]:
    has_gradients = not any(isinstance(m, Wrapper) and m.inference_only for m in layer.modules())
    given = x.detach().requires_grad_(of_x and has_gradients and x.is_floating_point())
    state = options.get("state")
    states = [] if state is None else [s.detach().requires_grad_(has_gradients) for s in leaves(state)]
    fresh = iter(states)
    call = options if state is None else {**options, "state": _nested(state, fresh)}
    rest = {k: t.detach() for k, t in options.items() if k != "reset" and _is_differentiable(t)}
    rest = {k: t.requires_grad_(has_gradients) for k, t in rest.items()}
    call |= rest
    with way, torch.set_grad_enabled(has_gradients), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        result = layer(given, **call)
        y, *after = result if isinstance(result, tuple) and hasattr(result[0], "_fields") else leaves(result)
        found = named(y, tuple(after))
        weights = [torch.randn(r.shape, dtype=r.dtype) for r in found.values()]
        loss = sum((r * w).sum() for r, w in zip(found.values(), weights, strict=True))
        wanted = {"gradient of x": given} if given.requires_grad else {}
        if has_gradients:
            wanted |= {f"gradient of state {k}": s for k, s in enumerate(states)}
            wanted |= {f"gradient of {k}": t for k, t in rest.items()}
            wanted |= {f"gradient of {n}": p for n, p in layer.named_parameters() if p.requires_grad}
        assert isinstance(loss, Tensor)
        is_reached = loss.requires_grad and wanted
        gradients = (
            torch.autograd.grad(loss, list(wanted.values()), allow_unused=True) if is_reached else [None] * len(wanted)
        )
    zeros = (torch.zeros_like(t) if g is None else g for g, t in zip(gradients, wanted.values(), strict=True))
    found |= dict(zip(wanted, zeros, strict=True))
    return {name: tensor for name, tensor in found.items() if tensor.numel()}


def _of_autocast(x: Tensor) -> float:
    """Return the unit in the last place to which autocast rounds, 0 where it has no say."""
    low = None if x.dtype == torch.float64 else autocast_dtype(x)
    return 0.0 if low is None else torch.finfo(low).eps


def _is_differentiable(thing: Any) -> bool:
    return isinstance(thing, Tensor) and thing.is_floating_point()


def _nested(state: Any, fresh: Iterator[Tensor]) -> Any:
    return tuple(_nested(part, fresh) for part in state) if isinstance(state, tuple) else next(fresh)
