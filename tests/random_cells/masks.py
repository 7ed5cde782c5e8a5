"""Masks in arithmetic: comparisons and what people compute with them."""

from __future__ import annotations

from tests.random_cells.draw import Draw
from tests.random_cells.source import Dim, Node, mask, row

COMPARE = [
    "({0} > 0)",
    "({0} < 0.3)",
    "({0} >= -0.2)",
    "({0} > {0}.mean(-1, keepdim=True) + 0.01)",
    "{0}.gt(0.1)",
    "torch.lt({0}, 0.5)",
    "({0}.abs() < 0.6)",
    "({0} != 0)",
    "torch.ge({0}, -0.5)",
]
BOTH = [
    "({0} & {1})",
    "({0} | {1})",
    "({0} ^ {1})",
    "(~{0} & {1})",
    "torch.logical_and({0}, {1})",
    "torch.logical_or({0}, ~{1})",
    "torch.logical_xor({0}, {1})",
    "({0} * {1})",
    "({0} + {1})",
    "torch.maximum({0}, {1})",
    "torch.minimum({0}, {1})",
    "torch.where({0}, {1}, {0})",
    "({0} == {1})",
    "({0} != {1})",
]
ALONE = [
    "~{0}",
    "{0}",
    "{0}.logical_not()",
    "torch.ones_like({0})",
    "torch.zeros_like({0})",
    "{0}.clone()",
    "{0}.amax(-1, keepdim=True).expand_as({0})",
    "{0}.any(-1, keepdim=True).expand_as({0})",
    "{0}.to(torch.bool)",
    "{0}.new_full({0}.shape, 2)",
]
TO_ROW = [
    *["({1} * {0})", "({0} * {1})"] * 3,
    "({1} * {0}.float())",
    "({1} * {0}.to({1}.dtype))",
    "({1} * {0}.type_as({1}))",
    "{1}.masked_fill({0}, 0.0)",
    "{1}.masked_fill(~{0}, -0.5)",
    "torch.where({0}, {1}, 0.1 * {1})",
    "torch.where({0}, {1}, 0.0)",
    "(torch.where({0}, 1.0, 0.5) * {1})",
    "({0} * 1.0)",
    "({0} * 0.5)",
    "(1.0 - {0}.to({1}.dtype))",
    "({0} + {1})",
    "({1} - {0} * 0.3)",
    "({1} + 0.2 * {0}.sum(-1, keepdim=True))",
    "({1} * ({0}.sum(-1, keepdim=True) > 1))",
    "({0}.float().mean(-1, keepdim=True) * {1})",
    "(0.2 * ({0} + {0}.to(torch.long)) + {1})",
    "(0.3 * torch.cat([{0}, {0}], -1).sum(-1, keepdim=True) + {1})",
    "torch.maximum({1}, {0} * 0.5)",
    "({0} / 2 + {1})",
    "({1} ** (1 + {0}))",
    "(torch.full_like({1}, 0.3) * {0})",
    "(torch.full_like({1}, 2.7, dtype=torch.long) * 0.1 + {0} * {1})",
    "(torch.ones_like({0}) * {1})",
    "(0.1 * (({0} + {0}) + 1) * {1})",
]


def truth(d: Draw, node: Node, deep: int = 2) -> Node:
    """Return a mask as wide as the row `node`."""
    kind = mask(node.kind.dim)
    if deep and d.chance(0.4):
        both = (d.let(truth(d, node, deep - 1), "m"), truth(d, d.any(d.rows(kind.dim) or [node]), deep - 1))
        return Node(d.any(BOTH), kind, both)
    found = Node(d.any(COMPARE), kind, (node,))
    return Node(d.any(ALONE), kind, (d.let(found, "m"),)) if d.chance(0.25) else found


def masked(d: Draw, node: Node, by: Node) -> Node:
    """Return a row computed from `node` and a mask made of `by`."""
    return Node(d.any(TO_ROW), node.kind, (d.let(truth(d, by), "m"), node))


def counted(d: Draw, dim: Dim, node: Node) -> Node:
    """Return a row of arithmetic on several masks."""
    first, second = (truth(d, node, 1) for _ in range(2))
    form = d.any(
        [
            "(({0} * {1} + {0}) * 1.0)",
            "(0.5 * ({0} + {1}))",
            "(({0}.to({2}.dtype) + {1}.to({2}.dtype)) * {2})",
            "(({0} * 1 + {1} * 2) * 0.25)",
            "(({0} & {1}) * {2} + (~{0}) * 0.1)",
            "(0.3 * {0} - 0.2 * {1} * {2})",
        ]
    )
    return Node(form, row(dim), (d.let(first, "m"), d.let(second, "m"), node))
