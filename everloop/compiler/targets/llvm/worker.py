"""One thread's part of a sequence: packing, its rows, the time loop with lengths and resets."""

from __future__ import annotations

from collections.abc import Callable

from everloop.compiler.loop import Buffer, Map, Product
from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.layout import LENGTH, RANK, RECORD, ROW, SLOT, Layout, is_row_total, shape
from everloop.compiler.targets.llvm.mapping import has_reduction, units
from everloop.compiler.targets.llvm.product import panel_width

FLUSH = 32  # steps, a power of two


def argument(code: Code, name: str, kind: str = "i64") -> str:
    """The entry `name` of the head of the argument block."""
    return code.slot("%args", SLOT[name], kind)


class Places:
    """Where a thread's own memory and its rows' records are, from the size of the team."""

    def __init__(self, layout: Layout, code: Code, team: str) -> None:
        self.layout, self.code, self.team = layout, code, team
        self.batch, self.base = argument(code, "B"), argument(code, "work", "ptr")
        self.columns = code(f"icmp ne i64 {argument(code, 'columns')}, 0")
        dealt = code.divide(code.sub(code.add(self.batch, team), 1), team)
        self.capacity = code(f"select i1 {self.columns}, i64 {self.batch}, i64 {dealt}")
        size = code.add(code.mul(self.capacity, layout.table), layout.own + 127)
        self.own_bytes = code(f"and i64 {size}, -64")
        self.record_bytes = code.mul(self.capacity, layout.record)

    def own(self, thread: str) -> str:
        code = self.code
        alone = code.mul(thread, code.add(self.own_bytes, self.record_bytes))
        together = code.add(self.record_bytes, code.mul(thread, self.own_bytes))
        return code.at(self.base, code(f"select i1 {self.columns}, i64 {together}, i64 {alone}"))

    def records(self, own: str) -> str:
        behind = self.code.at(own, self.own_bytes)
        return self.code(f"select i1 {self.columns}, ptr {self.base}, ptr {behind}")


