"""Maps alone: what is one number a row, multiplications that end in an addition, loops over features in phases."""

from __future__ import annotations

import pytest
import torch

from everloop.compiler.interpreter import Interpreter
from everloop.compiler.loop import Buffer, Loop, Map
from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm import launch
from everloop.compiler.targets.llvm.phases import AHEAD
from everloop.compiler.targets.llvm.phases import Lines as Known
from everloop.compiler.time_axis import TimeAxis
from tests.compiler.targets.loops import Lines
from tests.compiler.targets.test_llvm_lstm import ISAS, poisoned

F64 = torch.float64


def gates(n: int) -> Map:
    """Three long chains over a value that is dear, one of them behind another, sums, and numbers of the row."""
    x, h, rate = Buffer("x", "sequence", 3 * n), Buffer("h", "state", n), Buffer("rate", "row", 1)
    y, half, mark = Buffer("y", "emit", 2 * n), Buffer("half", "emit", 1), Buffer("mark", "emit", 1)
    m = Lines()
    scale = m.mul(m.load(rate), m.number(0.5))
    a, b, c = (m.load(x, k * n) for k in range(3))
    dear = m.abs(m.sub(m.mul(m.add(m.mul(a, a), b), scale), m.div(c, m.add(m.abs(a), m.number(1.0)))))
    f, g = m.sigmoid(m.sub(dear, m.mul(a, scale))), m.tanh(m.sub(m.mul(b, scale), dear))
    new = m.add(m.mul(f, m.load(h)), m.mul(g, dear))
    out = m.exp(m.neg(m.mul(new, new)))
    both, three = m.sub(m.mul(out, b), m.mul(g, c)), m.number(3.0)
    for _ in range(AHEAD // 3):  # long enough to be worth phases
        both = m.sub(m.mul(m.neg(both), scale), a)
    m.store(new, h)
    m.store(out, y)
    m.store(both, y, n)
    m.store(scale, half)
    m.store(three, mark)
    return m.map(n)


def totals(n: int) -> tuple[Map, Map]:
    """Short lines that are summed: sums beside each other, and the numbers they give."""
    x, sums = Buffer("x", "sequence", 3 * n), [Buffer(f"s{k}", "scratch", 1) for k in range(3)]
    z = Buffer("z", "emit", n)
    m = Lines()
    value = m.load(x)
    product = m.mul(value, m.load(x, n))
    for op, line, buffer in zip(("sum", "max", "sum"), (value, value, product), sums, strict=True):
        m.reduce(op, line, buffer)
    k = Lines()
    first, top, second = (k.load(s) for s in sums)
    k.store(k.add(k.mul(k.sub(k.load(x, n), k.mul(first, second)), k.rsqrt(k.mul(top, top))), k.load(x)), z)
    return m.map(n), k.map(n)


def run(loop: Loop, n: int, isa: str | None) -> None:
    T, B = 3, 5
    x, rate, first = torch.randn(T, B, 3 * n, dtype=F64), torch.randn(B, 1, dtype=F64), torch.randn(B, n, dtype=F64)
    lengths = torch.tensor([3, 0, 2, 1, 3])
    found = []
    for kernel in (llvm.compile(loop.of(F64), isa), Interpreter(loop.of(F64))):
        buffers = {b.name: poisoned(T, B, b.width, dtype=F64) for b in loop.buffers if b.kind == "emit"}
        last = poisoned(B, n, dtype=F64)
        kernel(TimeAxis(T, B, lengths), {**buffers, "x": x, "rate": rate}, first={"h": first}, final={"h": last})
        found.append([*buffers.values(), last])
    torch.testing.assert_close(*found, rtol=n * 1e-13, atol=n * 1e-13)


WIDTHS = [2, 3, 8, 17, 63, 64, 65, 200]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", WIDTHS)
def test_a_map_is_what_its_lines_say(n: int, isa: str) -> None:
    h = Buffer("h", "state", n)
    run(Loop((gates(n),), (h,)), n, isa)
    run(Loop(totals(n), (h,)), n, isa)


@pytest.mark.parametrize("n", WIDTHS)
def test_threads_may_share_the_features_of_a_row(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    monkeypatch.setattr(launch.NativeKernel, "team", lambda *_: (2, True))
    run(Loop((gates(n), *totals(n)), (Buffer("h", "state", n),)), n, None)
    torch.set_num_threads(1)


def test_every_long_chain_has_a_loop_of_its_own() -> None:
    known = Known(gates(40))
    body = gates(40).body
    long = [[body[n].op for n in phase.lines if body[n].op in ("sigmoid", "tanh", "exp")] for phase in known.phases]
    assert long == [["sigmoid"], ["tanh"], ["exp"], []]
    dear = next(n for n, i in enumerate(body) if i.op == "abs" and n > 10)
    assert len(Known(Map(40, body[:AHEAD])).phases) == 1, "a short map is one loop"
    assert dear in known.phases[0].kept, "what three phases need and is dear is computed once"
    assert dear in known.phases[1].reads
    assert [body[n].op for n in known.phases[2].lines].count("load") == 1, "of the old state"
    assert all(i.op not in ("sigmoid", "tanh", "exp") or sum(n in p.lines for p in known.phases) == 1
               for n, i in enumerate(body))  # fmt: skip


def test_what_is_the_same_for_a_row_and_what_joins() -> None:
    body = gates(40).body
    known = Known(gates(40))
    assert {body[n].op for n in known.same} == {"load", "mul", "store"}
    assert len(known.same) == 4, "the rate, its half, and two stores"
    assert {body[n].op for n in known.fused} == {"add", "sub"}
    assert all(body[product].op == "mul" for product in known.fused.values())
    assert len(Known(Map(1, body[:2])).same) == 0, "a map of one feature has nothing before its features"
