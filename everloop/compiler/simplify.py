"""Simplify: less to compute, and what the loop need not compute is kept apart from what it must."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise

from everloop.compiler.ir import Builder, Graph, Type, Value, walk
from everloop.compiler.rewrite import Depends, rebuild, same, users
from everloop.compiler.rules import Local, is_fixed

Pass = Callable[[Graph, Builder, Depends], Graph]


def simplify(
    graph: Graph, *, is_source: Callable[[Value], bool] | None = None, passes: list[Pass] | None = None
) -> Graph:
    """Return a graph with the same outputs that does less.

    is_source: which leaves change inside the loop (by default the states); values that depend on none of them
    are gathered, so that they can leave the loop in one piece.
    """
    builder = Builder()
    source = is_source or (lambda v: v.op == "input" and v.group == "state")
    for _ in range(20):
        before = list(graph.outputs.values())
        for each in passes or PASSES:
            graph = each(graph, builder, Depends(source))
        if list(graph.outputs.values()) == before:
            break
    graph.verify()
    return graph


def local_rules(graph: Graph, builder: Builder, in_loop: Depends) -> Graph:
    """Constants, x + 0, x * 1, double transposes, slices of slices and of concatenations."""
    return rebuild(graph, builder, Local(builder))


def push_slices(graph: Graph, builder: Builder, in_loop: Depends) -> Graph:
    """Compute slices of element-wise values from slices of their arguments, where the whole is not needed anyway.

    Where slices overlap (shifts of a row), each would compute the same again, and twice as much at every shift more. So
    would the slices of what other maps make of the whole, which come here one pass later.
    """
    readers = users(graph.outputs.values())
    roots = set(graph.outputs.values())
    cut = set[Value]()  # what slices read, by way of maps or not
    for each in reversed(graph.values):
        if any(r.op == "slice" or (r.kind == "map" and r in cut) for r in readers[each]):
            cut.add(each)

    def pushable(value: Value) -> bool:
        if value.kind != "map" or value.op == "replaced" or not in_loop(value):
            return False
        ranges = sorted({r.data for r in readers[value] if r.op == "slice"})
        if any(start < stop for (_, stop), (start, _) in pairwise(ranges)):
            return False
        if value.operation.is_light:
            return not any(r.kind == "map" and r in cut for r in readers[value])
        return value not in roots and all(r.op == "slice" for r in readers[value])

    def rule(value: Value, args: tuple[Value, ...]) -> Value:
        if value.op == "slice" and pushable(value.args[0]):
            start, stop = value.data
            inner = args[0]
            if inner.kind == "map":
                parts = (a if a.width == 1 else builder.slice(a, start, stop) for a in inner.args)
                found = same(builder, inner, tuple(parts))
                return found if found.type == value.type else same(builder, value, args)
        return same(builder, value, args)

    return rebuild(graph, builder, rule)


def split_products(graph: Graph, builder: Builder, in_loop: Depends) -> Graph:
    """Split the product of a concatenation into what changes in the loop and what does not."""

    def columns(matrix: Value, op: str, start: int, stop: int) -> Value:
        if op == "linear":
            return builder.slice(matrix, start, stop)
        return builder.make("block", matrix, data=(start, stop))

    def rule(value: Value, args: tuple[Value, ...]) -> Value:
        if value.kind != "product" or args[0].op != "cat":
            return same(builder, value, args)
        kept: dict[bool, list[tuple[Value, Value]]] = {True: [], False: []}
        at = 0
        for part in args[0].args:
            part_rows = part if part.type.rows else builder.add(part, builder.constant(0.0, _row_like(part)))
            kept[in_loop(part)].append((part_rows, columns(args[1], value.op, at, at + part.width)))
            at += part.width
        if not kept[True] or not kept[False]:
            return same(builder, value, args)
        join = "cat" if value.op == "linear" else "stack"
        terms = []
        for group in kept.values():
            rows, matrices = zip(*group, strict=True)
            one = len(rows) == 1
            row = rows[0] if one else builder.make("cat", *rows)
            matrix = matrices[0] if one else _columns_together(builder, join, matrices)
            terms.append(builder.make(value.op, row, matrix))
        return builder.make("add", *terms)

    return rebuild(graph, builder, rule)


def _row_like(value: Value) -> Type:
    return Type(value.type.shape, rows=True)


def _columns_together(builder: Builder, join: str, matrices: tuple[Value, ...]) -> Value:
    if join == "stack":
        return builder.make("stack", *matrices)
    turned = builder.make("stack", *(builder.transpose(m) for m in matrices))
    return builder.transpose(turned)


def gather_terms(graph: Graph, builder: Builder, in_loop: Depends) -> Graph:
    """Order sums so that the terms from outside the loop are added first, among themselves."""
    readers = users(graph.outputs.values())
    roots = set(graph.outputs.values())

    def terms(value: Value) -> list[tuple[int, Value]]:
        found: list[tuple[int, Value]] = []
        stack = [(1, value)]
        while stack:
            sign, each = stack.pop()
            single = each is value or (len(readers[each]) == 1 and each not in roots)
            if each.op in ("add", "sub") and single and in_loop(each):
                left, right = each.args
                stack += [(sign if each.op == "add" else -sign, right), (sign, left)]
            else:
                found.append((sign, each))
        return found

    def rank(value: Value) -> int:
        of_x = any(v.op == "input" and v.group in ("x", "steps") for v in walk([value]))
        return 0 if of_x and value.kind == "product" else 1 if of_x else 2 if value.type.rows else 3

    def total(parts: list[tuple[int, Value]]) -> Value:
        result: Value | None = None
        for sign, part in sorted(parts, key=lambda p: p[0] < 0):
            if result is None:
                result = part if sign > 0 else builder.neg(part)
            else:
                result = builder.add(result, part) if sign > 0 else builder.sub(result, part)
        assert result is not None
        return result

    done: dict[Value, Value] = {}

    def rule(value: Value, args: tuple[Value, ...]) -> Value:
        done[value] = result = _ordered(value, args)
        return result

    def _ordered(value: Value, args: tuple[Value, ...]) -> Value:
        found = terms(value)
        outside = sorted((t for t in found if not in_loop(t[1])), key=lambda t: rank(t[1]))
        if len(found) < 3 or len(outside) < 2:
            return same(builder, value, args)
        fixed = [t for t in outside if not t[1].type.rows]
        moving = [t for t in outside if t[1].type.rows]
        fixed = [(s, done[v]) for s, v in fixed]
        fixed = [(1, total(fixed))] if len(fixed) > 1 else fixed
        apart = total([*((s, done[v]) for s, v in moving[:1]), *fixed, *((s, done[v]) for s, v in moving[1:])])
        inside = [(s, done[v]) for s, v in found if in_loop(v)]
        result = total([*inside, (1, apart)])
        return result if result.type == value.type else same(builder, value, args)

    return rebuild(graph, builder, rule)


def merge_products(graph: Graph, builder: Builder, in_loop: Depends) -> Graph:
    """Make one product of several products of the same row with fixed matrices."""
    groups: dict[tuple[str, Value], list[Value]] = defaultdict(list)
    for value in graph.values:
        if value.kind == "product":
            groups[value.op, value.args[0]].append(value)

    def rule(value: Value, args: tuple[Value, ...]) -> Value:
        group = groups.get((value.op, value.args[0]), []) if value.kind == "product" else []
        if len(group) < 2:
            return same(builder, value, args)
        matrices = [member.args[1] for member in group]
        wide = _columns_together(builder, "cat", tuple(matrices)) if value.op == "matmul" else None
        product = builder.make(value.op, args[0], wide or builder.make("stack", *matrices))
        start = sum(member.width for member in group[: group.index(value)])
        return builder.slice(product, start, start + value.width)

    return rebuild(graph, builder, rule)


def gather_biases(graph: Graph, builder: Builder, in_loop: Depends) -> Graph:
    """Add vectors that are added to slices of a row outside the loop to the whole row, at once."""
    readers = users(graph.outputs.values())
    roots = set(graph.outputs.values())
    wide: dict[Value, Value] = {}
    for base in graph.values:
        slices = sorted((r for r in readers[base] if r.op == "slice"), key=lambda r: r.data)
        if in_loop(base) or not base.type.rows or len(slices) < 2 or len(slices) < len(readers[base]) or base in roots:
            continue
        edges = [0, *(e for s in slices for e in s.data), base.width]
        biases = [_bias(s, readers) for s in slices]
        if edges != sorted(edges) or not any(biases):
            continue
        pieces, at = [], 0
        for part, bias in zip(slices, biases, strict=True):
            start, stop = part.data
            pieces += [builder.constant(0.0, Type((start - at,)))] if start > at else []
            pieces.append(bias or builder.constant(0.0, Type((stop - start,))))
            at = stop
        pieces += [builder.constant(0.0, Type((base.width - at,)))] if base.width > at else []
        wide[base] = builder.make("cat", *pieces)

    done: dict[Value, Value] = {}

    def rule(value: Value, args: tuple[Value, ...]) -> Value:
        done[value] = same(builder, value, args)
        if value.op == "slice" and value.args[0] in wide:
            base = value.args[0]
            done[value] = builder.slice(builder.add(done[base], wide[base]), *value.data)
        elif value.op == "add":
            for part in value.args:
                if part.op == "slice" and part.args[0] in wide and _bias(part, readers):
                    done[value] = done[part]
        return done[value]

    return rebuild(graph, builder, rule)


def _bias(part: Value, readers: dict[Value, list[Value]]) -> Value | None:
    """Return the vector that every reader of a slice adds to it."""
    others = {o for r in readers[part] for o in r.args if r.op == "add" and o is not part}
    if len(others) != 1 or any(r.op != "add" for r in readers[part]):
        return None
    (other,) = others
    return other if is_fixed(other) and other.width == part.width else None


LOCAL: list[Pass] = [local_rules, push_slices]
PASSES: list[Pass] = [local_rules, split_products, gather_terms, push_slices, merge_products, gather_biases]
