"""The plan of training: where saved values lie, the loop that writes them and the gradient loop that reads them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from everloop.compiler.gradient import Gradient, before, gradient_of, sequence_of
from everloop.compiler.ir import Builder, Graph, Type, Value
from everloop.compiler.loop import Buffer, Loop
from everloop.compiler.placement import Slot, Store, parts
from everloop.compiler.plan import (
    DerivedTraining,
    Factor,
    FactorPart,
    buffer_of,
    dtype_of,
    factor_names,
    forward_of,
    leaves_of,
)
from everloop.compiler.precision import lowered
from everloop.compiler.rematerialisation import Rematerialisation
from everloop.compiler.rewrite import rebuild, same
from everloop.compiler.schedule import Access, Schedule
from everloop.compiler.simplify import LOCAL, simplify


def plan_gradient(gradient: Gradient, choice: Rematerialisation, owned: frozenset[str]) -> DerivedTraining:
    """Return the loop that computes and saves as chosen, and the loop that reads it to compute the gradient."""
    return _Trainer(gradient, choice, owned).training()


class _Trainer:
    """Chooses where saved values lie, then writes both loops."""

    def __init__(self, gradient: Gradient, choice: Rematerialisation, owned: frozenset[str]) -> None:
        self.derivative, self.rematerialisation, self.owned = gradient, choice, owned
        self.names = {value: f"saved {k}" for k, value in enumerate(choice.saved)}
        self.places = self._shared_memory()
        saved = {name: (value, *self.places.get(value, (name, 0))) for value, name in self.names.items()}
        self.forward = forward_of(gradient.forward, choice.states, saved)
        unsafe = self._unsafe()
        if unsafe:
            self.places = {v: p for v, p in self.places.items() if p[0] not in unsafe}
            saved = {name: (value, *self.places.get(value, (name, 0))) for value, name in self.names.items()}
            self.forward = forward_of(gradient.forward, choice.states, saved)

    def _shared_memory(self) -> dict[Value, tuple[str, int]]:
        """Give saved values the memory of the slices they are computed from, where the gradient has no use for it."""
        free = {v for v in self.derivative.forward.inputs if v.group == "sequence" and v.name in self.owned}
        free -= set(_needed(self.derivative, self.rematerialisation))
        found: dict[Value, tuple[str, int]] = {}
        taken: set[tuple[str, int]] = set()
        for value in self.rematerialisation.saved:
            if value.width == 1 or value.kind != "map":
                continue
            for start, leaf in _slices_below(value):
                place = (leaf.name + "'", start)
                fits = leaf in free and not any(
                    name == place[0] and at < start + value.width and start < at + self._width(name, at, found)
                    for name, at in taken
                )
                if fits:
                    found[value] = place
                    taken.add(place)
                    break
        return found

    def _width(self, name: str, at: int, found: dict[Value, tuple[str, int]]) -> int:
        return next(v.width for v, place in found.items() if place == (name, at))

    def _unsafe(self) -> set[str]:
        """Return the emits that overwrite a sequence before its last reading."""
        schedule, found = self.forward.schedule, set()
        readings = schedule.readings()
        for slot, (stores, _) in schedule.maps.items():
            for store in stores:
                if store.buffer.name in self.forward.in_place:
                    of = self.forward.in_place[store.buffer.name]
                    if not _is_read_before(of, slot, store, readings):
                        found.add(store.buffer.name)
        return found

    def training(self) -> DerivedTraining:
        graph, factors = self._gradient_graph()
        outputs, kinds = self.derivative.graph.outputs, {v.name: v.group for v in self.derivative.forward.inputs}
        stores, emits, totals = [], {}, {}
        states = [gradient_of(name) for name in self.derivative.forward.outputs]
        for name, value in graph.outputs.items():
            if name in states:
                stores.append(Store(value, Buffer(name, "state", value.width, dtype=dtype_of(value))))
            elif name in outputs:
                kind = kinds[name.removeprefix("d(").removesuffix(")")]
                if kind == "sequence":
                    buffer = Buffer(name, "emit", value.width, dtype=dtype_of(value))
                    emits[name] = value.width
                else:
                    buffer = Buffer(name, "total", value.width, height=1 if kind == "row" else 0, dtype=dtype_of(value))
                    totals[name] = buffer
                stores.append(Store(value, buffer))
        rows = {name: self._factor(name, v, stores, emits) for name, v in graph.outputs.items() if "of " in name}
        schedule = Schedule(stores, leaves_of(graph))
        carried = [s.buffer for s in stores if s.buffer.kind == "state"]
        loop = Loop(schedule.stages, tuple(carried), is_gradient=True)
        pairs = {m: [(rows[g], rows[a]) for g, a in each] for m, each in factors.items()}
        given = {v.name for v in self.derivative.cotangents}
        read = (b for b in loop.buffers if b.kind in ("sequence", "previous", "row", "vector", "matrix"))
        reads = {b.name: sequence_of(b.of) if b.of else b.name for b in read if b.name not in given}
        factored = {r.name for each in pairs.values() for pair in each for factor in pair for r in factor}
        reads |= {name: name for name in factored if name not in emits}
        in_place = self._overwritten(schedule, emits, factored)
        return DerivedTraining(
            self.forward, loop, reads, pairs, totals, emits, in_place, self.rematerialisation, self.derivative, graph
        )

    def _overwritten(self, schedule: Schedule, emits: dict[str, int], factored: Collection[str]) -> dict[str, str]:
        """Give what the gradient loop writes memory of the forward loop that is not read behind that any more."""
        leaves = self.derivative.forward.inputs
        given = {gradient_of(v.name) for v in leaves} - {gradient_of(n) for n in self.owned}
        widths = {v.name: v.width for v in leaves if v.name in self.owned} | self.forward.emits
        own = {r.buffer.name for r in schedule.readings() if r.buffer.kind == "sequence" and r.buffer.name in widths}
        own -= {*factored, *map(sequence_of, self.rematerialisation.states)}
        found: dict[str, str] = {}
        readings = schedule.readings()
        for name, width in emits.items():
            stores = [(slot, s) for slot, (each, _) in schedule.maps.items() for s in each if s.buffer.name == name]
            for saved in sorted(own - {*found.values()}):
                fits = name not in given and widths[saved] == width
                if fits and all(_is_read_before(saved, slot, store, readings) for slot, store in stores):
                    found[name] = saved
                    break
        return found

    def _factor(self, name: str, value: Value, stores: list[Store], emits: dict[str, int]) -> Factor:
        """Return where rows for every step already are; what is nowhere gets an emit of its own."""
        start, base = (value.data[0], value.args[0]) if value.op == "slice" else (0, value)
        if base.op == "input" and base.group in ("sequence", "previous"):
            buffer = buffer_of(base)
            name = sequence_of(buffer.of) if buffer.of else buffer.name
            return (FactorPart(name, start, start + value.width, of=buffer.of),)
        written = [(part.value, (part.buffer.name, part.offset))
                   for s in stores if s.buffer.kind == "emit" for part in (*parts(s), s)]  # fmt: skip
        known = dict(reversed(written))
        pieces = value.args if value.op == "cat" and value not in known else (value,)
        if not any(piece in known for piece in pieces):
            pieces = (value,)
        factor: list[FactorPart] = []
        for k, piece in enumerate(pieces):
            if piece not in known:
                own = name if len(pieces) == 1 else f"{name}, part {k}"
                stores.append(Store(piece, Buffer(own, "emit", piece.width, dtype=dtype_of(piece))))
                emits[own] = piece.width
                known[piece] = (own, 0)
            memory, at = known[piece]
            last = factor[-1] if factor else None
            if last is not None and last.name == memory and last.stop == at:
                factor[-1] = FactorPart(memory, last.start, at + piece.width)
            else:
                factor.append(FactorPart(memory, at, at + piece.width))
        return tuple(factor)

    def _gradient_graph(self) -> tuple[Graph, dict[str, list[tuple[str, str]]]]:
        """Return the gradient with what was saved as inputs, and the names of the factors among its outputs."""
        wanted = dict(self.derivative.graph.outputs)
        factors: dict[str, list[tuple[str, str]]] = {}
        for matrix, pairs in self.derivative.pairs.items():
            factors[matrix] = []
            for k, (g, a) in enumerate(pairs):
                names = factor_names(matrix, k)
                wanted |= zip(names, (g, a), strict=True)
                factors[matrix].append(names)
        b, dtype = Builder(), self.derivative.forward.dtype
        outputs, states = self.derivative.forward.outputs, self.rematerialisation.states
        after = {v: sequence_of(s) for s, v in outputs.items() if s in states}

        def read(value: Value, args: tuple[Value, ...]) -> Value:
            if value in self.names:
                name, offset = self.places.get(value, (self.names[value], 0))
                width = self.forward.emits[name]
                packed = b.make("input", data=("sequence", name), type=Type((width,), rows=True, dtype=dtype))
                return b.slice(packed, offset, offset + value.width)
            if value in after:
                return b.make("input", data=("sequence", after[value]), type=value.type.of(dtype))
            if value.op == "input" and value.group == "state" and value not in self.derivative.cotangents:
                return b.make("input", data=("previous", before(value.name)), type=value.type)
            return same(b, value, args)

        graph = rebuild(Graph(wanted), b, read)
        simple = simplify(graph, is_source=lambda v: v.op == "input", passes=LOCAL)
        gathered = {gradient_of(v.name) for v in self.derivative.forward.inputs if v.group in ("row", "vector")}
        wide = {*map(gradient_of, self.derivative.forward.outputs), *gathered}
        return lowered(simple, wide, self.derivative.forward.dtype), factors


def _is_read_before(memory: str, slot: Slot, store: Store, readings: Iterable[Access]) -> bool:
    """Whether every reading of what a store at `slot` would overwrite in `memory` happens before it."""
    start, stop = store.offset, store.offset + store.value.width
    old = (r for r in readings if r.buffer.name == memory and r.overlaps(start, stop))
    return all(r.is_before(slot, start, stop) for r in old)


def _needed(gradient: Gradient, choice: Rematerialisation) -> Iterable[Value]:
    """Yield the leaves of the forward graph that the gradient loop reads."""
    stops = {*choice.saved, *(v for s, v in gradient.forward.outputs.items() if s in choice.states)}
    stack = [*gradient.graph.outputs.values(), *(v for ps in gradient.pairs.values() for p in ps for v in p)]
    seen: set[Value] = set()
    while stack:
        value = stack.pop()
        if value in seen or value in stops:
            continue
        seen.add(value)
        if value.op == "input":
            yield value
        stack += value.args


def _slices_below(value: Value) -> Iterable[tuple[int, Value]]:
    """Yield (start, leaf) for the slices of sequences of the same width that an element-wise value is computed from."""
    stack, seen = [value], set()
    while stack:
        each = stack.pop()
        if each in seen:
            continue
        seen.add(each)
        base, start = (each.args[0], each.data[0]) if each.op == "slice" else (each, 0)
        if base.op == "input" and base.group == "sequence" and each.width == value.width:
            yield start, base
        elif each.kind == "map":
            stack += each.args
