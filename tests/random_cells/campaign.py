"""Checks many cells by number; each failure is made small and told."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.random_cells.cases import Case, draw_case
from tests.random_cells.cells import draw_cell
from tests.random_cells.check import Outcome, check
from tests.random_cells.quick import cache_in, unoptimised
from tests.random_cells.report import script
from tests.random_cells.shrink import shrink
from tests.random_cells.source import Drawn


@dataclass
class Tally:
    """compiled and eager: how many are right; void: how many PyTorch refuses; failures: the shrunk ones by number."""

    compiled: int = 0
    eager: int = 0
    void: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def checked(self) -> int:
        return self.compiled + self.eager

    @property
    def share(self) -> float:
        """The share of the checked cells that are compiled."""
        return self.compiled / max(self.checked, 1)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.compiled + other.compiled,
            self.eager + other.eager,
            self.void + other.void,
            self.reasons + other.reasons,
            self.failures | other.failures,
        )


def drawn(seed: int, number: int) -> tuple[Drawn, Case]:
    """Return the cell of this number and its call, always the same."""
    rng = random.Random(f"{seed} {number}")
    cell = draw_cell(rng)
    return cell, draw_case(rng, cell)


def run(seed: int, numbers: Iterable[int], tries: int = 300) -> Iterator[Tally]:
    """Yield the tally of each cell in turn."""
    for number in numbers:
        cell, case = drawn(seed, number)
        with unoptimised(not case.optimised):
            outcome = check(cell, case)
            tally = Tally(void=1) if outcome.kind == "void" else _count(outcome)
            if outcome.kind == "wrong":
                tally.failures[number] = script(*shrink(cell, case, outcome, tries))
        yield tally


def checked_block(block: tuple[int, int, int, int]) -> Tally:
    """Return the tally of (seed, first, count, tries), which another process may send."""
    seed, first, count, tries = block
    torch.set_num_threads(1)
    total = Tally()
    with tempfile.TemporaryDirectory() as folder, cache_in(Path(folder)):
        for tally in run(seed, range(first, first + count), tries):
            total += tally
    return total


def _count(outcome: Outcome) -> Tally:
    reason = outcome.reason.split(" (drawn")[0]
    return Tally(int(outcome.compiled), int(not outcome.compiled), reasons=Counter([reason] if reason else []))
