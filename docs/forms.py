"""What can be written in a step: one small cell a form, run by the tests; docs/make.py makes the table of them."""

from __future__ import annotations

import itertools
import linecache
import re
from dataclasses import dataclass
from typing import Any

import torch

from everloop.layers.dispatch import why
from everloop.layers.dropout import values_of

CELL = """\
import torch
from torch import nn, sigmoid, tanh
from torch.nn import functional as F

from everloop import Cell, H, I, custom_gradient, param, state


class Written(Cell):
    scale: float = 0.5

    h = state(H)
    W, R, M, C = param(H, I), param(H, H), param(2 * H, H), param(H, H + I)
    B, k = param(2, H // 2, H // 2), param(1, 1, 3)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm, self.inner, self.drop = nn.LayerNorm(6), nn.Linear(6, 6), nn.Dropout(0.5)
        self.count = 0

    def step(self, x, h):
        a = x @ self.W.T + h @ self.R.T
{code}
        return tanh(u)
"""
_numbers = itertools.count()


@dataclass(frozen=True)
class Form:
    """what: in words; code: how a step of rows a, h [B, 6] writes it as u; says: where it is refused, a part of why."""

    what: str
    code: str
    says: str = ""

    def kind(self) -> Any:
        """Return the class of the cell that writes it."""
        text = CELL.format(code="\n".join(" " * 8 + line for line in self.code.splitlines()))
        name = f"written_{next(_numbers)}.py"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        found: dict[str, Any] = {"__name__": name}
        exec(compile(text, name, "exec"), found)
        return found["Written"]

    def reason(self) -> str:
        """Return why it is not compiled, "" where it is."""
        cell = self.kind()(3, 6)
        return why(cell, values_of(cell, 1, 1), torch.zeros(1, 1, 3))


