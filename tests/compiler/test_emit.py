"""Lines that are ordered by what they wait for: each behind what it reads, and memory as it was."""

from __future__ import annotations

from everloop.compiler.targets.llvm.emit import Code


def test_chains_stand_beside_each_other() -> None:
    code = Code("void @f(ptr %a, ptr %b)")
    start = len(code.lines)
    for place in ("%a", "%b"):
        value = code.load("float", place, 4)
        for _ in range(3):
            value = code(f"fmul float {value}, {value}")
        code.store("float", value, place, 4)
    code.overlap(start)
    operations = [line.split(" = ")[-1].split()[0] for line in code.lines[start:]]
    # The second load may be of what the first store wrote.
    assert operations == ["load", "fmul", "fmul", "fmul", "store", "load", "fmul", "fmul", "fmul", "store"]

    code = Code("void @f(ptr %a, ptr %b)")
    start = len(code.lines)
    loads = [code.load("float", place, 4) for place in ("%a", "%b")]
    ends = []
    for value in loads:
        for _ in range(3):
            value = code(f"fmul float {value}, {value}")
        ends.append(value)
    for value, place in zip(ends, ("%a", "%b"), strict=True):
        code.store("float", value, place, 4)
    before = list(code.lines[start:])
    code.overlap(start)
    after = code.lines[start:]
    assert sorted(after) == sorted(before)
    assert [line.split("float ")[1].split(",")[0] for line in after[2:8]] == [
        "%t1", "%t2", "%t3", "%t6", "%t4", "%t7",
    ]  # fmt: skip
    known = {"%a", "%b"}
    for line in after:
        names = [word.strip(",") for word in line.split() if word.startswith("%")]
        if " = " in line:
            assert known.issuperset(names[1:])
            known.add(names[0])
        else:
            assert known.issuperset(names)
