"""Drawing with a generator of strokes: where the pen goes, step by step, until the drawing ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everloop.data.datasets.strokes import END, lines_of
from everloop.decode.sampling import probabilities, random_generator
from everloop.decode.writer import evaluating, pick
from everloop.errors import OptionError
from everloop.models.generator import Generator


@dataclass(frozen=True)
class Sketch:
    """A drawing. steps: [T, 3] as in `Drawings`, without the last; `finished` says whether the model ended it."""

    given: Any
    steps: Tensor
    finished: bool

    @property
    def lines(self) -> list[Tensor]:
        """The strokes, each the points [n, 2] of a line."""
        return lines_of(self.steps)


def sketch(
    model: Generator,
    sources: Sequence[Any],
    *,
    temperature: float = 0.4,
    length: int = 200,
    seed: int | None = None,
) -> list[Sketch]:
    """Return a drawing of each source, all as one batch.

    Args:
        model: a generator of strokes.
        sources: what is given, for instance labels.
        temperature: below 1 tidier, 0 always the most likely way; see `Mixture.draw`.
        length: the most steps of a drawing.
        seed: the same seed gives the same drawings.

    Raises:
        OptionError: the generator writes symbols.
    """
    if model.vocabulary is not None:
        raise OptionError("this generator writes symbols; see everloop.decode.generate")
    if not 0 <= temperature < float("inf") or length < 1:
        raise OptionError(f"temperature is {temperature} and length {length}; expected 0 or more, and at least 1")
    generator = random_generator(seed)
    written: list[list[Tensor]] = [[] for _ in sources]
    finished = [False] * len(sources)
    with evaluating(model):
        given = model.read_in(sources)
        rows = torch.arange(len(sources), device=given.device)
        before, state = model.head.weight.new_tensor([0, 0, END]).expand(len(sources), 3), None
        for _ in range(length):
            numbers, state = model(given, before[None], state)
            mixture, pens = model.drawn(numbers[0].cpu().double())
            points = mixture.draw(temperature, generator)
            pen = torch.multinomial(probabilities(pens, temperature), 1, generator=generator)
            steps = torch.cat([points, pen], 1).to(before)
            for row, step in zip(rows.tolist(), steps, strict=True):
                if step[2] == END:
                    finished[row] = True
                else:
                    written[row].append(step.cpu())
            going = (steps[:, 2] != END).nonzero()[:, 0]
            if not len(going):
                break
            rows, given, before, state = rows[going], given[going], steps[going], pick(state, going, moved=True)
    empty = torch.zeros(0, 3)
    drawn = [torch.stack(steps).float() if steps else empty for steps in written]
    return [Sketch(*row) for row in zip(sources, drawn, finished, strict=True)]
