"""Roll: a step that does one thing to its states many times over becomes that thing, and how often it is done.

A Python loop in a step is unrolled by the trace. Where all that a step does to its states is such a loop, a loop over
time with as many turns a step does the same, and neither plans nor machine code grow with it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product

from everloop.compiler.gradient import sequence_of
from everloop.compiler.ir import Builder, Graph, Value, walk
from everloop.compiler.rewrite import Depends, same
from everloop.compiler.sink import Sunk, rows_of

MANY = 8  # turns from which a loop is counted and not unrolled
TRIALS = 512  # ways to choose the states after one turn that are tried

States = dict[str, Value]


def roll(step: Graph, sunk: Sunk) -> Sunk:
    """Return the step with one turn as its loop, where it is a loop of many turns, or what `sunk` is where it is not.

    What else the step gives must follow from the states that the last turn leaves.
    """
    read = {v.name: v for v in step.inputs if v.group == "state"}
    after = {name: value for name, value in step.outputs.items() if name in read}
    found = _turn(step, read, after)
    if found is None:
        return sunk
    epilogue = _epilogue(step, after)
    if epilogue is None:
        return sunk
    turn, turns = found
    loop = Graph(turn, step.names)
    loop.verify()
    output = next(iter(step.outputs))
    return Sunk(loop, epilogue, (output,) if output in turn else tuple(rows_of(epilogue, output)), turns)


def _epilogue(step: Graph, after: States) -> Graph | None:
    """Return what else a step gives, made of the states that it leaves; None where it is made of anything before."""
    left = {value: name for name, value in after.items()}
    builder, done = Builder(), dict[Value, Value]()
    rest = {name: value for name, value in step.outputs.items() if name not in after}
    needed, stack = set[Value](), list(rest.values())
    while stack:
        value = stack.pop()
        if value not in needed:
            needed.add(value)
            stack += () if value in left else value.args
    for value in (v for v in step.values if v in needed):
        builder.line = value.where
        if value in left:
            done[value] = builder.make("input", data=("steps", sequence_of(left[value])), type=value.type)
        elif value.op == "input" and value.group == "state":
            return None
        else:
            done[value] = same(builder, value, tuple(done[a] for a in value.args))
    return Graph({n: done[v] for n, v in rest.items()}, {done[v]: n for v, n in step.names.items() if v in done})


def _turn(step: Graph, before: Mapping[str, Value], after: States) -> tuple[States, int] | None:
    """Return the states after the first turn, and how many turns lead from `before` to `after`."""
    alike: dict[tuple[object, ...], list[Value]] = defaultdict(list)
    body = list(walk(after.values()))
    in_loop = Depends(lambda v: v.op == "input" and v.group == "state")
    for value in body:
        if in_loop(value) and value.op != "input":
            alike[_look(value)].append(value)
    moving = {name: _look(value) for name, value in after.items() if value.op != "input"}
    if not moving or not all(alike[look] for look in moving.values()):  # what comes from no state is no turn's
        return None
    if any(value.op == "input" and value is not before[name] for name, value in after.items()):
        return None
    counts = {look: _counts(body, alike[look]) for look in moving.values()}
    known: dict[tuple[object, ...], Value] = {(v.op, v.args, v.data, v.type): v for v in step.values}
    ends = {name: counts[look][after[name]] for name, look in moving.items()}
    for turns in sorted({n for end in ends.values() for n in _divisors(end)}, reverse=True):
        longest = max(ends.values()) // turns
        first = {name: [value] for name, value in before.items()}
        for name, look in moving.items():
            periods = {longest, ends[name] // turns, -(-ends[name] // turns)}
            starts = {ends[name] - (turns - 1) * period for period in periods}
            first[name] = [v for v in alike[look] if counts[look][v] in starts]
            first[name] += [before[other] for other in moving if other != name and moving[other] == look]
        if math.prod(map(len, first.values())) > TRIALS:
            continue
        for values in product(*first.values()):
            turn = dict(zip(first, values, strict=True))
            if _repeated(known, turn, before, turns) == after:
                return turn, turns
    return None


def _look(value: Value) -> tuple[object, ...]:
    return value.op, value.data, value.type, value.where


def _counts(body: Sequence[Value], alike: Collection[Value]) -> dict[Value, int]:
    """Return how many of the values that look alike a value is made of, one after the other, itself among them."""
    counts: dict[Value, int] = {}
    looking = set(alike)
    for value in body:
        counts[value] = max((counts[a] for a in value.args), default=0) + (value in looking)
    return counts


def _divisors(number: int) -> Iterator[int]:
    """Yield the numbers of turns worth counting that divide a number."""
    return (n for n in range(MANY, number + 1) if number % n == 0)


def _repeated(
    known: Mapping[tuple[object, ...], Value], turn: States, before: Mapping[str, Value], turns: int
) -> States | None:
    """Return the states after so many turns, as the values of the step that they are; None where it has no such."""
    body = list(walk(turn.values()))
    states = dict(turn)
    for _ in range(turns - 1):
        now = {before[name]: value for name, value in states.items()}
        for value in body:
            if value not in now:
                args = tuple(now[a] for a in value.args)
                found = value if args == value.args else known.get((value.op, args, value.data, value.type))
                if found is None:
                    return None
                now[value] = found
        states = {name: now[value] for name, value in turn.items()}
    return states
