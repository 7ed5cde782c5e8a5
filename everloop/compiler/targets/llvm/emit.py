"""Writes the text of LLVM functions: numbered values, labels, loops and branches."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_NAME = re.compile(r"%[\w.]+")
Carried = Sequence[tuple[str, str]]  # (type, value) pairs that a loop or a branch hands on


def _reads_memory(line: str) -> bool:
    """Whether a line that names a value reads memory: a load, or a call that is given an address."""
    operation, rest = line.split(" = ", 1)[1].split(" ", 1)
    return operation == "load" or (operation == "call" and "ptr %" in rest)


class Code:
    """One function in SSA form. Calling it with an expression names the result."""

    def __init__(self, head: str, attributes: str = "#0") -> None:
        self.lines = [f"define {head} {attributes} {{", "entry:"]
        self.block = "entry"
        self.count = 0

    def __call__(self, expression: str) -> str:
        name = self.fresh("t")
        self.lines.append(f"  {name} = {expression}")
        return name

    def do(self, statement: str) -> None:
        self.lines.append("  " + statement)

    def fresh(self, prefix: str) -> str:
        self.count += 1
        return f"%{prefix}{self.count}"

    def label(self, name: str) -> None:
        """Start the block `name` (with its percent sign)."""
        self.lines.append(name[1:] + ":")
        self.block = name[1:]

    def end(self, result: str = "void") -> str:
        """Return the finished text."""
        return "\n".join([*self.lines, f"  ret {result}", "}", ""])

    def overlap(self, start: int) -> None:
        """Order the lines from number `start` on, all of one block, by how many lines each has to wait for.

        Chains of them then stand beside each other, and not one behind the other, where a processor that looks only
        some hundred instructions ahead would come to the next too late. What is written to memory keeps its place
        among all that is read and written there.
        """
        ready: dict[str, int] = {}  # by name of a result
        placed: list[tuple[int, str]] = []
        written = touched = 0  # when the last line that writes memory is due, and the last that reads or writes
        for line in self.lines[start:]:
            names, is_write = _NAME.findall(line), line.startswith(("  store ", "  call "))
            when = max((ready[name] for name in names if name in ready), default=0)
            if is_write:
                when = written = touched = max(when, touched)
            elif _reads_memory(line):
                when = max(when, written)
                touched = max(touched, when)
            if not is_write:
                ready[names[0]] = when + 1
            placed.append((when, line))
        self.lines[start:] = [line for _, line in sorted(placed, key=lambda entry: entry[0])]

    # Integers and addresses: everything is an i64 or a pointer to bytes.

    def add(self, a: str, b: str | int) -> str:
        return a if b == 0 else self(f"add i64 {a}, {b}")

    def sub(self, a: str | int, b: str | int) -> str:
        return self(f"sub i64 {a}, {b}")

    def mul(self, a: str, b: str | int) -> str:
        return a if b == 1 else self(f"mul i64 {a}, {b}")

    def divide(self, a: str, b: str | int) -> str:
        return self(f"udiv i64 {a}, {b}")

    def less(self, a: str, b: str | int) -> str:
        return self(f"icmp slt i64 {a}, {b}")

    def equal(self, a: str, b: str | int) -> str:
        return self(f"icmp eq i64 {a}, {b}")

    def least(self, a: str, b: str | int) -> str:
        return self(f"select i1 {self.less(a, b)}, i64 {a}, i64 {b}")

    def at(self, base: str, offset: str | int) -> str:
        """Address `offset` bytes after `base`."""
        return base if offset == 0 else self(f"getelementptr i8, ptr {base}, i64 {offset}")

    def load(self, kind: str, address: str, align: int = 8) -> str:
        return self(f"load {kind}, ptr {address}, align {align}")

    def store(self, kind: str, value: str | int, address: str, align: int = 8) -> None:
        self.do(f"store {kind} {value}, ptr {address}, align {align}")

    def slot(self, base: str, number: int, kind: str = "i64") -> str:
        """The 8-byte entry `number` of the table at `base`."""
        return self.load(kind, self.at(base, 8 * number))

    # Control flow.

    def loop(
        self,
        begin: str | int,
        end: str | int,
        body: Callable[[str, list[str]], Sequence[str]],
        carried: Carried = (),
        step: int = 1,
    ) -> list[str]:
        """For index = begin, begin + step, ... while index + step <= end. `body(index, values)` returns new values."""
        before, inside, after = self.block, self.fresh("loop"), self.fresh("done")
        last = self.sub(end, step - 1) if step > 1 else str(end)
        self.do(f"br i1 {self(f'icmp slt i64 {begin}, {last}')}, label {inside}, label {after}")
        self.label(inside)
        index = self.fresh("i")
        values = [self.fresh("v") for _ in carried]
        place = len(self.lines)
        new = list(body(index, values))
        following = self.add(index, step)
        latch = "%" + self.block
        self.do(f"br i1 {self(f'icmp slt i64 {following}, {last}')}, label {inside}, label {after}")
        phis = [f"  {index} = phi i64 [ {begin}, %{before} ], [ {following}, {latch} ]"]
        for name, (kind, start), value in zip(values, carried, new, strict=True):
            phis.append(f"  {name} = phi {kind} [ {start}, %{before} ], [ {value}, {latch} ]")
        self.lines[place:place] = phis
        self.label(after)
        return [
            self(f"phi {kind} [ {start}, %{before} ], [ {value}, {latch} ]")
            for (kind, start), value in zip(carried, new, strict=True)
        ]

    def advance(self, test: Callable[[str], str], move: Callable[[str], str], start: str) -> str:
        """While `test(value)`: value = move(value). `test` may branch."""
        before, head, inside, after = self.block, self.fresh("head"), self.fresh("move"), self.fresh("stop")
        self.do(f"br label {head}")
        self.label(head)
        place = len(self.lines)
        value = self.fresh("w")
        condition = test(value)
        self.do(f"br i1 {condition}, label {inside}, label {after}")
        self.label(inside)
        new = move(value)
        self.lines.insert(place, f"  {value} = phi i64 [ {start}, %{before} ], [ {new}, %{self.block} ]")
        self.do(f"br label {head}")
        self.label(after)
        return value

    def when(self, condition: str, body: Callable[[], object]) -> None:
        """Run `body` if the i1 `condition` holds."""
        inside, after = self.fresh("then"), self.fresh("endif")
        self.do(f"br i1 {condition}, label {inside}, label {after}")
        self.label(inside)
        body()
        self.do(f"br label {after}")
        self.label(after)

    def either(self, condition: str, kind: str, yes: Callable[[], str], no: Callable[[], str]) -> str:
        """Return `yes()` or `no()`, computing only one."""
        first, second, after = self.fresh("yes"), self.fresh("no"), self.fresh("join")
        self.do(f"br i1 {condition}, label {first}, label {second}")
        self.label(first)
        a, from_a = yes(), self.block
        self.do(f"br label {after}")
        self.label(second)
        b, from_b = no(), self.block
        self.do(f"br label {after}")
        self.label(after)
        return self(f"phi {kind} [ {a}, %{from_a} ], [ {b}, %{from_b} ]")

    def copy(self, to: str, source: str, size: str | int) -> None:
        self.do(f"call void @llvm.memcpy.p0.p0.i64(ptr {to}, ptr {source}, i64 {size}, i1 false)")

    def clear(self, to: str, size: str | int) -> None:
        self.do(f"call void @llvm.memset.p0.i64(ptr {to}, i8 0, i64 {size}, i1 false)")
