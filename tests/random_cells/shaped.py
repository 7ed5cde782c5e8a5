"""Cells whose states, or what they compute, have several axes of features; and outputs that are no states."""

from __future__ import annotations

from collections.abc import Callable

from tests.random_cells.draw import Draw
from tests.random_cells.expressions import bounded, draw_row, squash
from tests.random_cells.forms import BLEND
from tests.random_cells.grids import Dims, draw_grid, split_axes
from tests.random_cells.products import gates, product
from tests.random_cells.source import ONE, Dim, H, I, K, Node, rows

After = list[Node]
Back = Callable[[Node], Node]


def shaped(d: Draw) -> After:
    """Return the new states and the outputs of a cell with grids."""
    after: After = []
    for _ in range(d.any([1, 1, 1, 2])):
        after += d.any([anything] * 3 + [fast_weights, delta_rule, slots, blocks, memory, mixture])(d)
    grids = any(kind.sort == "grid" for _, kind in d.states)
    flat = any(kind.sort == "row" for _, kind in d.states)
    if d.chance(0.6 if grids else 0.25) or not flat:
        after += outputs(d)
    return after


def outputs(d: Draw) -> After:
    """Declare outputs and return them."""
    made = []
    for _ in range(d.any([1, 1, 2, 3])):
        dim = d.any([H, K, ONE, I, Dim.of("", 3), *d.axes])
        name = d.name("y")
        d.outputs.append((name, dim))
        new = draw_grid(d, (dim,), d.any([0, 1, 2]))
        made.append(bounded(d, d.let(new)) if d.chance(0.3) else new)
    return made


def held(d: Draw, dims: Dims) -> tuple[Node, Back]:
    """Declare a state for these axes; return it as a grid, and how its new value is given back."""
    if d.chance(0.5):
        return d.state("S", *dims), lambda new: new
    total = ONE
    for n in dims:
        total = total * n
    flat = d.state("h", total)
    form = d.any(["{0}.flatten(1)", f"{{0}}.reshape(-1, {total.code()})", "{0}.reshape(x.shape[0], -1)"])
    return d.let(split_axes(d, flat, dims), "S"), lambda new: Node(form, rows(total), (new,))


def anything(d: Draw) -> After:
    """Up to two states of any axes, each a mixture of what it was and of any expression."""
    states: list[tuple[Node, Back]] = []
    for _ in range(d.any([1, 1, 2])):
        if d.chance(0.35):
            states.append((d.state("h", d.any([H, *d.axes])), lambda new: new))
        else:
            states.append(held(d, tuple(d.axis() for _ in range(d.any([2, 2, 3])))))
    after = []
    for old, back in states:
        dims = old.kind.dims
        new = bounded(d, d.let(draw_grid(d, dims, d.any([1, 2, 2, 3]))))
        if d.chance(0.6):
            form = d.any(["(0.5 * {0} + {1})", "torch.lerp({0}, {1}, 0.3)", "(0.9 * {0} - 0.2 * {1})"])
            new = Node(form, old.kind, (old, new))
        elif d.chance(0.5):
            narrow = tuple(ONE if d.chance(0.3) else n for n in dims)
            gate = d.let(squash(d, d.let(draw_grid(d, narrow, 1))), "z")
            new = Node(
                d.any(["({0} * {1} + (1 - {0}) * {2})", "({1} + {0} * ({2} - {1}))"]), old.kind, (gate, old, new)
            )
        after.append(back(new))
    return after


def vectors(d: Draw, *dims: Dim) -> list[Node]:
    """Return rows of these widths, mostly products of x or a state."""
    return [d.let(product(d, d.some_row(), n) if d.chance(0.7) else draw_row(d, n, 1)) for n in dims]


