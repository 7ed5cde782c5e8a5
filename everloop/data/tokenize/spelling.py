"""A text as words and signs that can be joined again: a sign is spelled with the spaces beside it, words need none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from everloop.data.tokenize.words import words_of

END = "\n"


@dataclass(frozen=True)
class Splitting:
    """How a text is split into words: in lower case or as it is, by signs or by spaces alone; what ends a line."""

    lower: bool = False
    pretokenized: bool = False
    ends: str = END

    def lines(self, text: str) -> Iterator[list[str]]:
        """Yield the symbols of a text line by line; each line but the last ends with one of the characters `ends`."""
        text = text.lower() if self.lower else text
        return _lines(text, self.ends, str.split) if self.pretokenized else lines_of(text, self.ends)


def lines_of(text: str, ends: str = END) -> Iterator[list[str]]:
    """Yield the symbols of a text line by line; each line but the last ends with one of the characters `ends`.

    A sign is spelled with the spaces beside it, so that an opening quote (' "') is another symbol than a closing one
    ('" '). The beginning and the end of a line count as spaces. Runs of spaces are one, and those before 's, 're, 've,
    'll, 'd and 'm are none.
    """
    return _lines(text, ends, _line)


def is_sign(symbol: str) -> bool:
    """Return whether a symbol is a sign, no word."""
    sign = symbol.strip(" ")
    return len(sign) == 1 and sign != END and not (sign.isalnum() or sign == "_")


def spaced(left: str, right: str) -> bool:
    """Return whether a space stands between a symbol and the next."""
    if END in (left, right) or (right[0] in "'’" and not is_sign(right)):
        return False
    before, after = is_sign(left), is_sign(right)
    return (before and left[-1] == " ") or (after and right[0] == " ") or not (before or after)


def spellings(sign: str) -> list[str]:
    """Return all spellings of a sign, the given one first and the most similar ones next."""
    opened, closed = sign[0] == " ", sign[-1] == " "
    ways = [(opened, closed), (opened, not closed), (not opened, closed), (not opened, not closed)]
    return [" " * before + sign.strip(" ") + " " * after for before, after in ways]


def _lines(text: str, ends: str, split: Callable[[str], list[str]]) -> Iterator[list[str]]:
    *ended, last = re.split(f"([{ends}])", text)
    for line, end in zip(ended[::2], ended[1::2], strict=True):
        yield [*split(line), end]
    yield split(last)


def _line(line: str) -> list[str]:
    words, gaps, at = words_of(line), [], 0
    for word in words:
        start = line.index(word, at)
        gaps.append(" " * (start > at or not at))
        at = start + len(word)
    gaps.append(" ")
    return [gaps[i] + word + gaps[i + 1] if is_sign(word) else word for i, word in enumerate(words)]
