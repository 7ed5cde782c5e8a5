"""Do the targets agree? Values and every gradient of a layer, each installed target against eager."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from everloop.layers.arguments import leaves
from everloop.layers.operator import TARGETS, using

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
        UnsupportedError: a target cannot run this layer; the message names the operation and its line.
    """
    expected = _results(layer, x, options, "eager")
    comparisons = []
    for target in TARGETS:
        if target != "eager":
            found = _results(layer, x, options, target)
            comparisons += [_compare(target, n, found[n], expected[n], len(x)) for n in expected]
    return Agreement(tuple(comparisons))


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


def _compare(target: str, what: str, found: Tensor, expected: Tensor, steps: int) -> Comparison:
    if not found.numel():
        return Comparison(target, what, 0.0, 0.0)
    scale = max(float(expected.detach().abs().max()), 1.0)
    allowed = SLACK * torch.finfo(expected.dtype).eps * scale * max(steps, 1) ** 0.5
    difference = float((found - expected).detach().abs().max())
    return Comparison(target, what, difference if difference == difference else torch.inf, allowed)
