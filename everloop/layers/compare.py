"""Do two runs agree? Named tensors compared, within what rounding explains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from everloop.compiler.dtypes import arithmetic
from everloop.compiler.quantize import LEVELS

SLACK = 64  # units in the last place of arithmetic that a step may lose: the root of the 4096 terms of a long sum
MANY = 64  # numbers of a tensor whose errors average out
SIGMAS = 6  # of an average of errors at random
LOW = 2.0**-11  # what one rounding may lose in less than float32
SPREAD = 4  # times what the expected numbers themselves move where the inputs are rounded otherwise
Named = Mapping[str, Tensor]


@dataclass(frozen=True)
class Comparison:
    """One tensor on one target: its largest difference from what was expected, and what rounding explains.

    largest: the largest finite number expected; count: how many finite numbers were compared; bias: how far the factor
    that all numbers have in common is from 1, and how far rounding explains.
    """

    target: str
    what: str
    difference: float
    allowed: float
    largest: float
    count: int
    bias: float = 0.0
    allowed_bias: float = math.inf

    @property
    def agrees(self) -> bool:
        return self.difference <= self.allowed and not self.is_biased

    @property
    def is_biased(self) -> bool:
        """Whether the numbers have a wrong factor in common."""
        return abs(self.bias) > self.allowed_bias

    @property
    def relative(self) -> float:
        """The difference, as a part of the largest number."""
        return self.difference / self.largest if self.difference else 0.0

    def __str__(self) -> str:
        verdict = ("agrees" if self.count else "UNKNOWN: no finite number to compare,") if self.agrees else "DIFFERS"
        more = f", {self.bias_text}" if self.is_biased else ""
        return f"{self.target:6} {self.what:32} {verdict:8} {self.difference:.1e} of {self.allowed:.1e}{more}"

    @property
    def bias_text(self) -> str:
        """The factor in common, in words."""
        return f"all by a factor of {1 + self.bias:.4g}, where rounding explains 1 ± {self.allowed_bias:.1e}"


def rounding(dtype: torch.dtype, unit: float = 0.0) -> float:
    """Return what one step may lose, relative to the largest number of a tensor.

    Arithmetic: SLACK units in its last place. What is only stored in a dtype, as in bfloat16, or `unit` says is rounded
    on the way: one unit in that last place, twice the most that one rounding moves a number. The factors of a product
    are rounded at random, so that the error of a sum of K terms grows with the root of K, as the sum does: relative to
    it that is as of one factor; two factors and the result, each by a third of a unit on average, are half a unit.
    """
    stored = torch.finfo(dtype).eps if dtype != arithmetic(dtype) else 0.0
    return SLACK * torch.finfo(arithmetic(dtype)).eps + max(stored, unit)


def unit_of(tensors: Iterable[Tensor]) -> float:
    """Return the unit to which a step rounds that reads these: with matrices of int8 that of whole numbers, else 0."""
    return 1 / LEVELS if any(t.dtype == torch.int8 for t in tensors) else 0.0


def compare(
    target: str,
    found: Named,
    expected: Named,
    steps: int,
    perturbed: Callable[[], Iterable[Named]],
    unit: float = 0.0,
) -> tuple[Comparison, ...]:
    """Return the comparison of each tensor; the names of gradients begin with "gradient".

    Allowed is, relative to the largest number of a tensor, what `rounding` in a step may lose (unit: of numbers that
    are rounded to less than the dtypes of the results say) times the root of the number of steps, since errors at
    random add so; for gradients, one unit of the largest of all too. Numbers of less than float32 could all be wrong by
    some percent within that, so of MANY the factor that they have in common is compared too: rounding to the nearest
    moves numbers up as often as down, so that it is 1, but for what rounding in one step may lose (which may be the
    same in all steps, as that of a parameter) and SIGMAS standard errors. Where that is too little, `perturbed` gives
    what is expected with inputs rounded otherwise: SPREAD times as much as these move is allowed, and what is finite in
    one and not in another decides nothing.
    """
    largest = {name: _largest(t) for name, t in expected.items()}
    slopes = max((size for name, size in largest.items() if name.startswith("gradient")), default=0.0)
    allowed = {}
    for name, t in expected.items():
        last = max(torch.finfo(t.dtype).eps, unit)
        least = last * slopes if name.startswith("gradient") else 0.0  # what is left where large terms cancel
        allowed[name] = rounding(t.dtype, unit) * largest[name] * max(steps, 1) ** 0.5 + least
    decided: dict[str, Tensor] = {}  # where it is not everywhere
    moved = dict.fromkeys(expected, 0.0)  # the factor, by what rounds the inputs otherwise

    def comparison(name: str, t: Tensor) -> Comparison:
        where = decided.get(name)
        difference, once = _largest_difference(found[name], t, where), rounding(t.dtype, unit)
        bias, error = _bias(found[name], t) if once > LOW else (0.0, math.inf)
        allowed_bias = max(once + SIGMAS * error, SPREAD * moved[name])
        return Comparison(target, name, difference, allowed[name], largest[name], _count(t, where), bias, allowed_bias)

    first = tuple(comparison(*item) for item in expected.items())
    if all(c.agrees for c in first):
        return first
    for other in perturbed():
        for name, t in expected.items():
            same = other[name].isfinite() == t.isfinite()
            decided[name] = same & decided.get(name, same)
            allowed[name] = max(allowed[name], SPREAD * _largest_difference(other[name], t, decided[name]))
            moved[name] = max(moved[name], abs(_bias(other[name], t)[0]))
    return tuple(comparison(*item) for item in expected.items())


def _bias(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return how far the factor in found = factor * expected is from 1, and its standard error: infinite of few.

    The factor is that of least squares. Its error is estimated from what is left of each number without that number
    (the jackknife), as numbers may be wrong by as much as they like, each by its own.
    """
    finite = found.isfinite() & expected.isfinite()
    e = expected.detach()[finite].double()
    d = found.detach()[finite].double() - e
    size = e.square().sum()
    if len(e) < MANY or not size:
        return 0.0, math.inf
    factor = (d * e).sum() / size
    errors = (d - factor * e) * e / (1 - e.square() / size)
    error = float(errors.square().sum().sqrt() / size)
    return float(factor), error if error == error else math.inf


def _count(tensor: Tensor, where: Tensor | None) -> int:
    if where is None and _maximum(tensor) < torch.inf:
        return tensor.numel()
    return int((tensor.isfinite() & (True if where is None else where)).sum())


def _largest(tensor: Tensor) -> float:
    maximum = _maximum(tensor)
    return maximum if maximum < torch.inf else _maximum(tensor[tensor.isfinite()])


def _largest_difference(found: Tensor, expected: Tensor, where: Tensor | None) -> float:
    """Return the largest difference; infinite where one is a number and the other is none."""
    found, expected = found.detach(), expected.detach()
    maximum = _maximum(found - expected)
    if maximum < torch.inf and where is None:
        return maximum  # the rest takes ten times as long
    are_same = (found == expected) | (found.isnan() & expected.isnan())
    maximum = _maximum((found - expected)[~are_same if where is None else ~are_same & where])
    return maximum if maximum == maximum else torch.inf


def _maximum(tensor: Tensor) -> float:
    """Return the largest absolute value, NaN if there is one, and 0 of nothing."""
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0
