"""Byte-pair encoding of words: the pair of parts that is most frequent is joined, again and again.

Sennrich, Haddow and Birch, "Neural machine translation of rare words with subword units", ACL 2016.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import pairwise

Pair = tuple[str, str]


def learn_merges(words: Mapping[str, int], count: int) -> list[Pair]:
    """Return the `count` pairs to join, in order, learned from words and how often each occurs."""
    spelled = [letters(word) for word in words]
    weights = list(words.values())
    totals: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, parts in enumerate(spelled):
        for pair in pairwise(parts):
            totals[pair] += weights[number]
            places[pair].add(number)
    # entries of the heap may be out of date; the count in `totals` is what holds
    heap = [(-total, pair) for pair, total in totals.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < count:
        negative, best = heapq.heappop(heap)
        if totals[best] != -negative:
            if totals[best] > 0:
                heapq.heappush(heap, (-totals[best], best))
            continue
        if -negative < 2:
            break
        merges.append(best)
        changed: set[Pair] = set()
        for number in places.pop(best):
            before = spelled[number]
            after = spelled[number] = joined(before, best)
            for pair in pairwise(before):
                totals[pair] -= weights[number]
            for pair in pairwise(after):
                totals[pair] += weights[number]
                places[pair].add(number)
                changed.add(pair)
        totals[best] = 0
        for pair in sorted(changed):
            heapq.heappush(heap, (-totals[pair], pair))
    return merges


def merge(word: str, ranks: Mapping[Pair, int]) -> list[str]:
    """Return the parts of a word after all merges that apply, the earliest learned first."""
    parts = letters(word)
    while len(parts) > 1:
        best = min(pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        parts = joined(parts, best)
    return parts


def letters(word: str) -> list[str]:
    """Return the letters of a word; the mark of a space stays with the first of them."""
    return [word[:2], *word[2:]] if word.startswith("▁") else list(word)


def joined(parts: list[str], pair: Pair) -> list[str]:
    """Return the parts with every occurrence of `pair` joined, from the left."""
    result: list[str] = []
    for part in parts:
        if result and (result[-1], part) == pair:
            result[-1] += part
        else:
            result.append(part)
    return result
