"""What a step had inside when it returned, seen from outside: the new states and the local names that are rows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from tests.random_cells.cases import Case


class Inside:
    """While a sequence runs through the loop, notes what each step of a cell returns with; of no other case."""

    def __init__(self, cell: Any, case: Case, names: Sequence[str]) -> None:
        self.is_on, self.case, self.names = case.how == "record", case, names
        self.step: Any = getattr(type(cell), "step", None)
        sizes: Any = cell.state_sizes if self.is_on else ()
        self.states = list(sizes)
        self.found: list[list[dict[str, Tensor]]] = []

    def __enter__(self) -> None:
        self.found.append([])
        if self.is_on:
            sys.setprofile(self._event)

    def __exit__(self, *_: Any) -> None:
        if self.is_on:
            sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "return" and frame.f_code is self.step.__code__:
            after = arg if isinstance(arg, tuple) else (arg,)
            local = {name: frame.f_locals.get(name) for name in self.names}
            rows = {n: t for n, t in local.items() if isinstance(t, Tensor) and t.dim() == 2 and len(t) == 1}
            kept = {n: t.clone() for n, t in rows.items() if t.is_floating_point() and n not in self.states}
            self.found[-1].append(kept | dict(zip(self.states, after, strict=False)))

    def sequences(self) -> dict[str, Tensor]:
        """Return the sequences [T, B, …] of what every step had, zero behind the end of a sequence."""
        every = [step for sequence in self.found for step in sequence]
        names = [n for n in (every[0] if every else ()) if all(n in step for step in every)]
        return {name: torch.stack([self._column(name, each) for each in self.found], 1) for name in names}

    def _column(self, name: str, steps: list[dict[str, Tensor]]) -> Tensor:
        like = next(step[name] for sequence in self.found for step in sequence)
        behind = [like.new_zeros(like.shape[1:])] * (self.case.steps - len(steps))
        return torch.stack([*(step[name][0] for step in steps), *behind])
