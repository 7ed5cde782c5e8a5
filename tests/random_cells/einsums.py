"""Products of grids with grids and with parameters, in the forms in which people write them."""

from __future__ import annotations

from collections.abc import Callable

from tests.random_cells.draw import Draw
from tests.random_cells.source import ONE, Dim, Node, rows

Dims = tuple[Dim, ...]
Below = Callable[..., Node]
RANKS = 3


def contracted(d: Draw, dims: Dims, below: Below) -> Node:
    """Return a product with these axes."""
    rules = [
        (4.0, lambda: einsum(d, dims, below)),
        (3.0, lambda: matmul(d, dims, below)),
        (2.0, lambda: linear(d, dims, below)),
        (2.0, lambda: outer(d, dims, below)),
        (2.0, lambda: of_vector(d, dims, below)),
        (1.0, lambda: attention(d, dims, below)),
        (1.0, lambda: a_matrix_each(d, dims, below)),
    ]
    return d.first(rules)


def einsum(d: Draw, dims: Dims, below: Below) -> Node:
    """Return an equation of two or three operands, at random."""
    names = d.rng.sample("ijkhdnmoq", 6)
    goal, inner = names[: len(dims)], names[len(dims) : len(dims) + d.any([0, 1, 1, 1, 2])]
    width = dict(zip(goal, dims, strict=True)) | {letter: d.axis() for letter in inner}
    count = d.any([1, 2, 2, 2, 2, 3, 3])
    has: list[list[str]] = [[] for _ in range(count)]
    for letter in [*goal, *inner]:
        for k in d.rng.sample(range(count), 1 + d.rng.randrange(min(count, 2))):
            if len(has[k]) < RANKS:
                has[k].append(letter)
    if any(all(letter not in own for own in has) for letter in width):
        return outer(d, dims, below) or below()
    row_at = d.rng.randrange(count)
    terms, parts = [], []
    for k, own in enumerate(has):
        d.rng.shuffle(own)
        shape = [width[letter] for letter in own]
        if k != row_at and own and d.chance(0.4):
            terms.append("".join(own))
            parts.append(d.param(*shape))
            continue
        if own and d.chance(0.06):  # a diagonal
            twice = d.rng.randrange(len(own))
            if len(own) < RANKS:
                own.append(own[twice])
                shape.append(shape[twice])
        terms.append("b" + "".join(own))
        parts.append(below(*shape) if shape else _number(d, below))
    out = "b" + "".join(goal)
    slots = ", ".join(f"{{{k}}}" for k in range(count))
    text = f"{','.join(terms)}->{out}"
    joined = "".join(terms)
    free = "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    if free == out and d.chance(0.5):
        text = ",".join(terms)
    if d.chance(0.15) and all(t.startswith("b") for t in terms):
        text = text.replace("b", "...")
    if d.chance(0.2):
        text = text.replace("->", " -> ").replace(",", ", ")
    return Node(f'torch.einsum("{text}", {slots})', rows(*dims), tuple(parts))


def _number(d: Draw, below: Below) -> Node:
    return Node(d.any(["{0}[:, 0]", "{0}.squeeze(-1)", "{0}.sum(1)"]), rows(), (below(ONE),))


def matmul(d: Draw, dims: Dims, below: Below) -> Node | None:
    """Return rows of matrices times rows of matrices, or times parameters."""
    if len(dims) < 2:
        return None
    *lead, m, n = dims
    k = d.axis()
    forms = ["({0} @ {1})", "torch.matmul({0}, {1})", "({0} @ {1}.mT)"]
    if len(dims) == 2:
        forms += ["torch.bmm({0}, {1})", "{0}.bmm({1})"]
    form = d.any(forms)
    left, right = (*lead, m, k), (*lead, n, k) if "mT" in form else (*lead, k, n)
    draw = d.rng.random()
    if draw < 0.45:
        first, second = below(*left), below(*right)
        if len(dims) == 3 and d.chance(0.2):  # heads that share one
            second = below(ONE, *right[1:])
        if len(dims) == 2 and "bmm" in form and d.chance(0.3):
            form = "torch.baddbmm({2}, {0}, {1})"
            return Node(form, rows(*dims), (first, second, below()))
        return Node(form, rows(*dims), (first, second))
    form = d.any(["({0} @ {1})", "torch.matmul({0}, {1})"])
    if draw < 0.8:
        own = (k, n) if d.chance(0.5) or not lead else (*lead, k, n)
        return Node(form, rows(*dims), (below(*left), d.param(*own)))
    own = (m, k) if d.chance(0.5) or not lead else (*lead, m, k)
    return Node(form, rows(*dims), (d.param(*own), below(*lead, k, n)))