def fast_weights(d: Draw) -> After:
    """Ba et al. 2016: a decaying sum of outer products, read by a query."""
    v, k = d.axis(), d.axis()
    S, back = held(d, (v, k))
    value, key, query = vectors(d, v, k, k)
    new = d.any(
        [
            "(0.9 * {0} + 0.2 * {1}.unsqueeze(-1) * {2}.tanh().unsqueeze(-2))",
            '(0.8 * {0} + 0.3 * torch.einsum("bi,bj->bij", {1}, {2}.tanh()))',
            "torch.baddbmm(0.9 * {0}, {1}.unsqueeze(2), {2}.sigmoid().unsqueeze(1))",
            "({0} * torch.sigmoid({2})[:, None] + {1}[:, :, None] @ {2}.tanh()[:, None])",
        ]
    )
    after = d.let(Node(new, S.kind, (S, value, key)), "S")
    h = d.state("h", v)
    form = d.any(["({0} @ {1}.unsqueeze(-1)).squeeze(-1)", 'torch.einsum("bij,bj->bi", {0}, {1})'])
    read = Node(form, h.kind, (after, query))
    return [back(after), bounded(d, d.let(read))]


def delta_rule(d: Draw) -> After:
    """Schlag et al. 2021: what the key finds is replaced in part by the value; heads of their own."""
    heads, v, k = d.any(d.axes), d.axis(), d.axis()
    S, back = held(d, (heads, v, k))
    key = d.let(Node("F.normalize({0} + 0.1, dim=-1)", rows(heads, k), (draw_grid(d, (heads, k), 1),)), "k")
    value = d.let(draw_grid(d, (heads, v), 1), "v")
    rate = d.let(squash(d, d.let(draw_grid(d, (heads, ONE), 1))), "beta")
    found = d.let(Node("({0} @ {1}.unsqueeze(-1)).squeeze(-1)", rows(heads, v), (S, key)), "r")
    form = d.any(
        [
            "(0.95 * {0} + ({1} * ({2}.tanh() - {3})).unsqueeze(-1) * {4}.unsqueeze(-2))",
            '(0.95 * {0} + torch.einsum("bhi,bhj->bhij", {1} * ({2}.tanh() - {3}), {4}))',
            "(0.95 * {0} + ({1} * ({2}.tanh() - {3}))[..., None] @ {4}[:, :, None])",
        ]
    )
    return [back(Node(form, S.kind, (S, rate, value, found, key)))]


def slots(d: Draw) -> After:
    """A memory of slots, written and read by attention (Graves et al. 2014)."""
    n, w = d.axis(), d.axis()
    M, back = held(d, (n, w))
    key, add, erase = vectors(d, w, w, w)
    scores = d.any(
        [
            "torch.softmax(({0} @ {1}.unsqueeze(-1)).squeeze(-1), -1)",
            'torch.einsum("bnw,bw->bn", {0}, {1}).softmax(-1)',
            "torch.softmax(F.cosine_similarity({0} + 1, {1}.unsqueeze(1) + 1, dim=-1), 1)",
        ][: 3 if d.chance(0.2) else 2]
    )
    weight = d.let(Node(scores, rows(n), (M, key)), "w")
    form = d.any(
        [
            "({0} - {1}.unsqueeze(-1) * (torch.sigmoid({2}).unsqueeze(1) * {0} - {3}.tanh().unsqueeze(1)))",
            "({0} - {1}[..., None] * {0} * {2}.sigmoid()[:, None] + torch.einsum('bn,bw->bnw', {1}, {3}.tanh()))",
        ]
    )
    new = d.let(Node(form, M.kind, (M, weight, erase, add)), "M")
    h = d.state("h", w)
    read = d.let(
        Node(d.any(["({1}.unsqueeze(1) @ {0}).squeeze(1)", "({0} * {1}[:, :, None]).sum(1)"]), h.kind, (new, weight)),
        "r",
    )
    return [back(new), bounded(d, read)]


