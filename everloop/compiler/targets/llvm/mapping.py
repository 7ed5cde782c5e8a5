"""A Map as a function of rows and features."""

from __future__ import annotations

from everloop.compiler.loop import Buffer, Map
from everloop.compiler.targets.llvm.axes import AxesWriter, axes_of
from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.features import REDUCTIONS, MapWriter
from everloop.compiler.targets.llvm.layout import Layout


def has_reduction(stage: Map) -> bool:
    """Whether the stage needs whole rows."""
    return any(i.op in REDUCTIONS for i in stage.body)


def units(layout: Layout, stage: Map) -> int:
    """What a split by columns deals out: vectors in a row, a partial one included, or turns of the outermost axis."""
    axes = axes_of(stage)
    return axes.units if axes else -(-stage.width // layout.isa.lanes(layout.form.size))


def mappings(layout: Layout) -> list[str]:
    """Text of a function for each Map, or for all that are alike, with a table of where the buffers of each are."""
    found = []
    for n, stage in enumerate(layout.loop.stages):
        if isinstance(stage, Map):
            if layout.alike.get(n, n) == n:
                found.append(_mapping(layout, stage, n))
            if n in layout.alike:
                places = [layout.place(buffer) for buffer in _buffers(stage)]
                numbers = ", ".join(f"i64 {place}" for place in places)
                found.append(f"@places_{n} = internal constant [{len(places)} x i64] [{numbers}]\n")
    return found


def call(layout: Layout, n: int, args: str) -> str:
    """Text of the call of Map number `n`; args: of the function."""
    places = f"@places_{n}" if n in layout.alike else "null"
    return f"call void @map_{layout.alike.get(n, n)}({args}, ptr {places})"


def _buffers(stage: Map) -> list[Buffer]:
    return list(dict.fromkeys(i.buffer for i in stage.body if i.buffer))


def _mapping(layout: Layout, stage: Map, n: int) -> str:
    """Text of the function for rows i0 to i1 - 1 and units u0 to u1 - 1."""
    head = "ptr %args, ptr %own, i64 %i0, i64 %i1, i64 %u0, i64 %u1, ptr %places"
    code = Code(f"internal void @map_{n}({head})")
    axes = axes_of(stage)
    writer = AxesWriter(layout, stage, code, axes) if axes else MapWriter(layout, stage, code)
    rows = code.at("%own", layout.own)
    if n in layout.alike:
        places: dict[str, str | int] = {b.name: code.slot("%places", k) for k, b in enumerate(_buffers(stage))}
    else:
        places = {b.name: layout.place(b) for b in _buffers(stage)}
    writer.prepare_vectors(places)

    def row(i: str, _: list[str]) -> list[str]:
        writer.prepare_row(code.at(rows, code.mul(i, layout.table)))
        writer.features()
        return []

    code.loop("%i0", "%i1", row)
    return code.end()
