"""Functions whose work a team of threads shares: what each thread runs, and what starts them."""

from __future__ import annotations

from collections.abc import Mapping

from everloop.compiler.targets.llvm.emit import Code


def shared(name: str, share: str, slot: Mapping[str, int]) -> str:
    """Text of `name(args)`, which runs `share(args, thread, of)` in each of a team of threads.

    slot: where the block of arguments has "threads", how many are asked for, and functions of the pool: "parallel",
    which runs a function in all of them, and "number" and "team", which number there is and of how many.
    """
    return "\n".join([_region(share, slot), _start(name, share, slot)])


def _region(share: str, slot: Mapping[str, int]) -> str:
    """What each thread of a parallel region runs; the team may be smaller than asked for."""
    code = Code(f"internal void @{share}_region(ptr %args)")
    numbers = [code(f"call i32 {code.slot('%args', slot[name], 'ptr')}()") for name in ("number", "team")]
    number, team = (code(f"sext i32 {n} to i64") for n in numbers)
    code.do(f"call void @{share}(ptr %args, i64 {number}, i64 {team})")
    return code.end()


def _start(name: str, share: str, slot: Mapping[str, int]) -> str:
    code = Code(f"void @{name}(ptr %args)")
    count = code.slot("%args", slot["threads"], "i64")
    is_many = code(f"icmp sgt i64 {count}, 1")

    def many() -> None:
        start, asked = code.slot("%args", slot["parallel"], "ptr"), code(f"trunc i64 {count} to i32")
        code.do(f"call void {start}(ptr @{share}_region, ptr %args, i32 {asked}, i32 0)")

    code.when(is_many, many)
    code.when(code(f"xor i1 {is_many}, true"), lambda: code.do(f"call void @{share}(ptr %args, i64 0, i64 1)"))
    return code.end()