def blocks(d: Draw) -> After:
    """A gated cell whose recurrent matrices are a block for each head (Beck et al. 2024)."""
    heads, n = d.any(d.axes), d.axis()
    h, back = held(d, (heads, n))
    x = d.let(split_axes(d, product(d, d.x, heads * n.times(2)), (heads, n.times(2))), "X")
    form = d.any(
        [
            '({1} + torch.einsum("bhi,hio->bho", {0}, {2}))',
            "({1} + ({0}.unsqueeze(2) @ {2}).squeeze(2))",
            "({1} + torch.matmul({0}[..., None, :], {2})[..., 0, :])",
            "({1} + torch.bmm({0}.transpose(0, 1), {2}).transpose(0, 1))",
        ]
    )
    whole = Node(form, x.kind, (h, x, d.param(heads, n, n.times(2))))
    z, new = _halves(d, whole, (heads, n))
    mixed = Node(d.any(BLEND[:6]), h.kind, (d.let(squash(d, z), "z"), h, d.let(bounded(d, new))))
    return [back(mixed)]


def _halves(d: Draw, whole: Node, dims: Dims) -> tuple[Node, Node]:
    whole, w = d.let(whole, "Z"), dims[-1].code()
    first, second = d.any(
        [
            ("{0}.chunk(2, -1)[0]", "{0}.chunk(2, -1)[1]"),
            (f"{{0}}[..., :{w}]", f"{{0}}[..., {w}:]"),
            ("{0}[..., ::2]", "{0}[..., 1::2]"),
            (f"{{0}}.unflatten(-1, (2, {w}))[..., 0, :]", f"{{0}}.unflatten(-1, (2, {w})).select(-2, 1)"),
        ]
    )
    return (d.let(Node(first, rows(*dims), (whole,))), d.let(Node(second, rows(*dims), (whole,))))


def memory(d: Draw) -> After:
    """A matrix memory with a normaliser (Beck et al. 2024)."""
    v, k = d.axis(), d.axis()
    S, back = held(d, (v, k))
    n = d.state("n", k)
    i, f = (d.let(squash(d, node)) for node in gates(d, 2, ONE, [d.x, n]))
    value, key, query = vectors(d, v, k, k)
    new = d.let(
        Node(
            "({1}.unsqueeze(-1) * {0} + {2}[..., None] * ({3}.unsqueeze(-1) @ {4}.unsqueeze(-2)))",
            S.kind,
            (S, f, i, value, key),
        ),
        "S",
    )
    count = d.let(Node("({0} * {1} + {2} * {3})", n.kind, (f, n, i, key)), "n")
    h = d.state("h", v)
    form = d.any(
        [
            "(({0} @ {1}.unsqueeze(-1)).squeeze(-1) / torch.clamp(({2} * {1}).sum(-1, keepdim=True).abs(), min=1))",
            "(torch.einsum('bvk,bk->bv', {0}, {1}) / (1 + torch.einsum('bk,bk->b', {2}, {1}).abs()[:, None]))",
        ]
    )
    return [back(new), count, bounded(d, d.let(Node(form, h.kind, (new, query, count))))]


def mixture(d: Draw) -> After:
    """Experts mixed by a softmax: parameters of three axes, summed over one of them."""
    n = d.any([H, *d.axes])
    h = d.state("h", n)
    experts = d.any([d.any(d.axes), Dim.of("", 3)])
    (scores,) = vectors(d, experts)
    weight = d.let(Node("torch.softmax({0}, -1)", rows(experts), (scores,)), "g")
    form = d.any(
        [
            'torch.einsum("be,bi,eij->bj", {0}, {1}, {2})',
            '(torch.einsum("bi,eij->bej", {1}, {2}) * {0}.unsqueeze(-1)).sum(1)',
            "({0}.unsqueeze(1) @ ({1}[:, None, None] @ {2}).squeeze(2)).squeeze(1)",
            '({0}[..., None] * torch.einsum("bi,eij->bej", {1}, {2}).relu()).mean(-2)',
        ]
    )
    new = d.let(Node(form, h.kind, (weight, h, d.param(experts, n, n))))
    return [bounded(d, d.let(Node("({0} + {1})", h.kind, (new, product(d, d.x, n)))))]
