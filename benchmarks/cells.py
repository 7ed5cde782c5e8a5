"""Every cell against the eager loop, and memories of heads against their chunked form, alternating in one process.

A ratio is the time of the peer divided by ours: above 1 we are faster. Of the peak: how much of our time the arithmetic
(a) or the memory (m) alone would take at the machine's own speed (`benchmarks/work.py`). The chunked form is the
published parallel one: products inside a chunk of steps, and one memory from chunk to chunk; it is exact, and has
products in place of a loop.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn, sigmoid
from torch.nn.functional import elu, layer_norm, logsigmoid, silu, softplus

from benchmarks.layers import MODES
from benchmarks.timing import alternate, geometric_mean, machine, statistic_option, table
from benchmarks.work import work_of
from everloop import cells
from everloop.cell import Cell
from everloop.layers import Recurrent
from everloop.layers.extras import example

SIZES: dict[str, Callable[[int], int]] = {
    "backbone_size": lambda hidden: hidden,
    "depth": lambda hidden: 3,
    "embedding_size": lambda hidden: 8,
    "height": lambda hidden: 1,
    "heads": lambda hidden: 4,
    "hyper_size": lambda hidden: hidden // 4,
    "key_size": lambda hidden: hidden // 8,
    "memory_size": lambda hidden: hidden,
    "order": lambda hidden: hidden // 2,
    "proj_size": lambda hidden: hidden // 2,
    "rank": lambda hidden: 8,
    "reach": lambda hidden: 1,
    "state_size": lambda hidden: hidden // 4,
    "width": lambda hidden: 2,
}
"""What the further sizes of a cell are, of its units."""


def cell_of(name: str, hidden: int) -> Cell:
    """Return the cell of this name with as many inputs as units, and SIZES for the rest."""
    kind = cells.named(name)
    sizes: dict[str, Any] = {letter: SIZES[letter](hidden) for letter in kind.letters()}
    return kind(hidden, hidden, **sizes)


def chunked(q: Any, k: Any, v: Any, log_keep: Any, chunk: int) -> Any:
    """Return q_t S_t for all steps, where S_t = exp(log_keep_t) S_(t-1) + k_t v_t^T, from zero on.

    q, k: [B, heads, T, K]; v: [B, heads, T, V]; log_keep: [B, heads, T]; chunk: steps, of which T is a multiple.
    """
    q, k, v = (a.unflatten(2, (-1, chunk)) for a in (q, k, v))
    total = log_keep.unflatten(2, (-1, chunk)).cumsum(-1)
    later = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).triu(1)
    decay = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(later, -torch.inf).exp()
    inside = ((q @ k.mT) * decay) @ v
    written = (k * (total[..., -1:] - total).exp().unsqueeze(-1)).mT @ v
    kept = total[..., -1, None, None].exp()
    S, before = torch.zeros_like(written[:, :, 0]), []
    for part in range(written.shape[2]):
        before.append(S)
        S = kept[:, :, part] * S + written[:, :, part]
    return (inside + (q * total.exp().unsqueeze(-1)) @ torch.stack(before, 2)).flatten(2, 3)


def by_head(a: Tensor, heads: int) -> Any:
    """Return [T, B, n] as [B, heads, T, n / heads]."""
    return a.view(*a.shape[:2], heads, -1).permute(1, 2, 0, 3)


def linear_attention(cell: Any, x: Tensor, chunk: int) -> Any:
    """Return the output of `cells.LinearAttention` for x [T, B, I]."""
    q, k, v = (by_head(a, cell.sizes["heads"]) for a in (x @ cell.W.T + cell.b).chunk(3, -1))
    ones = torch.ones_like(v[..., :1])
    read = chunked(elu(q) + 1, elu(k) + 1, torch.cat([v, ones], -1), torch.zeros_like(v[..., 0]), chunk)
    return (read[..., :-1] / (read[..., -1:] + cell.eps)).permute(2, 0, 1, 3).flatten(2)


def mamba2(cell: Any, x: Tensor, chunk: int) -> Any:
    """Return the output of `cells.Mamba2` for x [T, B, I]."""
    heads = cell.sizes["heads"]
    u, step = by_head(x @ cell.W.T, heads), softplus(x @ cell.W_d.T + cell.b_d).permute(1, 2, 0)
    B, C = (by_head(a, 1) for a in (x @ cell.W_bc.T).chunk(2, -1))
    y = chunked(C.expand(-1, heads, -1, -1), B.expand(-1, heads, -1, -1), step.unsqueeze(-1) * u,
                -cell.A.exp()[:, None] * step, chunk)  # fmt: skip
    return (y + cell.D[:, None, None] * u).permute(2, 0, 1, 3).flatten(2)


def retnet(cell: Any, x: Tensor, chunk: int) -> Any:
    """Return the output of `cells.RetNet` for x [T, B, I]: complex keys that turn, as twice as many real ones."""
    heads, keys = cell.sizes["heads"], cell.sizes["key_size"]
    q, q_i, k, k_i = (by_head(a, heads) for a in (x @ cell.W.T + cell.b).chunk(4, -1))
    v, g = (x @ cell.W_v.T + cell.b_v).chunk(2, -1)
    angle = torch.arange(len(x))[:, None] * 10000.0 ** -(torch.arange(keys) / keys)
    cos, sin = angle.cos(), angle.sin()
    asked = torch.cat([q * cos - q_i * sin, -(q * sin + q_i * cos)], -1)
    kept = torch.cat([k * cos - k_i * sin, -(k * sin + k_i * cos)], -1)
    log_keep = (1 - 2.0 ** -(5 + torch.arange(heads))).log()[:, None].expand(x.shape[1], heads, len(x))
    y = chunked(asked, kept, by_head(v, heads), log_keep, chunk).permute(2, 0, 1, 3)
    y = layer_norm(y, y.shape[-1:], eps=cell.eps).flatten(2)
    return (silu(g) * y) @ cell.W_o.T


def gla(cell: Any, x: Tensor, chunk: int) -> Any:
    """Return the output of `cells.GLA` for x [T, B, I]: each key has a decay of its own, which is put into q and k."""
    heads = cell.sizes["heads"]
    q, k, v, r = (x @ cell.W.T).chunk(4, -1)
    forget = by_head(logsigmoid(x @ cell.W_1.T @ cell.W_2.T + cell.b) / 16, heads)
    total = forget.unflatten(2, (-1, chunk)).cumsum(-2)
    q, k, v = (by_head(a, heads).unflatten(2, (-1, chunk)) for a in (q, k, v))
    asked, last = q * total.exp(), total[..., -1:, :]
    inside = (asked @ (k * (-total).exp()).mT).tril() @ v
    written, kept = (k * (last - total).exp()).mT @ v, last.exp().mT
    S, before = torch.zeros_like(written[:, :, 0]), []
    for part in range(written.shape[2]):
        before.append(S)
        S = kept[:, :, part] * S + written[:, :, part]
    y = (inside + asked @ torch.stack(before, 2)).flatten(2, 3).permute(2, 0, 1, 3)
    y = layer_norm(y, y.shape[-1:], cell.gain, eps=cell.eps).flatten(2)
    return (silu(r + cell.b_r) * y) @ cell.W_o.T


def mlstm(cell: Any, x: Tensor, chunk: int) -> Any:
    """Return the output of `cells.MLSTM` for x [T, B, I], without the state that keeps large gates in range."""
    heads = cell.sizes["heads"]
    q, k, v, o = (x @ cell.W.T + cell.b).chunk(4, -1)
    q, k, v = (by_head(a, heads) for a in (q, k, v))
    log_i, log_f = (x @ cell.W_i.T + cell.b_i).permute(1, 2, 0), logsigmoid(x @ cell.W_f.T + cell.b_f).permute(1, 2, 0)
    k = k * (log_i.exp() / k.shape[-1] ** 0.5).unsqueeze(-1)
    read = chunked(q, k, torch.cat([v, torch.ones_like(v[..., :1])], -1), log_f, chunk)
    y = read[..., :-1] / read[..., -1:].abs().clamp(min=1)
    return sigmoid(o) * y.permute(2, 0, 1, 3).flatten(2)


CHUNKED: dict[str, Callable[[Any, Tensor, int], Tensor]] = {
    "gla": gla,
    "linear-attention": linear_attention,
    "mamba-2": mamba2,
    "mlstm": mlstm,
    "retnet": retnet,
}


class Told(nn.Module):
    """A layer with all that its cell declares beside x, called with x alone; several outputs stand side by side."""

    def __init__(self, layer: Recurrent, x: Tensor) -> None:
        super().__init__()
        self.layer, self.given = layer, example(layer, x)

    def forward(self, x: Tensor) -> Any:
        y, state = self.layer(x, **self.given)
        return torch.cat(y, -1) if isinstance(y, tuple) else y, state


class Chunked(nn.Module):
    """A cell's chunked form, called as a layer is."""

    def __init__(self, name: str, cell: Cell, chunk: int) -> None:
        super().__init__()
        self.name, self.cell, self.chunk = name, cell, chunk

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (CHUNKED[self.name](self.cell, x, self.chunk),)


