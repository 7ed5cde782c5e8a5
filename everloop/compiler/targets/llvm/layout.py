"""Where everything lies: slots of the argument block, offsets inside a row's record, packed matrices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from everloop.compiler.loop import Buffer, Instruction, Loop, Map, Product
from everloop.compiler.targets.llvm.formats import FORMATS, NAMES, FloatFormat
from everloop.compiler.targets.llvm.mathematics import Lanes
from everloop.compiler.targets.llvm.product import packed_bytes
from everloop.compiler.targets.llvm.vector import Isa
from everloop.errors import UnsupportedError

# The head of the argument block, one 8-byte slot each.
HEAD = (
    "T",
    "B",
    "reverse",
    "threads",
    "columns",
    "pack",
    "order",
    "ends",
    "starts",
    "reset",
    "reset_t",
    "reset_b",
    "work",
    "packed",
    "parallel",
    "number",
    "team",
    "syscall",
    "waiting",
    "turn",
    "sleeping",
    "product",
    "packer",
    "came",
)
SLOT = {name: n for n, name in enumerate(HEAD)}
HALF = 2  # bytes of a number of bfloat16
MANY = 4  # Maps that differ in the places of their buffers alone, from which on one function does for all of them
# The head of a local row's table; pointers into the caller's buffers follow.
RECORD, ROW, LENGTH, RANK, POINTERS = 0, 1, 2, 3, 4


def round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


@dataclass
class Layout:
    """The places of one loop's buffers, for one format and instruction set.

    halves: the sequences that are held in bfloat16, and widened and rounded where they are read and written; lanes:
    what writes element-wise operations.
    """

    loop: Loop
    form: FloatFormat
    isa: Isa
    halves: frozenset[str] = frozenset()
    lanes: type[Lanes] = Lanes
    slots: dict[str, int] = field(default_factory=dict)  # buffer name or role -> first slot
    total_slots: int = len(HEAD)
    offsets: dict[str, int] = field(default_factory=dict)  # state and scratch: bytes inside the record of a row
    record: int = 0
    pointers: dict[str, int] = field(default_factory=dict)  # row-like buffers: entry in a local row's table
    sums: dict[str, int] = field(default_factory=dict)  # totals of a vector: bytes inside a thread's own memory
    parts: int = 0  # bytes of all such totals: first the sums of a few steps, then those over all steps
    packed: dict[tuple[str, bool], int] = field(default_factory=dict)  # (matrix, transposed) -> offset
    packed_size: int = 0
    alike: dict[int, int] = field(default_factory=dict)  # number of a Map -> of the first of as many that are alike

    def __post_init__(self) -> None:
        size = self.form.size
        for buffer in self.loop.buffers:
            if buffer.kind == "state":
                self.take("first " + buffer.name, 2)
                self.take("final " + buffer.name, 2)
                self.take("restart " + buffer.name, 1)
                if self.loop.is_gradient:
                    self.sum("restart " + buffer.name, buffer.width)
            elif buffer.kind != "scratch":
                self.take(buffer.name, 4)  # address; strides of time (or matrix rows), batch (columns), compact rows
            if buffer.kind == "previous" and f"first {buffer.of}" not in self.slots:
                self.take("first " + buffer.of, 2)
                self.take("restart " + buffer.of, 1)
            if buffer.kind in ("state", "scratch"):
                self.offsets[buffer.name] = self.record
                self.record += round_up(buffer.width * size, 64)
            elif buffer.kind in ("sequence", "previous", "row", "emit") or is_row_total(buffer):
                self.pointers[buffer.name] = POINTERS + len(self.pointers)
            elif buffer.kind == "total":
                self.sum(buffer.name, buffer.width)
        if self.record % 128 == 0:
            self.record += 64  # rows at powers of two would share cache sets
        for stage in self.loop.stages:
            if isinstance(stage, Product) and (stage.matrix.name, stage.transposed) not in self.packed:
                self.packed[stage.matrix.name, stage.transposed] = self.packed_size
                inner, width = shape(stage)
                # The space behind is for prefetching past the end.
                self.packed_size += round_up(packed_bytes(self.isa, size, inner, width), 64) + 64
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for n, map_ in enumerate(self.loop.stages):
            if isinstance(map_, Map):
                groups[self.form_of(map_)].append(n)
        self.alike = {n: group[0] for group in groups.values() if len(group) >= MANY for n in group}

    def form_of(self, stage: Map) -> tuple[object, ...]:
        """Return all of a Map but where its buffers are, and what they are called."""
        names: dict[str, str] = {}
        body = []
        for i in stage.body:
            buffer = i.buffer
            if buffer is not None:
                is_half = buffer.name in self.halves
                name = names.setdefault(buffer.name, f"{len(names)} {is_half}")
                buffer = replace(buffer, name=name, of="")
            body.append(replace(i, buffer=buffer))
        return stage.width, *body

    def place(self, buffer: Buffer) -> int:
        """Return where a Map finds a buffer or its address: bytes in the record of a row, in the table of a row, in a
        thread's own memory or among the arguments, as its kind says.
        """
        name = buffer.name
        if name in self.pointers or name not in self.offsets | self.sums:
            return 8 * (self.pointers if name in self.pointers else self.slots)[name]
        return (self.offsets if name in self.offsets else self.sums)[name]

    def take(self, name: str, count: int) -> None:
        self.slots[name] = self.total_slots
        self.total_slots += count

    def sum(self, name: str, width: int) -> None:
        self.sums[name] = self.parts
        self.parts += round_up(width * self.form.size, 64)

    def number(self, buffer: Buffer) -> int:
        """Bytes of a number of a buffer."""
        return HALF if buffer.name in self.halves else self.form.size

    @property
    def own(self) -> int:
        """Bytes of a thread's own memory before its row table."""
        return 2 * self.parts

    @property
    def table(self) -> int:
        """Bytes of a local row's table."""
        return 8 * (POINTERS + len(self.pointers))

    def work_bytes(self, batch: int, threads: int, columns: bool) -> int:
        """Bytes of working memory that are enough for `threads` threads or fewer."""
        own = self.own + 128
        if columns:
            return batch * self.record + threads * (own + batch * self.table) + 64
        return threads * own + (batch + threads) * (self.record + self.table) + 64


