"""One thread's share of the work: which rows and columns are its own, and the tables that say where its rows are."""

from __future__ import annotations

from collections.abc import Callable

from everloop.compiler.loop import Buffer
from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.layout import LENGTH, RANK, RECORD, ROW, SLOT, Layout, is_row_total

AHEAD = 1024  # bytes of each row that are fetched a step ahead; the processor goes on by itself


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


class Partition:
    """Writes into a function of (args, tid, team) how the thread `tid` finds, starts, points at and ends its rows."""

    def __init__(self, layout: Layout, code: Code) -> None:
        self.layout, self.code = layout, code
        places = Places(layout, code, "%team")
        self.columns = places.columns
        self.own = places.own("%tid")
        self.records = places.records(self.own)
        self.stride = code(f"select i1 {self.columns}, i64 1, i64 %team")
        self.offset = code(f"select i1 {self.columns}, i64 0, i64 %tid")
        # Where rows are shared, the row-wise work on them is dealt out again.
        self.part_stride = code(f"select i1 {self.columns}, i64 %team, i64 1")
        self.part_offset = code(f"select i1 {self.columns}, i64 %tid, i64 0")
        self.first, self.rows = self._deal(places.batch)
        self.tables = code.at(self.own, layout.own)
        self.steps, self.reverse = argument(code, "T"), argument(code, "reverse")
        self.reset = argument(code, "reset", "ptr")
        self.has_reset = code(f"icmp ne ptr {self.reset}, null")

    def _deal(self, batch: str) -> tuple[str, str]:
        """The first of this thread's rows, where they lie side by side, and how many they are."""
        code = self.code
        self.is_level = code(f"icmp eq ptr {argument(code, 'ends', 'ptr')}, null")
        first, end = (code.divide(code.mul(n, batch), self.stride) for n in (self.offset, code.add(self.offset, 1)))
        full = code.divide(batch, self.stride)
        is_more = code.less(self._to_and_fro(full), batch)
        dealt = code.add(full, code(f"zext i1 {is_more} to i64"))
        return first, code(f"select i1 {self.is_level}, i64 {code.sub(end, first)}, i64 {dealt}")

    def rank(self, i: str) -> str:
        """The rank by length of local row i: where all are equally long, a thread's rows lie side by side.

        A processor fetches what lies behind a row too, which had better not be another thread's.
        """
        code = self.code
        return code(f"select i1 {self.is_level}, i64 {code.add(self.first, i)}, i64 {self._to_and_fro(i)}")

    def _to_and_fro(self, i: str) -> str:
        """The rank by length of local row i, dealt out so that all threads get about as many steps."""
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

    def part(self, count: int | str) -> tuple[str, str]:
        """This thread's part of `count` things, all of them unless threads split columns."""
        code = self.code
        part = [code.divide(code.mul(t, count), "%team") for t in ("%tid", code.add("%tid", 1))]
        first = code(f"select i1 {self.columns}, i64 {part[0]}, i64 0")
        return first, code(f"select i1 {self.columns}, i64 {part[1]}, i64 {count}")

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
                    t: str, _: list[str], place: str = place, by_t: str = by_t, buffer: Buffer = buffer
                ) -> list[str]:
                    code.clear(code.at(place, code.mul(t, by_t)), buffer.width * layout.number(buffer))
                    return []

                code.loop(padding, self.steps, ended)

        self.own_rows(start, self.rows)

    def count_active(self, s: str, active: str) -> str:
        """Rows are sorted by length: the active ones come first."""
        code = self.code

        def length(i: str) -> str:
            return code.slot(self.table(i), LENGTH)

        if self.layout.loop.is_gradient:

            def another_starts(i: str) -> str:
                def lives() -> str:
                    return code(f"zext i1 {code.less(s, length(i))} to i64")

                return code(f"icmp ne i64 {code.either(code.less(i, self.rows), 'i64', lives, lambda: '0')}, 0")

            return code.advance(another_starts, lambda i: code.add(i, 1), active)

        def last_ended(i: str) -> str:
            def dead() -> str:
                return code(f"zext i1 {code(f'icmp sle i64 {length(code.sub(i, 1))}, {s}')} to i64")

            return code(f"icmp ne i64 {code.either(code(f'icmp sgt i64 {i}, 0'), 'i64', dead, lambda: '0')}, 0")

        return code.advance(last_ended, lambda i: code.sub(i, 1), active)

    def time(self, table: str, s: str) -> str:
        code = self.code
        back = code.sub(code.sub(code.slot(table, LENGTH), 1), s)
        return code(f"select i1 {code(f'icmp ne i64 {self.reverse}, 0')}, i64 {back}, i64 {s}")

    def is_reset(self, time: str, row: str) -> str:
        code = self.code
        place = code.at(self.reset, code.mul(time, argument(code, "reset_t")))
        flag = code.load("i8", code.at(place, code.mul(row, argument(code, "reset_b"))), 1)
        return code(f"icmp ne i8 {flag}, 0")

    def point(self, s: str, active: str) -> None:
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
        before = first_row(code(f"select i1 {is_first}, i64 0, i64 {code.sub(s, 1)}"))
        if layout.loop.is_gradient:
            forth, after = back, before
        else:
            forth = code.sub(0, back)
            after = first_row(code.least(code.add(s, 1), code.sub(self.steps, 1)))

        is_many = code(f"icmp sgt i64 {argument(code, 'B')}, 1")  # the steps of a single one lie side by side

        def row(i: str, _carried: list[str]) -> list[str]:
            table = self.table(i)
            time, number = self.time(table, s), code.slot(table, ROW)
            rank = code.slot(table, RANK)

            def address(buffer: Buffer, t: str, first: str) -> str:
                pointer, by_t, by_b, by_row = strides[buffer.name]
                place = code.at(code.at(pointer, code.mul(t, by_t)), code.mul(number, by_b))
                return code.at(place, code.mul(code.add(first, rank), by_row))

            soon: list[tuple[str, int]] = []
            for buffer in sequences:
                place = address(buffer, time, now)
                code.store("ptr", place, code.at(table, 8 * layout.pointers[buffer.name]))
                if buffer.kind == "sequence":
                    _, by_t, _, by_row = strides[buffer.name]
                    away = code.add(code.mul(forth, by_t), code.mul(code.sub(after, now), by_row))
                    soon.append((code.at(place, away), buffer.width * layout.number(buffer)))
            code.when(is_many, lambda: self.fetch(soon))
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

        code.loop(0, active, row)

    def fetch(self, rows: list[tuple[str, int]]) -> None:
        """Bring nearer what the next step will read: a tenth and more of the time where other work fills the caches.

        rows: (place, bytes).
        """
        code = self.code
        for place, size in rows:
            first, last = self.part(-(-min(size, AHEAD) // 64))

            def line(n: str, _: list[str], place: str = place) -> list[str]:
                at = code.at(place, code.mul(n, 64))
                code.do(f"call void @llvm.prefetch.p0(ptr {at}, i32 0, i32 2, i32 1)")
                return []

            code.loop(first, last, line)

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
