"""Random expressions of rows."""

from __future__ import annotations

from tests.random_cells.draw import Draw
from tests.random_cells.forms import (
    BINARY,
    BINARY_HELPERS,
    BLEND,
    BOUNDED,
    OF_NEIGHBOURS,
    RARE,
    RARE_BINARY,
    REDUCE,
    SQUASH,
    SURROGATES,
    SURROGATES_OF_TWO,
    TIMES,
    UNARY_HELPERS,
    UNBOUNDED,
)
from tests.random_cells.masks import counted, masked, truth
from tests.random_cells.products import join, normalised, product
from tests.random_cells.source import ONE, Dim, I, Line, Node, row, variable


def squash(d: Draw, node: Node) -> Node:
    """Return a gate: something between 0 and 1."""
    node = d.let(node) if node.text.count("{0}") > 1 else node
    return Node(d.any(SQUASH), node.kind, (node,))


def bounded(d: Draw, node: Node) -> Node:
    """Return the node after a nonlinearity that bounds it, or almost."""
    return Node("torch.tanh({0})" if d.chance(0.4) else d.any(BOUNDED), node.kind, (node,))


def activated(d: Draw, node: Node) -> Node:
    """Return the node after any nonlinearity; sometimes the choice is an option of the class or a helper."""
    draw = d.rng.random()
    if draw < 0.06:
        kinds = ["tanh", "relu", "sigmoid", "sin"]
        option = d.option("kind", "str", f'"{d.any(kinds)}"', d.any(kinds))
        return Node(f"getattr(torch, self.{option})({{0}})", node.kind, (node,), uses=(option,))
    if draw < 0.12:
        helper = d.function(*d.any(UNARY_HELPERS))
        call = f"self.{helper}" if d.declared and _sort(d, helper) == "method" else helper
        return Node(f"{call}({{0}})", node.kind, (node,), uses=(helper,))
    if draw < 0.5:
        return bounded(d, node)
    return Node(d.any(RARE if d.chance(0.02) else UNBOUNDED), node.kind, (node,))


def _sort(d: Draw, name: str) -> str:
    return next(x.sort for x in d.declared if x.name == name)


def leaf(d: Draw, dim: Dim) -> Node:
    """Return a row that is there, or a product of one that is."""
    rows = d.rows(dim)
    if rows and d.chance(0.75):
        return d.any(rows[-4:] if d.chance(0.5) else rows)
    return product(d, d.some_row(), dim)


