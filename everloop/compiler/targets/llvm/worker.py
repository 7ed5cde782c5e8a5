"""Writes what one thread does in a sequence: packing, the time loop over its share, resets, totals."""

from __future__ import annotations

from collections.abc import Callable

from everloop.compiler.loop import Map, Product
from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.layout import LENGTH, RECORD, ROW, SLOT, Layout, shape
from everloop.compiler.targets.llvm.mapping import call, has_reduction, units
from everloop.compiler.targets.llvm.partition import Partition, argument
from everloop.compiler.targets.llvm.product import panel_width

FLUSH = 32  # steps, a power of two


class Worker(Partition):
    """Writes `work(args, tid, team)`: one thread's part of the sequence."""

    def __init__(self, layout: Layout) -> None:
        code = Code("internal void @work(ptr %args, i64 %tid, i64 %team)")
        code.when(code.equal("%tid", 0), lambda: code.store("i64", "%team", code.at("%args", 8 * SLOT["came"])))
        super().__init__(layout, code)

    def text(self) -> str:
        code, gradient = self.code, self.layout.loop.is_gradient
        self.pack()
        if self.layout.own:
            code.clear(self.own, self.layout.own)
        self.start_rows()
        self.meet_in_columns()

        def longest() -> str:
            return code.slot(self.tables, LENGTH)

        steps = code.either(code(f"icmp sgt i64 {self.rows}, 0"), "i64", longest, lambda: "0")

        def step(k: str, values: list[str]) -> list[str]:
            s = code.sub(code.sub(steps, 1), k) if gradient else k
            active = self.count_active(s, values[0])
            if not gradient:
                self.when_reset(s, active, self.restart)
            self.point(s, active)
            for n, stage in enumerate(self.layout.loop.stages):
                self.stage(n, stage, active, k)
                self.meet_in_columns()
            if gradient:
                self.when_reset(s, active, self.take_gradient)
            if self.layout.parts:
                code.when(code.equal(code(f"and i64 {k}, {FLUSH - 1}"), FLUSH - 1), self.flush)
            return [active]

        code.loop(0, steps, step, [("i64", "0" if gradient else self.rows)])
        self.own_rows(self.finish_row, self.rows)
        self.flush()
        return code.end()

    def pack(self) -> None:
        code, layout = self.code, self.layout
        size = layout.form.size
        pack, packed = argument(code, "packer", "ptr"), argument(code, "packed", "ptr")

        def all_matrices() -> None:
            done = set()
            for stage in layout.loop.stages:
                if not isinstance(stage, Product) or (stage.matrix.name, stage.transposed) in done:
                    continue
                done.add((stage.matrix.name, stage.transposed))
                inner, width = shape(stage)
                source, down, across = (
                    self.slot(stage.matrix.name, n, kind) for n, kind in enumerate(("ptr", "i64", "i64"))
                )
                by_k, by_j = (down, across) if stage.transposed else (across, down)
                vectors = -(-width // layout.isa.lanes(size))
                first, last = (code.divide(code.mul(t, vectors), "%team") for t in ("%tid", code.add("%tid", 1)))
                to = code.at(packed, layout.packed[stage.matrix.name, stage.transposed])
                args = (
                    f"ptr {source}, i64 {by_k}, i64 {by_j}, i64 {inner}, i64 {width}, ptr {to}, i64 {first}, i64 {last}"
                )
                code.do(f"call void {pack}({args})")
            code.when(code("icmp sgt i64 %team, 1"), self.meet)

        if layout.packed:
            code.when(code(f"icmp ne i64 {argument(code, 'pack')}, 0"), all_matrices)

    def flush(self) -> None:
        """Add the totals of the last steps to those of all steps: long sums in two levels round less."""
        code, layout = self.code, self.layout
        vector = f"<{layout.isa.lanes(layout.form.size)} x {layout.form.scalar}>"

        def line(at: str, _: list[str]) -> list[str]:
            part, total = code.at(self.own, at), code.at(self.own, code.add(at, layout.parts))
            value = code(f"fadd {vector} {code.load(vector, total, 4)}, {code.load(vector, part, 4)}")
            code.store(vector, value, total, 4)
            code.store(vector, "zeroinitializer", part, 4)
            return []

        code.loop(0, layout.parts, line, step=layout.isa.bytes)

    def when_reset(self, s: str, active: str, body: Callable[[str], None]) -> None:
        """Run body(record) for every active row with a reset at this step."""
        code = self.code

        def row(i: str) -> None:
            table = self.table(i)
            is_reset = self.is_reset(self.time(table, s), code.slot(table, ROW))
            code.when(is_reset, lambda: body(code.slot(table, RECORD, "ptr")))

        def rows() -> None:
            self.own_rows(row, active)
            self.meet_in_columns()

        code.when(self.has_reset, rows)

    def restart(self, record: str) -> None:
        for state in self.layout.loop.states:
            source = self.slot("restart " + state.name, 0, "ptr")
            self.code.copy(
                self.code.at(record, self.layout.offsets[state.name]), source, state.width * self.layout.form.size
            )

    def take_gradient(self, record: str) -> None:
        code, scalar, size = self.code, self.layout.form.scalar, self.layout.form.size
        for state in self.layout.loop.states:
            place = code.at(record, self.layout.offsets[state.name])
            total = code.at(self.own, self.layout.sums["restart " + state.name])

            def one(j: str, _: list[str], place: str = place, total: str = total) -> list[str]:
                at = code.mul(j, size)
                source, to = code.at(place, at), code.at(total, at)
                value = code(f"fadd {scalar} {code.load(scalar, to, size)}, {code.load(scalar, source, size)}")
                code.store(scalar, value, to, size)
                code.store(scalar, "0.0", source, size)
                return []

            code.loop(0, state.width, one)

    def stage(self, n: int, stage: Product | Map, active: str, k: str) -> None:
        code, layout = self.code, self.layout
        if isinstance(stage, Product):
            inner, width = shape(stage)
            count = -(-width // panel_width(layout.isa, layout.form.size))
            first, last = self.part(count)
            source, begin = self.rows_of(stage.source)
            out, to = self.rows_of(stage.out)
            packed = code.at(argument(code, "packed", "ptr"), layout.packed[stage.matrix.name, stage.transposed])
            args = f"ptr {source}, i64 {begin}, ptr {out}, i64 {to}, i64 {layout.table}, i64 {active}, ptr {packed}"
            run, back = argument(code, "product", "ptr"), code(f"and i64 {k}, 1")
            code.do(f"call void {run}({args}, i64 {inner}, i64 {width}, i64 {first}, i64 {last}, i64 {back})")
            return
        count = units(layout, stage)
        rows, features = ("0", active), ("0", str(count))
        if has_reduction(stage):
            rows = self.part(active)
        else:
            features = self.part(count)
        args = f"ptr %args, ptr {self.own}, i64 {rows[0]}, i64 {rows[1]}, i64 {features[0]}, i64 {features[1]}"
        code.do(call(layout, n, args))
