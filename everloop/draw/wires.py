"""The lines of a layered layout: between columns they run up and down on tracks of their own, and never over a node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from everloop.draw.layers import Columns, Key, Passing, columns_of, heights
from everloop.draw.scene import Point

CLEAR = 0.5  # what stays free beside a line that turns into a node
UPON = 1000  # one line upon another costs as many crossings


@dataclass(frozen=True)
class Spacing:
    """Distances: between rows, between upright lines, beside a column, between the lines that enter a node."""

    row: float
    track: float
    column: float
    port: float


@dataclass(frozen=True)
class Wire:
    """A line out of `source`; `target` is the node where it ends, None where it goes on."""

    source: int
    target: int | None
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Layout:
    """Where the middle of each node is, the lines, and the dots where one line leaves another of the same source."""

    places: dict[int, Point]
    wires: list[Wire]
    dots: list[Point]
    width: float
    height: float


@dataclass
class _Net:
    """All links out of one item into the next column: the height it comes from, and those it goes to."""

    source: Key
    start: float
    ends: dict[Key, float]

    @property
    def span(self) -> tuple[float, float]:
        ys = [self.start, *self.ends.values()]
        return min(ys), max(ys)

    @property
    def is_straight(self) -> bool:
        return self.span[1] - self.span[0] < 1e-6


def laid_out(
    sizes: Mapping[int, tuple[float, float]],
    edges: Mapping[int, Sequence[int]],
    first: Sequence[int],
    last: Sequence[int],
    weights: Mapping[tuple[int, int], float],
    round_: frozenset[int],
    spacing: Spacing,
) -> Layout:
    """Return the layout of a graph without cycles, from the left to the right.

    sizes: width and height of each node; edges, first, last, weights: as in `columns_of`; round_: nodes that a line may
    also enter from above and below.
    """
    columns = columns_of(edges, first, last, weights)
    at = heights(columns, {key: size[1] for key, size in sizes.items()}, spacing.row)
    corners = _corners(columns, at, sizes, round_)
    nets = [_nets(columns, k, at, sizes, corners, spacing.port) for k in range(len(columns.links))]
    tracks = [_tracks(each) for each in nets]
    places: dict[int, Point] = {}
    spans: list[tuple[float, float]] = []
    x = 0.0
    for k, items in enumerate(columns.items):
        wide = max((sizes[i][0] for i in items if isinstance(i, int)), default=0.0)
        spans.append((x, x + wide))
        places |= {i: (x + wide / 2, at[i]) for i in items if isinstance(i, int)}
        if k < len(nets):
            x += wide + 2 * spacing.column + max(0, len(tracks[k]) - 1) * spacing.track
    wires: list[Wire] = []
    dots: list[Point] = []
    for k, each in enumerate(nets):
        for net in each:
            # lines that pass run through the whole column
            start = places[net.source][0] + sizes[net.source][0] / 2 if isinstance(net.source, int) else spans[k][1]
            track = spans[k][1] + spacing.column + spacing.track * tracks[k].index(net) if net in tracks[k] else start
            for target, end in net.ends.items():
                points = [(start, net.start), (track, net.start), (track, end)]
                if isinstance(target, int) and (net.source, target) in corners:
                    middle, y = places[target]
                    edge = y - sizes[target][1] / 2 if end < y else y + sizes[target][1] / 2
                    points += [(middle, end), (middle, edge)]
                elif isinstance(target, int):
                    points.append(
                        (places[target][0] - _half_width(sizes[target], end - at[target], target in round_), end)
                    )
                else:
                    points.append((spans[k + 1][1], end))
                source = net.source.source if isinstance(net.source, Passing) else net.source
                wires.append(Wire(source, target if isinstance(target, int) else None, _without_repeats(points)))
            dots += _dots(net, track)
    bottom = max(at[i] + _size(i, sizes)[1] / 2 for i in at)
    return Layout(places, wires, dots, spans[-1][1], bottom)


def _size(item: Key, sizes: Mapping[int, tuple[float, float]]) -> tuple[float, float]:
    return sizes[item] if isinstance(item, int) else (0.0, 0.0)


def _half_width(size: tuple[float, float], offset: float, is_round: bool) -> float:
    """Return how far the left edge of a node is from its middle, at a height."""
    if not is_round:
        return size[0] / 2
    radius = min(size) / 2
    return size[0] / 2 - radius + float(max(0.0, radius**2 - offset**2) ** 0.5)


def _corners(
    columns: Columns, at: Mapping[Key, float], sizes: Mapping[int, tuple[float, float]], round_: frozenset[int]
) -> set[tuple[Key, Key]]:
    """Return the links that come to a round node from above or below: one on each side, where nothing is in the way."""
    found: set[tuple[Key, Key]] = set()
    for k, links in enumerate(columns.links):
        items = columns.items[k + 1]
        for target in (i for i in items if isinstance(i, int) and i in round_):
            into = sorted((a for a, b in links if b == target), key=lambda a: abs(at[a] - at[target]))
            for side in (-1, 1) if len(into) > 1 else ():
                place = items.index(target) + side
                limit = 1e9
                if 0 <= place < len(items):
                    limit = side * at[items[place]] - _size(items[place], sizes)[1] / 2 - CLEAR
                half = sizes[target][1] / 2
                reach = [a for a in into if side * at[target] + half < side * at[a] < limit]
                found |= {(source, target) for source in reach[:1]}
    return found


def _nets(
    columns: Columns,
    k: int,
    at: Mapping[Key, float],
    sizes: Mapping[int, tuple[float, float]],
    corners: set[tuple[Key, Key]],
    port: float,
) -> list[_Net]:
    into: dict[Key, list[Key]] = defaultdict(list)
    for a, b in columns.links[k]:
        if (a, b) not in corners:
            into[b].append(a)
    ends: dict[tuple[Key, Key], float] = {(a, b): at[a] for a, b in corners}
    for target, sources in into.items():
        sources.sort(key=at.__getitem__)
        straight = min(range(len(sources)), key=lambda n: abs(at[sources[n]] - at[target]))
        half = _size(target, sizes)[1] / 2
        offsets = [(n - straight) * port for n in range(len(sources))]
        if max(map(abs, offsets)) >= half and len(sources) > 1:
            step = min(port, 2 * half / (len(sources) + 1))
            offsets = [(n - (len(sources) - 1) / 2) * step for n in range(len(sources))]
        ends |= {(source, target): at[target] + offset for source, offset in zip(sources, offsets, strict=True)}
    nets: dict[Key, _Net] = {}
    for a, b in columns.links[k]:
        nets.setdefault(a, _Net(a, at[a], {})).ends[b] = ends[a, b]
    return list(nets.values())


def _tracks(nets: list[_Net]) -> list[_Net]:
    """Return the nets that need an upright line, in the order of these lines: few crossings, no line upon another."""
    order = sorted((n for n in nets if not n.is_straight), key=lambda n: n.start)
    best = _cost(order, nets)
    improved = True
    while improved and best:
        improved = False
        for a in range(len(order)):
            for b in range(a):
                order[a], order[b] = order[b], order[a]
                if (cost := _cost(order, nets)) < best:
                    best, improved = cost, True
                else:
                    order[a], order[b] = order[b], order[a]
    return order


def _cost(order: list[_Net], nets: list[_Net]) -> float:
    cost = 0.0
    for place, net in enumerate(order):
        low, high = net.span
        for other in nets:
            if other is net:
                continue
            if other.is_straight or other in order[place + 1 :]:  # it still runs at its first height here
                cost += low < other.start < high
                cost += UPON * any(abs(other.start - end) < 1 for end in net.ends.values())
            else:
                cost += sum(low < end < high for end in other.ends.values())
                cost += UPON * any(abs(end - net.start) < 1 for end in other.ends.values())
    return cost


def _dots(net: _Net, track: float) -> list[Point]:
    if net.is_straight:
        return []
    low, high = net.span
    ys = [net.start, *net.ends.values()]
    return [(track, y) for y in sorted(set(ys)) if low < y < high or ys.count(y) > 1]


def _without_repeats(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return a line without points that repeat, or lie on a straight piece."""
    found: list[Point] = []
    for point in points:
        if found and abs(found[-1][0] - point[0]) + abs(found[-1][1] - point[1]) < 1e-9:
            continue
        if len(found) > 1 and any(abs(found[-2][c] - point[c]) + abs(found[-1][c] - point[c]) < 1e-9 for c in (0, 1)):
            found.pop()
        found.append(point)
    return tuple(found)
