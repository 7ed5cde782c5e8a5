"""Local rules: what a value can be replaced with, seeing only its arguments."""

from __future__ import annotations

import torch

from everloop.compiler.ir import Builder, Type, Value, broadcast, walk
from everloop.compiler.rewrite import same
from everloop.compiler.view import View


class Local:
    """The rules, one method an operation; None leaves the value as it is."""

    def __init__(self, builder: Builder) -> None:
        self.b = builder

    def __call__(self, value: Value, args: tuple[Value, ...]) -> Value:
        if value.kind == "map" and value.op != "replaced":
            folded = self.fold(value, args)
            if folded is not None:
                return folded
            args = args if value.op == "surrogate" else self.narrowed(value, args)  # lowered, it is its first argument
        rule = getattr(self, f"rule_{value.op}", None)
        found = rule(value, args) if rule else None
        return same(self.b, value, args) if found is None else found

    def fold(self, value: Value, args: tuple[Value, ...]) -> Value | None:
        if not all(a.op == "constant" for a in args):
            return None
        numbers = [torch.tensor(a.number, dtype=torch.float64) for a in args]
        return self.b.constant(float(value.operation.meaning(*numbers)), broadcast(a.type for a in args))

    def narrowed(self, value: Value, args: tuple[Value, ...]) -> tuple[Value, ...]:
        """Undo the broadcasting of numbers where another argument has the width."""
        for k, arg in enumerate(args):
            number = spread(arg)
            others = [a.type for n, a in enumerate(args) if n != k]
            if number is not None and broadcast([number.type, *others]).stands_for(value.type):
                args = (*args[:k], number, *args[k + 1 :])
        return args

    def keeps(self, kept: Value, other: Value) -> bool:
        """Return whether an operation of the two has the type of `kept`."""
        return broadcast([kept.type, other.type]) == kept.type

    def rule_add(self, value: Value, args: tuple[Value, ...]) -> Value | None:
        for kept, other in (args, args[::-1]):
            if is_number(other, 0.0) and self.keeps(kept, other):
                return kept
        if args[1].op == "neg":
            return self.b.sub(args[0], args[1].args[0])
        left, right = args
        if left is right:
            return self.doubled(left)
        if left.op == "add" and left.args[1] is right and left.args[0].type.stands_for(value.type):
            return self.b.add(left.args[0], self.doubled(right))
        if left.op == "add" and is_fixed(left.args[1]) and is_fixed(right) and left.args[0].type.stands_for(value.type):
            return self.b.add(left.args[0], self.b.add(left.args[1], right))
        return None

    def doubled(self, value: Value) -> Value:
        return self(self.b.mul(value, 2.0), (value, self.b.constant(2.0)))

    def rule_sub(self, value: Value, args: tuple[Value, ...]) -> Value | None:
        left, right = args
        if is_number(right, 0.0) and self.keeps(left, right):
            return left
        if right.op == "neg":
            return self.b.add(left, right.args[0])
        if is_number(left, 0.0) and self.keeps(right, left):
            return self.b.neg(right)
        return None

    def rule_mul(self, value: Value, args: tuple[Value, ...]) -> Value | None:
        for kept, other in (args, args[::-1]):
            if is_number(other, 1.0) and self.keeps(kept, other):
                return kept
            if is_number(other, -1.0) and self.keeps(kept, other):
                return self.b.neg(kept)
            if other.op == "constant" and kept.op == "mul":
                for inner, number in (kept.args, kept.args[::-1]):
                    if number.op == "constant" and self.keeps(inner, number):
                        return self.b.mul(inner, self.b.constant(other.number * number.number, other.type))
                for inner, number in (kept.args, kept.args[::-1]):
                    if number.width == 1 < inner.width and self.keeps(kept, other) and other.type.shape in ((), (1,)):
                        scaled = self.b.mul(number, other)
                        return self.b.mul(inner, self(scaled, scaled.args))
        return None

    def rule_div(self, value: Value, args: tuple[Value, ...]) -> Value | None:
        return args[0] if is_number(args[1], 1.0) and self.keeps(*args) else None

    def rule_neg(self, value: Value, args: tuple[Value, ...]) -> Value | None:
        if args[0].op == "neg":
            return args[0].args[0]
        return self.b.sub(*args[0].args[::-1]) if args[0].op == "sub" else None

    def rule_where(self, value: Value, args: tuple[Value, ...]) -> Value | None:
        mask, a, b = args
        if mask.op == "constant":
            chosen = a if mask.number else b
            return chosen if chosen.type.stands_for(value.type) else None
        return a if a is b and a.type.stands_for(value.type) else None

    def rule_transpose(self, value: Value, args: tuple[Value, ...]) -> Value | None:
        return args[0].args[0] if args[0].op == "transpose" else None

    def rule_linear(self, value: Value, args: tuple[Value, ...]) -> Value | None:
        row, matrix = args
        return self.b.matmul(row, matrix.args[0]) if matrix.op == "transpose" else None

    def rule_matmul(self, value: Value, args: tuple[Value, ...]) -> Value | None:
        row, matrix = args
        return self.b.linear(row, matrix.args[0]) if matrix.op == "transpose" else None

    def rule_slice(self, value: Value, args: tuple[Value, ...]) -> Value | None:
        (arg,), (start, stop) = args, value.data
        if (start, stop) == (0, arg.width):
            return arg
        if arg.op == "slice":
            return self.b.slice(arg.args[0], arg.data[0] + start, arg.data[0] + stop)
        if arg.op == "constant":
            return self.b.constant(arg.number, value.type)
        if arg.op == "cat":
            return self._slice_of_cat(arg, start, stop)
        if arg.op == "view" and (part := View.of(arg.data).part(start, stop)):
            return self._viewed(arg.args[0], part)
        return None

    def rule_view(self, value: Value, args: tuple[Value, ...]) -> Value | None:
        (arg,), view = args, View.of(value.data)
        if arg.op == "constant":
            return self.b.constant(arg.number, value.type)
        if arg.op == "view" and (both := view.after(View.of(arg.data))):
            return self._viewed(arg.args[0], both)
        return self._viewed(arg, view) if view.is_dense else None

    def _viewed(self, value: Value, view: View) -> Value:
        if view.is_dense:
            return self.b.slice(value, view.offset, view.offset + view.width)
        return self.b.view(value, view)

    def _slice_of_cat(self, cat: Value, start: int, stop: int) -> Value:
        parts, at = [], 0
        for part in cat.args:
            low, high = max(start - at, 0), min(stop - at, part.width)
            if low < high:
                parts.append(self.b.slice(part, low, high))
            at += part.width
        return parts[0] if len(parts) == 1 else self.b.make("cat", *parts)

    def rule_cat(self, value: Value, args: tuple[Value, ...]) -> Value | None:
        flat = [part for arg in args for part in (arg.args if arg.op == "cat" else (arg,)) if part.width]
        parts: list[Value] = []
        for part in flat:
            joined = self._join(parts[-1], part) if parts else None
            parts[-1:] = [joined] if joined is not None else [*parts[-1:], part]
        if len(parts) == 1 and parts[0].type.stands_for(value.type):
            return parts[0]
        return self.b.make("cat", *parts) if parts else None

    def _join(self, left: Value, right: Value) -> Value | None:
        """Return two neighbours of a concatenation as one value, if they are one."""
        if left.op == right.op == "constant" and left.number == right.number and left.type.rows == right.type.rows:
            return self.b.constant(left.number, Type((left.width + right.width,), left.type.rows))
        if left.op == right.op == "slice" and left.args == right.args and left.data[1] == right.data[0]:
            return self.b.slice(left.args[0], left.data[0], right.data[1])
        return None

    def rule_block(self, value: Value, args: tuple[Value, ...]) -> Value | None:
        (arg,), (start, stop) = args, value.data
        if (start, stop) == (0, arg.type.shape[0]):
            return arg
        if arg.op == "block":
            return self.b.make("block", arg.args[0], data=(arg.data[0] + start, arg.data[0] + stop))
        return None

    def rule_stack(self, value: Value, args: tuple[Value, ...]) -> Value | None:
        parts: list[Value] = []
        for part in args:
            last = parts[-1] if parts else None
            both = last is not None and last.op == part.op == "block" and last.args == part.args
            if last is not None and both and last.data[1] == part.data[0]:
                parts[-1] = self.b.make("block", last.args[0], data=(last.data[0], part.data[1]))
            else:
                parts.append(part)
        if len(parts) == 1:
            only = parts[0]
            whole = only.op == "block" and only.type == only.args[0].type
            return only.args[0] if whole else only
        return self.b.make("stack", *parts)


