"""Memories of heads in their published parallel form: products inside a chunk of steps, one memory from chunk to chunk.

Each is exact, and has products in place of a loop over steps. B sequences, T steps, K keys and V values of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn, sigmoid, tanh
from torch.nn.functional import elu, layer_norm, logsigmoid, pad, silu, softplus

from everloop.cell import Cell
from everloop.cells.delta import unit


def later(chunk: int, diagonal: int = 1) -> Tensor:
    """Return which steps of a chunk come after each, [chunk, chunk]."""
    return torch.ones(chunk, chunk, dtype=torch.bool).triu(diagonal)


def chunked(q: Any, k: Any, v: Any, log_keep: Any, chunk: int) -> Any:
    """Return q_t S_t for all steps, where S_t = exp(log_keep_t) S_(t-1) + k_t v_t^T, from zero on.

    q, k: [B, heads, T, K]; v: [B, heads, T, V]; log_keep: [B, heads, T]; chunk: steps, of which T is a multiple.
    """
    q, k, v = (a.unflatten(2, (-1, chunk)) for a in (q, k, v))
    total = log_keep.unflatten(2, (-1, chunk)).cumsum(-1)
    decay = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(later(chunk), -torch.inf).exp()
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


def solved(system: Tensor, *sides: Tensor) -> Any:
    """Return (1 + the part of `system` below its diagonal)^-1 times each of `sides`."""
    found = torch.linalg.solve_triangular(system, torch.cat(sides, -1), upper=False, unitriangular=True)
    return found.split([side.shape[-1] for side in sides], -1)


def delta_rule(q: Any, k: Any, v: Any, beta: Any, log_keep: Any, chunk: int) -> Any:
    """Return S_t q_t for all steps, S_t = keep_t S_(t-1) + beta_t (v_t - keep_t S_(t-1) k_t) k_t^T, from zero on.

    Yang, Wang, Zhang, Shen and Kim, "Parallelizing linear transformers with the delta rule over sequence length",
    NeurIPS 2024, section 3.2 (products of Householder matrices as W and U); with a decay Yang, Kautz and Hatamizadeh,
    "Gated delta networks", ICLR 2025, section 3.3. Shapes as of `chunked`, beta as log_keep; keys have length 1.
    """
    q, k, v = (a.unflatten(2, (-1, chunk)) for a in (q, k, v))
    beta = beta.unflatten(2, (-1, chunk)).unsqueeze(-1)
    total = log_keep.unflatten(2, (-1, chunk)).cumsum(-1)
    decay = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(later(chunk), -torch.inf).exp()
    since = total.unsqueeze(-1).exp()
    W, U = solved(beta * (k @ k.mT) * decay, beta * since * k, beta * v)
    inside, asked = (q @ k.mT) * decay, q * since
    kept = (k * (total[..., -1:] - total).exp().unsqueeze(-1)).mT
    S, read = torch.zeros_like(k[:, :, 0].mT @ v[:, :, 0]), []
    for part in range(k.shape[2]):
        written = U[:, :, part] - W[:, :, part] @ S
        read.append(asked[:, :, part] @ S + inside[:, :, part] @ written)
        S = since[:, :, part, -1:] * S + kept[:, :, part] @ written
    return torch.cat(read, 2)


def delta_net(cell: Any, x: Tensor, chunk: int) -> Any:
    """Return the output of `cells.DeltaNet` or `cells.GatedDeltaNet` for x [T, B, I]."""
    heads = cell.sizes["heads"]
    q, k, v = (by_head(a, heads) for a in (x @ cell.W.T).chunk(3, -1))
    beta = sigmoid(x @ cell.W_b.T + cell.b_b).permute(1, 2, 0)
    log_keep = torch.zeros_like(beta)
    if hasattr(cell, "A"):
        log_keep = -cell.A.exp()[:, None] * softplus(x @ cell.W_d.T + cell.b_d).permute(1, 2, 0)
    return delta_rule(unit(silu(q)), unit(silu(k)), v, beta, log_keep, chunk).permute(2, 0, 1, 3).flatten(2)


def rwkv7(cell: Any, x: Tensor, chunk: int) -> Any:
    """Return the output of `cells.RWKV7` for x [T, B, I]: transitions that are diagonal plus of rank one.

    Peng, Zhang, Goldstein, Alcaide and others, "RWKV-7 Goose with expressive dynamic state evolution", 2025: S_t is
    S_(t-1) (diag(keep_t) - c_t (a_t c_t)^T) + v_t k_t^T. What it reads, p_t = S_(t-1) c_t, solves a triangular system.
    """
    heads = cell.sizes["heads"]
    before = pad(x[:-1], (0, 0, 0, 0, 1, 0))
    x_r, x_d, x_k, x_v, x_a, x_g = (x + (before - x) * cell.mu[j] for j in range(6))
    r, k, v = x_r @ cell.W_r.T, x_k @ cell.W_k.T, x_v @ cell.W_v.T
    a = sigmoid(x_a @ cell.A_1.T @ cell.A_2.T + cell.b_a)
    log_keep = -math.exp(-0.5) * sigmoid(tanh(x_d @ cell.D_1.T) @ cell.D_2.T + cell.b_d)
    g = sigmoid(x_g @ cell.G_1.T) @ cell.G_2.T
    removed: Any = unit(by_head(k * cell.removal, heads))
    removed = removed.unflatten(2, (-1, chunk))
    k = k * (1 + (a - 1) * cell.replacement)
    bonus = by_head(r * k * cell.bonus, heads).sum(-1, keepdim=True) * by_head(v, heads)
    r, k, v, a, log_keep = (by_head(each, heads).unflatten(2, (-1, chunk)) for each in (r, k, v, a, log_keep))
    total, rate = log_keep.cumsum(-2), a * removed
    asked, probe, last = r * total.exp(), removed * (total - log_keep).exp(), total[..., -1:, :]
    k_in, rate_in, k_out, rate_out = (each * (end - total).exp() for end in (0, last) for each in (k, rate))
    earlier = ~later(chunk, 0)
    P_S, P_v = solved(probe @ rate_in.mT, probe, ((probe @ k_in.mT) * earlier) @ v)
    inside, undone = (asked @ k_in.mT).tril() @ v, (asked @ rate_in.mT).tril()
    written = k_out.mT @ v
    S, read = torch.zeros_like(written[:, :, 0]), []
    for part in range(v.shape[2]):
        p = P_v[:, :, part] + P_S[:, :, part] @ S
        read.append(asked[:, :, part] @ S + inside[:, :, part] - undone[:, :, part] @ p)
        S = last[:, :, part].exp().mT * S + written[:, :, part] - rate_out[:, :, part].mT @ p
    y = torch.cat(read, 2)
    y = layer_norm(y, y.shape[-1:], eps=1e-5 * y.shape[-1]).permute(2, 0, 1, 3).flatten(2) * cell.gain + cell.b_n
    return (g * (y + bonus.permute(2, 0, 1, 3).flatten(2))) @ cell.W_o.T


CHUNKED: dict[str, Callable[[Any, Tensor, int], Tensor]] = {
    "deltanet": delta_net,
    "gated-deltanet": delta_net,
    "gla": gla,
    "linear-attention": linear_attention,
    "mamba-2": mamba2,
    "mlstm": mlstm,
    "retnet": retnet,
    "rwkv-7": rwkv7,
}


class Chunked(nn.Module):
    """A cell's chunked form, called as a layer is."""

    def __init__(self, name: str, cell: Cell, chunk: int) -> None:
        super().__init__()
        self.name, self.cell, self.chunk = name, cell, chunk

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (CHUNKED[self.name](self.cell, x, self.chunk),)
