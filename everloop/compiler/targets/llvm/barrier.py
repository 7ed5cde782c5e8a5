"""Where threads of one call wait for each other: they spin for a moment, then sleep in Linux's futex.

Giving way instead of sleeping (sched_yield) lets another process have a whole time slice at every step, and a sleeper
is preferred when it wakes: with another process on each core, B=1, H=512 took 840 ms with the one and 9 with the other.
"""

from __future__ import annotations

from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.layout import SLOT
from everloop.compiler.targets.llvm.partition import argument
from everloop.compiler.targets.llvm.vector import Isa

SPINS = 1000  # about 20 µs: longer than threads with equal work wait on quiet cores
PAUSE = {"x86_64": "@llvm.x86.sse2.pause()", "aarch64": "@llvm.aarch64.hint(i32 1)"}
FUTEX = {"x86_64": 202, "aarch64": 98}  # number of the system call
WAIT, WAKE = 128, 129  # of this process alone
ALL = (1 << 31) - 1


def barrier(isa: Isa) -> str:
    """Text of `barrier(args, team)`: the last of the team to come turns the turn."""
    code = Code("internal void @barrier(ptr %args, i64 %team)")
    turn, waiting, sleeping = (code.at("%args", 8 * SLOT[name]) for name in ("turn", "waiting", "sleeping"))
    mine = code(f"load atomic i64, ptr {turn} acquire, align 8")
    before = code(f"atomicrmw add ptr {waiting}, i64 1 acq_rel")

    def futex(what: int, number: str | int) -> None:
        """The kernel looks at the lower half of the turn."""
        call = f"call i64 (i64, ...) {argument(code, 'syscall', 'ptr')}"
        code(f"{call}(i64 {FUTEX[isa.arch]}, ptr {turn}, i64 {what}, i64 {number}, ptr null)")

    def open_it() -> str:
        code.do(f"store atomic i64 0, ptr {waiting} monotonic, align 8")
        code(f"atomicrmw add ptr {turn}, i64 1 seq_cst")
        # A thread counts itself as sleeping before the kernel compares the turn: one of the two sees the other.
        asleep = code(f"load atomic i64, ptr {sleeping} seq_cst, align 8")
        code.when(code(f"icmp ne i64 {asleep}, 0"), lambda: futex(WAKE, ALL))
        return "0"

    def wait() -> str:
        def test(_: str) -> str:
            return code(f"icmp eq i64 {code(f'load atomic i64, ptr {turn} acquire, align 8')}, {mine}")

        def sleep() -> None:
            code(f"atomicrmw add ptr {sleeping}, i64 1 seq_cst")
            futex(WAIT, mine)
            code(f"atomicrmw sub ptr {sleeping}, i64 1 seq_cst")

        def move(spins: str) -> str:
            code.do(f"call void {PAUSE[isa.arch]}")
            code.when(code(f"icmp sgt i64 {spins}, {SPINS}"), sleep)
            return code.add(spins, 1)

        return code.advance(test, move, "0")

    code.either(code.equal(before, code.sub("%team", 1)), "i64", open_it, wait)
    return code.end()
