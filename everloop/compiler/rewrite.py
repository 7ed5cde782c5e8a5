"""Tools of the passes: who uses a value, what it depends on, and rebuilding a graph from the leaves up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from everloop.compiler.ir import Builder, Graph, Value, walk

Rule = Callable[[Value, tuple[Value, ...]], Value]


def users(roots: Iterable[Value]) -> dict[Value, list[Value]]:
    """Return the values that read each value, once for each time they do."""
    found: dict[Value, list[Value]] = defaultdict(list)
    for value in walk(roots):
        for arg in value.args:
            found[arg].append(value)
    return found


class Depends:
    """Whether a value depends on a leaf for which `is_source` holds; remembers its answers."""

    def __init__(self, is_source: Callable[[Value], bool]) -> None:
        self.is_source = is_source
        self.known: dict[Value, bool] = {}

    def __call__(self, value: Value) -> bool:
        known = self.known
        stack = [] if value in known else [value]
        while stack:  # only what is not known yet: in a long step, all would be quadratic
            each = stack[-1]
            waiting = [a for a in each.args if a not in known]
            if waiting:
                stack += waiting
            else:
                known[each] = self.is_source(each) or any(known[a] for a in each.args)
                stack.pop()
        return known[value]


def rebuild(graph: Graph, builder: Builder, rule: Rule) -> Graph:
    """Return `graph` with every value replaced by what `rule` makes of it and its replaced arguments."""
    done: dict[Value, Value] = {}
    for value in graph.values:
        builder.line = value.where
        done[value] = rule(value, tuple(done[a] for a in value.args))
    names: dict[Value, str] = {}
    for value, name in graph.names.items():
        if value in done:
            names.setdefault(done[value], name)
    return Graph({name: done[v] for name, v in graph.outputs.items()}, names)


def same(builder: Builder, value: Value, args: tuple[Value, ...]) -> Value:
    """Return `value` with other arguments."""
    return builder.make(value.op, *args, data=value.data, type=value.type)
