"""Do the targets agree? Values and every gradient of a layer, each installed target against eager."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from everloop.cell import Cell
from everloop.errors import CellError
from everloop.layers.arguments import leaves
from everloop.layers.operator import TARGETS, using
from everloop.layers.recurrent import Recurrent

SLACK = 64  # units in the last place that one step may lose, relative to the largest number of a tensor


@dataclass(frozen=True)
class Comparison:
    """One tensor on one target: its largest difference from eager, and what rounding explains."""

    target: str
    what: str
    difference: float
    allowed: float

    @property
    def agrees(self) -> bool:
        return self.difference <= self.allowed

    def __str__(self) -> str:
        verdict = "agrees" if self.agrees else "DIFFERS"
        return f"{self.target:6} {self.what:32} {verdict:8} {self.difference:.1e} of {self.allowed:.1e}"


@dataclass(frozen=True)
class Agreement:
    """What `agree` found; true if every target agrees."""

    comparisons: tuple[Comparison, ...]

    def __bool__(self) -> bool:
        return all(c.agrees for c in self.comparisons)

    def __str__(self) -> str:
        return "\n".join(map(str, self.comparisons))


def agree(layer: nn.Module, x: Tensor, **options: Any) -> Agreement:
    """Run `layer` over x on every installed target and compare with eager.

    The outputs, the final states, the gradients of x, of given states and of all parameters are compared, with
    the same random numbers (dropout masks) on every target.

    Args:
        layer: any layer or model of this library whose call returns tensors, nested in tuples.
        x: its input.
        options: further arguments of the call, such as lengths, reset and state.

    Raises:
        CellError: a bare cell was given.
        UnsupportedError: a target cannot run this layer; the message names the operation and its line.
    """
    if isinstance(layer, Cell):
        raise CellError(f"agree: {type(layer).__name__} is a bare cell, which no target runs; wrap it in Recurrent")
    comparisons = []
    with _without_targets(layer):
        expected = _results(layer, x, options, "eager")
        slopes = max((_size(t) for n, t in expected.items() if n.startswith("gradient")), default=0.0)
        for target in TARGETS:
            if target == "eager" or (target == "llvm" and importlib.util.find_spec("llvmlite") is None):
                continue
            found = _results(layer, x, options, target)
            for n, t in expected.items():
                least = slopes * torch.finfo(t.dtype).eps if n.startswith("gradient") else 0.0
                comparisons.append(_compare(target, n, found[n], t, len(x), least))
    return Agreement(tuple(comparisons))


@contextmanager
def _without_targets(layer: nn.Module) -> Iterator[None]:
    """Let no layer name a target of its own inside the block."""
    named = [(m, m.target) for m in layer.modules() if isinstance(m, Recurrent)]
    try:
        for m, _ in named:
            m.target = None
        yield
    finally:
        for m, target in named:
            m.target = target


def _size(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0


def _results(layer: nn.Module, x: Tensor, options: dict[str, Any], target: str) -> dict[str, Tensor]:
    given = x.detach().requires_grad_(x.is_floating_point())
    state = options.get("state")
    states = [] if state is None else [s.detach().requires_grad_() for s in leaves(state)]
    fresh = iter(states)
    call = options if state is None else {**options, "state": _nested(state, fresh)}
    with using(target), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        results = leaves(layer(given, **call))
        weights = [torch.randn(r.shape, dtype=r.dtype) for r in results]
        loss = sum((r * w).sum() for r, w in zip(results, weights, strict=True))
        wanted = {"gradient of x": given} if given.requires_grad else {}
        wanted |= {f"gradient of state {k}": s for k, s in enumerate(states)}
        wanted |= {f"gradient of {n}": p for n, p in layer.named_parameters() if p.requires_grad}
        assert isinstance(loss, Tensor)
        slopes = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    found = {"output": results[0]} | {f"state {k}": s for k, s in enumerate(results[1:])}
    zeros = (torch.zeros_like(t) if g is None else g for g, t in zip(slopes, wanted.values(), strict=True))
    return found | dict(zip(wanted, zeros, strict=True))


def _nested(state: Any, fresh: Iterator[Tensor]) -> Any:
    return tuple(_nested(part, fresh) for part in state) if isinstance(state, tuple) else next(fresh)


def _compare(target: str, what: str, found: Tensor, expected: Tensor, steps: int, least: float) -> Comparison:
    if not found.numel():
        return Comparison(target, what, 0.0, 0.0)
    scale = max(_size(expected), least)
    allowed = SLACK * torch.finfo(expected.dtype).eps * scale * max(steps, 1) ** 0.5
    difference = float((found - expected).detach().abs().max())
    return Comparison(target, what, difference if difference == difference else torch.inf, allowed)