def linear(d: Draw, dims: Dims, below: Below) -> Node:
    *lead, n = dims
    k = d.axis()
    if d.chance(0.3):
        has_bias = d.chance(0.7)
        text = f"nn.Linear({k.code()}, {n.code()}, bias={has_bias}, dtype=torch.float64)"
        lin = d.module("lin", text, (n, k))
        return Node(f"self.{lin}({{0}})", rows(*dims), (below(*lead, k),), uses=(lin,))
    if d.chance(0.5):
        form = d.any(["({0} @ {1}.T)", "F.linear({0}, {1})", "torch.matmul({0}, {1}.t())"])
        return Node(form, rows(*dims), (below(*lead, k), d.param(n, k)))
    return Node("F.linear({0}, {1}, {2})", rows(*dims), (below(*lead, k), d.param(n, k), d.param(n)))


def outer(d: Draw, dims: Dims, below: Below) -> Node | None:
    if len(dims) != 2:
        return None
    m, n = dims
    form = d.any(
        [
            "({0}.unsqueeze(-1) * {1}.unsqueeze(-2))",
            "({0}[:, :, None] * {1}[:, None])",
            "torch.bmm({0}.unsqueeze(2), {1}.unsqueeze(1))",
            "({0}.unsqueeze(-1) @ {1}[:, None, :])",
            "({0}[..., None] - {1}[..., None, :])",
            'torch.einsum("bi,bj->bij", {0}, {1})',
        ]
    )
    return Node(form, rows(*dims), (below(m), below(n)))


def of_vector(d: Draw, dims: Dims, below: Below) -> Node | None:
    """Return matrices times vectors."""
    if len(dims) >= RANKS:
        return None
    lead, k = dims[:-1], d.axis()
    if d.chance(0.3):
        return Node(d.any(["({0} @ {1})", "torch.matmul({0}, {1})"]), rows(*dims), (below(*dims, k), d.param(k)))
    forms = [
        "({0} @ {1}.unsqueeze(-1)).squeeze(-1)",
        "torch.matmul({0}, {1}[..., None])[..., 0]",
        "({0} * {1}.unsqueeze(-2)).sum(-1)",
        "({1}.unsqueeze(-2) @ {0}.mT).squeeze(-2)",
    ]
    if len(dims) == 1:
        forms += ["torch.bmm({0}, {1}.unsqueeze(2)).squeeze(2)"]
    return Node(d.any(forms), rows(*dims), (below(*dims, k), below(*lead, k)))


def attention(d: Draw, dims: Dims, below: Below) -> Node | None:
    """Return a mixture of values by a softmax of products of queries and keys."""
    if len(dims) < 2:
        return None
    *lead, m, n = dims
    slots, k = d.axis(), d.axis()
    q, key, v = below(*lead, m, k), below(*lead, slots, k), below(*lead, slots, n)
    form = d.any(
        [
            "(torch.softmax({0} @ {1}.mT, -1) @ {2})",
            "(({0} @ {1}.transpose(-1, -2) * 0.5).softmax(dim=-1) @ {2})",
            "((({0} @ {1}.mT).relu() + 0.1) @ {2})",
            *(["F.scaled_dot_product_attention({0}, {1}, {2})"] if d.chance(0.1) else []),
        ]
    )
    return Node(form, rows(*dims), (q, key, v))


def a_matrix_each(d: Draw, dims: Dims, below: Below) -> Node | None:
    """Return each head times a matrix of its own."""
    if len(dims) != 2:
        return None
    heads, n = dims
    k = d.axis()
    form = d.any(
        [
            'torch.einsum("bhk,hkn->bhn", {0}, {1})',
            "({0}.unsqueeze(-2) @ {1}).squeeze(-2)",
            "torch.bmm({0}.transpose(0, 1), {1}).transpose(0, 1)",
            "({0}[:, :, None] @ {1})[:, :, 0]",
            'torch.einsum("...hk,hkn->...hn", {0}, {1})',
        ]
    )
    return Node(form, rows(*dims), (below(heads, k), d.param(heads, k, n)))
