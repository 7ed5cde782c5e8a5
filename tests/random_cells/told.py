"""What a step reads besides x and states: further inputs, contexts, memories, noise, as users read them."""

from __future__ import annotations

from tests.random_cells.draw import Draw
from tests.random_cells.products import product
from tests.random_cells.source import Declared, Dim, Node, row, variable


def tell(d: Draw) -> None:
    """Declare a few of these, with a row in scope that reads each."""
    for _ in range(d.any([1, 1, 2, 3])):
        d.any([further, context, memory, noise])(d, d.dim())


def further(d: Draw, dim: Dim) -> None:
    found = variable(d.name("t_"), row(dim))
    d.declared.append(Declared(found.name, "input", dim.text(), (dim,)))
    d.scope.append(found)


def context(d: Draw, dim: Dim) -> None:
    name = _declared(d, "context", "about", dim, f"context({dim.text()})")
    d.let(Node(f"self.{name}", row(dim), uses=(name,)), "v")


def noise(d: Draw, dim: Dim) -> None:
    """Noise on a row; zeros in evaluation where it is not drawn, ones of a mask."""
    per = d.any(["", "", ', per="sequence"']) + d.any(["", "", ", always=True"])
    is_mask = d.chance(0.5)
    name = _declared(
        d, "noise", "chance", dim, f"mask({dim.text()}, p=0.3{per})" if is_mask else f"noise({dim.text()}{per})"
    )
    row_ = d.any(d.rows(dim)) if d.rows(dim) else d.let(product(d, d.x, dim))
    form = d.any(
        [
            "({0} * self.%s)",
            "torch.tanh({0}) * self.%s",
            "({0} * self.%s.clamp(max=1))",
            "torch.where(self.%s > 0, {0}, 0)",
        ]
        if is_mask
        else [
            "({0} + 0.1 * self.%s)",
            "({0} * (1 + self.%s))",
            "({0} + torch.tanh(self.%s))",
            "({0} * self.%s.sigmoid())",
        ]
    )
    d.let(Node(form % name, row(dim), (row_,), uses=(name,)), "v")


def memory(d: Draw, dim: Dim) -> None:
    """A memory, read once: as a whole, or by attention with a query; it may be empty where weights meet its mask."""
    least = d.any([0, 1])
    name = _declared(d, "memory", "memory", dim, f"context(slots, {dim.text()})", least)
    m, exists = f"self.{name}", f"self.{name}_mask"
    queries = [node for node in d.rows(dim) if node.name]
    whole = [
        f"({m} * {exists}.unsqueeze(-1)).sum(1)",
        f"{m}.masked_fill(~{exists}[:, :, None], -5.0).amax(1)",
        f"{m}.mean(1)",
    ]
    if not queries or d.chance(0.3):
        d.let(Node(d.any(whole), row(dim), uses=(name,)), "v")
        return
    scores = d.any([
        f'torch.einsum("bsk,bk->bs", {m}, {{0}})',
        f"({m} @ {{0}}.unsqueeze(-1)).squeeze(-1)",
        f"({m} * {{0}}.unsqueeze(1)).sum(-1)",
        f"torch.tanh({m} + {{0}}[:, None]).sum(-1)",
    ])  # fmt: skip
    weights = f"{scores}.masked_fill(~{exists}, -1e9).softmax(-1)"
    if not least:
        weights = f"({weights} * {exists})"
    reads = [
        f'torch.einsum("bs,bsk->bk", {weights}, {m})',
        f"({weights}.unsqueeze(-1) * {m}).sum(1)",
        f"({weights}.unsqueeze(1) @ {m}).squeeze(1)",
        f"F.scaled_dot_product_attention({{0}}[:, None, None], {m}[:, None], {m}[:, None], "
        f"{exists}[:, None, None]).flatten(1)",
    ]  # fmt: skip
    d.let(Node(d.any(reads if least else reads[:3]), row(dim), (d.any(queries),), uses=(name,)), "v")


def _declared(d: Draw, sort: str, prefix: str, dim: Dim, text: str, least: int = 1) -> str:
    name = d.name(prefix)
    d.declared.append(Declared(name, sort, text, (dim,), least))
    return name
