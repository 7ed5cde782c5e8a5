"""Checks a plan before it becomes a kernel: what its loops leave behind must be what its graphs say.

Both are run for some steps on fingerprints instead of numbers. The loops run on memory as they will have it: it begins
with fingerprints of nothing, and what may share memory does. A stage that comes too early, a wrong offset, a missing
store and a value overwritten before its last reading all end in an unexpected fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from everloop.compiler.abstract import AbstractLoop, first_rows, lookup, nothing, sequence
from everloop.compiler.fingerprints import Prints, applied, constant, leaf, named, product, reduced, reduced_to
from everloop.compiler.gradient import before, gradient_of, sequence_of
from everloop.compiler.ir import Graph, Value
from everloop.compiler.loop import Loop
from everloop.compiler.plan import DerivedTraining, Factor, ScheduledForward, factor_names
from everloop.compiler.view import View
from everloop.errors import PlanError

STEPS = 3  # the first, the last, and one between
_SHARING = (True, False)  # memory is shared where nobody reads it again, and is not where somebody may
Rows = dict[str, Prints]  # [n] by name
Sequences = dict[str, Prints]  # [STEPS, n] by name


@dataclass(frozen=True)
class _Expected:
    """What a graph says of every step: the states (or carried gradients) before it, and its results."""

    states: list[Rows]
    results: list[Rows]

    def over_time(self, name: str) -> Prints:
        return np.stack([each[name] for each in self.results])


def verified_forward(plan: ScheduledForward) -> ScheduledForward:
    """Return the plan, whose loop does what its graph says; raises PlanError where it does not."""
    with _known_names():
        _check_kinds(plan.loop, plan.graph)
        expected = _forward(plan)
        for in_place in _SHARING:
            _verify_forward(plan, expected, in_place)
    return plan


def verified_training(plan: DerivedTraining) -> DerivedTraining:
    """Return the plan, both of whose loops do what their graphs say; raises PlanError where one does not."""
    with _known_names():
        _check_kinds(plan.forward.loop, plan.forward.graph)
        _check_kinds(plan.gradient, plan.graph)
        _check_results(plan)
        forward = _forward(plan.forward)
        gradient = _gradient(plan, forward)
        for in_place in _SHARING:
            memory = _verify_forward(plan.forward, forward, in_place)
            _verify_gradient(plan, gradient, forward.states[0], memory, in_place)
    return plan


@contextmanager
def _known_names() -> Iterator[None]:
    """Let a name that nobody has made be a fault of the plan."""
    try:
        yield
    except KeyError as error:
        raise PlanError(f"nothing computes {error}") from error


def _check_kinds(loop: Loop, graph: Graph) -> None:
    """Check that a loop reads each input of its graph as what it is: of every step, of every sequence, of all."""
    groups = {v.name: v.group for v in graph.inputs}
    dtypes = {v.name: v.type.dtype for v in graph.inputs}
    for b in loop.buffers:
        if b.dtype != dtypes.get(b.name, b.dtype):
            raise PlanError(f"{b.name} is read as {b.dtype}; it is {dtypes[b.name]}")
        if b.kind in ("sequence", "previous", "row", "vector", "matrix") and groups.get(b.name) != b.kind:
            raise PlanError(f"{b.name} is read as a {b.kind}; it is a {groups.get(b.name)}")


def _check_results(plan: DerivedTraining) -> None:
    """Check that there is a place for every gradient."""
    if plan.forward.loop.is_gradient or not plan.gradient.is_gradient:
        raise PlanError("a loop runs in the wrong direction")
    if {m: len(p) for m, p in plan.pairs.items()} != {m: len(p) for m, p in plan.derivative.pairs.items()}:
        raise PlanError("a matrix lacks the factors of its gradient")
    kinds = {gradient_of(v.name): v.group for v in plan.derivative.forward.inputs}
    for name, total in plan.totals.items():
        if total.height != (kinds[name] == "row"):
            raise PlanError(f"{name} is summed as if it were no {kinds[name]}")
    for name, of in plan.reads.items():
        if kinds.get(gradient_of(name), "sequence") in ("row", "vector", "matrix") and of != name:
            raise PlanError(f"{name} is read as {of}")


def _verify_forward(plan: ScheduledForward, expected: _Expected, in_place: bool) -> Sequences:
    """Compare all that the loop leaves; return its memory. in_place: whether what may share memory does."""
    memory = {b.name: sequence(b.name, b.width, STEPS) for b in plan.loop.buffers if b.kind == "sequence"}
    for name, width in plan.emits.items():
        shared = memory.get(plan.in_place.get(name, "")) if in_place else None
        memory[name] = nothing(name, width, STEPS) if shared is None else shared
    loop = AbstractLoop(plan.loop, memory)
    loop.run(range(STEPS))
    for name, prints in expected.states[-1].items():
        _compare(f"the state {name}", loop.rows[name], prints)
        if sequence_of(name) in plan.emits:
            _compare(sequence_of(name), memory[sequence_of(name)], expected.over_time(sequence_of(name)))
    return memory


def _verify_gradient(
    plan: DerivedTraining, expected: _Expected, first: Rows, memory: Sequences, in_place: bool
) -> None:
    """Compare all that the loop leaves in the memory of the forward loop, and what the products over time read."""
    for name, of in plan.in_place.items():
        if of not in memory or memory[of].shape[1] != plan.emits[name]:
            raise PlanError(f"{name} takes the memory of {of}, which is no sequence of its width")
    kept = {place: memory[place] for place in plan.reads.values() if place in memory}
    given = {v.name: sequence(v.name, v.width, STEPS) for v in plan.graph.inputs if v.group == "sequence"}
    sequences = given | kept | {name: kept[place] for name, place in plan.reads.items() if place in kept}
    for name, width in plan.emits.items():
        shared = kept.get(plan.in_place.get(name, "")) if in_place else None
        sequences[name] = nothing(name, width, STEPS) if shared is None else shared
    loop = AbstractLoop(plan.gradient, sequences)
    loop.run(reversed(range(STEPS)))
    for name, prints in expected.states[0].items():
        _compare(name, loop.rows[name], prints)
    for name in plan.derivative.graph.outputs.keys() - loop.rows.keys():
        rows = expected.over_time(name)
        if name in plan.totals:
            _compare(name, loop.totals.get(name, np.zeros_like(rows[0])), rows.sum(0))
        else:
            _compare(name, sequences[name], rows)
    for matrix, pairs in plan.pairs.items():
        for k, pair in enumerate(pairs):
            for name, factor in zip(factor_names(matrix, k), pair, strict=True):
                _compare(name, _rows_of(factor, sequences, first), expected.over_time(name))


def _rows_of(factor: Factor, sequences: Mapping[str, Prints], first: Rows) -> Prints:
    """Return the rows of every step that a product over all steps reads."""
    parts = []
    for rows in factor:
        whole = lookup(rows.name, sequences)
        if rows.of:
            whole = np.concatenate([first[rows.of][None], whole[:-1]])
        parts.append(whole[:, rows.start : rows.stop])
    return np.concatenate(parts, 1)


def _compare(what: str, found: Prints, expected: Prints) -> None:
    if found.shape != expected.shape:
        raise PlanError(f"{what} has the shape {found.shape}, not {expected.shape}")
    wrong = np.argwhere(found != expected)
    if len(wrong):
        place = f"feature {wrong[0][-1]}" + (f" of step {wrong[0][0]}" if found.ndim > 1 else "")
        raise PlanError(f"{what} is not what the graph says, from {place} on")


def _forward(plan: ScheduledForward) -> _Expected:
    """Return what the graph of a forward loop says."""
    states, results = [{s.name: first_rows(s.name, s.width) for s in plan.loop.states}], []
    for t in range(STEPS):
        results.append(_evaluated(plan.graph, _leaves(t, states[t])))
        states.append({name: results[t][name] for name in states[t]})
    return _Expected(states, results)


def _gradient(plan: DerivedTraining, forward: _Expected) -> _Expected:
    """Return what the graph of a gradient loop says, which reads what the forward graph says."""
    saved = {name: nothing(name, width, STEPS) for name, width in plan.forward.emits.items()}
    for name in forward.results[0]:
        if name in plan.forward.saved:
            buffer, offset = plan.forward.saved[name]
            rows = forward.over_time(name)
            saved[buffer][:, offset : offset + rows.shape[1]] = rows
    states: list[Rows] = [{s.name: first_rows(s.name, s.width) for s in plan.gradient.states}]
    results: list[Rows] = []
    for t in reversed(range(STEPS)):
        known = {name: rows[t] for name, rows in saved.items()}
        for name, rows in forward.states[t].items():
            known[before(name)] = saved[sequence_of(name)][t - 1] if t and sequence_of(name) in saved else rows
        results.insert(0, _evaluated(plan.graph, _leaves(t, known | states[0])))
        states.insert(0, {name: results[0][name] for name in states[0]})
    return _Expected(states, results)


def _leaves(t: int, known: Rows) -> Callable[[Value], Prints]:
    """Return what gives the inputs of a graph at a step: what is known by name, and what was given before the loop."""

    def value_of(v: Value) -> Prints:
        if v.name in known:
            return known[v.name]
        return leaf(f"{v.name} {t}" if v.group == "sequence" else v.name, v.width)

    return value_of


def _evaluated(graph: Graph, value_of: Callable[[Value], Prints]) -> Rows:
    """Return the outputs of a graph of core operations; a matrix is its name."""
    results: dict[Value, Prints] = {}
    for v in graph.values:
        if v.type.kind == "matrix":
            continue
        if v.op == "input":
            results[v] = value_of(v)
            continue
        args = [results[a] for a in v.args if a in results]
        if v.op == "constant":
            results[v] = constant(v.number)
        elif v.kind == "map":
            results[v] = applied(named(v.op, v.type.dtype), *args)
        elif v.kind == "product":
            results[v] = product(v.args[1].name, v.op == "matmul", _wide(args[0], v.args[0]), v.width)
        elif v.kind == "reduce" and v.data:
            index = View.of(v.data[1:]).index
            results[v] = reduced_to(v.op, _wide(args[0], v.args[0]), v.data[0], index)
        elif v.kind == "reduce":
            results[v] = reduced(v.op, _wide(args[0], v.args[0]))
        elif v.op == "view":
            results[v] = _wide(args[0], v.args[0])[View.of(v.data).index]
        elif v.op == "slice":
            results[v] = _wide(args[0], v.args[0])[slice(*v.data)]
        else:
            assert v.op == "cat", f"a loop computes no {v.op}"
            results[v] = np.concatenate([_wide(a, arg) for a, arg in zip(args, v.args, strict=True)])
    return {name: _wide(results[v], v) for name, v in graph.outputs.items()}


def _wide(prints: Prints, value: Value) -> Prints:
    return np.broadcast_to(prints, value.width)
