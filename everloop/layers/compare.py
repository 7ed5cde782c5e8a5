"""Do two runs say the same? Named tensors compared, with what rounding explains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

SLACK = 64  # units in the last place that one step may lose, relative to the largest number of a tensor
SPREAD = 4  # times what the expected numbers themselves move where the inputs are rounded otherwise
Named = Mapping[str, Tensor]


@dataclass(frozen=True)
class Comparison:
    """One tensor on one target: its largest difference from what was expected, and what rounding explains.

    largest: the largest finite number expected; count: how many finite numbers were compared.
    """

    target: str
    what: str
    difference: float
    allowed: float
    largest: float
    count: int

    @property
    def agrees(self) -> bool:
        return self.difference <= self.allowed

    @property
    def relative(self) -> float:
        """The difference, as a part of the largest number."""
        return self.difference / self.largest if self.difference else 0.0

    def __str__(self) -> str:
        verdict = "agrees" if self.agrees else "DIFFERS"
        return f"{self.target:6} {self.what:32} {verdict:8} {self.difference:.1e} of {self.allowed:.1e}"


def compare(
    target: str, found: Named, expected: Named, steps: int, again: Callable[[], Iterable[Named]]
) -> tuple[Comparison, ...]:
    """Return the comparison of each tensor; the names of gradients begin with "gradient".

    Allowed is, relative to the largest number of a tensor, SLACK units in the last place of its dtype, times the square
    root of the number of steps. Where that is too little, `again` gives what is expected with inputs rounded otherwise:
    SPREAD times as much as these move is allowed, and numbers that are finite in one and not in another decide nothing.
    """
    slopes = max((_largest(t) for n, t in expected.items() if n.startswith("gradient")), default=0.0)
    allowed, decided = {}, {}
    for name, t in expected.items():
        unit = torch.finfo(t.dtype).eps
        least = slopes * unit if name.startswith("gradient") else 0.0
        allowed[name] = SLACK * unit * max(_largest(t), least) * max(steps, 1) ** 0.5
        decided[name] = torch.ones_like(t, dtype=torch.bool)

    def comparisons() -> tuple[Comparison, ...]:
        return tuple(
            Comparison(target, n, _difference(found[n], t, decided[n]), allowed[n], _largest(t), _count(t, decided[n]))
            for n, t in expected.items()
        )

    first = comparisons()
    if all(c.agrees for c in first):
        return first
    for other in again():
        for name, t in expected.items():
            decided[name] &= other[name].isfinite() == t.isfinite()
            allowed[name] = max(allowed[name], SPREAD * _difference(other[name], t, decided[name]))
    return comparisons()


def _count(tensor: Tensor, decided: Tensor) -> int:
    return int((tensor.isfinite() & decided).sum())


def _largest(tensor: Tensor) -> float:
    finite = tensor.detach()[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _difference(found: Tensor, expected: Tensor, decided: Tensor) -> float:
    """Return the largest difference; infinite where one is a number and the other is none."""
    found, expected = found.detach()[decided], expected.detach()[decided]
    apart = (found - expected).abs()[~((found == expected) | (found.isnan() & expected.isnan()))]
    difference = float(apart.max()) if apart.numel() else 0.0
    return difference if difference == difference else torch.inf