FORMS = (
    Form("gates of one product", "i, o = (a @ self.M.T).chunk(2, -1)\nu = sigmoid(i) * o"),
    Form("the textbook's W [h, x]", "u = torch.cat([h, x], -1) @ self.C.T"),
    Form("modules of PyTorch", "u = self.inner(self.norm(a))"),
    Form("a choice by value", "u = torch.where(a > 0, a, 0.1 * h)"),
    Form("a mask", "u = a.masked_fill(h < 0, 0.0)"),
    Form("a Python branch on an option", "u = a if self.scale > 0.3 else h"),
    Form("a fixed number of inner steps", "u = h\nfor _ in range(3): u = tanh(u @ self.R.T + a)"),
    Form("heads", "u = a.view(a.shape[0], 2, 3).softmax(-1).flatten(1)"),
    Form("matrices by head", 'u = torch.einsum("bhd,hde->bhe", a.view(a.shape[0], 2, 3), self.B).flatten(1)'),
    Form("an outer product, read", "u = ((a.unsqueeze(-1) * h.unsqueeze(-2)) @ a.unsqueeze(-1)).squeeze(-1)"),
    Form(
        "bmm and transpose",
        "q = a.view(a.shape[0], 2, 3)\nu = torch.bmm(torch.bmm(q, q.transpose(1, 2)), q).flatten(1)",
    ),
    Form(
        "attention of heads", "q = a.view(a.shape[0], 1, 2, 3)\nu = F.scaled_dot_product_attention(q, q, q).flatten(1)"
    ),
    Form(
        "sums, means, extremes, norms",
        "u = a - a.mean(-1, keepdim=True) * a.amax(-1, keepdim=True) / F.normalize(h, dim=-1).exp()",
    ),
    Form("normalisation by row", "u = F.layer_norm(a, (6,)) + F.rms_norm(h, (6,))"),
    Form("sums so far, shifts, turns", "u = a.cumsum(-1) + torch.roll(h, 1, -1) + a.flip(-1)"),
    Form("a fixed index, slices", "u = a[:, [2, 0, 1, 5, 4, 3]] + torch.cat([h[:, ::2], h[:, 1::2]], -1)"),
    Form("gated linear units", "u = F.glu(torch.cat([a, h], -1), -1)"),
    Form("differences, padding", "u = F.pad(a.diff(dim=-1), (1, 0)) + F.pad(h, (-2, 2))"),
    Form("small convolutions", "u = F.conv1d(a.unsqueeze(1), self.k, padding=1).squeeze(1)"),
    Form("the larger of two", "u = torch.max(a, h) - torch.min(a, 0.5 * h)"),
    Form("the largest along an axis", "u = a - a.max(-1, keepdim=True).values + h.min(-1, keepdim=True)[0]"),
    Form("groups of channels", "u = F.group_norm(a, 2) + torch.var_mean(h, -1, keepdim=True)[1]"),
    Form(
        "diagonals, triangles",
        "q = a.unsqueeze(-1) * h.unsqueeze(-2)\nu = q.diagonal(dim1=1, dim2=2) + q.tril(-1).sum(-1)",
    ),
    Form("sums into fixed places", "u = h.index_add(1, torch.tensor([0, 1, 1, 5, 0, 2]), a)"),
    Form("changes in place of a new value", "u = 2 * a\nu.add_(h).mul_(0.5)\nu -= a"),
    Form("an assignment to a part of a new value", "u = a.clone()\nu[:, :3] = h[:, :3]\nu[..., -1] = 0.5"),
    Form("a part added to", "u = a.clone()\nu[:, 1:3] += h[:, :2]\nu[:, ::2] *= 0.5"),
    Form(
        "places that a fixed index or mask names", "u = 2 * a\nu[:, [4, 0]] = h[:, :2]\nu[:, torch.arange(6) > 3] *= 2"
    ),
    Form("places where a condition holds", "u = 2 * a\nu[u < 0] = 0.1"),
    Form(
        "changes in place of a view", "u = 2 * a\nq = u.view(-1, 2, 3)\nq[:, 1].mul_(0.5)\nq.transpose(1, 2)[:, 0] += 1"
    ),
    Form("a value filled piece by piece", "u = torch.empty_like(a)\nfor k in range(6): u[:, k] = a[:, k] * (k + 1)"),
    Form("a new value assigned", "u = 2 * a\nu.copy_(h)\nu.clamp_(min=-0.5)"),
    Form("angles, hyperbolic functions", "u = torch.atan2(a, 1 + h * h) + torch.asinh(torch.sinh(a) * torch.cosh(h))"),
    Form("whole numbers, straight through", "u = a + (torch.round(4 * a) / 4 - a).detach() + torch.remainder(h, 1.0)"),
    Form("logarithms of sums, products so far", "u = torch.logaddexp(a, h) - torch.cumprod(sigmoid(a), -1)"),
    Form("a gradient that stops", "u = a + h.detach()"),
    Form(
        "a surrogate gradient",
        "spike = custom_gradient(lambda v: v > 0, lambda v, g: g / (1 + 10 * v.abs()) ** 2)\nu = a + spike(h)",
    ),
    Form(
        "a gradient that is clipped",
        "clip = custom_gradient(lambda v: v, lambda v, g: g.clamp(-1, 1))\nu = a + clip(h)",
    ),
    Form("anything of parameters alone", "u = a @ torch.linalg.matrix_exp(self.R - self.R.T)"),
    Form("constants for each sequence", "u = a + torch.ones(a.shape[0], 6, dtype=a.dtype)"),
    Form("a Python branch on a value", "u = a if a[:, 0] > 0 else h", "write torch.where"),
    Form(
        "a value as a Python number",
        "u = a * float(a[:, 0].detach())",
        "into a Python number",
    ),
    Form(
        "an index that a step computes",
        "u = a.gather(1, (h > 0).long())",
        "write a product with",
    ),
    Form("the place of the largest", "u = a * a.max(-1, keepdim=True).indices", "a == a.amax(-1, keepdim=True)"),
    Form("sorting, the k largest, medians", "u = a.sort(-1).values", "compare with a threshold"),
    Form(
        "gradients inside a step",
        "v = h.detach().requires_grad_()\nu = a - torch.autograd.grad((v ** 4).sum(), v)[0]",
        "write the derivative inside it as a formula",
    ),
    Form("sequences of a batch that mix", "u = a - a.mean(0)", "the batch, whose sequences do not mix"),
    Form(
        "batch normalisation in training", "u = F.batch_norm(a, None, None, training=True)", "take layer normalisation"
    ),
    Form("columns in place of rows", "u = (self.R @ a.T).T", "write h @ W.T, not (W @ h.T).T"),
    Form("an axis before the batch", "u = self.norm(a.unsqueeze(0)).squeeze(0)", "the batch stays first"),
    Form("changes in place of what is detached", "u = 2 * a\nu.detach().clamp_(-1, 1)", "a value that is detached"),
    Form("changes in place of no known kind", "u = 2 * a\nu.renorm_(2, 0, 1.0)", "write the new value out"),
    Form("dropout inside", "u = self.drop(a)", "mask(H, p=0.1), which the layer draws"),
    Form("random numbers", "u = a + torch.randn_like(a)", "declare noise(H)"),
    Form("gradients switched off", "with torch.no_grad(): v = tanh(h)\nu = a + v", "write .detach()"),
    Form("counting, printing, files", "self.count += 1\nu = a * self.count", "every step"),
)


def table() -> str:
    """Return the forms as a table in Markdown, with what the compiler says."""
    rows = ["| what | as in | compiled |", "|---|---|---|"]
    for form in FORMS:
        code = "<br>".join(f"`{line.strip()}`" for line in form.code.splitlines())
        reason = re.sub(r"^the compiler does not know | \([\w./-]+:\d+\)$", "", form.reason())
        rows.append(f"| {form.what} | {code} | {f'no: {reason}' if reason else 'yes'} |")
    return "\n".join(rows)
