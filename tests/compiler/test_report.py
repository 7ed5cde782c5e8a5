"""What explain() says is saved and recomputed: what the compiler counts so, each value written out once."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from everloop import Cell, H, I, Recurrent, param, state
from everloop.compiler.targets import llvm


class Again(Cell):
    """Functions of the state before, which the gradient asks for anew."""

    h = state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = torch.expm1(-h.square()) * torch.log1p(h.square()) * (1.1 + h.square()) ** 0.3
        return torch.tanh(x @ self.W.T + u @ self.R.T)


@pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
def test_what_is_recomputed_is_said() -> None:
    lines = [line for line in Recurrent(Again(2, 3)).explain().splitlines() if line.startswith("recomputed ")]
    for function in ("expm1(", "log1p(", "** 0.3"):
        assert any(function in line for line in lines), function


class Mixing(Cell):
    """Two states that each turn of a loop reads twice."""

    h, c = state(H), state(H)
    W, R = param(H, I), param(H, H)
    turns: int = 1

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        u = x @ self.W.T + h @ self.R.T
        for _ in range(self.turns):
            h, c = h + 0.1 * torch.exp(c * h + u), c - 0.1 * h * c
        return h, c


def test_a_plan_grows_with_the_step_and_not_faster() -> None:
    sizes = [len(Recurrent(Mixing(2, 3, turns=turns)).explain()) for turns in (3, 5, 7)]
    first, second = sizes[1] - sizes[0], sizes[2] - sizes[1]
    assert 0 < second < 1.3 * first, sizes


def test_every_name_of_a_plan_is_written_out() -> None:
    text = Recurrent(Mixing(2, 3, turns=4)).explain()
    saved = text[text.index("# saved for the gradient") :].split("\n\n")[0]
    known: set[str] = set()
    for line in [each for each in saved.splitlines()[1:] if "lies in the memory of" not in each]:
        left, right = re.split(r": | = ", line, maxsplit=1)
        used = set(re.findall(r"\b(?:v\d+|saved \d+|recomputed \d+)", right))
        assert used <= known, (line, known)
        known.add(left)
    assert len(known) > 4