def is_row_total(buffer: Buffer) -> bool:
    """A "total" with one row a sequence (height 0 is one vector for all)."""
    return buffer.kind == "total" and buffer.height != 0


def shape(stage: Product) -> tuple[int, int]:
    """Return (numbers a product sums over, columns of its result)."""
    matrix = stage.matrix
    return (matrix.height, matrix.width) if stage.transposed else (matrix.width, matrix.height)


def form_of(loop: Loop) -> FloatFormat:
    """Return the format of all numbers of a loop; raises UnsupportedError where they have several or another one."""
    found = FORMATS.get(loop.dtype) if loop.dtype else None
    if found is None:
        dtypes = " and ".join(sorted({str(b.dtype) for b in loop.buffers}))
        raise UnsupportedError(f"the target llvm runs loops of one dtype, {NAMES}; this one has {dtypes}")
    return found


def normalise(loop: Loop, halves: Collection[str] = ()) -> Loop:
    """Let every product write to memory with padded rows: a product into a sequence goes through a scratch row.

    halves: what the loop writes in bfloat16; where it reads that again, it reads a scratch row with the same in full.
    """
    stages: list[Product | Map] = []
    for n, stage in enumerate(loop.stages):
        if isinstance(stage, Product) and stage.out.kind not in ("state", "scratch"):
            between = replace(stage.out, name=f"product {n} {stage.out.name}", kind="scratch")
            stages.append(replace(stage, out=between))
            body = (Instruction("load", (), between), Instruction("store", (0,), stage.out))
            stages.append(Map(stage.out.width, body))
        else:
            stages.append(stage)
    return replace(loop, stages=_with_full_rows(stages, halves))


def _with_full_rows(stages: Sequence[Product | Map], halves: Collection[str]) -> tuple[Product | Map, ...]:
    read = {stage.source for stage in stages if isinstance(stage, Product)}
    read |= {i.buffer for stage in stages if isinstance(stage, Map) for i in stage.body if i.buffer and i.op == "load"}
    full = {b: replace(b, name=f"full {b.name}", kind="scratch") for b in read if b.kind == "emit" and b.name in halves}

    found: list[Product | Map] = []
    for stage in stages:
        if isinstance(stage, Product):
            found.append(replace(stage, source=full.get(stage.source, stage.source)))
            continue
        own = [replace(i, buffer=full[i.buffer]) if i.buffer in full else i for i in stage.body]
        body = [there if there.op == "load" else i for i, there in zip(stage.body, own, strict=True)]
        also = [there for i, there in zip(stage.body, own, strict=True) if i.is_write and there is not i]
        found.append(replace(stage, body=(*body, *also)))
    return tuple(found)


def may_halve(loop: Loop, names: Collection[str]) -> frozenset[str]:
    """Return which of these sequences can be held in bfloat16.

    Those that only Maps without views read and write. What a forward loop writes and reads again cannot; of what a
    gradient loop does there is a scratch row too.
    """
    buffers = [
        b for b in loop.buffers if b.name in names and b.kind in ("sequence", "previous", "emit") and b.width > 1
    ]
    found = {b.name for b in buffers if not (b.of and any(state.name == b.of for state in loop.states))}

    def is_free(buffer: Buffer) -> bool:
        return loop.is_gradient and buffer.kind == "emit"

    for stage in loop.stages:
        if isinstance(stage, Product):
            found -= {b.name for b in (stage.out, stage.source) if not is_free(b)}
        elif any(i.view for i in stage.body):
            found -= {i.buffer.name for i in stage.body if i.buffer}
        else:
            read = {i.buffer for i in stage.body if i.buffer and i.op == "load"}
            found -= {b.name for b in read if b.kind == "emit" and not is_free(b)}
    return frozenset(found)
