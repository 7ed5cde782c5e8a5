"""Placement: which values of a step need memory, and at which level each is there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from everloop.compiler.ir import Value, walk
from everloop.compiler.loop import Buffer
from everloop.compiler.rewrite import users

Location = tuple[Buffer, int]  # a buffer and the first feature
Slot = tuple[int, int]  # a Map: its level and its width
WRITTEN = -1  # the "width" of the stage that writes a placed value


@dataclass(frozen=True)
class Store:
    """Where a value must end up. `source` is where it is read instead of where it was placed."""

    value: Value
    buffer: Buffer
    offset: int = 0
    source: Location | None = None


def parts(store: Store) -> list[Store]:
    """Return the stores of the parts of a concatenation."""
    if store.value.op == "constant" and store.value.number == 0 and store.buffer.kind == "total":
        return []
    if store.value.op != "cat" or store.source:
        return [store]
    found, at = [], store.offset
    for part in store.value.args:
        found += parts(Store(part, store.buffer, at))
        at += part.width
    return found


class Placement:
    """Places every product, every sum over features, every row a product reads, and every value that two maps share.

    Everything else is computed where it is read. Stages have levels: what a stage reads from a buffer was
    written by a stage of an earlier level, and at one level products run before maps.
    """

    def __init__(self, stores: Iterable[Store], leaves: Mapping[Value, Location]) -> None:
        given = list(stores)
        self.holds = {s.value: (s.buffer, s.offset) for s in given if s.buffer.kind == "emit"}
        self.stores = [part for store in given for part in parts(store)]
        self.holds |= {s.value: (s.buffer, s.offset) for s in self.stores if s.buffer.kind == "emit"}
        self.places: dict[Value, Location] = dict(leaves)
        self.leaves = set(leaves)
        self.values = list(walk(s.value for s in given))
        self.readers = users(s.value for s in given)
        self.levels: dict[tuple[Value, int], int] = {}
        self.spread = self._spread()
        self.scratches = 0
        for value in self.values:
            self._place_what_it_reads(value)
        self._place_what_is_shared()

    def scratch(self, value: Value) -> Buffer:
        assert value.type.dtype, f"{value!r} has no dtype"
        return self.row(value.width, value.type.dtype)

    def row(self, width: int, dtype: torch.dtype) -> Buffer:
        """Return a new row of scratch."""
        self.scratches += 1
        return Buffer(f"scratch {self.scratches}", "scratch", width, dtype=dtype)

    # What is placed
    def _place_what_it_reads(self, value: Value) -> None:
        if value.kind == "product":
            self.place(value.args[0], fills_buffer=True)
        if value.kind in ("product", "reduce"):
            self.places.setdefault(value, (self.scratch(value), 0))
        for arg in value.args:
            if value.op in ("slice", "view") or (arg.op == "cat" and value.op != "cat"):
                self.place(arg)
            elif arg.width == 1 and value.kind == "map" and arg in self.spread:
                if self.located(arg) or arg.op == "slice":
                    self.place(arg, fills_buffer=True)
                elif not self._is_light(arg):
                    self.place(arg)

    def _spread(self) -> set[Value]:
        """Return what is read by values of more than one feature, or by such as are."""
        found: set[Value] = set()
        for value in reversed(self.values):
            if any(r.kind == "map" and (r.width > 1 or r in found) for r in self.readers[value]):
                found.add(value)
        return found

    def _is_light(self, value: Value) -> bool:
        """Whether a value of one feature is recomputed by each reader."""
        stack, seen = [value], set[Value]()
        while stack:
            each = stack.pop()
            if each in seen or self.located(each) or each.op == "constant":
                continue
            if each.kind != "map" or each.operation.cost:
                return False
            seen.add(each)
            stack += each.args
        return True

    def located(self, value: Value) -> Location | None:
        """Return where a value can be read, if it is in a buffer."""
        if value in self.places:
            return self.places[value]
        if value.op == "slice":
            found = self.located(value.args[0])
            return (found[0], found[1] + value.data[0]) if found else None
        return None

    def place(self, value: Value, *, fills_buffer: bool = False) -> None:
        """Give a value a buffer; `fills_buffer` if it must fill the buffer from its first feature on."""
        place = self.located(value)
        if place and (not fills_buffer or _fills(place, value)):
            return
        held = self.holds.get(value)
        if held is None or (fills_buffer and not _fills(held, value)):
            held = (self.scratch(value), 0)
            self.stores += parts(Store(value, held[0], 0, source=place))
        elif place:
            copied = Store(value, *held)
            self.stores = [replace(s, source=place) if s == copied else s for s in self.stores]
        self.places[value] = held
        self.leaves.discard(value)
        self.levels = {}

    def _place_what_is_shared(self) -> None:
        """Place what two maps would compute, unless it is nearly free; the last such value first."""
        for _ in self.values:
            demands: dict[Value, set[Slot]] = defaultdict(set)
            for slot, (stores, sums) in self.maps().items():
                for value in [*(s.value for s in stores if not s.source), *(v.args[0] for v in sums)]:
                    self.demand(value, slot, demands)
            shared = [v for v in self.values if len(demands[v]) > 1 and v.kind == "map" and self._is_dear(v)]
            if not shared:
                return
            self.place(self._common(shared))

    def _common(self, shared: list[Value]) -> Value:
        """Return the last shared value, or what several are a single light operation away from."""
        last = shared[-1]
        for arg in last.args:
            near = [v for v in shared if arg in v.args and self._is_near(v, arg)]
            if arg in shared and len(near) > 1 and last in near:
                return arg
        return last

    def _is_near(self, value: Value, arg: Value) -> bool:
        """Whether a value is one light operation on `arg` and on what is in a buffer."""
        others = (a for a in value.args if a is not arg)
        return not value.operation.cost and all(self.located(a) or a.op == "constant" for a in others)

    def demand(self, value: Value, slot: Slot, demands: dict[Value, set[Slot]]) -> None:
        """Note in `demands` what the map at `slot` computes or loads for `value`."""
        stack = [value]
        while stack:
            each = stack.pop()
            if slot in demands[each] or each.op == "constant":
                continue
            demands[each].add(slot)
            if each.op == "view":
                demands[each.args[0]].add(slot)
            elif not self.is_loaded(each, slot):
                stack += reversed(each.args)

    def is_loaded(self, value: Value, slot: Slot) -> bool:
        """Whether the map at `slot` reads `value` from a buffer."""
        return self.located(value) is not None and not self._is_made_at(value, slot)

    def _is_made_at(self, value: Value, slot: Slot) -> bool:
        placed = value in self.places and value not in self.leaves and self._is_computed(value)
        return placed and (self.made(value), value.width) == slot

    def _is_dear(self, value: Value) -> bool:
        """Whether a map computes an operation that is not light, or three and more, to have `value`."""
        if self.located(value) or (value.width == 1 and self._is_light(value)):
            return False
        count, stack = 0, [value]
        while stack and count < 3:
            each = stack.pop()
            if not self.located(each) and each.op != "constant":
                if each.operation.cost:
                    return True
                count += 1
                stack += each.args
        return count == 3

    # When it is there
    def level(self, value: Value, width: int) -> int:
        """Return the earliest level at which a map of `width` can have `value`."""
        stack = [(value, width)]
        while stack:
            each = stack[-1]
            if each in self.levels:
                stack.pop()
                continue
            below = self._below(*each)
            waiting = [key for key, _ in below if key not in self.levels]
            if not waiting:
                self.levels[each] = max((self.levels[key] + more for key, more in below), default=0)
            stack += waiting
        return self.levels[value, width]

    def made(self, value: Value) -> int:
        """Return the level of the stage that writes a placed value."""
        return self.level(value, WRITTEN)

    def _below(self, value: Value, width: int) -> list[tuple[tuple[Value, int], int]]:
        """Return what a level follows, and how many levels later each of that lets it be."""
        args, base = value.args, self._base(value)
        if width != WRITTEN and base in self.leaves:
            return []
        if width != WRITTEN and base in self.places:
            same_map = base is value and self._is_computed(base) and base.width == width
            return [((base, WRITTEN), 0 if same_map else 1)]
        if base.op == "view":
            return self._read(self._base(base.args[0]))
        if width != WRITTEN:
            return [((a, width), 0) for a in args]
        if value.kind == "product":
            return self._read(args[0])
        own = value.kind == "reduce" or value.op == "cat"  # of any width; others are as wide as what they are made of
        return [((a, a.width if own else value.width), 0) for a in args]

    def _read(self, row: Value) -> list[tuple[tuple[Value, int], int]]:
        """Return what the level follows at which a product can read `row`."""
        return [] if row in self.leaves else [((row, WRITTEN), 1)]

    def _base(self, value: Value) -> Value:
        """Return the value in whose buffer a slice is."""
        while value not in self.places and value.op == "slice":
            value = value.args[0]
        return value

    @staticmethod
    def _is_computed(value: Value) -> bool:
        """Whether a map that has the width of a value can make it."""
        return value.kind == "map" or value.op == "view"

    def maps(self) -> dict[Slot, tuple[list[Store], list[Value]]]:
        """Return what each map stores and which values it sums over features."""
        found: dict[Slot, tuple[list[Store], list[Value]]] = defaultdict(lambda: ([], []))
        for value in self.values:
            if value.kind == "reduce":
                found[self.made(value), value.args[0].width][1].append(value)
        demands: dict[Value, set[Slot]] = defaultdict(set)
        for slot, (_, sums) in list(found.items()):
            for value in sums:
                self.demand(value.args[0], slot, demands)
        waiting, read = [], self._read_ranges()
        for store in self.stores:
            slot = (self.level(store.value, store.value.width), store.value.width)
            if store.source and self.located(store.value) == (store.buffer, store.offset):
                slot = (self.made(store.value), store.value.width)
            elif store.buffer.kind == "state":
                slot = self._late(store.value, slot, demands)
            ranges, stop = read.get(store.buffer.name, ()), store.offset + store.value.width
            is_read = any(start < stop and store.offset < end for start, end in ranges)
            if store.buffer.kind == "emit" and not self.located(store.value) and not is_read:
                waiting.append(store)
                continue
            found[slot][0].append(store)
            if not store.source:
                self.demand(store.value, slot, demands)
        for store in waiting:  # an emit that the step itself does not read waits for a map that computes its value
            slot = self._late(store.value, (self.level(store.value, store.value.width), store.value.width), demands)
            found[slot][0].append(store)
            self.demand(store.value, slot, demands)
        return found

    def _late(self, value: Value, first: Slot, demands: dict[Value, set[Slot]]) -> Slot:
        """Return the map that computes a value anyway, where that is not the first which can."""
        slots = [s for s in demands[value] if s[1] == first[1]] if self.located(value) is None else []
        return first if first in slots or not slots else min(slots)

    def _read_ranges(self) -> dict[str, list[tuple[int, int]]]:
        """Return where something is placed in each buffer."""
        found: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for value, (buffer, start) in self.places.items():
            found[buffer.name].append((start, start + value.width))
        return found


def _fills(place: Location, value: Value) -> bool:
    return place[1] == 0 and place[0].width == value.width
