"""Random expressions of grids: rows of none or several axes of features, seen in all the ways that PyTorch has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.random_cells.draw import Draw
from tests.random_cells.einsums import contracted
from tests.random_cells.expressions import activated, bounded, draw_row, squash
from tests.random_cells.forms import BINARY, BLEND, TIMES
from tests.random_cells.source import ONE, Dim, Kind, Line, Node, rows

Dims = tuple[Dim, ...]
RANKS = 3


def draw_grid(d: Draw, dims: Dims, depth: int) -> Node:
    """Return a random expression of these axes of features."""

    def below(*other: Dim, deep: int = 1) -> Node:
        node = draw_grid(d, other or dims, depth - deep - d.rng.randrange(2))
        return d.let(node) if d.chance(0.35) else node

    def named(*other: Dim) -> Node:
        node = below(*other)
        return node if node.name or not node.parts else d.let(node)

    if not dims:
        return Node(d.any(["{0}[:, 0]", "{0}.squeeze(-1)", "{0}.sum(-1)"]), rows(), (draw_grid(d, (ONE,), depth - 1),))
    if depth <= 0:
        return leaf(d, dims)

    def same(form: str, *parts: Node) -> Node:
        return Node(form, rows(*dims), parts)

    def broadcast() -> Node:
        """Two operands that meet at axes of one."""
        first = tuple(ONE if d.chance(0.4) else n for n in dims)
        second = tuple(n if a == ONE else ONE if d.chance(0.4) else n for a, n in zip(first, dims, strict=True))
        form = d.any(["({0} * {1})", "({0} + {1})", "({0} - {1})", "torch.maximum({0}, {1})", "torch.mul({0}, {1})"])
        return same(form, named(*first), named(*second))

    def with_parameter() -> Node:
        some = dims[d.rng.randrange(len(dims)) :]
        some = tuple(ONE if d.chance(0.15) else n for n in some)
        form = d.any(["({0} * {1})", "({0} + {1})", "({1} - {0})", "torch.where({0} > {1}, {0}, {1})"])
        return same(form, named(), d.param(*some))

    def reordered() -> Node | None:
        return turned(d, dims, below)

    def choice() -> Node:
        compare = d.any(["({0} > {1})", "({0} <= {1})", "(({0} < 0.3) | ({1} > 0))"])
        mask = d.let(Node(compare, Kind("truth", dims), (named(), named())), "m")
        form = d.any(
            [
                "torch.where({0}, {1}, {2})",
                "({1}.masked_fill({0}, 0.1) + {2})",
                "({0} * {1} + {2})",
                "({0}.to({1}.dtype) * {1} + {2})",
            ]
        )
        return same(form, mask, named(), below())

    def in_place() -> Node | None:
        if len(dims) < 2:
            return None
        target = d.let(same("({0} + {1})", named(), named()), "G")
        i = d.rng.randrange(len(dims))
        at = ":, " * (i + 1)
        change = d.any(
            [
                f"{target.name}[{at}0] = 0.5",
                f"{target.name}[{at}:1] += 0.3 * {{0}}[{at}:1]",
                f"{target.name}[{at}0] = {{0}}[{at}0]",
                f"{target.name} *= {{0}}.tanh()",
                f"{target.name}[{at}-1] *= 0.5",
                f"{target.name}.mul_(0.5).add_({{0}})",
            ]
        )
        d.lines.append(Line(change, (named(),) if "{0}" in change else (), changes=target.name))
        return target

    several = len(dims) > 1
    return d.first(
        [
            (4, lambda: activated(d, named())),
            (4, lambda: same(d.any(BINARY), below(), named())),
            (3, lambda: same(d.any(TIMES), below(), bounded(d, d.let(below())))),
            (1, lambda: same(d.any(BLEND), d.let(squash(d, below())), named(), named())),
            (4 if several else 1, broadcast),
            (2, with_parameter),
            (4, lambda: viewed(d, dims, below)),
            (4 if several else 0.1, reordered),
            (8, lambda: contracted(d, dims, below)),
            (4, lambda: reduced(d, dims, below)),
            (3, lambda: normalised_over(d, dims, named)),
            (3, lambda: pieced(d, dims, below, named)),
            (3, lambda: moved(d, dims, below)),
            (2, lambda: indexed(d, dims, below)),
            (1, choice),
            (1, in_place),
            (1 if several else 8, lambda: draw_row(d, dims[0], depth) if not several else None),
        ]
    )


Below = Callable[..., Node]


def leaf(d: Draw, dims: Dims) -> Node:
    """Return what is there with these axes, a view of it, or parameters if there is nothing."""
    same = [node for node in d.scope if node.kind == rows(*dims)]
    if same and d.chance(0.75):
        return d.any(same[-4:] if d.chance(0.5) else same)
    if len(dims) == 1:
        return draw_row(d, dims[0], 0)
    total = _product(dims)
    return split_axes(d, draw_row(d, total, 1 if d.chance(0.3) else 0), dims)


def _product(dims: Sequence[Dim]) -> Dim:
    total = ONE
    for n in dims:
        total = total * n
    return total


def _code(dims: Sequence[Dim]) -> str:
    return ", ".join(n.code() for n in dims)


def split_axes(d: Draw, of: Node, dims: Dims) -> Node:
    """Return a row seen with several axes."""
    forms = [
        f"{{0}}.view(-1, {_code(dims)})",
        f"{{0}}.view(x.shape[0], {_code(dims)})",
        f"{{0}}.reshape(-1, {_code(dims)})",
        *([f"{{0}}.reshape(len(x), {_code(dims)})"] if d.chance(0.1) else []),
        f"{{0}}.unflatten(-1, ({_code(dims)}))",
        f"{{0}}.unflatten(1, ({_code(dims)}))",
        f"torch.unflatten({{0}}, -1, (-1, {_code(dims[1:])}))",
        f"torch.reshape({{0}}, (x.size(0), -1, {_code(dims[1:])}))",
    ]
    return Node(d.any(forms), rows(*dims), (of,))


def viewed(d: Draw, dims: Dims, below: Below) -> Node:
    """Return the numbers of other axes laid out in these."""
    kind = rows(*dims)
    i = d.rng.randrange(len(dims) + 1)

    def unsqueezed() -> Node | None:
        at = [k for k, n in enumerate(dims) if n == ONE]
        if not at or len(dims) < 2:
            return None
        k = d.any(at)
        rest = dims[:k] + dims[k + 1 :]
        after = len(dims) - 1 - k
        forms = [
            f"{{0}}.unsqueeze({k + 1})",
            f"{{0}}.unsqueeze({k - len(dims)})",
            f"{{0}}[{':, ' * (k + 1)}None]",
            f"{{0}}[..., None{', :' * after}]",
            f"torch.unsqueeze({{0}}, dim={k + 1})",
        ]
        return Node(d.any(forms), kind, (below(*rest),))

    def squeezed() -> Node | None:
        if len(dims) >= RANKS:
            return None
        more = (*dims[:i], ONE, *dims[i:])
        forms = [
            f"{{0}}.squeeze({i + 1})",
            f"{{0}}.squeeze({i - len(more)})",
            f"{{0}}[{':, ' * (i + 1)}0]",
            f"{{0}}.select({i + 1}, 0)",
        ]
        return Node(d.any(forms), kind, (below(*more),))

    def folded() -> Node | None:
        """Axes of their own in one."""
        for k in sorted(range(len(dims)), key=lambda _: d.rng.random()):
            ((letters, count), *rest) = dims[k].terms
            factors = letters.split("*") if letters else []
            if rest or len(dims) >= RANKS or (len(factors) < 2 and (not factors or count == 1)):
                continue
            cut = 1 + d.rng.randrange(len(factors) - 1) if len(factors) > 1 else 1
            pair = [Dim((("*".join(factors[:cut]), 1),)), Dim((("*".join(factors[cut:]), count),))]
            d.rng.shuffle(pair)
            more = (*dims[:k], *pair, *dims[k + 1 :])
            forms = [f"{{0}}.flatten({k + 1}, {k + 2})", f"{{0}}.reshape(-1, {_code(dims)})"]
            if len(more) == 2:
                forms += ["{0}.flatten(1)", "{0}.reshape(x.shape[0], -1)", "torch.flatten({0}, start_dim=1)"]
            return Node(d.any(forms), kind, (below(*more),))
        return None

    def relaid() -> Node | None:
        if len(dims) < 2:
            return None
        other = list(dims)
        d.rng.shuffle(other)
        return Node(f"{{0}}.reshape(-1, {_code(dims)})", kind, (below(*other),))

    def split() -> Node | None:
        return split_axes(d, below(_product(dims)), dims) if len(dims) > 1 else None

    return d.first([(2, unsqueezed), (2, squeezed), (4, folded), (1, relaid), (3, split), (0.01, below)])


def turned(d: Draw, dims: Dims, below: Below) -> Node | None:
    """Return a grid with its axes in another order."""
    if len(dims) < 2:
        return None
    i, j = sorted(d.rng.sample(range(len(dims)), 2))
    if d.chance(0.6):
        other = list(dims)
        other[i], other[j] = other[j], other[i]
        forms = [
            f"{{0}}.transpose({i + 1}, {j + 1})",
            f"{{0}}.transpose({j - len(dims)}, {i - len(dims)})",
            f"torch.swapaxes({{0}}, {i + 1}, {j + 1})",
            f"{{0}}.swapdims({j + 1}, {i + 1})",
        ]
        if i == len(dims) - 2:
            forms += ["{0}.mT", "{0}.transpose(-1, -2)", "{0}.mT.contiguous()", "{0}.adjoint()"]
        return Node(d.any(forms), rows(*dims), (below(*other),))
    order = list(range(len(dims)))
    d.rng.shuffle(order)  # goal axis k is axis order[k] of the operand
    if d.chance(0.3):
        other = [*dims[:j], *dims[j + 1 :]]
        other.insert(i, dims[j])
        return Node(f"{{0}}.movedim({i + 1}, {j + 1})", rows(*dims), (below(*other),))
    operand = [dims[order.index(k)] for k in range(len(dims))]
    text = ", ".join(str(k + 1) for k in order)
    forms = [f"{{0}}.permute(0, {text})", f"torch.permute({{0}}, (0, {text}))"]
    return Node(d.any(forms), rows(*dims), (below(*operand),))


REDUCTIONS = [
    "{0}.sum(%s)",
    "torch.sum({0}, dim=%s)",
    "{0}.mean(%s)",
    "{0}.amax(%s)",
    "{0}.amin(dim=%s)",
    "{0}.logsumexp(%s)",
    "{0}.var(%s, correction=0)",
    "({0} + 2).norm(dim=%s)",
    "torch.linalg.vector_norm({0} - 2, dim=%s)",
    "torch.sqrt({0}.var(%s, unbiased=False) + 0.1)",
]


def reduced(d: Draw, dims: Dims, below: Below) -> Node | None:
    """Return a sum, mean or other reduction over one or several axes."""
    keep = [k for k, n in enumerate(dims) if n == ONE]
    if keep and d.chance(0.7):
        over = d.rng.sample(keep, 1 + d.rng.randrange(len(keep)))
        more = tuple(d.axis() if k in over else n for k, n in enumerate(dims))
        suffix = ", keepdim=True"
    elif len(dims) < RANKS:
        count = 1 + d.rng.randrange(RANKS - len(dims))
        over = sorted(d.rng.sample(range(len(dims) + count), count))
        rest = iter(dims)
        more = tuple(d.axis() if k in over else next(rest) for k in range(len(dims) + count))
        suffix = ""
    else:
        return None
    named = [k + 1 if d.chance(0.5) else k - len(more) for k in over]
    text = str(named[0]) if len(named) == 1 and d.chance(0.7) else str(tuple(named))
    return Node(d.any(REDUCTIONS) % (text + suffix), rows(*dims), (d.let(below(*more)),))


def normalised_over(d: Draw, dims: Dims, named: Below) -> Node:
    """Return a normalisation over one or several axes."""
    i = d.rng.randrange(len(dims))
    k = i + 1 if d.chance(0.5) else i - len(dims)
    last = dims[-1 - d.rng.randrange(len(dims)) :]
    over = str(tuple(range(1, len(dims) + 1)))

    def with_gain() -> Node:
        form = f"F.layer_norm({{0}}, ({_code(last)},), {{1}}, {{2}})"
        return Node(form, rows(*dims), (named(), d.param(*last, init="1.0"), d.param(*last)))

    forms = [
        *[f"torch.softmax({{0}}, {k})", f"{{0}}.softmax(dim={k})"] * 2,
        f"(0.1 * torch.log_softmax({{0}}, {k}))",
        f"F.layer_norm({{0}}, ({_code(last)},))",
        f"F.rms_norm({{0}}, ({_code(last)},), eps=1e-3)",
        f"({{0}} - {{0}}.mean({k}, keepdim=True))",
        f"({{0}} - {{0}}.mean({over}, keepdim=True))",
        f"({{0}} / (1 + {{0}}.norm(dim={k}, keepdim=True)))",
        f"({{0}} / (1 + {{0}}.std({over}, keepdim=True, correction=0)))",
        f"F.normalize({{0}} + 0.5, dim={k})",
        f"({{0}} - torch.logsumexp({{0}}, {over}, keepdim=True))",
        f"({{0}} * torch.rsqrt({{0}}.var({k}, keepdim=True, unbiased=False) + 1e-2))",
    ]
    return with_gain() if d.chance(0.15) else Node(d.any(forms), rows(*dims), (named(),))


def pieced(d: Draw, dims: Dims, below: Below, named: Below) -> Node:
    """Return a part of what is joined along an axis, or what is joined of parts."""
    i = d.rng.randrange(len(dims))
    w, k = dims[i].code(), d.any([i + 1, i - len(dims)])
    at = ":, " * (i + 1)
    kind = rows(*dims)
    draw = d.rng.random()
    if draw < 0.35:
        other = d.axis()
        wide = (*dims[:i], dims[i] + other, *dims[i + 1 :])
        parts = (below(), below(*dims[:i], other, *dims[i + 1 :]))
        first = d.chance(0.5)
        join = d.any(["torch.cat([%s], {k})", "torch.cat((%s), dim={k})", "torch.concat([%s], {k})"])
        join = join.replace("{k}", str(k)) % ("{0}, {1}" if first else "{1}, {0}")
        whole = d.let(Node(join, rows(*wide), parts), "G")
        if d.chance(0.5):
            whole = d.let(activated(d, whole), "G")
        cuts = [f"{{0}}[{at}:{w}]", f"{{0}}.narrow({k}, 0, {w})", f"torch.split({{0}}, [{w}, {other.code()}], {k})[0]"]
        if not first:
            cuts = [f"{{0}}[{at}{other.code()}:]", f"{{0}}.split([{other.code()}, {w}], dim={k})[1]"]
        return Node(d.any(cuts), kind, (whole,))
    if draw < 0.7 and len(dims) < RANKS:
        n = d.any([1, 2, 3])
        k = d.rng.randrange(len(dims) + 1)
        slots = ", ".join(f"{{{j}}}" for j in range(n))
        stacked = Node(
            f"torch.stack([{slots}], {k + 1})",
            rows(*dims[:k], Dim.of("", n), *dims[k:]),
            tuple(below() for _ in range(n)),
        )
        j = d.rng.randrange(n)
        at = ":, " * (k + 1)
        form = d.any(
            [
                f"{{0}}.sum({k + 1})",
                f"{{0}}.mean({k + 1})",
                f"{{0}}[{at}{j}]",
                f"{{0}}.unbind({k + 1})[{j}]",
                f"{{0}}.select({k - len(dims) - 1}, {j})",
                f"{{0}}.amax({k + 1})",
                f"{{0}}.chunk({n}, {k + 1})[{j}].squeeze({k + 1})",
            ]
        )
        return Node(form, kind, (d.let(stacked, "G") if d.chance(0.3) else stacked,))
    n = d.any([2, 3])
    whole = d.let(below(*dims[:i], dims[i].times(n), *dims[i + 1 :]), "G")
    j = d.rng.randrange(n)
    forms = [f"{{0}}.chunk({n}, {k})[{j}]", f"{{0}}[{at}{j}::{n}]", f"{{0}}[{at}{j} * ({w}):{j + 1} * ({w})]"]
    if d.chance(0.4):
        pair = d.any(["({0} * {1})", "({0} + {1})", f"torch.cat([{{0}}, {{1}}], {k}).chunk(2, {k})[1]"])
        return Node(pair, kind, (Node(d.any(forms), kind, (whole,)), Node(d.any(forms), kind, (whole,))))
    return Node(d.any(forms), kind, (whole,))


def moved(d: Draw, dims: Dims, below: Below) -> Node:
    """Return rolled, flipped, repeated, expanded and accumulated numbers."""
    i = d.rng.randrange(len(dims))
    k, w, kind = d.any([i + 1, i - len(dims)]), dims[i].code(), rows(*dims)
    if d.chance(0.45):
        narrow = (*dims[:i], ONE, *dims[i + 1 :])
        ones = ["1"] * len(dims)
        all_but = ["-1"] * len(dims)
        ones[i] = all_but[i] = w
        forms = [
            f"{{0}}.expand(-1, {', '.join(all_but)})",
            f"{{0}}.expand(x.shape[0], {_code(dims)})",
            f"{{0}}.repeat(1, {', '.join(ones)})",
            f"{{0}}.repeat_interleave({w}, {k})",
            f"torch.cat([{{0}}] * ({w}), {k})",
            f"torch.broadcast_to({{0}}, (x.shape[0], {_code(dims)}))",
        ]
        return Node(d.any(forms[:4] * 4 + forms[4:]), kind, (below(*narrow),))
    other = d.rng.randrange(len(dims)) + 1
    forms = [
        f"{{0}}.flip({k})",
        f"torch.flip({{0}}, ({k},))",
        f"{{0}}.roll({d.any([1, 2, -1])}, {k})",
        f"torch.roll({{0}}, 1, dims={k})",
        f"(0.3 * {{0}}).cumsum({k})",
        f"torch.cumsum(0.2 * {{0}}, dim={k})",
        f"{{0}}[{':, ' * (i + 1)}list(range({w}))[::-1]]",
        f"{{0}}.index_select({k}, torch.arange({w} - 1, -1, -1))",
    ]
    if len(dims) > 1 and other != i + 1:
        forms += [f"{{0}}.roll((1, -1), ({i + 1}, {other}))", f"{{0}}.flip(({i + 1}, {other}))"]
    return Node(d.any(forms), kind, (below(),))


def indexed(d: Draw, dims: Dims, below: Below) -> Node | None:
    """Return what a fixed index of a larger grid picks."""
    i = d.rng.randrange(len(dims))
    at = ":, " * (i + 1)
    kind = rows(*dims)
    if len(dims) < RANKS and d.chance(0.6):
        more = (*dims[:i], d.axis(), *dims[i:])
        k = d.any([i + 1, i - len(more)])
        behind = len(more) - 1 - i
        forms = [
            f"{{0}}[{at}0]",
            f"{{0}}[{at}-1]",
            f"{{0}}[..., 0{', :' * behind}]",
            f"{{0}}.select({k}, 0)",
            f"{{0}}.unbind({k})[-1]",
            f"{{0}}[{at}:1].squeeze({i + 1})",
            f"{{0}}.narrow({k}, 0, 1).squeeze({i + 1})",
        ]
        return Node(d.any(forms), kind, (below(*more),))
    larger = (*dims[:i], dims[i] + ONE, *dims[i + 1 :])
    forms = [
        f"{{0}}[{at}1:]",
        f"{{0}}[{at}:-1]",
        f"{{0}}.narrow({i + 1}, 1, {dims[i].code()})",
        f"{{0}}.diff(dim={i + 1})",
        f"({{0}}[{at}1:] - {{0}}[{at}:-1])",
    ]
    return Node(d.any(forms[:3] * 3 + forms[3:]), kind, (d.let(below(*larger)),))
