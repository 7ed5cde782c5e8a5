"""Beam search: the most likely sequences, several hypotheses at a time, all sources as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from everloop.decode.writer import Hypothesis, Writer, evaluating, log_probabilities, pick, text_of
from everloop.errors import OptionError


def beam(
    model: Writer,
    sources: Sequence[Any],
    *,
    width: int = 5,
    length: int = 200,
    length_penalty: float = 1.0,
    n_best: int = 1,
) -> list[list[Hypothesis]]:
    """Return the `n_best` hypotheses for each source, the best first.

    A hypothesis that ends leaves the beam, which is then narrower by one (Sutskever, Vinyals and Le 2014); so width 1
    is greedy decoding. Finished hypotheses rank before those cut off at `length`.

    Args:
        model: what writes.
        sources: what it reads, one for each list that is returned.
        width: hypotheses kept at a time.
        length: the most symbols written.
        length_penalty: log-probabilities are divided by ((5 + length) / 6) to this power, which favours long
            hypotheses (Wu et al., "Google's neural machine translation system", 2016); 0: not at all.
        n_best: hypotheses returned, at most `width`.
    """
    if width < 1 or not 1 <= n_best <= width:
        raise OptionError(f"beam width is {width} and n_best is {n_best}; expected 1 ≤ n_best ≤ beam width")
    with evaluating(model):
        search = _Search(model, sources, width, length_penalty)
        for _ in range(length):
            if not search.advance():
                break
        search.close()
    return [sorted(done, key=lambda h: (not h.finished, -h.score))[:n_best] for done in search.done]


class _Search:
    """The beams of all sources that are not done. totals: [N, W]; written: [N, W, steps]; the state has N·W rows."""

    def __init__(self, model: Writer, sources: Sequence[Any], width: int, penalty: float) -> None:
        self.model, self.sources, self.width, self.penalty = model, sources, width, penalty
        logits, state = model.begin(sources)
        count, device = len(logits), logits.device
        rows = torch.arange(count, device=device).repeat_interleave(width)
        self.logits, self.state = logits[rows], pick(state, rows, moved=True)
        self.totals = torch.full((count, width), -torch.inf, dtype=torch.float64, device=device)
        self.totals[:, 0] = 0
        self.written = torch.zeros(count, width, 0, dtype=torch.int64, device=device)
        self.source = torch.arange(count, device=device)
        self.symbols: Tensor | None = None
        self.done: list[list[Hypothesis]] = [[] for _ in range(count)]

    def advance(self) -> bool:
        """Write one symbol more; return whether any hypothesis goes on."""
        if self.symbols is not None:
            self.logits, self.state = self.model.step(self.symbols.flatten(), self.state)
        log_probs = log_probabilities(self.model, self.logits).double()
        size = log_probs.shape[-1]
        totals = (self.totals[..., None] + log_probs.view(*self.totals.shape, size)).flatten(1)
        top, places = totals.topk(self.width)
        came, symbols = places // size, places % size
        taken = torch.tensor([len(self.done[s]) for s in self.source.tolist()], device=top.device)
        kept = torch.isfinite(top) & (torch.arange(self.width, device=top.device) < self.width - taken[:, None])
        before = self.written.gather(1, came[..., None].expand(-1, -1, self.written.shape[-1]))
        ended = kept & (symbols == (-1 if self.model.stop is None else self.model.stop))
        for n, slot in ended.nonzero().tolist():
            self._finish(int(self.source[n]), before[n, slot].tolist(), float(top[n, slot]), True)
        self.totals = top.where(kept & ~ended, -torch.inf)
        self.written, self.symbols = torch.cat([before, symbols[..., None]], -1), symbols
        rows = torch.arange(len(top), device=top.device)[:, None] * self.width + came
        going = torch.isfinite(self.totals).any(1)
        if not bool(going.all()):
            self.totals, self.written, self.source = self.totals[going], self.written[going], self.source[going]
            rows, self.symbols = rows[going], self.symbols[going]
        self.state = pick(self.state, rows.flatten(), moved=not bool(going.all()))
        return bool(going.any())

    def close(self) -> None:
        """Take in the hypotheses that did not end."""
        for n, slot in torch.isfinite(self.totals).nonzero().tolist():
            self._finish(int(self.source[n]), self.written[n, slot].tolist(), float(self.totals[n, slot]), False)

    def _finish(self, source: int, numbers: list[int], logp: float, finished: bool) -> None:
        length = len(numbers) + finished
        score = logp / ((5 + length) / 6) ** self.penalty
        text = text_of(self.model, self.sources[source], numbers)
        self.done[source].append(Hypothesis(tuple(numbers), text, logp, score, finished))
