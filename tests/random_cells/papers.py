"""Cells of the literature as building blocks: each adds its states and returns their new values, freely varied.

A block takes the rows it reads; gates, products, activations and the form of every mixture are drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.random_cells.draw import Draw
from tests.random_cells.expressions import activated, bounded, draw_row, squash
from tests.random_cells.forms import BLEND
from tests.random_cells.products import before_activation, gates, join, normalised, product
from tests.random_cells.source import ONE, Dim, H, I, K, Line, Node, row, variable

After = list[Node]
Block = Callable[[Draw, Node], After]


def blend(d: Draw, gate: Node, old: Node, new: Node) -> Node:
    return Node(d.any(BLEND[:6]), old.kind, (d.let(gate, "z"), d.let(old), d.let(new)))


def add(a: Node, b: Node) -> Node:
    return Node("({0} + {1})", a.kind, (a, b))


def mul(a: Node, b: Node) -> Node:
    return Node("({0} * {1})", a.kind, (a, b))


def tanh(d: Draw, node: Node) -> Node:
    return bounded(d, d.let(node) if not node.name else node)


def maybe(d: Draw, node: Node) -> Node:
    """Return the node, sometimes normalised or mixed with something else of its width."""
    draw = d.rng.random()
    if draw < 0.1:
        return normalised(d, node)
    if draw < 0.2:
        return add(node, Node("(0.3 * {0})", node.kind, (draw_row(d, node.kind.dim, 2),)))
    return node


def width(d: Draw) -> Dim:
    return d.any([H, H, H, K, ONE, Dim.of("", 3)])


def lstm(d: Draw, x: Node) -> After:
    """Hochreiter and Schmidhuber 1997; peepholes: Gers 2000; coupled gates: Greff 2017; normalised: Ba 2016."""
    n = width(d)
    h, c = d.state("h", n), d.state("c", n)
    coupled = d.chance(0.3)
    i, f, g, *o = (maybe(d, gate) for gate in gates(d, 3 + d.chance(0.8), n, [x, h]))
    peep = d.chance(0.4)
    if peep:
        i, f = (add(gate, mul(c, d.param(n, prefix="p"))) for gate in (i, f))
    f = squash(d, f)
    c1 = blend(d, f, tanh(d, g), c) if coupled else add(mul(f, c), mul(squash(d, i), tanh(d, g)))
    c1 = d.let(c1, "c")
    out = tanh(d, normalised(d, c1) if d.chance(0.2) else c1)
    if o:
        gate = add(o[0], mul(c1, d.param(n, prefix="p"))) if peep else o[0]
        out = mul(squash(d, gate), out)
    return [out, c1]


def gru(d: Draw, x: Node) -> After:
    """Cho 2014 (reset before the product) and Chung 2014 (after it)."""
    n = width(d)
    h = d.state("h", n)
    r, z = gates(d, 2, n, [x, h])
    r = d.let(squash(d, r), "r")
    if d.chance(0.5):
        new = before_activation(d, n, [x, d.let(mul(r, h), "v")])
    else:
        new = add(before_activation(d, n, [x]), mul(r, before_activation(d, n, [h])))
    return [blend(d, squash(d, z), h, tanh(d, maybe(d, new)))]


def minimal(d: Draw, x: Node) -> After:
    """One gate: Zhou 2016 (MGU), Collins 2017 (UGRNN), Feng 2024 (minGRU)."""
    n = width(d)
    h = d.state("h", n)
    kind = d.rng.randrange(3)
    gate, new = gates(d, 2, n, [x] if kind == 2 else [x, h])
    gate = d.let(squash(d, gate), "f")
    if kind == 0:
        new = before_activation(d, n, [x, mul(gate, h)])
    return [blend(d, gate, h, tanh(d, maybe(d, new)))]


def elman(d: Draw, x: Node) -> After:
    """Elman 1990, IRNN, IndRNN (Li 2018), with leaky units (Bengio 2013)."""
    n = width(d)
    h = d.state("h", n)
    alone = d.chance(0.4)  # each unit sees itself only
    new = add(before_activation(d, n, [x]), mul(h, d.vector(n))) if alone else before_activation(d, n, [x, h])
    new = activated(d, d.let(maybe(d, new))) if d.chance(0.3) else tanh(d, maybe(d, new))
    return [
        Node(
            d.any(["(0.8 * {0} + 0.2 * {1})", "torch.lerp({0}, {1}, 0.3)", "({0} + 0.1 * ({1} - {0}))", "{1}"]),
            h.kind,
            (h, new),
        )
    ]


def highway(d: Draw, x: Node) -> After:
    """Zilly 2017, recurrent highway: several layers of gates inside a step."""
    n = width(d)
    h = d.state("h", n)
    s = h
    for layer in range(1 + d.rng.randrange(3)):
        new, t = gates(d, 2, n, [x, s] if layer == 0 else [s])
        s = d.let(blend(d, squash(d, t), s, tanh(d, new)), "s")
    return [s]


def structural(d: Draw, x: Node) -> After:
    """Mikolov 2015 (SCRN): a slow context of another width beside a quick layer."""
    n, k = width(d), width(d)
    h, s = d.state("h", n), d.state("s", k)
    rate = d.any(["0.95", "0.5"])
    s1 = d.let(Node(f"((1 - {rate}) * {{0}} + {rate} * {{1}})", s.kind, (product(d, x, k), s)), "s")
    return [tanh(d, before_activation(d, n, [s1, x, h])), s1]


def chaos_free(d: Draw, x: Node) -> After:
    """Laurent and von Brecht 2017 (CFN)."""
    n = width(d)
    h = d.state("h", n)
    f, i = gates(d, 2, n, [x, h])
    return [add(mul(squash(d, f), tanh(d, h)), mul(squash(d, i), tanh(d, product(d, x, n))))]


def fast(d: Draw, x: Node) -> After:
    """Kusupati 2018 (FastGRNN): one sum of products serves gate and candidate, two scalars mix."""
    n = width(d)
    h = d.state("h", n)
    pre = d.let(before_activation(d, n, [x, h]), "pre")
    z = d.let(squash(d, add(pre, d.param(n))), "z")
    new = d.let(tanh(d, add(pre, d.param(n))), "n")
    zeta, nu = d.param(prefix="zeta", init="1.0"), d.param(prefix="nu", init="-4.0")
    return [
        Node("((torch.sigmoid({0}) * (1 - {1}) + torch.sigmoid({2})) * {3} + {1} * {4})", h.kind, (zeta, z, nu, new, h))
    ]


def antisymmetric(d: Draw, x: Node) -> After:
    """Chang 2019 (antisymmetric) and Erichson 2021 (Lipschitz): a step of an ordinary differential equation."""
    n = width(d)
    h = d.state("h", n)
    m = d.param(n, n, prefix="M")
    form = d.any(
        ["({0} @ ({1} - {1}.T) - 0.1 * {0})", "({0} @ (0.6 * ({1} - {1}.T) + 0.4 * ({1} + {1}.T)) - 0.2 * {0})"]
    )
    pre = d.let(add(Node(form, h.kind, (h, m)), before_activation(d, n, [x])), "pre")
    new = tanh(d, pre)
    new = mul(new, squash(d, add(pre, d.param(n)))) if d.chance(0.5) else new
    step = d.option("rate", "float", "0.1", 0.1) if d.chance(0.5) else ""
    return [
        Node(
            f"({{0}} + self.{step} * {{1}})" if step else "({0} + 0.1 * {1})",
            h.kind,
            (h, new),
            uses=(step,) if step else (),
        )
    ]


def oscillators(d: Draw, x: Node) -> After:
    """Rusch and Mishra 2021 (coRNN): position and velocity of coupled oscillators."""
    n = width(d)
    y, z = d.state("y", n), d.state("z", n)
    pre = before_activation(d, n, [y, z, x])
    z1 = d.let(
        Node("({0} + 0.1 * ({1} - {2} * {0} - 0.5 * {3}))", z.kind, (z, tanh(d, pre), d.param(n, init="0.7"), y)), "z"
    )
    return [Node("({0} + 0.1 * {1})", y.kind, (y, z1)), z1]


def continuous(d: Draw, x: Node) -> After:
    """Funahashi and Nakamura 1993 (CTRNN), liquid time constants (Hasani 2021): several small steps of Euler."""
    n = width(d)
    h = d.state("h", n)
    u = d.let(before_activation(d, n, [x]), "u")
    tau = d.param(n, prefix="tau", init="0.5")
    target = variable(d.name("r"), h.kind)
    d.lines.append(Line(f"{target.name} = {{0}}", (h,), (target.name,)))
    option = d.option("steps", "int", "3", d.any([1, 2, 3, 4, 8, 9, 20]))
    pre = add(u, product(d, target, n))
    pre = Node("torch.tanh({0})", h.kind, (pre,))
    rule = Node(
        d.any(["({0} + 0.2 * ({1} - {0} / (1 + {2} ** 2)))", "({0} + 0.25 * ({1} - {0}) * torch.sigmoid({2}))"]),
        h.kind,
        (target, pre, tau),
    )
    d.lines.append(
        Line(f"for _ in range(self.{option}):\n    {target.name} = {{0}}", (rule,), changes=target.name, uses=(option,))
    )
    return [target]


def memory_unit(d: Draw, x: Node) -> After:
    """Voelker 2019 (LMU): a linear memory of its own width, written by one number, often with fixed matrices."""
    n, k = width(d), d.any([K, Dim.of("", 3), Dim.of("", 5), H])
    h, m = d.state("h", n), d.state("m", k)
    u = d.let(Node("({0} + {1})", row(ONE), (product(d, x, ONE), product(d, h, ONE))), "u")
    if d.chance(0.5):
        u = d.let(add(u, product(d, m, ONE)), "u")
    m1 = (
        Node("(0.9 * {0} + 0.3 * {1})", m.kind, (m, product(d, m, k)))
        if d.chance(0.5)
        else Node("(0.9 * {0})", m.kind, (m,))
    )
    m1 = d.let(
        tanh(d, add(m1, product(d, u, k)))
        if d.chance(0.5)
        else add(m1, Node("(0.3 * {0})", m.kind, (product(d, u, k),))),
        "m",
    )
    return [tanh(d, before_activation(d, n, [x, h, m1])), m1]


def simple(d: Draw, x: Node) -> After:
    """Lei 2018 (SRU) and Bradbury 2017 (QRNN): gates of the input alone, or of the input and the one before."""
    n = width(d)
    _, c = d.state("h", n), d.state("c", n)
    reads, after = [x], []
    if d.chance(0.4):
        before = d.state("last", x.kind.dim)
        reads, after = [x, before], [x]
    g, f, r = gates(d, 3, n, reads)
    f = add(f, mul(c, d.param(n, prefix="v"))) if d.chance(0.5) else f
    c1 = d.let(blend(d, squash(d, f), tanh(d, g), c), "c")
    skip = x if x.kind.dim == n else product(d, x, n)
    return [blend(d, squash(d, r), skip, tanh(d, c1)), c1, *after]


def multiplicative(d: Draw, x: Node) -> After:
    """Krause 2016 (mLSTM), Wu 2016 (multiplicative integration), Sutskever 2011."""
    n = width(d)
    h = d.state("h", n)
    if d.chance(0.5):
        m = d.let(mul(product(d, x, n), product(d, h, n)), "m")
        pre = before_activation(d, n, [x, m])
    else:
        a, b = d.let(product(d, x, n)), d.let(product(d, h, n))
        pre = Node("({0} * {1} * {2} + {3} * {1} + {4} * {2})", h.kind, (d.param(n), a, b, d.param(n), d.param(n)))
    gate = squash(d, before_activation(d, n, [x, h]))
    return [blend(d, gate, h, tanh(d, maybe(d, pre)))]


def hyper(d: Draw, x: Node) -> After:
    """Ha 2017 (HyperNetworks): a small cell scales the rows of the large one."""
    n, k = width(d), d.any([ONE, K, Dim.of("", 2)])
    h, s = d.state("h", n), d.state("s", k)
    s1 = d.let(tanh(d, before_activation(d, k, [x, h, s])), "s")
    scale, shift = product(d, s1, n), product(d, s1, n)
    pre = Node(
        "({0} * {1} + {2} * {3} + {4})", h.kind, (scale, product(d, h, n), product(d, s1, n), product(d, x, n), shift)
    )
    return [tanh(d, pre), s1]


def attending(d: Draw, x: Node) -> After:
    """A soft choice among learned slots, written back into a memory (after Graves 2014)."""
    n = width(d)
    slots = d.any([Dim.of("", 3), K, I])
    h, m = d.state("h", n), d.state("m", slots)
    scores = before_activation(d, slots, [x, h])
    a = d.let(Node("torch.softmax({0}, -1)", m.kind, (d.let(add(scores, m)),)), "a")
    read = Node("({0} @ {1})", h.kind, (a, d.param(slots, n, prefix="V")))
    return [tanh(d, add(before_activation(d, n, [x]), read)), Node("(0.5 * {0} + 0.5 * {1})", m.kind, (m, a))]


def averages(d: Draw, x: Node) -> After:
    """Oliva 2017 (SRU, statistical): averages at several rates side by side in one state."""
    n, k = width(d), d.any([ONE, H, K, Dim.of("", 2)])
    wide = k.times(2)
    y, m = d.state("y", n), d.state("m", wide)
    w = k.code()
    stat = d.let(activated(d, d.let(before_activation(d, k, [x, m]))), "phi")
    new = Node(
        f"torch.cat([0.5 * {{0}}[:, :{w}] + 0.5 * {{1}}, 0.9 * {{0}}[:, {w}:] + 0.1 * {{1}}], -1)", m.kind, (m, stat)
    )
    m1 = d.let(new, "m")
    return [tanh(d, before_activation(d, n, [m1]) if d.chance(0.7) else add(product(d, m1, n), product(d, y, n))), m1]


def stacked(d: Draw, x: Node) -> After:
    """Two products of one row of several states, as one writes a residual network over all of them."""
    a, b = width(d), width(d)
    h, c = d.state("h", a), d.state("c", b)
    v = join(d, d.any([[h, c], [c, h], [h, x], [x, c, h]]))
    v = d.let(activated(d, d.let(v, "v")) if d.chance(0.7) else v, "v")
    new = [product(d, v, n) for n in (a, b)]
    return [
        tanh(d, add(s, p))
        if d.chance(0.5)
        else add(Node("(0.5 * {0})", s.kind, (s,)), Node("(0.2 * {0})", s.kind, (p,)))
        for s, p in zip((h, c), new, strict=True)
    ]


def tied(d: Draw, x: Node) -> After:
    """One sum of products for all there is to decide, as in gated convolutions (Dauphin 2017) and FastGRNN."""
    n = width(d)
    states = [d.state(d.any(["h", "c"]), n) for _ in range(1 + d.rng.randrange(2))]
    reads = d.any([[x], [x], [x, states[0]], [x, d.some_row()]])
    u = d.let(before_activation(d, n, reads), "u")
    after = []
    for s in states:
        old = mul(squash(d, u), s) if d.chance(0.8) else blend(d, squash(d, u), s, u)
        new = tanh(d, u) if d.chance(0.5) else add(s, tanh(d, product(d, d.some_row(), n)))
        after.append(add(old, new) if d.chance(0.7) else mul(squash(d, u), tanh(d, add(s, u))))
    return after


def counter(d: Draw, x: Node) -> After:
    """A state that only counts or averages, and that nothing need read."""
    n = d.state("n", ONE)
    form = d.any(
        [
            "({0} + 1)",
            "(0.9 * {0} + 0.1)",
            "(0.5 * {0} + {1}.mean(-1, keepdim=True))",
            "torch.maximum({0}, {1}.amax(-1, keepdim=True))",
            "({0} + ({1}[:, :1] > 0))",
            "(({0} + 1) * ({1}[:, :1] > -1))",
        ]
    )
    return [Node(form, n.kind, (n, x) if "{1}" in form else (n,))]


def delayed(d: Draw, x: Node) -> After:
    """States that hand on what others were: a line of delay."""
    n = d.dim()
    a, b = d.state("a", n), d.state("b", n)
    return [draw_row(d, n, 1) if n != x.kind.dim else x, a] if d.chance(0.7) else [b, a]


def free(d: Draw, x: Node) -> After:
    """Anything."""
    states = [d.state(d.any(["h", "c", "m", "s"]), d.dim()) for _ in range(d.any([1, 1, 1, 2, 2, 3]))]
    after = []
    for s in states:
        new = draw_row(d, s.kind.dim, d.any([1, 2, 2, 3]))
        draw = d.rng.random()
        if draw < 0.35:
            new = tanh(d, new)
        elif draw < 0.5:
            new = squash(d, new)
        elif draw < 0.75:
            new = Node(
                d.any(
                    ["(0.5 * {0} + 0.5 * {1})", "({0} + 0.1 * {1})", "torch.lerp({0}, {1}, 0.2)", "({0} - 0.1 * {1})"]
                ),
                s.kind,
                (s, tanh(d, new)),
            )
        else:
            new = Node("({0} / (1 + {0}.abs()))", s.kind, (d.let(new),))
        after.append(d.let(new) if d.chance(0.5) else new)
    return after


def plain(d: Draw, x: Node) -> After:
    """Two lines: a few products of the same few rows, added to a state, gated or as they are."""
    states = [d.state(d.any(["h", "c", "m"]), d.any([H, H, ONE, K, I, Dim.of("", 3)])) for _ in range(d.any([1, 2, 2]))]
    rows = [x, *states]
    if d.chance(0.6):
        v = join(d, [d.any(rows) for _ in range(d.any([1, 2, 2, 3]))])
        v = d.let(bounded(d, d.let(v, "v")) if d.chance(0.5) else v, "v")
        rows = [v, v, v, *rows]
    pool: dict[Dim, Node] = {}
    after = []
    for s in states:
        n = s.kind.dim
        u = pool[n] if n in pool and d.chance(0.3) else product(d, d.any(rows), n)
        u = pool[n] = d.let(u) if d.chance(0.6) else u
        w = product(d, d.any(rows), n) if d.chance(0.6) else u
        form = d.any(
            [
                "({0} + {1})",
                "torch.tanh({0} + {1})",
                "(0.5 * {0} + {1} * torch.sigmoid({2}))",
                "(torch.sigmoid({1}) * {0} + torch.tanh({2}))",
                "({0} + torch.tanh({1} + {2}))",
                "(torch.tanh({1}) * {2})",
                "{1}",
                "({0} * {1} + {2} * {1}.tanh())",
            ]
        )
        after.append(Node(form, s.kind, (s, u, w)))
    return after


BLOCKS: list[tuple[float, Block]] = [
    *((1.0, b) for b in (lstm, gru, minimal, elman, highway, structural, chaos_free, fast, antisymmetric, oscillators)),
    *((1.0, b) for b in (continuous, memory_unit, simple, multiplicative, hyper, attending, averages)),
    *((2.0, b) for b in (stacked, tied)),
    (0.5, counter),
    (0.5, delayed),
    (8.0, free),
]
