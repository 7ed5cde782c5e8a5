"""The layered layout of a data flow: columns, the order in each, and heights at which lines run straight.

Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures", 1981; straight lines
after Brandes and Köpf, "Fast and simple horizontal coordinate assignment", 2001.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

STARTS, SWEEPS, SETTLING = 6, 4, 40


@dataclass(frozen=True)
class Passing:
    """Where the line from `source` to later columns passes through a column."""

    source: int
    column: int


Key = int | Passing  # what stands in a column: a node by its number, or a line


@dataclass
class Columns:
    """Nodes and passing lines, column by column, each from the top down; `links` lead to the next column."""

    items: list[list[Key]]
    links: list[list[tuple[Key, Key]]]
    weights: dict[tuple[Key, Key], float]

    def cost(self, near: int | None = None) -> tuple[int, float]:
        """Return how often links cross, and how far they go up and down; of those near one column if it is given."""
        places = range(len(self.links)) if near is None else range(max(0, near - 1), min(near + 1, len(self.links)))
        crossings, climb = 0, 0.0
        for k in places:
            left = {item: n for n, item in enumerate(self.items[k])}
            right = {item: n for n, item in enumerate(self.items[k + 1])}
            ends = [(left[a], right[b]) for a, b in self.links[k]]
            crossings += sum((a - c) * (b - d) < 0 for n, (a, b) in enumerate(ends) for c, d in ends[:n])
            middle = (len(left) - len(right)) / 2
            climb += sum(
                self.weights[link] * abs(a - b - middle) for link, (a, b) in zip(self.links[k], ends, strict=True)
            )
        return crossings, climb


def columns_of(
    edges: Mapping[int, Sequence[int]],
    first: Sequence[int],
    last: Sequence[int],
    weights: Mapping[tuple[int, int], float],
) -> Columns:
    """Return the columns of a graph without cycles, crossing as little as sweeps by medians find.

    edges: the targets of each node; first, last: what stands in the outer columns, from the top down, as it stays;
    weights: how much an edge should run straight, by (source, target); 1 for others.
    """
    column = _numbers(edges, first, last)
    items: list[list[Key]] = [[] for _ in range(max(column.values()) + 1)]
    for key, number in column.items():
        if key not in first and key not in last:
            items[number].append(key)
    items[0] = [*first, *items[0]]
    items[-1] = [*items[-1], *last]
    links: list[list[tuple[Key, Key]]] = [[] for _ in items[1:]]
    wanted: dict[tuple[Key, Key], float] = {}
    for source, targets in edges.items():
        end = max((column[t] for t in targets), default=0)
        before: Key = source
        for k in range(column[source], end):
            here = [t for t in dict.fromkeys(targets) if column[t] == k + 1]
            onward = [Passing(source, k + 1)] if end > k + 1 else []
            items[k + 1] += onward
            following: list[Key] = [*here, *onward]
            links[k] += [(before, item) for item in following]
            wanted |= {(before, t): weights.get((source, t), 1.0) for t in here}
            beyond = [weights.get((source, t), 1.0) for t in targets if column[t] > k + 1]
            wanted |= {(before, p): 8.0 if isinstance(before, Passing) else max(2.0, *beyond) for p in onward}
            before = Passing(source, k + 1)
    found = Columns(items, links, wanted)
    _order(found, is_fixed=(bool(first), bool(last)))
    return found


def _numbers(edges: Mapping[int, Sequence[int]], first: Sequence[int], last: Sequence[int]) -> dict[int, int]:
    """Return the column of each node: the longest way to it from the first one."""
    into: dict[int, list[int]] = defaultdict(list)
    for source, targets in edges.items():
        for target in targets:
            into[target].append(source)
    column: dict[int, int] = {}

    def number(key: int) -> int:
        if key not in column:
            column[key] = 0 if key in first else max((number(s) + 1 for s in into[key]), default=1)
        return column[key]

    for key in [*first, *edges, *into, *last]:
        number(key)
    end = max(n for key, n in column.items() if key not in last) + 1
    return column | dict.fromkeys(last, end)


def _order(columns: Columns, is_fixed: tuple[bool, bool]) -> None:
    inner = range(is_fixed[0], len(columns.items) - is_fixed[1])
    best, kept = columns.cost(), [list(items) for items in columns.items]
    chance = random.Random(0)
    for _ in range(STARTS):
        for sweep in range(SWEEPS):
            ahead = sweep % 2 == 0
            for k in inner if ahead else reversed(inner):
                _by_neighbours(columns, k, ahead)
            _swap(columns, inner)
            if (cost := columns.cost()) < best:
                best, kept = cost, [list(items) for items in columns.items]
        for k in inner:
            chance.shuffle(columns.items[k])
    columns.items[:] = kept


def _by_neighbours(columns: Columns, k: int, ahead: bool) -> None:
    """Sort a column by the mean place of what it is linked to on one side; what has nothing there stays."""
    other = k - 1 if ahead else k + 1
    if not 0 <= other < len(columns.items):
        return
    at = {item: n for n, item in enumerate(columns.items[other])}
    places: dict[Key, list[int]] = defaultdict(list)
    for a, b in columns.links[min(k, other)]:
        mine, theirs = (b, a) if ahead else (a, b)
        places[mine].append(at[theirs])
    size = len(columns.items[k])
    ranks = {
        item: sum(p) / len(p) if (p := places[item]) else n * len(at) / size for n, item in enumerate(columns.items[k])
    }
    columns.items[k].sort(key=ranks.__getitem__)


def _swap(columns: Columns, inner: Iterable[int]) -> None:
    """Swap neighbours as long as that saves crossings or ways."""
    improved = True
    while improved:
        improved = False
        for k in inner:
            items, best = columns.items[k], columns.cost(k)
            for n in range(len(items) - 1):
                items[n], items[n + 1] = items[n + 1], items[n]
                if (cost := columns.cost(k)) < best:
                    best, improved = cost, True
                else:
                    items[n], items[n + 1] = items[n + 1], items[n]


def heights(columns: Columns, height: Mapping[int, float], gap: float) -> dict[Key, float]:
    """Return the middle of each item, from 0 down: at least `gap` apart in a column, linked ones straight if they can.

    height: of each node; lines that pass have none.
    """
    blocks = _blocks(columns)
    above: dict[int, list[tuple[int, float]]] = defaultdict(list)
    below: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for items in columns.items:
        for a, b in pairwise(items):
            apart = (_height(a, height) + _height(b, height)) / 2 + gap
            above[blocks[b]].append((blocks[a], apart))
            below[blocks[a]].append((blocks[b], apart))
    order = _sorted_blocks(set(blocks.values()), above)
    at: dict[int, float] = {}
    for block in order:
        at[block] = max((at[a] + apart for a, apart in above[block]), default=0.0)
    pulls: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for (a, b), weight in columns.weights.items():
        if blocks[a] != blocks[b]:
            pulls[blocks[a]].append((blocks[b], weight))
            pulls[blocks[b]].append((blocks[a], weight))
    for turn in range(SETTLING):
        for block in order if turn % 2 else reversed(order):
            low = max((at[a] + apart for a, apart in above[block]), default=-1e9)
            high = min((at[b] - apart for b, apart in below[block]), default=1e9)
            if pulls[block]:
                at[block] = min(max(_median([(at[b], w) for b, w in pulls[block]]), low), high)
    top = min(at[blocks[i]] - _height(i, height) / 2 for i in blocks)
    return {item: at[block] - top for item, block in blocks.items()}


def _height(item: Key, height: Mapping[int, float]) -> float:
    return height[item] if isinstance(item, int) else 0.0


def _blocks(columns: Columns) -> dict[Key, int]:
    """Return, for each item, the number of the straight line it stands on; straight links never cross."""
    block = {item: n for n, item in enumerate(item for items in columns.items for item in items)}
    for k, links in enumerate(columns.links):
        left = {item: n for n, item in enumerate(columns.items[k])}
        right = {item: n for n, item in enumerate(columns.items[k + 1])}
        straight: list[tuple[int, int]] = []
        for a, b in sorted(links, key=lambda link: (-columns.weights[link], abs(left[link[0]] - right[link[1]]))):
            p, q = left[a], right[b]
            if all((p - c) * (q - d) > 0 for c, d in straight):
                straight.append((p, q))
                block[b] = block[a]
    return block


def _sorted_blocks(blocks: set[int], above: Mapping[int, Sequence[tuple[int, float]]]) -> list[int]:
    done: dict[int, None] = {}

    def visit(block: int) -> None:
        if block not in done:
            for other, _ in above.get(block, ()):
                visit(other)
            done[block] = None

    for block in sorted(blocks):
        visit(block)
    return list(done)


def _median(values: Sequence[tuple[float, float]]) -> float:
    """Return the weighted median, the lower one of two."""
    half, total = sum(w for _, w in values) / 2, 0.0
    for value, weight in sorted(values):
        total += weight
        if total >= half:
            return value
    raise AssertionError("weights are positive")