def draw_row(d: Draw, dim: Dim, depth: int) -> Node:
    """Return a random expression of this width."""
    if depth <= 0:
        return leaf(d, dim)

    def below(width: Dim = dim) -> Node:
        node = draw_row(d, width, depth - 1 - d.rng.randrange(2))
        return d.let(node) if d.chance(0.35) else node

    def named(width: Dim = dim) -> Node:
        node = below(width)
        return node if node.name or not node.parts else d.let(node)

    def unary() -> Node:
        return activated(d, named())

    def binary() -> Node:
        return Node(d.any(RARE_BINARY if d.chance(0.02) else BINARY), row(dim), (below(), named()))

    def helper() -> Node:
        found = d.function(*d.any(BINARY_HELPERS))
        call = f"self.{found}" if _sort(d, found) == "method" else found
        return Node(f"{call}({{0}}, {{1}})", row(dim), (below(), below()), uses=(found,))

    def times() -> Node:
        factor = below()
        return Node(
            d.any(TIMES), row(dim), (below(), squash(d, factor) if d.chance(0.5) else bounded(d, d.let(factor)))
        )

    def with_vector() -> Node:
        vector = d.vector(dim if d.chance(0.8) else ONE)
        form = d.any(
            [
                "({0} * {1})",
                "({1} * {0})",
                "({0} + {1})",
                "({0} - {1})",
                "({0} / (1 + {1} ** 2))",
                "torch.where({0} > {1}, {0}, {1})",
                "torch.maximum({0}, {1})",
                "F.prelu({0}, {1})",
            ]
        )
        node = named()
        if form.startswith("F.prelu") and dim != ONE:
            vector = d.param(ONE, prefix="slope")
        return Node(form, row(dim), (node, vector))

    def with_scalar() -> Node:
        scalar = d.param(prefix="s", init="0.4")
        return Node(
            d.any(["({0} * {1})", "({0} + {1})", "({1} * {0})", "({0} * torch.exp({1}))"]), row(dim), (below(), scalar)
        )

    def with_one() -> Node | None:
        if dim == ONE:
            return None
        one = below(ONE)
        form = d.any(
            [
                "({0} * {1})",
                "({0} + {1})",
                "({1} * {0})",
                "({0} - {1})",
                "({0} + {1}.expand_as({0}))",
                f"({{0}} * {{1}}.expand(-1, {dim.code()}))",
                "torch.minimum({0}, {1})",
            ]
        )
        return Node(form, row(dim), (named(), bounded(d, d.let(one)) if "*" in form else one))

    def blend() -> Node:
        return Node(d.any(BLEND), row(dim), (d.let(squash(d, below())), named(), named()))

    def three() -> Node:
        form = d.any(
            [
                "torch.addcmul({0}, {1}.tanh(), {2})",
                *(["torch.addcdiv({0}, {1}, 1 + {2} ** 2)"] if d.chance(0.1) else []),
                "torch.where({0} > {1}, {2}, {0})",
                "torch.addcmul({0}, {1}, {2}.sigmoid(), value=-0.5)",
            ]
        )
        return Node(form, row(dim), (named(), below(), below()))

    def reduced() -> Node | None:
        if dim != ONE:
            return None
        other = d.some_row()
        if d.chance(0.3):
            width = other.kind.dim
            forms = ["({0} * {1}).sum(-1, keepdim=True)", "torch.sum({0} * {1}, dim=-1, keepdim=True)"]
            return Node(d.any(forms), row(ONE), (other, below(width)))
        if d.chance(0.2):
            return Node(
                d.any(
                    ["({0} @ {1}).unsqueeze(-1)", "torch.mv({0}, {1}).unsqueeze(1)", "torch.matmul({0}, {1})[:, None]"]
                ),
                row(ONE),
                (other, d.param(other.kind.dim)),
            )
        return Node(d.any(REDUCE), row(ONE), (other,))

    def cut() -> Node:
        w = dim.code()
        other = d.any([o for o in {id(n): n for n in d.scope}.values() if o.kind.sort == "row"])
        whole = d.let(join(d, [named(), other] if d.chance(0.5) else [other, named()]), "v")
        wide = whole.kind.dim.terms
        if d.chance(0.3) and wide != dim.terms:
            whole = d.let(activated(d, whole), "v")
        form = d.any(
            [
                f"{{0}}[:, :{w}]",
                f"{{0}}[..., -({w}):]",
                f"{{0}}.narrow(-1, 0, {w})",
                f"{{0}}[:, -({w}):]",
                f"torch.split({{0}}, [{w}, {other.kind.dim.code()}], -1)[0]",
            ]
        )
        return Node(form, row(dim), (whole,))

    def attention() -> Node:
        of, slots = d.some_row(), d.any([Dim.of("", 3), I, dim])
        scores = Node(
            d.any(["torch.softmax({0}, -1)", "torch.softmax(0.5 * {0}, dim=-1)", "{0}.softmax(-1)"]),
            row(slots),
            (product(d, of, slots),),
        )
        return Node("({0} @ {1})", row(dim), (scores, d.param(slots, dim, prefix="V")))

    def of_input() -> Node | None:
        """A normalisation that is singular where x is zero, which no step sees."""
        if dim != I:
            return None
        form = d.any(
            [
                "({0} / {0}.norm(dim=-1, keepdim=True))",
                "torch.log({0}.abs())",
                "({0} / {0}.abs().sum(-1, keepdim=True))",
                "(0.1 / {0}.abs().sqrt())",
                "({0} / torch.sqrt(({0} ** 2).sum(-1, keepdim=True)))",
                "F.normalize({0}, dim=-1)",
            ]
        )
        return Node(form, row(I), (d.x,))

    def in_place() -> Node:
        target = d.let(
            Node(d.any(["({0} + {1})", "({0} - {1})", "(0.5 * {0} + {1})"]), row(dim), (below(), below())), "r"
        )
        other = below()
        change = d.any(
            [
                "{t} += {0}",
                "{t} -= 0.5 * {0}",
                "{t}.add_({0})",
                "{t} *= 0.5",
                "{t}.mul_(0.7)",
                "{t}.sub_({0}, alpha=0.5)",
                "{t}.add_({0}, alpha=0.1)",
                "{t}.clamp_(-1, 1)",
                "{t}.tanh_()",
                "{t}.sigmoid_()",
                "{t} *= {0}.tanh()",
                "{t}[:, :1] = 0.5 * {0}[:, :1]",
                "{t}[:, :1] += 0.1",
            ]
        ).replace("{t}", target.name)
        d.lines.append(Line(change, (other,) if "{0}" in change else (), changes=target.name))
        return target

    def looped() -> Node:
        target = variable(d.name("r"), row(dim))
        d.lines.append(Line(f"{target.name} = {{0}}", (named(),), (target.name,)))
        count = str(1 + d.rng.randrange(3))
        uses: tuple[str, ...] = ()
        if d.chance(0.4):
            option = d.option("depth", "int", "2", 1 + d.rng.randrange(3))
            count, uses = f"self.{option}", (option,)
        rows = d.rows(dim)
        step = product(d, target, dim) if d.chance(0.6) else d.any([target, *rows])
        step = Node(
            d.any(
                ["torch.tanh({0} + {1})", "(0.5 * {0} + {1}.tanh())", "torch.sigmoid({1}) * {0}", "({0} - 0.1 * {1})"]
            ),
            row(dim),
            (target, step),
        )
        d.lines.append(
            Line(f"for _ in range({count}):\n    {target.name} = {{0}}", (step,), changes=target.name, uses=uses)
        )
        d.scope.append(target)
        return target

    def modules() -> Node:
        target = variable(d.name("r"), row(dim))
        w = dim.code()
        inner = d.module(
            "inner",
            f"nn.ModuleList(nn.Linear({w}, {w}, dtype=torch.float64) for _ in range({1 + d.rng.randrange(3)}))",
            (dim,),
        )
        d.lines.append(Line(f"{target.name} = {{0}}", (named(),), (target.name,)))
        form = d.any(["torch.tanh(layer({t}))", "{t} + 0.5 * torch.relu(layer({t}))", "layer({t}.tanh())"]).replace(
            "{t}", target.name
        )
        d.lines.append(
            Line(f"for layer in self.{inner}:\n    {target.name} = {form}", changes=target.name, uses=(inner,))
        )
        d.scope.append(target)
        return target

    def optional() -> Node:
        default = d.any(["True", "False"])
        option = d.option("flag", "bool", default, d.chance(0.5))
        if d.chance(0.5):
            return Node(f"({{0}} if self.{option} else {{1}})", row(dim), (below(), below()), uses=(option,))
        target = d.let(below(), "r")
        renamed = variable(d.name("r"), row(dim))
        d.lines.append(
            Line(
                f"if self.{option}:\n    {renamed.name} = {{0}}\nelse:\n    {renamed.name} = {{1}}",
                (activated(d, target), target),
                (renamed.name,),
                uses=(option,),
            )
        )
        d.scope.append(renamed)
        return renamed

    def surrogate() -> Node:
        if d.chance(0.3):
            return Node(d.any(SURROGATES_OF_TWO), row(dim), (below(), below()))
        return Node(d.any(SURROGATES), row(dim), (named(),))

    def of_neighbours() -> Node:
        kernel = d.param(ONE, ONE, Dim.of("", 3), prefix="k")
        return Node(d.any(OF_NEIGHBOURS), row(dim), (named(), kernel))

    def batch_norm() -> Node:
        """As in evaluation; numbers that were gathered over batches are any."""
        middle, spread, gain, shift = (d.param(dim, prefix=p) for p in "msgb")
        form = "F.batch_norm({0}, {1}.detach(), {2}.detach().abs() + 0.2, {3}, {4})"
        return Node(form, row(dim), (below(), middle, spread, gain, shift))

    def scaled() -> Node:
        option = d.option("scale", "float", "0.5", round(d.rng.uniform(0.1, 1.0), 2))
        return Node(f"(self.{option} * {{0}})", row(dim), (below(),), uses=(option,))

    return d.first(
        [
            (7, unary),
            (6, binary),
            (5, times),
            (5, lambda: product(d, d.let(below(d.dim())), dim)),
            (3, with_vector),
            (1, with_scalar),
            (2, with_one),
            (2, blend),
            (1.5, three),
            (6, reduced),
            (2, lambda: normalised(d, below())),
            (2, cut),
            (1, attention),
            (2, of_input),
            (1, in_place),
            (1, looped),
            (0.5, modules),
            (0.7, optional),
            (0.7, scaled),
            (1, surrogate),
            (0.6, of_neighbours),
            (0.4, batch_norm),
            (0.7, helper),
            (2, lambda: masked(d, named(), named())),
            (1, lambda: counted(d, dim, named())),
            (1, lambda: Node("torch.where({0}, {1}, {2})", row(dim), (truth(d, named()), below(), below()))),
        ]
    )
