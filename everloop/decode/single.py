"""One symbol after another, each chosen at once: the most likely one, or one drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from everloop.decode.sampling import check_choice, probabilities, random_generator
from everloop.decode.writer import Hypothesis, Writer, evaluating, log_probabilities, pick, text_of


def greedy(model: Writer, sources: Sequence[Any], *, length: int = 200) -> list[Hypothesis]:
    """Return what a model writes for each source if it always takes the most likely symbol."""
    return _follow(model, sources, length, lambda log_probs: log_probs.argmax(-1))


def draw(
    model: Writer,
    sources: Sequence[Any],
    *,
    length: int = 200,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> list[Hypothesis]:
    """Return one draw for each source. The arguments are those of `sample`; repeat a source to draw more often."""
    check_choice(temperature, top_k, top_p)
    generator = random_generator(seed)

    def choose(log_probs: Tensor) -> Tensor:
        # on the CPU in float64, so that a seed gives the same draws on every device
        weights = probabilities(log_probs.cpu().double(), temperature, top_k, top_p)
        return torch.multinomial(weights, 1, generator=generator)[:, 0].to(log_probs.device)

    return _follow(model, sources, length, choose)


def _follow(model: Writer, sources: Sequence[Any], length: int, choose: Callable[[Tensor], Tensor]) -> list[Hypothesis]:
    with evaluating(model):
        logits, state = model.begin(sources)
        count = len(logits)
        rows = torch.arange(count, device=logits.device)  # which source each row of the state belongs to
        totals = torch.zeros(count, dtype=torch.float64, device=logits.device)
        written: list[list[int]] = [[] for _ in range(count)]
        finished = [False] * count
        for made in range(length):
            log_probs = log_probabilities(model, logits)
            symbols = choose(log_probs)
            totals[rows] += log_probs.gather(1, symbols[:, None])[:, 0].double()
            for row, symbol in zip(rows.tolist(), symbols.tolist(), strict=True):
                if symbol == model.stop:
                    finished[row] = True
                else:
                    written[row].append(symbol)
            if model.stop is not None:
                going = (symbols != model.stop).nonzero()[:, 0]
                if not len(going):
                    break
                if len(going) < len(symbols):
                    symbols, rows, state = symbols[going], rows[going], pick(state, going, moved=True)
            if made + 1 < length:
                logits, state = model.step(symbols, state)
    return [
        Hypothesis(tuple(numbers), text_of(model, source, numbers), total, total, done)
        for source, numbers, total, done in zip(sources, written, totals.tolist(), finished, strict=True)
    ]