class Worker:
    """Writes `work(args, tid, team)`: one thread's part of the sequence."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.code = code = Code("internal void @work(ptr %args, i64 %tid, i64 %team)")
        code.when(code.equal("%tid", 0), lambda: code.store("i64", "%team", code.at("%args", 8 * SLOT["came"])))
        places = Places(layout, code, "%team")
        self.columns = places.columns
        self.own = places.own("%tid")
        self.records = places.records(self.own)
        self.stride = code(f"select i1 {self.columns}, i64 1, i64 %team")
        self.offset = code(f"select i1 {self.columns}, i64 0, i64 %tid")
        # Where rows are shared, the row-wise work on them is dealt out again.
        self.part_stride = code(f"select i1 {self.columns}, i64 %team, i64 1")
        self.part_offset = code(f"select i1 {self.columns}, i64 %tid, i64 0")
        full = code.divide(places.batch, self.stride)
        is_more = code.less(self.rank(full), places.batch)
        self.rows = code.add(full, code(f"zext i1 {is_more} to i64"))
        self.tables = code.at(self.own, layout.own)
        self.steps, self.reverse = argument(code, "T"), argument(code, "reverse")
        self.reset = argument(code, "reset", "ptr")
        self.has_reset = code(f"icmp ne ptr {self.reset}, null")

    def rank(self, i: str) -> str:
        """The rank by length of local row i: dealt out to and fro, so that all threads get about as many steps."""
        code = self.code
        back = code.sub(code.sub(self.stride, 1), self.offset)
        is_odd = code(f"trunc i64 {i} to i1")
        return code.add(code.mul(i, self.stride), code(f"select i1 {is_odd}, i64 {back}, i64 {self.offset}"))

    def of(self, *kinds: str) -> list[Buffer]:
        return [b for b in self.layout.loop.buffers if b.kind in kinds]

    def rows_in(self, buffer: Buffer) -> list[str]:
        """Address of a row-like buffer, and its strides by time and batch, or by compact rows; the others are 0."""
        return [self.slot(buffer.name, n, kind) for n, kind in enumerate(("ptr", "i64", "i64", "i64"))]

    def table(self, i: str) -> str:
        return self.code.at(self.tables, self.code.mul(i, self.layout.table))

    def slot(self, name: str, shift: int = 0, kind: str = "i64") -> str:
        return self.code.slot("%args", self.layout.slots[name] + shift, kind)

    def own_rows(self, body: Callable[[str], None], end: str) -> None:
        """For every row before `end` whose row-wise work is this thread's."""
        code = self.code
        count = code.divide(code.sub(code.add(end, self.part_stride), code.add(self.part_offset, 1)), self.part_stride)

        def one(n: str, _: list[str]) -> list[str]:
            body(code.add(code.mul(n, self.part_stride), self.part_offset))
            return []

        code.loop(0, count, one)

    def meet(self) -> None:
        self.code.do("call void @barrier(ptr %args, i64 %team)")

    def meet_in_columns(self) -> None:
        self.code.when(self.columns, self.meet)

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
            alive = self.count_alive(s, values[0])
            if not gradient:
                self.when_reset(s, alive, self.restart)
            self.point(s, alive)
            for n, stage in enumerate(self.layout.loop.stages):
                self.stage(n, stage, alive)
                self.meet_in_columns()
            if gradient:
                self.when_reset(s, alive, self.take_gradient)
            if self.layout.parts:
                code.when(code.equal(code(f"and i64 {k}, {FLUSH - 1}"), FLUSH - 1), self.flush)
            return [alive]

        code.loop(0, steps, step, [("i64", "0" if gradient else self.rows)])
        self.own_rows(self.finish_row, self.rows)
        self.flush()
        return code.end()

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

    def start_rows(self) -> None:
        """Fill the tables; copy in the states; clear totals and what an ended row leaves unwritten."""
        code, layout = self.code, self.layout
        order, ends = argument(code, "order", "ptr"), argument(code, "ends", "ptr")
        has_order, has_ends = (code(f"icmp ne ptr {p}, null") for p in (order, ends))

        def fill(i: str, _: list[str]) -> list[str]:
            rank = self.rank(i)
            eight = code.mul(rank, 8)
            row = code.either(has_order, "i64", lambda: code.load("i64", code.at(order, eight)), lambda: rank)
            length = code.either(has_ends, "i64", lambda: code.load("i64", code.at(ends, eight)), lambda: self.steps)
            table = self.table(i)
            record = code.at(self.records, code.mul(i, layout.record))
            code.store("ptr", record, code.at(table, 8 * RECORD))
            for value, place in ((row, ROW), (length, LENGTH), (rank, RANK)):
                code.store("i64", value, code.at(table, 8 * place))
            for buffer in [*self.of("row"), *filter(is_row_total, self.of("total"))]:
                pointer = code.at(self.slot(buffer.name, 0, "ptr"), code.mul(row, self.slot(buffer.name, 2)))
                code.store("ptr", pointer, code.at(table, 8 * layout.pointers[buffer.name]))
            return []

        code.loop(0, self.rows, fill)

        def start(i: str) -> None:
            table = self.table(i)
            record, row = code.slot(table, RECORD, "ptr"), code.slot(table, ROW)
            length = code.slot(table, LENGTH)
            size = layout.form.size
            for state in layout.loop.states:
                first = code.at(
                    self.slot("first " + state.name, 0, "ptr"), code.mul(row, self.slot("first " + state.name, 1))
                )
                code.copy(code.at(record, layout.offsets[state.name]), first, state.width * size)
            for buffer in filter(is_row_total, self.of("total")):
                code.clear(code.slot(table, layout.pointers[buffer.name], "ptr"), buffer.width * size)
            for buffer in self.of("emit"):
                pointer, by_t, by_b, by_row = self.rows_in(buffer)
                place = code.at(pointer, code.mul(row, by_b))
                padding = code(f"select i1 {code.equal(by_row, 0)}, i64 {length}, i64 {self.steps}")

                def ended(
                    t: str, _: list[str], place: str = place, by_t: str = by_t, width: int = buffer.width
                ) -> list[str]:
                    code.clear(code.at(place, code.mul(t, by_t)), width * size)
                    return []

                code.loop(padding, self.steps, ended)

        self.own_rows(start, self.rows)

    def count_alive(self, s: str, alive: str) -> str:
        """Rows are sorted by length: the living ones come first."""
        code = self.code

        def length(i: str) -> str:
            return code.slot(self.table(i), LENGTH)

        if self.layout.loop.is_gradient:

            def another_starts(i: str) -> str:
                def lives() -> str:
                    return code(f"zext i1 {code.less(s, length(i))} to i64")

                return code(f"icmp ne i64 {code.either(code.less(i, self.rows), 'i64', lives, lambda: '0')}, 0")

            return code.advance(another_starts, lambda i: code.add(i, 1), alive)

        def last_ended(i: str) -> str:
            def dead() -> str:
                return code(f"zext i1 {code(f'icmp sle i64 {length(code.sub(i, 1))}, {s}')} to i64")

            return code(f"icmp ne i64 {code.either(code(f'icmp sgt i64 {i}, 0'), 'i64', dead, lambda: '0')}, 0")

        return code.advance(last_ended, lambda i: code.sub(i, 1), alive)

    def time(self, table: str, s: str) -> str:
        code = self.code
        back = code.sub(code.sub(code.slot(table, LENGTH), 1), s)
        return code(f"select i1 {code(f'icmp ne i64 {self.reverse}, 0')}, i64 {back}, i64 {s}")

    def is_reset(self, time: str, row: str) -> str:
        code = self.code
        place = code.at(self.reset, code.mul(time, argument(code, "reset_t")))
        flag = code.load("i8", code.at(place, code.mul(row, argument(code, "reset_b"))), 1)
        return code(f"icmp ne i8 {flag}, 0")

    def when_reset(self, s: str, alive: str, body: Callable[[str], None]) -> None:
        """Run body(record) for every living row with a reset at this step."""
        code = self.code

        def row(i: str) -> None:
            table = self.table(i)
            is_reset = self.is_reset(self.time(table, s), code.slot(table, ROW))
            code.when(is_reset, lambda: body(code.slot(table, RECORD, "ptr")))

        def rows() -> None:
            self.own_rows(row, alive)
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

    def point(self, s: str, alive: str) -> None:
        """Write the addresses of this step's rows of the sequences into the tables."""
        code, layout = self.code, self.layout
        sequences, earlier = self.of("sequence", "emit"), self.of("previous")
        if not sequences and not earlier:
            return
        strides = {b.name: self.rows_in(b) for b in sequences + earlier}
        starts = argument(code, "starts", "ptr")
        is_compact = code(f"icmp ne ptr {starts}, null")

        def first_row(s: str) -> str:
            """Where the step s begins among compact rows."""
            place = code.at(starts, code.mul(s, 8))
            return code.either(is_compact, "i64", lambda: code.load("i64", place), lambda: "0")

        back = code(f"select i1 {code(f'icmp ne i64 {self.reverse}, 0')}, i64 1, i64 -1")
        is_first = code.equal(s, 0)
        now = first_row(s)
        before = first_row(code(f"select i1 {is_first}, i64 0, i64 {code.sub(s, 1)}")) if earlier else now

        def row(i: str, _: list[str]) -> list[str]:
            table = self.table(i)
            time, number = self.time(table, s), code.slot(table, ROW)
            rank = code.slot(table, RANK)

            def address(buffer: Buffer, t: str, first: str) -> str:
                pointer, by_t, by_b, by_row = strides[buffer.name]
                place = code.at(code.at(pointer, code.mul(t, by_t)), code.mul(number, by_b))
                return code.at(place, code.mul(code.add(first, rank), by_row))

            for buffer in sequences:
                code.store("ptr", address(buffer, time, now), code.at(table, 8 * layout.pointers[buffer.name]))
            if not earlier:
                return []
            reset = code.either(self.has_reset, "i1", lambda: self.is_reset(time, number), lambda: "false")
            for buffer in earlier:
                first, by_b = self.slot("first " + buffer.of, 0, "ptr"), self.slot("first " + buffer.of, 1)
                place = address(buffer, code.add(time, back), before)
                place = code(f"select i1 {is_first}, ptr {code.at(first, code.mul(number, by_b))}, ptr {place}")
                place = code(f"select i1 {reset}, ptr {self.slot('restart ' + buffer.of, 0, 'ptr')}, ptr {place}")
                code.store("ptr", place, code.at(table, 8 * layout.pointers[buffer.name]))
            return []

        code.loop(0, alive, row)

    def stage(self, n: int, stage: Product | Map, alive: str) -> None:
        code, layout = self.code, self.layout
        if isinstance(stage, Product):
            inner, width = shape(stage)
            count = -(-width // panel_width(layout.isa, layout.form.size))
            first, last = self.share(count)
            source, begin = self.rows_of(stage.source)
            out, to = self.rows_of(stage.out)
            packed = code.at(argument(code, "packed", "ptr"), layout.packed[stage.matrix.name, stage.transposed])
            args = f"ptr {source}, i64 {begin}, ptr {out}, i64 {to}, i64 {layout.table}, i64 {alive}, ptr {packed}"
            run = argument(code, "product", "ptr")
            code.do(f"call void {run}({args}, i64 {inner}, i64 {width}, i64 {first}, i64 {last})")
            return
        count = units(layout, stage)
        rows, features = ("0", alive), ("0", str(count))
        if has_reduction(stage):
            rows = self.share(alive)
        else:
            features = self.share(count)
        code.do(
            f"call void @map_{n}(ptr %args, ptr {self.own}, i64 {rows[0]}, i64 {rows[1]}, "
            f"i64 {features[0]}, i64 {features[1]})"
        )

    def share(self, count: int | str) -> tuple[str, str]:
        """This thread's part of `count` things, all of them unless threads split columns."""
        code = self.code
        part = [code.divide(code.mul(t, count), "%team") for t in ("%tid", code.add("%tid", 1))]
        first = code(f"select i1 {self.columns}, i64 {part[0]}, i64 0")
        return first, code(f"select i1 {self.columns}, i64 {part[1]}, i64 {count}")

    def rows_of(self, buffer: Buffer) -> tuple[str, int]:
        """(table of row pointers, byte offset behind the pointer)"""
        if buffer.name in self.layout.offsets:
            return self.tables, self.layout.offsets[buffer.name]
        return self.code.at(self.tables, 8 * self.layout.pointers[buffer.name]), 0

    def finish_row(self, i: str) -> None:
        code, layout = self.code, self.layout
        table = self.table(i)
        record, row = code.slot(table, RECORD, "ptr"), code.slot(table, ROW)
        for state in layout.loop.states:
            out, by_b = self.slot("final " + state.name, 0, "ptr"), self.slot("final " + state.name, 1)

            def write(out: str = out, by_b: str = by_b, state: Buffer = state) -> None:
                source = code.at(record, layout.offsets[state.name])
                code.copy(code.at(out, code.mul(row, by_b)), source, state.width * layout.form.size)

            code.when(code(f"icmp ne ptr {out}, null"), write)