class Simplifying(Builder):
    """A Builder that applies the local rules to everything it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.local = Local(self)

    def made(self, op: str, *args: Value | float) -> Value:
        """Return `op` of `args`, simplified."""
        values = tuple(map(self.lift, args))
        return self.local(self.make(op, *values), values)

    def part(self, value: Value, start: int, stop: int) -> Value:
        """Return features start to stop, simplified."""
        whole = self.slice(value, start, stop)
        return self.local(whole, whole.args) if whole.op == "slice" else whole

    def joined(self, rows: list[Value]) -> Value:
        """Return rows side by side, simplified."""
        whole = self.make("cat", *rows) if len(rows) > 1 else rows[0]
        return self.local(whole, whole.args) if whole.op == "cat" else whole


def is_number(value: Value, number: float) -> bool:
    """Return whether `value` is this constant."""
    return value.op == "constant" and value.number == number


def spread(value: Value) -> Value | None:
    """Return the value of one feature that adding zeros has broadcast to more."""
    for number, zeros in (value.args, value.args[::-1]) if value.op == "add" else ():
        if is_number(zeros, 0.0) and number.width == 1 < value.width and number.type.rows == value.type.rows:
            return number
    return None


def is_fixed(value: Value) -> bool:
    """Return whether `value` is a vector that no step changes (constants apart)."""
    return value.type.kind == "vector" and value.op != "constant" and all(v.group == "fixed" for v in _inputs(value))


def _inputs(value: Value) -> list[Value]:
    return [v for v in walk([value]) if v.op == "input"]
