"""The prediction tree: from a prompt, the most likely continuations with their probabilities, level by level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from everloop.decode.writer import evaluating, log_probabilities, pick, text_of, writer
from everloop.errors import OptionError


@dataclass(frozen=True)
class Branch:
    """One symbol that may come next.

    Args:
        symbol: its number.
        text: what it says; "" for the stop symbol.
        probability: of this symbol after those before it.
        cumulative: of all symbols from the prompt to this one.
        children: the symbols that may follow, the most likely first.
    """

    symbol: int
    text: str
    probability: float
    cumulative: float
    children: tuple[Branch, ...] = ()


@dataclass(frozen=True)
class Tree:
    """A prompt and what may follow it."""

    prompt: str
    children: tuple[Branch, ...]

    def paths(self) -> Iterator[tuple[str, float]]:
        """Yield each continuation down to a leaf, with its probability; the most likely first."""
        ends = sorted(_ends("", self.children), key=lambda end: -end[1])
        yield from ends

    def __len__(self) -> int:
        """The number of branches."""
        return sum(1 for _ in _all(self.children))


@dataclass
class _Open:
    """A branch while the tree grows. `row` is its row in the state."""

    symbol: int
    probability: float
    cumulative: float
    before: _Open | None
    row: int
    children: list[_Open]


def tree(model: Any, prompt: Any, width: int = 4, depth: int = 6, min_probability: float = 0.001) -> Tree:
    """Return the tree of what a model may write after a prompt (for a translator: of a sentence's translations).

    A level is computed as one batch from the states of the level above; no prefix is computed twice.

    Args:
        model: a language model, or any model that writes symbols.
        prompt: what it reads first.
        width: branches of each branch.
        depth: levels.
        min_probability: branches whose cumulative probability is smaller are cut.
    """
    if width < 1 or depth < 1 or not 0 <= min_probability < 1:
        raise OptionError(
            f"width is {width}, depth {depth} and min_probability {min_probability}; "
            "expected at least 1, at least 1, and a probability below 1"
        )
    by = writer(model)
    root = _Open(-1, 1.0, 1.0, None, 0, [])
    with evaluating(by):
        logits, state = by.begin([prompt])
        level = [root]
        for floor in range(depth):
            if floor:
                rows = torch.tensor([branch.row for branch in level], device=logits.device)
                symbols = torch.tensor([branch.symbol for branch in level], device=logits.device)
                logits, state = by.step(symbols, pick(state, rows, moved=True))
            likeliest, symbols = log_probabilities(by, logits).double().exp().topk(min(width, logits.shape[-1]))
            below = []
            for row, branch in enumerate(level):
                for probability, symbol in zip(likeliest[row].tolist(), symbols[row].tolist(), strict=True):
                    cumulative = branch.cumulative * probability
                    if probability > 0 and cumulative >= min_probability:
                        branch.children.append(_Open(symbol, probability, cumulative, branch, row, []))
                below += [child for child in branch.children if child.symbol != by.stop]
            level = below
            if not level:
                break
    return Tree(str(prompt), tuple(_closed(by, child, str(prompt)) for child in root.children))


def _closed(by: Any, branch: _Open, before: str) -> Branch:
    text = "" if branch.symbol == by.stop else _piece(by, branch.symbol, before)
    children = tuple(_closed(by, child, before + text) for child in branch.children)
    return Branch(branch.symbol, text, branch.probability, branch.cumulative, children)


def _piece(by: Any, symbol: int, before: str) -> str:
    return text_of(by, before, [symbol])


def _ends(before: str, branches: tuple[Branch, ...]) -> Iterator[tuple[str, float]]:
    for branch in branches:
        if branch.children:
            yield from _ends(before + branch.text, branch.children)
        else:
            yield before + branch.text, branch.cumulative


def _all(branches: tuple[Branch, ...]) -> Iterator[Branch]:
    for branch in branches:
        yield branch
        yield from _all(branch.children)
