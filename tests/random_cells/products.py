"""Products of rows with parameters, in the forms in which people write them."""

from __future__ import annotations

from collections.abc import Sequence

from tests.random_cells.draw import Draw
from tests.random_cells.source import ONE, Dim, Line, Node, row, variable


def product(d: Draw, of: Node, dim: Dim) -> Node:
    """Return `of` times a matrix of parameters."""
    k = of.kind.dim

    def by(form: str, *parts: Node) -> Node:
        return Node(form, row(dim), (of, *parts))

    def matrix() -> Node:
        return d.param(dim, k, prefix=d.any(["W", "R", "U", "P", "Q"]))

    def transposed() -> Node:
        return d.param(k, dim, prefix=d.any(["V", "E"]))

    def linear() -> Node:
        has_bias = d.chance(0.7)
        text = f"nn.Linear({k.code()}, {dim.code()}, bias={has_bias}, dtype=torch.float64)"
        lin = d.module("lin", text, (dim, k))
        return Node(f"self.{lin}({{0}})", row(dim), (of,), uses=(lin,))

    def low_rank() -> Node:
        inner = d.any([ONE, *d.dims])
        return by("({0} @ {1}.T @ {2}.T)", d.param(inner, k), d.param(dim, inner))

    def square() -> Node | None:
        if k != dim:
            return None
        form = d.any(
            ["({0} @ ({1} - {1}.T))", "({0} @ ({1} + {1}.T))", "({0} @ {1} @ {1}.T)", "({0} @ torch.triu({1}))"]
        )
        return by(form, d.param(dim, dim, prefix="M"))

    def shaped() -> Node:
        form = d.any(
            [
                "({0} @ torch.tanh({1}).T)",
                "({0} @ ({1} * 0.5).T)",
                "({0} @ ({1} / {1}.norm(dim=1, keepdim=True)).T)",
                "({0} @ F.normalize({1}, dim=-1).T)",
                "({0} @ torch.softmax({1}, -1).T)",
                "({0} @ ({1}.abs()).t())",
                "({0} @ ({1} ** 2).T)",
            ]
        )
        return by(form, matrix())

    def part_of_larger() -> Node:
        w, large = dim.code(), d.param(dim.times(2), k, prefix="L")
        form = d.any([f"({{0}} @ {{1}}[:{w}].T)", f"({{0}} @ {{1}}[{w}:].T)", "({0} @ {1}.chunk(2, 0)[1].T)"])
        return by(form, large)

    def outer() -> Node:
        return by("({0} @ torch.outer({1}, {2}))", d.param(k), d.param(dim))

    forms = ["({0} @ {1}.T)"] * 6 + [
        "({0} @ {1}.t())",
        "F.linear({0}, {1})",
        "torch.matmul({0}, {1}.T)",
        "torch.mm({0}, {1}.T)",
    ]
    return d.first(
        [
            (10, lambda: by(d.any(forms), matrix())),
            (2, lambda: by(d.any(["({0} @ {1})", "torch.matmul({0}, {1})", "{0}.mm({1})"]), transposed())),
            (
                1.5,
                lambda: by(d.any(["F.linear({0}, {1}, {2})", "torch.addmm({2}, {0}, {1}.T)"]), matrix(), d.param(dim)),
            ),
            (1.5, linear),
            (0.7, low_rank),
            (0.7, square),
            (0.7, shaped),
            (0.7, part_of_larger),
            (0.2, outer),
            (0.1, lambda: by("({1} @ {0}.T).T", matrix())),
        ]
    )


def join(d: Draw, rows: Sequence[Node]) -> Node:
    """Return rows side by side."""
    if len(rows) == 1:
        return rows[0]
    total = rows[0].kind.dim
    for other in rows[1:]:
        total = total + other.kind.dim
    names = ", ".join(f"{{{i}}}" for i in range(len(rows)))
    form = d.any(["torch.cat([%s], -1)", "torch.cat((%s), dim=1)", "torch.cat([%s], dim=-1)", "torch.hstack([%s])"])
    return Node(form % names, row(total), tuple(rows))


