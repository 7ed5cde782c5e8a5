"""The function a call enters: starts the threads, adds up their totals."""

from __future__ import annotations

from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.layout import SLOT, Layout
from everloop.compiler.targets.llvm.worker import Places, Worker, argument

SPINS = 2000  # of the barrier, before it yields


def driver(layout: Layout, worker: type[Worker] = Worker) -> str:
    """Text of `everloop_run(args)` and what it calls."""
    return "\n".join([_barrier(), worker(layout).text(), _region(), _run(layout)])


def _barrier() -> str:
    """Every thread waits here for the others: the last one to come turns the turn."""
    code = Code("internal void @barrier(ptr %args, i64 %team)")
    turn, waiting = code.at("%args", 8 * SLOT["turn"]), code.at("%args", 8 * SLOT["waiting"])
    mine = code(f"load atomic i64, ptr {turn} acquire, align 8")
    before = code(f"atomicrmw add ptr {waiting}, i64 1 acq_rel")

    def open_it() -> str:
        code.do(f"store atomic i64 0, ptr {waiting} monotonic, align 8")
        code(f"atomicrmw add ptr {turn}, i64 1 acq_rel")
        return "0"

    def wait() -> str:
        give_way = argument(code, "yield", "ptr")

        def test(_: str) -> str:
            return code(f"icmp eq i64 {code(f'load atomic i64, ptr {turn} acquire, align 8')}, {mine}")

        def move(spins: str) -> str:
            code.when(code(f"icmp sgt i64 {spins}, {SPINS}"), lambda: code(f"call i32 {give_way}()"))
            return code.add(spins, 1)

        return code.advance(test, move, "0")

    code.either(code.equal(before, code.sub("%team", 1)), "i64", open_it, wait)
    return code.end()


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
