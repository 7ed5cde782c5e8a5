"""Scheduling: the stages of a Loop in order, and no state overwritten before its last reading."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from everloop.compiler.ir import Value
from everloop.compiler.loop import Buffer, Instruction, Map, Product
from everloop.compiler.placement import Location, Placement, Slot, Store
from everloop.compiler.view import View, common_axes


@dataclass(frozen=True)
class Access:
    """A reading of features start to stop of a buffer, by the map at `slot`, by a product (width 0) or a view (-1)."""

    buffer: Buffer
    start: int
    stop: int
    slot: Slot

    def overlaps(self, start: int, stop: int) -> bool:
        return self.start < stop and start < self.stop

    def is_before(self, slot: Slot, start: int, stop: int) -> bool:
        """Whether it happens before a store at `slot`: earlier, by a product, or by the same map feature by feature."""
        if self.slot[0] != slot[0]:
            return self.slot[0] < slot[0]
        is_same = self.slot == slot and (self.start, self.stop) == (start, stop)
        return self.slot[1] == 0 or (is_same and stop - start == slot[1])


class Schedule:
    """The stages that bring values into their stores.

    leaves: where the values that exist before the step are.
    """

    def __init__(self, stores: Iterable[Store], leaves: Mapping[Value, Location]) -> None:
        self.placement = Placement(stores, leaves)
        self.maps = self.placement.maps()
        self.products = [v for v in self.placement.values if v.kind == "product"]
        self._write_states()
        self._join()
        self.stages = self._stages()

    def readings(self) -> list[Access]:
        """Return every reading of a buffer that is no scratch."""
        placement, found = self.placement, []
        for slot, (stores, sums) in self.maps.items():
            for store in stores:
                if store.source:
                    buffer, start = store.source
                    found.append(Access(buffer, start, start + store.value.width, slot))
            ends = [s.value for s in stores if not s.source] + [v.args[0] for v in sums]
            for own in (slot, (slot[0], 1)):  # a value of one feature may have been joined to a wider map
                demands: dict[Value, set[Slot]] = defaultdict(set)
                for value in ends:
                    if value.width == own[1]:
                        placement.demand(value, own, demands)
                for value in demands:
                    if value.op == "view":
                        buffer, start = placement.located(value.args[0]) or (Buffer("", "scratch", 0), 0)
                        found.append(Access(buffer, start, start + value.args[0].width, (slot[0], -1)))
                    elif placement.is_loaded(value, own):
                        buffer, start = placement.located(value) or (Buffer("", "scratch", 0), 0)
                        found.append(Access(buffer, start, start + value.width, slot))
        for product in self.products:
            buffer, _ = placement.places[product.args[0]]
            found.append(Access(buffer, 0, buffer.width, (placement.made(product), 0)))
        return [a for a in found if a.buffer.kind != "scratch"]

    def _write_states(self) -> None:
        """Move stores into states behind the last reading of the old state, through a scratch buffer if need be."""
        readings = self.readings()
        for slot, (stores, _) in list(self.maps.items()):
            for store in [s for s in stores if s.buffer.kind == "state"]:
                start, stop = store.offset, store.offset + store.value.width
                old = [r for r in readings if r.buffer == store.buffer and r.overlaps(start, stop)]
                if self._write_directly(store, old):
                    stores.remove(store)
                    continue
                late = [r for r in old if not r.is_before(slot, start, stop)]
                if not late:
                    continue
                stores.remove(store)
                place = self.placement.located(store.value)
                if place is None or place[0].kind != "scratch":
                    place = (self.placement.scratch(store.value), 0)
                    stores.append(replace(store, buffer=place[0], offset=0))
                last = max(r.slot[0] for r in late)
                self.maps[max(last, slot[0]) + 1, store.value.width][0].append(replace(store, source=place))

    def _write_directly(self, store: Store, old: list[Access]) -> bool:
        """Let a product write a whole state itself, where nobody reads the old one any more."""
        value, placement = store.value, self.placement
        if value.kind != "product" or store.source or store.buffer.width != value.width:
            return False
        scratch = placement.places[value][0]
        if scratch.kind != "scratch" or any(r.slot[0] >= placement.made(value) for r in old):
            return False
        if any(s.source and s.source[0] == scratch for stores, _ in self.maps.values() for s in stores):
            return False  # a part of it is copied from there
        placement.places[value] = (store.buffer, 0)
        return True

    def _join(self) -> None:
        """Join what is stored of one feature to a wider map of the same level."""
        self.maps = {slot: ends for slot, ends in self.maps.items() if any(ends)}
        for level, width in list(self.maps):
            wider = min((w for m, w in self.maps if m == level and w > 1), default=0)
            if width == 1 and wider:
                stores, _ = self.maps[level, 1]
                moved = [s for s in stores if self._is_narrow(s, (level, 1))]
                self.maps[level, wider][0].extend(moved)
                stores[:] = [s for s in stores if s not in moved]

    def _is_narrow(self, store: Store, slot: Slot) -> bool:
        """Whether a store of one feature reads only buffers of one feature, and no map minds when it happens."""
        if store.buffer.width > 1 or store.buffer.kind not in ("scratch", "emit"):
            return False
        placement, loaded = self.placement, [store.source]
        if not store.source:
            demands: dict[Value, set[Slot]] = defaultdict(set)
            placement.demand(store.value, slot, demands)
            loaded = [placement.located(v) for v in demands if placement.is_loaded(v, slot)]
        return all(place is not None and place[0].width == 1 and place[0].kind != "state" for place in loaded)

    def _product(self, value: Value) -> Product:
        row, matrix = (self.placement.places[a][0] for a in value.args)
        return Product(self.placement.places[value][0], row, matrix, value.op == "matmul")

    def _stages(self) -> tuple[Product | Map, ...]:
        placement = self.placement
        found: list[tuple[int, int, Product | Map]] = []
        found += [(placement.made(p), 0, self._product(p)) for p in self.products]
        for slot, ends in self.maps.items():
            if any(ends):
                found += [(*slot, part) for part in self._apart(_Body(placement, slot).map(*ends))]
        return tuple(stage for _, _, stage in sorted(found, key=lambda each: each[:2]))

    def _apart(self, stage: Map) -> list[Map]:
        """Let a map whose views have no axes in common read and sum some of them through rows of scratch."""
        whole = View(((stage.width, 1),))
        kept, before, after, body = [whole], list[Map](), list[Map](), list[Instruction]()
        for i in stage.body:
            if i.view is None or i.buffer is None or common_axes([*kept, i.view]):
                kept += [i.view] if i.view else []
                body.append(i)
                continue
            row = self.placement.row(stage.width, i.buffer.dtype)
            load = Instruction("load", (), row)
            if i.is_reduction:
                body.append(Instruction("store", i.args, row))
                after.append(Map(stage.width, (load, replace(i, args=(0,)))))
            else:
                before.append(Map(stage.width, (i, Instruction("store", (0,), row))))
                body.append(load)
        return [*before, Map(stage.width, tuple(body)), *after]


class _Body:
    """Writes the instructions of one map: loads and arithmetic first, then stores and sums."""

    def __init__(self, placement: Placement, slot: Slot) -> None:
        self.placement, self.slot = placement, slot
        self.lines: list[Instruction] = []
        self.at: dict[Value | Location | float, int] = {}
        self.joined: set[Value] = set()

    def map(self, stores: list[Store], sums: list[Value]) -> Map:
        ends = []
        self.joined = {s.value for s in stores if s.value.width < self.slot[1]}
        for store in stores:
            line = self._load(store.source) if store.source else self._line(store.value)
            op = "accumulate" if store.buffer.kind == "total" else "store"
            ends.append(Instruction(op, (line,), store.buffer, store.offset))
        for v in sums:
            view = View.of(v.data[1:]) if v.data else None
            ends.append(Instruction(v.op, (self._line(v.args[0]),), self.placement.places[v][0], view=view))
        return Map(self.slot[1], (*self.lines, *ends))

    def _is_loaded(self, value: Value) -> bool:
        """Whether to read a value; what was joined to this map is computed here."""
        slots = (self.slot, (self.slot[0], 1)) if value in self.joined else (self.slot,)
        return all(self.placement.is_loaded(value, slot) for slot in slots)

    def _add(self, key: Value | Location | float, instruction: Instruction) -> int:
        self.lines.append(instruction)
        self.at[key] = len(self.lines) - 1
        return self.at[key]

    def _load(self, place: Location) -> int:
        if place in self.at:
            return self.at[place]
        return self._add(place, Instruction("load", (), *place))

    def _line(self, value: Value) -> int:
        """Return the line that has a value; what it is made of first, however long the chain."""
        stack = [value]
        while stack:
            each = stack[-1]
            waiting = [a for a in each.args if a not in self.at] if self._is_made_here(each) else []
            if waiting:
                stack += reversed(waiting)
            else:
                self.at[each] = self._last_line(stack.pop())
        return self.at[value]

    def _is_made_here(self, value: Value) -> bool:
        return value not in self.at and value.op not in ("constant", "view") and not self._is_loaded(value)

    def _last_line(self, value: Value) -> int:
        """Return the line that has a value whose arguments have theirs."""
        if value in self.at:
            return self.at[value]
        if value.op == "constant":
            number = value.number
            return self.at[number] if number in self.at else self._add(number, Instruction("constant", number=number))
        if self._is_loaded(value):
            place = self.placement.located(value)
            assert place
            return self._load(place)
        if value.op == "view":
            place = self.placement.located(value.args[0])
            assert place
            return self._add(value, Instruction("load", (), *place, view=View.of(value.data)))
        assert value.kind == "map", f"{value!r} is not placed"
        args = tuple(self.at[a] for a in value.args)
        return self._add(value, Instruction(value.op, args, dtype=value.type.dtype if value.op == "cast" else None))
