"""Random cells from the table of operations, for property-based tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from everloop import custom_gradient
from everloop.cell import Cell, output, param, state
from everloop.own_gradient import CustomGradient

KERNEL = torch.tensor([[[0.2, -0.7, 0.4]]], dtype=torch.float64)
MIDDLE = torch.linspace(-0.5, 1, 99, dtype=torch.float64)
UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "neg": torch.neg,
    "abs": torch.abs,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "gelu_tanh": lambda a: F.gelu(a, approximate="tanh"),
    "silu": F.silu,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "hardsigmoid": lambda a: F.relu6(a + 3) / 6,  # the gradient of F.hardsigmoid itself is of single precision
    "hardtanh": F.hardtanh,
    "exp": lambda a: torch.exp(a.clamp(max=1.5)),
    "expm1": lambda a: torch.expm1(-a.abs()),
    "log": lambda a: torch.log(a.abs() + 0.5),
    "log1p": lambda a: torch.log1p(a.square()),
    "sqrt": lambda a: torch.sqrt(a.abs() + 0.1),
    "rsqrt": lambda a: (a.square() + 0.3).rsqrt(),
    "reciprocal": lambda a: 1 / (1 + a.abs()),
    "sin": torch.sin,
    "cos": torch.cos,
    "erf": torch.erf,
    "square": torch.square,
    "cube": lambda a: 0.1 * a**3,
    "power": lambda a: (a.abs() + 0.2) ** 1.7,
    "clamp": lambda a: a.clamp(-0.5, 0.7),
    "minus": lambda a: 1 - a,
    "scale": lambda a: 0.5 * a,
    "sign": lambda a: a * torch.sign(a.detach()),
    "floor": lambda a: a + torch.floor(a),
    "softmax": lambda a: torch.softmax(a, -1),
    "log_softmax": lambda a: torch.log_softmax(a, -1),
    "mean": lambda a: a.mean(-1, keepdim=True),
    "sum": lambda a: 0.3 * a.sum(-1, keepdim=True),
    "amax": lambda a: a.amax(-1, keepdim=True),
    "flat": lambda a: a.mean(-1).unsqueeze(-1),
    "layer_norm": lambda a: F.layer_norm(a, (a.shape[-1],), eps=0.1),
    "rms_norm": lambda a: F.rms_norm(a, (a.shape[-1],), eps=0.1),
    "first_half": lambda a: a[..., : (a.shape[-1] + 1) // 2],
    "last": lambda a: a[..., -1:],
    "swapped": lambda a: torch.cat([a[..., 1:], a[..., :1]], -1),
    "ends": lambda a: torch.cat([a[..., -1:], torch.zeros_like(a[..., :1]), a[..., :1]], -1),
    "pairs": lambda a: _even(a, lambda b: b.flip(2)),
    "turned": lambda a: _even(a, lambda b: b.transpose(1, 2)),
    "softmax of pairs": lambda a: _even(a, lambda b: torch.softmax(b, 1) + b.sum(2, keepdim=True)),
    "largest of pairs": lambda a: _even(a, lambda b: b - b.amax((1, 2), keepdim=True)),
    "square matrix": lambda a: 0.3 * torch.einsum("bi,bj->bij", a, a).mean(1),
    "cumsum": lambda a: 0.3 * torch.cumsum(a, -1),
    "roll": lambda a: a.roll(1, -1),
    "every other": lambda a: a[..., ::2],
    "twice": lambda a: a.repeat_interleave(2, -1),
    "halves": lambda a: torch.cat(a.chunk(2, -1)[::-1], -1),
    "spike": custom_gradient(lambda a: a > 0, lambda a, g: g / (1 + 10 * a.abs()) ** 2),
    "clipped": custom_gradient(lambda a: a.clamp(-0.4, 0.4), lambda a, g: torch.where(a.abs() < 1, g, 0)),
    "largest": lambda a: a.max(-1, keepdim=True).values,
    "neighbours": lambda a: F.conv1d(a.unsqueeze(1), KERNEL.to(a.dtype), padding=1).squeeze(1),
    "batch_norm": lambda a: F.batch_norm(
        a, MIDDLE[: a.shape[-1]].to(a.dtype), (MIDDLE**2 + 0.1)[: a.shape[-1]].to(a.dtype)
    ),
}


def _even(a: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function to the features two by two, [B, n, 2]; an odd one stays."""
    even = a.shape[-1] // 2 * 2
    if not even:
        return a
    return torch.cat([function(a[:, :even].reshape(a.shape[0], even // 2, 2)).flatten(1), a[:, even:]], -1)


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": lambda a, b: a / (1 + b.abs()),
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "threshold": custom_gradient(lambda a, b: a > b, lambda a, b, g: (g * torch.exp(-((a - b) ** 2)), -0.3 * g)),
    "less": lambda a, b: (a < b) * a,
    "where": lambda a, b: torch.where(a > b, a, 0.5 * b),
    "both": lambda a, b: torch.where((a > 0) & ~(b >= 0.1), a, b),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "outer": lambda a, b: ((a + b).unsqueeze(-1) * torch.tanh(a - b).unsqueeze(-2)).amax(-1),
    "cat": lambda a, b: torch.cat([a, b], -1),
}
# whose gradients are no differences
OWN_GRADIENT = {name for name, f in {**UNARY, **BINARY}.items() if isinstance(f, CustomGradient)}


@dataclass(frozen=True)
class Node:
    """One value of a step: `op` of the values numbered `args`; a product has a matrix of its own."""

    op: str
    args: tuple[int, ...]
    width: int = 0


def step(self: Any, x: Tensor, *states: Tensor) -> Any:
    """Follow the nodes of a random cell."""
    pool: list[Tensor] = [x, *states]
    pool += [getattr(self, name) for name in ("vector", "scalar", "row", "mask")]
    for k, node in enumerate(self.nodes):
        args = [pool[a] for a in node.args]
        if node.op == "product":
            pool.append(args[0] @ getattr(self, f"M{k}").T)
        elif node.op == "reverse product":
            pool.append(args[0] @ getattr(self, f"M{k}"))
        elif node.op in UNARY:
            pool.append(UNARY[node.op](args[0]))
        else:
            pool.append(BINARY[node.op](*args))
    return tuple(pool[k] for k in self.results)


@dataclass(frozen=True)
class Case:
    """A cell and how it is run."""

    nodes: tuple[Node, ...]
    results: tuple[int, ...]
    sizes: tuple[int, ...]
    outputs: tuple[int, ...]
    inputs: int
    vector: int
    row: int
    mask: int
    shapes: dict[str, tuple[int, int]]
    steps: int
    batch: int
    lengths: bool
    reset: bool
    reverse: bool
    batch_major: bool
    seed: int

    def cell(self) -> Cell:
        body: dict[str, Any] = {f"s{k}": state(n) for k, n in enumerate(self.sizes)}
        body |= {f"y{k}": output(n) for k, n in enumerate(self.outputs)}
        body |= {name: param(*shape) for name, shape in self.shapes.items()}
        body |= {"vector": param(self.vector), "scalar": param(1)}
        body |= {"nodes": self.nodes, "results": self.results, "step": step}
        made = type("Random", (Cell,), body)(self.inputs, 1, dtype=torch.float64)
        torch.manual_seed(self.seed)
        with torch.no_grad():
            for p in made.parameters():
                p.copy_(torch.randn_like(p) * 0.6)
        return made

    def values(self, cell: Cell) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        rows = {"row": torch.randn(self.batch, self.row, dtype=torch.float64, requires_grad=True)}
        steps = {"mask": torch.rand(self.steps, self.batch, self.mask, dtype=torch.float64).requires_grad_()}
        return dict(cell.named_parameters()), rows, steps


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A random cell of up to fourteen operations."""
    small = st.sampled_from([1, 2, 3, 4, 5, 9])
    sizes = tuple(draw(st.lists(small, min_size=1, max_size=3)))
    outputs = tuple(draw(st.lists(small, max_size=2)))
    inputs = draw(st.sampled_from([1, 2, 3]))
    vector, row, mask = draw(small), draw(small), draw(small)
    widths = [inputs, *sizes, vector, 1, row, mask]
    is_row = [True] * (1 + len(sizes)) + [False, False, True, True]
    nodes: list[Node] = []
    shapes: dict[str, tuple[int, int]] = {}

    def add(op: str, args: tuple[int, ...], width: int) -> int:
        nodes.append(Node(op, args, width))
        widths.append(width)
        is_row.append(True)
        return len(widths) - 1

    def product(a: int, width: int) -> int:
        flipped = draw(st.booleans())
        shapes[f"M{len(nodes)}"] = (widths[a], width) if flipped else (width, widths[a])
        return add("reverse product" if flipped else "product", (a,), width)

    def pick() -> int:
        return draw(st.sampled_from([k for k, r in enumerate(is_row) if r]))

    for _ in range(draw(st.integers(1, 12))):
        a = pick()
        kind = draw(st.sampled_from(["unary", "binary", "binary", "product"]))
        if kind == "product":
            product(a, draw(small))
        elif kind == "unary":
            op = draw(st.sampled_from(sorted(UNARY)))
            add(op, (a,), UNARY[op](torch.zeros(2, widths[a])).shape[-1])
        else:
            op = draw(st.sampled_from(sorted(BINARY)))
            fitting = [k for k, w in enumerate(widths) if w in (1, widths[a]) or widths[a] == 1]
            b = draw(st.sampled_from([k for k, r in enumerate(is_row) if r] if op == "cat" else fitting))
            wide = widths[a] + widths[b] if op == "cat" else max(widths[a], widths[b])
            add(op, (a, b), wide)
    results = []
    for size in (*sizes, *outputs):
        a = draw(st.sampled_from([k for k, r in enumerate(is_row) if r][-6:]))
        if widths[a] != size:
            a = product(a, size)
        results.append(add("tanh", (a,), size) if draw(st.booleans()) else add("softsign", (a,), size))
    return Case(
        tuple(nodes), tuple(results), sizes, outputs, inputs, vector, row, mask, shapes,
        steps=draw(st.integers(1, 6)), batch=draw(st.integers(1, 4)),
        lengths=draw(st.booleans()), reset=draw(st.booleans()), reverse=draw(st.booleans()),
        batch_major=draw(st.booleans()), seed=draw(st.integers(0, 1000)),
    )  # fmt: skip
