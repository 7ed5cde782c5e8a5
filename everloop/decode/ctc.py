"""CTC decoding: the most likely path, or a prefix beam search, with a character model by shallow fusion if wished."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everloop.data.batching.batch import sequence_mask
from everloop.decode.writer import Hypothesis, evaluating, join, pick
from everloop.errors import DataError, OptionError
from everloop.models.language_model import LanguageModel
from everloop.models.transcriber import Transcriber

Prefix = tuple[int, ...]


@dataclass(frozen=True)
class ShallowFusion:
    """A character model whose log-probabilities are added to those of a transcriber.

    Gülçehre et al., "On using monolingual corpora in neural machine translation", 2015.

    Args:
        model: a language model that knows every character of the transcriber.
        weight: its log-probabilities count this much.
        bonus: added for each character, since every further character costs probability.
        context: what stands before the text.
    """

    model: LanguageModel
    weight: float = 0.5
    bonus: float = 0.0
    context: str = "\n"


def greedy(model: Transcriber, sources: Sequence[Tensor]) -> list[Hypothesis]:
    """Return what the most likely path of each recording says; its log-probability is that of the path."""
    with evaluating(model):
        log_probs, steps = model(*model.read_in(sources))
        found = model.best_paths(log_probs, steps)
        mask = sequence_mask(steps, len(log_probs))
        totals = log_probs.max(-1).values.double().where(mask, 0).sum(0).tolist()
    return [Hypothesis(tuple(h), model.text(h), total, total, True) for h, total in zip(found, totals, strict=True)]


def beam(
    model: Transcriber,
    sources: Sequence[Tensor],
    *,
    width: int = 16,
    n_best: int = 1,
    fusion: ShallowFusion | None = None,
) -> list[list[Hypothesis]]:
    """Return the `n_best` texts for each recording, the best first. Arguments as of `prefix_beam`."""
    if width < 1 or not 1 <= n_best <= width:
        raise OptionError(f"beam width is {width} and n_best is {n_best}; expected 1 ≤ n_best ≤ beam width")
    with evaluating(model):
        log_probs, steps = model(*model.read_in(sources))
    found = []
    for b, count in enumerate(steps.tolist()):
        scores = None if fusion is None else Scores(fusion, model)
        kept = prefix_beam(log_probs[:count, b], width, model.blank, scores)[:n_best]
        found.append([Hypothesis(prefix, model.text(prefix), logp, score, True) for prefix, logp, score in kept])
    return found


def prefix_beam(
    log_probs: Tensor, width: int, blank: int, scores: Scores | None = None
) -> list[tuple[Prefix, float, float]]:
    """Return (text, log-probability, score), the best first: the paths that say the same add up.

    Graves and Jaitly, "Towards end-to-end speech recognition with recurrent neural networks", ICML 2014; Hannun et
    al., "First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs", 2014.

    Args:
        log_probs: log-probabilities [T, V + 1].
        width: texts kept after each step.
        blank: the number of the blank.
        scores: what a character model says of a text; it is added for ranking.
    """
    beams: dict[Prefix, tuple[float, float]] = {
        (): (0.0, -math.inf)
    }  # paths that end in a blank, and those that do not
    for row in log_probs.double().tolist():
        after: dict[Prefix, list[float]] = {}
        for prefix, (blanked, spoken) in beams.items():
            both = _plus(blanked, spoken)
            same = after.setdefault(prefix, [-math.inf, -math.inf])
            same[0] = _plus(same[0], both + row[blank])
            if prefix:
                same[1] = _plus(same[1], spoken + row[prefix[-1]])
            for symbol, log_prob in enumerate(row):
                if symbol == blank:
                    continue
                # the same character twice needs a blank in between
                before = blanked if prefix and symbol == prefix[-1] else both
                if before + log_prob > -math.inf:
                    longer = after.setdefault((*prefix, symbol), [-math.inf, -math.inf])
                    longer[1] = _plus(longer[1], before + log_prob)
        ranked = sorted(after, key=lambda p: -_score(p, after[p], scores))[:width]
        beams = {prefix: (after[prefix][0], after[prefix][1]) for prefix in ranked}
        if scores is not None:
            scores.read(ranked)
    found = [(prefix, _plus(*ends), _score(prefix, ends, scores)) for prefix, ends in beams.items()]
    return sorted(found, key=lambda entry: -entry[2])


def align(log_probs: Tensor, symbols: Sequence[int], blank: int) -> list[int]:
    """Return what the most likely path that says `symbols` has at each step: a place in `symbols`, or -1 for a blank.

    Args:
        log_probs: log-probabilities [T, V + 1].
        symbols: the numbers of the symbols.
        blank: the number of the blank.

    Raises:
        DataError: there are fewer steps than the symbols need.
    """
    # the symbols with a blank before, between and after them: what a path goes through (Graves et al. 2006, section 4)
    states = [blank, *(number for symbol in symbols for number in (symbol, blank))]
    count, numbers = len(states), torch.tensor(states)
    skips = torch.tensor([k > 1 and k % 2 == 1 and states[k] != states[k - 2] for k in range(count)])
    scores = torch.full((count,), -math.inf, dtype=torch.float64)
    scores[0] = 0.0  # before the first step, so that it stays or moves on by one
    moves = []
    for row in log_probs.detach().cpu().double():
        by_one, by_two = scores.roll(1), scores.roll(2)
        by_one[0], by_two[:2] = -math.inf, -math.inf
        by_two[~skips] = -math.inf
        best = torch.stack([scores, by_one, by_two]).max(0)
        scores = best.values + row[numbers]
        moves.append(best.indices.tolist())
    place = count - 1 if count == 1 or scores[-1] > scores[-2] else count - 2
    if scores[place] == -math.inf:
        raise DataError(
            f"{len(log_probs)} steps cannot say {len(symbols)} symbols, of which some may need a blank between"
        )
    path = []
    for move in reversed(moves):
        path.append((place - 1) // 2 if place % 2 else -1)
        place -= move[place]
    return path[::-1]


class Scores:
    """What a character model says of texts. Each text is read once, after the one it continues; new ones as a batch."""

    def __init__(self, fusion: ShallowFusion, model: Transcriber) -> None:
        self.fusion = fusion
        vocabulary = fusion.model.vocabulary
        self.device = fusion.model.head.weight.device
        known = "".join(model.vocabulary.symbols)
        self.numbers = vocabulary.encode(known, "the transcriber's characters").tolist()
        if vocabulary.units == "words" or len(self.numbers) != len(known):
            raise OptionError(f"the language model has {vocabulary.units}; expected one of characters")
        if missing := vocabulary.unknown_symbols(known):
            raise DataError(f"the language model does not know {', '.join(map(repr, missing))}, which transcripts hold")
        prompt = vocabulary.encode(fusion.context, "the context").to(self.device, torch.int64)
        with evaluating(fusion.model):
            logits, state = fusion.model.begin(prompt[:, None])
        self.next: dict[Prefix, list[float]] = {(): self._log_probs(logits)[0]}
        self.states: dict[Prefix, Any] = {(): state}
        self.totals: dict[Prefix, float] = {(): 0.0}

    def __call__(self, prefix: Prefix) -> float:
        """Return the weighted log-probability of a text, with the bonus for its length; what it continues is read."""
        total = self.totals.get(prefix)
        if total is None:
            total = self.totals[prefix] = self.totals[prefix[:-1]] + self.next[prefix[:-1]][prefix[-1]]
        return self.fusion.weight * total + self.fusion.bonus * len(prefix)

    def read(self, prefixes: Sequence[Prefix]) -> None:
        """Read the texts that are new, so that those which continue them can be scored."""
        new = [prefix for prefix in prefixes if prefix not in self.next]
        if not new:
            return
        symbols = torch.tensor([self.numbers[prefix[-1]] for prefix in new], device=self.device)
        with evaluating(self.fusion.model):
            logits, state = self.fusion.model.step(symbols, join([self.states[prefix[:-1]] for prefix in new]))
        for i, (prefix, log_probs) in enumerate(zip(new, self._log_probs(logits), strict=True)):
            self.next[prefix] = log_probs
            self.states[prefix] = pick(state, torch.tensor([i], device=self.device), moved=True)

    def _log_probs(self, logits: Tensor) -> list[list[float]]:
        found: list[list[float]] = logits.double().log_softmax(-1)[:, self.numbers].tolist()
        return found


def _score(prefix: Prefix, ends: Sequence[float], scores: Scores | None) -> float:
    return _plus(*ends) + (0.0 if scores is None else scores(prefix))


def _plus(a: float, b: float) -> float:
    """Return log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))
