"""What is known of the lines of a Map before its code is written: which are one number, which join, which wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from everloop.compiler.loop import Map
from everloop.compiler.targets.llvm.mathematics import is_chain

AHEAD = 55  # lines of a Map from which the chains of one turn keep a processor from starting the next
CHEAP = 4  # operations that are sooner done again than kept


@dataclass(frozen=True)
class Phase:
    """A loop over features of its own: the lines it computes, those of earlier ones it reads, and what it keeps."""

    lines: tuple[int, ...]
    reads: tuple[int, ...]
    kept: tuple[int, ...]


class Lines:
    """The lines of a Map.

    same:   those that need one number a row: loads and stores of width 1, and arithmetic between them.
    fused:  additions and subtractions that end a multiplication which nobody else reads.
    phases: loops over features, one after the other. A processor looks only some hundred operations ahead, so that
            several long chains in a long loop would be waited for; each gets a short loop, whose turns overlap.
    """

    def __init__(self, stage: Map) -> None:
        self.body = stage.body
        self.same = self._same() if stage.width > 1 else frozenset()
        self.fused = self._fused()
        self.phases = self._phases()

    def _same(self) -> frozenset[int]:
        found: set[int] = set()
        for n, i in enumerate(self.body):
            is_narrow = i.buffer is None or (i.op in ("load", "store") and i.buffer.width == 1)
            args = (a for a in i.args if self.body[a].op != "constant")
            if i.op != "constant" and is_narrow and found.issuperset(args):
                found.add(n)
        return frozenset(found)

    def _fused(self) -> dict[int, int]:
        found: dict[int, int] = {}
        readers = Counter(a for i in self.body for a in i.args)
        for n, i in enumerate(self.body):
            if i.op in ("add", "sub") and n not in self.same:
                alone = (a for a in i.args if self.body[a].op == "mul" and readers[a] == 1 and a not in self.same)
                product = next(alone, None)
                if product is not None:
                    found[n] = product
        return found

    def _phases(self) -> tuple[Phase, ...]:
        ends = [n for n, i in enumerate(self.body) if i.is_write and n not in self.same]
        roots = [[n] for n, i in enumerate(self.body) if is_chain(i.op) and n not in self.same]
        roots = [*roots, ends] if len(roots) > 1 and len(self.body) > AHEAD else [ends]
        kept = {n: p for p, (n, *_) in enumerate(roots[:-1])}
        while True:
            needed = [self._cone(r, {n for n in kept if kept[n] < p}) for p, r in enumerate(roots)]
            shared = Counter(n for lines in needed for n in lines if n not in kept)
            dear = [n for n, count in shared.items() if count > 1 and self._cost(n, kept) > CHEAP]
            if not dear:
                break
            last = max(dear)
            kept[last] = next(p for p, lines in enumerate(needed) if last in lines)
        reads = [{a for n in lines for a in self._args(n) if a not in lines} & set(kept) for lines in needed]
        return tuple(
            Phase(tuple(sorted(lines)), tuple(sorted(read)), tuple(n for n in sorted(kept) if kept[n] == p))
            for p, (lines, read) in enumerate(zip(needed, reads, strict=True))
        )

    def _args(self, n: int) -> Iterable[int]:
        """Yield what the code of a line reads: a fused line the factors of its product."""
        for a in self.body[n].args:
            yield from self.body[a].args if a == self.fused.get(n) else (a,)

    def _cone(self, roots: list[int], known: set[int]) -> set[int]:
        """Return the lines that must be computed to have `roots` where `known` lines are there."""
        found: set[int] = set()
        stack = [*roots]
        while stack:
            n = stack.pop()
            if n not in found and n not in known and n not in self.same:
                found.add(n)
                stack += self._args(n)
        return found

    def _cost(self, n: int, kept: dict[int, int]) -> int:
        return sum(self.body[m].op not in ("load", "constant") for m in self._cone([n], set(kept)))
