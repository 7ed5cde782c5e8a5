"""Loops written by hand (LSTM, GRU, plain RNN, layer-normalised RNN) and their formulas in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

from everloop.compiler.loop import Buffer, Instruction, Loop, Map, Product


class Lines:
    """Writes the body of a Map."""

    def __init__(self) -> None:
        self.body: list[Instruction] = []

    def _put(self, op: str, *args: int, buffer: Buffer | None = None, offset: int = 0, number: float = 0.0) -> int:
        self.body.append(Instruction(op, args, buffer, offset, number))
        return len(self.body) - 1

    def load(self, buffer: Buffer, offset: int = 0) -> int:
        return self._put("load", buffer=buffer, offset=offset)

    def store(self, value: int, buffer: Buffer, offset: int = 0) -> None:
        self._put("store", value, buffer=buffer, offset=offset)

    def total(self, value: int, buffer: Buffer, offset: int = 0) -> None:
        self._put("accumulate", value, buffer=buffer, offset=offset)

    def reduce(self, op: str, value: int, buffer: Buffer) -> None:
        self._put(op, value, buffer=buffer)

    def number(self, value: float) -> int:
        return self._put("constant", number=value)

    def __getattr__(self, op: str) -> Callable[..., int]:
        return lambda *args: self._put(op, *args)

    def map(self, width: int) -> Map:
        return Map(width, tuple(self.body))


def lstm(H: int) -> Loop:
    """Gates x (i, f, g, o) of the input are given; the activated gates and the memory are emitted for the gradient."""
    h, c = Buffer("h", "state", H), Buffer("c", "state", H)
    x, R, z = Buffer("x", "sequence", 4 * H), Buffer("R", "matrix", H, 4 * H), Buffer("z", "scratch", 4 * H)
    a, cs, hs = Buffer("a", "emit", 4 * H), Buffer("cs", "emit", H), Buffer("hs", "emit", H)
    m = Lines()
    pre = [m.add(m.load(z, n * H), m.load(x, n * H)) for n in range(4)]
    i, f, g, o = m.sigmoid(pre[0]), m.sigmoid(pre[1]), m.tanh(pre[2]), m.sigmoid(pre[3])
    new = m.add(m.mul(f, m.load(c)), m.mul(i, g))
    out = m.mul(o, m.tanh(new))
    for n, value in enumerate((i, f, g, o)):
        m.store(value, a, n * H)
    m.store(new, c)
    m.store(new, cs)
    m.store(out, h)
    m.store(out, hs)
    return Loop((Product(z, h, R), m.map(H)), (h, c))


def lstm_gradient(H: int) -> Loop:
    """Gradient of `lstm`: G is the gradient of the gates before activation; db its sum over time and batch."""
    dh, dc = Buffer("dh", "state", H), Buffer("dc", "state", H)
    a, cs = Buffer("a", "sequence", 4 * H), Buffer("cs", "sequence", H)
    before, dy = Buffer("before", "previous", H, of="c"), Buffer("dy", "sequence", H)
    R, z = Buffer("R", "matrix", H, 4 * H), Buffer("z", "scratch", 4 * H)
    G, db = Buffer("G", "emit", 4 * H), Buffer("db", "total", 4 * H, 0)
    m = Lines()
    i, f, g, o = (m.load(a, n * H) for n in range(4))
    one = m.number(1.0)
    gh = m.add(m.load(dh), m.load(dy))
    t = m.tanh(m.load(cs))
    gc = m.add(m.load(dc), m.mul(m.mul(gh, o), m.sub(one, m.mul(t, t))))

    def through(value: int, gate: int) -> int:
        return m.mul(value, m.mul(gate, m.sub(one, gate)))

    grads = (
        through(m.mul(gc, g), i),
        through(m.mul(gc, m.load(before)), f),
        m.mul(m.mul(gc, i), m.sub(one, m.mul(g, g))),
        through(m.mul(gh, t), o),
    )
    for n, value in enumerate(grads):
        m.store(value, z, n * H)
        m.store(value, G, n * H)
        m.total(value, db, n * H)
    m.store(m.mul(gc, f), dc)
    return Loop((m.map(H), Product(dh, z, R, transposed=True)), (dh, dc), is_gradient=True)


def rnn(H: int) -> Loop:
    """Plain tanh RNN with its input product inside the loop, a product straight into a sequence, and a row bias."""
    h, p = Buffer("h", "state", H), Buffer("p", "scratch", H)
    x, q = Buffer("x", "sequence", 5), Buffer("q", "scratch", H)
    W, R, b = Buffer("W", "matrix", 5, H), Buffer("R", "matrix", H, H), Buffer("b", "vector", H)
    row, V, y = Buffer("row", "row", H), Buffer("V", "matrix", H, 3), Buffer("y", "emit", 3)
    m = Lines()
    m.store(m.tanh(m.add(m.add(m.load(p), m.load(q)), m.add(m.load(b), m.load(row)))), h)
    return Loop((Product(p, h, R), Product(q, x, W), m.map(H), Product(y, h, V)), (h,))


def gru(H: int) -> Loop:
    """GRU with the reset gate before the product: two products a step. x holds r, z, n."""
    h = Buffer("h", "state", H)
    x, y = Buffer("x", "sequence", 3 * H), Buffer("y", "emit", H)
    R, U = Buffer("R", "matrix", H, 2 * H), Buffer("U", "matrix", H, H)
    p, rh, z, q = (
        Buffer("p", "scratch", 2 * H),
        Buffer("rh", "scratch", H),
        Buffer("z", "scratch", H),
        Buffer("q", "scratch", H),
    )
    m = Lines()
    m.store(m.mul(m.sigmoid(m.add(m.load(p), m.load(x))), m.load(h)), rh)
    m.store(m.sigmoid(m.add(m.load(p, H), m.load(x, H))), z)
    k = Lines()
    n = k.tanh(k.add(k.load(q), k.load(x, 2 * H)))
    new = k.add(n, k.mul(k.load(z), k.sub(k.load(h), n)))
    k.store(new, y)
    k.store(new, h)
    return Loop((Product(p, h, R), m.map(H), Product(q, rh, U), k.map(H)), (h,))


def normalised(H: int) -> Loop:
    """h = tanh(layer_norm(R h + x)), also emitting the row maximum: reductions and numbers one a row."""
    h, p = Buffer("h", "state", H), Buffer("p", "scratch", H)
    x, y, top = Buffer("x", "sequence", H), Buffer("y", "emit", H), Buffer("top", "emit", 1)
    R = Buffer("R", "matrix", H, H)
    mean, var, rate = (Buffer(name, "scratch", 1) for name in ("mean", "var", "rate"))
    squares, seen = Buffer("squares", "total", H, 1), Buffer("seen", "total", 1, 0)
    a, b, c, d, e = (Lines() for _ in range(5))
    value = a.add(a.load(p), a.load(x))
    a.store(value, p)
    a.reduce("sum", value, mean)
    a.reduce("max", value, top)
    b.store(b.mul(b.load(mean), b.number(1 / H)), mean)
    off = c.sub(c.load(p), c.load(mean))
    c.reduce("sum", c.mul(off, off), var)
    d.store(d.rsqrt(d.add(d.mul(d.load(var), d.number(1 / H)), d.number(1e-5))), rate)
    d.total(d.number(1.0), seen)
    out = e.tanh(e.mul(e.sub(e.load(p), e.load(mean)), e.load(rate)))
    e.store(out, h)
    e.store(out, y)
    e.total(e.mul(out, out), squares)
    maps = (a.map(H), b.map(1), c.map(H), d.map(1), e.map(H))
    return Loop((Product(p, h, R), *maps), (h,))