def before_activation(d: Draw, dim: Dim, rows: Sequence[Node]) -> Node:
    """Return a sum of products of these rows, as one product of all side by side or one of each."""
    if len(rows) > 1 and d.chance(0.3):
        whole = join(d, rows)
        result = product(d, d.let(whole, "v") if d.chance(0.5) else whole, dim)
    else:
        result = product(d, rows[0], dim)
        for other in rows[1:]:
            result = Node("({0} + {1})", row(dim), (result, product(d, other, dim)))
    if d.chance(0.5):
        result = Node("({0} + {1})", row(dim), (result, d.param(dim, prefix="b", sort=d.any(["param", "bias"]))))
    return result


def parts(d: Draw, whole: Node, dim: Dim, n: int) -> list[Node]:
    """Return n rows of one width cut out of `whole`, n times as wide."""
    w = dim.code()
    form = d.rng.randrange(5)
    if form < 3:
        targets = [variable(d.name(letter), row(dim)) for letter in "ifgoabcd"[:n]]
        ways = [f".chunk({n}, -1)", f".chunk({n}, dim=1)", f".split({w}, -1)", f".tensor_split({n}, -1)"]
        names = ", ".join(t.name for t in targets)
        d.lines.append(
            Line(f"{names}{',' * (n == 1)} = ({{0}}){d.any(ways)}", (whole,), tuple(t.name for t in targets))
        )
        d.scope += targets
        return targets
    whole = d.let(whole, "z")
    cuts = [f"{i} * ({w}):{i + 1} * ({w})" for i in range(n)]
    ways = ["{0}[:, %s]", "{0}[..., %s]"]
    return [Node(d.any(ways) % cut, row(dim), (whole,)) for cut in cuts]


def gates(d: Draw, n: int, dim: Dim, rows: Sequence[Node]) -> list[Node]:
    """Return n rows before their activation: stacked in one product, one by one, or one for several gates."""
    style = d.rng.random()
    if n > 1 and style > 0.85:
        few = [d.let(node, "pre") for node in gates(d, 1 + d.rng.randrange(n - 1), dim, rows)]
        return [d.any(few) for _ in range(n)]
    if n > 1 and style < 0.55:
        return parts(d, before_activation(d, dim.times(n), rows), dim, n)
    if n > 2 and style < 0.7:
        return [*parts(d, before_activation(d, dim.times(2), rows), dim, 2), *gates(d, n - 2, dim, rows)]
    return [before_activation(d, dim, rows) for _ in range(n)]


def normalised(d: Draw, node: Node) -> Node:
    """Return a row after a normalisation that is well behaved at zero."""
    node, dim = d.let(node), node.kind.dim
    w = dim.code()

    def layer_norm_module() -> Node:
        norm = d.module("norm", f"nn.LayerNorm({w}, dtype=torch.float64)", (dim,))
        return Node(f"self.{norm}({{0}})", node.kind, (node,), uses=(norm,))

    def plain(form: str) -> Node:
        return Node(form, node.kind, (node,))

    forms = [
        f"F.layer_norm({{0}}, ({w},))",
        "torch.softmax({0}, -1)",
        "{0}.softmax(dim=-1)",
        "(0.1 * torch.log_softmax({0}, -1))",
        "({0} / (1 + {0}.norm(dim=-1, keepdim=True)))",
        "({0} / (1e-3 + {0}.abs().sum(-1, keepdim=True)))",
        "(({0} - {0}.mean(-1, keepdim=True)) / torch.sqrt({0}.var(-1, keepdim=True, unbiased=False) + 1e-3))",
        f"F.rms_norm({{0}}, ({w},), eps=1e-3)",
        "({0} * torch.rsqrt({0}.pow(2).mean(-1, keepdim=True) + 1e-3))",
        "({0} - {0}.mean(-1, keepdim=True))",
        "({0} / (1 + {0}.amax(-1, keepdim=True).abs()))",
    ]

    def with_gain() -> Node:
        return Node(
            f"F.layer_norm({{0}}, ({w},), {{1}}, {{2}})", node.kind, (node, d.param(dim, init="1.0"), d.param(dim))
        )

    return d.first([(6, lambda: plain(d.any(forms))), (1.5, with_gain), (1, layer_norm_module)])
