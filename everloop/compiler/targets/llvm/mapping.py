"""A Map as a function of rows and features."""

from __future__ import annotations

from everloop.compiler.loop import Map
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


def mapping(layout: Layout, stage: Map, name: str) -> str:
    """Text of the function for rows i0 to i1 - 1 and units u0 to u1 - 1."""
    code = Code(f"internal void @{name}(ptr %args, ptr %own, i64 %i0, i64 %i1, i64 %u0, i64 %u1)")
    axes = axes_of(stage)
    writer = AxesWriter(layout, stage, code, axes) if axes else MapWriter(layout, stage, code)
    rows = code.at("%own", layout.own)
    writer.prepare_vectors()

    def row(i: str, _: list[str]) -> list[str]:
        writer.prepare_row(code.at(rows, code.mul(i, layout.table)))
        writer.features()
        return []

    code.loop("%i0", "%i1", row)
    return code.end()
