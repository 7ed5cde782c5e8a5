"""Known words, as sequences of their pieces: what may follow the pieces that are written so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

START, AFTER_WORD, AFTER_SIGN = range(3)  # the roots of three trees: what may begin there


class KnownWord(NamedTuple):
    """A word or a sign: the numbers of its pieces, whether a space is before it, and whether it is a sign."""

    pieces: tuple[int, ...]
    spaced: bool
    sign: bool


class Lexicon:
    """Which pieces continue, or begin, a known word.

    A place is a number: 0 is where no piece is written, `after` returns the others as they are met. Different words
    may begin with the same pieces, so that a place stands for all words that what was written may be a part of. Without
    a space, a sign may follow a word, and a word or a sign may follow a sign.

    Args:
        words: those that are known.
        size: how many pieces there are.
        end: the piece that ends a sentence; it may stand after a whole word.
    """

    def __init__(self, words: Iterable[KnownWord], size: int, end: int) -> None:
        self.size, self.end = size, end
        self.children: list[dict[int, int]] = [{}, {}, {}]
        self.next: dict[int, int] = {}  # of the last piece of a word, the root after it
        for word in words:
            roots = {START, AFTER_WORD, AFTER_SIGN} if word.spaced else {AFTER_WORD, AFTER_SIGN}
            if not (word.spaced or word.sign):
                roots = {AFTER_SIGN}
            for root in roots:
                self._insert(root, word)
        self.places = [frozenset([START])]
        self._numbers = {self.places[0]: 0}
        self._after: dict[tuple[int, int], int] = {}
        self._allowed: dict[int, Tensor] = {}

    def _insert(self, node: int, word: KnownWord) -> None:
        for piece in word.pieces:
            node = self.children[node].setdefault(piece, len(self.children))
            if node == len(self.children):
                self.children.append({})
        self.next[node] = AFTER_SIGN if word.sign else AFTER_WORD

    def after(self, place: int, piece: int) -> int:
        """Return the place after a piece more; one that is not allowed leads to the beginning."""
        found = self._after.get((place, piece))
        if found is None:
            nodes = {self.children[node][piece] for node in self.places[place] if piece in self.children[node]}
            nodes |= {self.next[node] for node in nodes if node in self.next} or (set() if nodes else {START})
            found = self._numbers.setdefault(frozenset(nodes), len(self.places))
            if found == len(self.places):
                self.places.append(frozenset(nodes))
            self._after[place, piece] = found
        return found

    def allowed(self, places: Sequence[int]) -> Tensor:
        """Return which pieces may follow at each place, bool [B, V]."""
        return torch.stack([self._at(place) for place in places])

    def _at(self, place: int) -> Tensor:
        found = self._allowed.get(place)
        if found is None:
            found = torch.zeros(self.size, dtype=torch.bool)
            nodes = self.places[place]
            found[torch.tensor([p for node in nodes for p in self.children[node]], dtype=torch.int64)] = True
            found[self.end] = any(root in nodes for root in (START, AFTER_WORD, AFTER_SIGN))
            self._allowed[place] = found
        return found
