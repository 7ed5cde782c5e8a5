"""The function a call enters: starts the threads, adds up their totals."""

from __future__ import annotations

from everloop.compiler.targets.llvm.barrier import barrier
from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.layout import Layout
from everloop.compiler.targets.llvm.partition import Places, argument
from everloop.compiler.targets.llvm.worker import Worker


def driver(layout: Layout, worker: type[Worker] = Worker) -> str:
    """Text of `everloop_run(args)` and what it calls."""
    return "\n".join([barrier(layout.isa), worker(layout).text(), _region(), _run(layout)])


def _region() -> str:
    """What each thread of a parallel region runs; the team may be smaller than asked for."""
    code = Code("internal void @region(ptr %args)")
    numbers = [code(f"call i32 {argument(code, name, 'ptr')}()") for name in ("number", "team")]
    number, team = (code(f"sext i32 {n} to i64") for n in numbers)
    code.do(f"call void @work(ptr %args, i64 {number}, i64 {team})")
    return code.end()


def _run(layout: Layout) -> str:
    """Starts the threads, then adds up their totals in order."""
    code = Code("void @everloop_run(ptr %args)")
    threads = argument(code, "threads")

    def many() -> str:
        start = argument(code, "parallel", "ptr")
        count = code(f"trunc i64 {threads} to i32")
        code.do(f"call void {start}(ptr @region, ptr %args, i32 {count}, i32 0)")
        return "0"

    def alone() -> str:
        code.do("call void @work(ptr %args, i64 0, i64 1)")
        return "0"

    code.either(code(f"icmp sgt i64 {threads}, 1"), "i64", many, alone)
    if layout.sums:
        places = Places(layout, code, argument(code, "came"))
        scalar, size = layout.form.scalar, layout.form.size
        widths = {b.name: b.width for b in layout.loop.buffers}
        for name, offset in layout.sums.items():
            out = code.slot("%args", layout.slots[name], "ptr")

            def add_up(
                offset: int = offset, out: str = out, width: int = widths[name.removeprefix("restart ")]
            ) -> None:
                def one(j: str, _: list[str]) -> list[str]:
                    at = code.add(code.mul(j, size), layout.parts + offset)

                    def thread(q: str, sums: list[str]) -> list[str]:
                        return [code(f"fadd {scalar} {sums[0]}, {code.load(scalar, code.at(places.own(q), at), size)}")]

                    total = code.loop(0, places.team, thread, [(scalar, "0.0")])[0]
                    code.store(scalar, total, code.at(out, code.mul(j, size)), size)
                    return []

                code.loop(0, width, one)

            code.when(code(f"icmp ne ptr {out}, null"), add_up)
    return code.end()