def measure(
    name: str, shape: tuple[int, int, int], mode: str, rounds: int, statistic: str, chunk: int = 0
) -> dict[str, float]:
    """Return the milliseconds of ours and the peer's ratio: the eager loop, or the chunked form of `chunk` steps.

    Beside the eager loop also which shares of our time its arithmetic and its memory alone would take.
    """
    batch, steps, hidden = shape
    x, cell, run = torch.randn(steps, batch, hidden), cell_of(name, hidden), MODES[mode]
    ours: nn.Module = Told(Recurrent(cell), x)
    peer = Chunked(name, cell, chunk) if chunk else Told(Recurrent(cell, target="eager"), x)
    call = run(ours, x)
    seconds = alternate({"ours": call, "peer": run(peer, x)}, rounds=rounds, statistic=statistic)
    found = {"ms": seconds["ours"] * 1e3, "ratio": seconds["peer"] / seconds["ours"]}
    if chunk:
        return found
    work = work_of(call)
    return found | {"a": work.arithmetic() / seconds["ours"], "m": work.memory() / seconds["ours"]}


def of_the_peak(found: dict[str, float]) -> str:
    """Return the larger of the two shares and which it is."""
    kind = max("a", "m", key=lambda kind: found[kind])
    return f"{found[kind]:.0%} {kind}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="*", default=cells.names(), choices=cells.names())
    parser.add_argument("--modes", nargs="*", default=[*MODES], choices=[*MODES])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=64, help="steps of a chunk")
    parser.add_argument("--lengths", nargs="*", type=int, default=[256, 1024, 4096], help="of the chunked form")
    statistic_option(parser)
    options = parser.parse_args()
    how = (options.rounds, options.statistic)
    print(f"{machine()}; {options.statistic} of {options.rounds} rounds; H = {options.hidden}\n")
    for mode in options.modes:
        lines: list[list[object]] = []
        for name in options.cells:
            shapes = [(batch, options.steps, options.hidden) for batch in options.batches]
            found = [measure(name, shape, mode, *how) for shape in shapes]
            lines.append([name, *(value for one in found for value in (one["ms"], one["ratio"], of_the_peak(one)))])
            lines[-1].append(geometric_mean(one["ratio"] for one in found))
        header = [text for batch in options.batches for text in (f"ms, B = {batch}", "eager / ours", "of the peak")]
        print(f"### The eager loop, {mode}, T = {options.steps}\n\n" + table(["cell", *header, "mean"], lines), "\n")
    for mode in options.modes:
        lines = []
        for name in [name for name in options.cells if name in CHUNKED]:
            for batch in options.batches:
                shapes = [(batch, steps, options.hidden) for steps in options.lengths]
                found = [measure(name, shape, mode, *how, chunk=options.chunk) for shape in shapes]
                lines.append([name, batch, *(value for one in found for value in one.values())])
        header = [text for steps in options.lengths for text in (f"ms, T = {steps}", "chunked / ours")]
        print(f"### The chunked form, {mode}\n\n" + table(["cell", "B", *header], lines), "\n")


if __name__ == "__main__":
    main()
