"""The two cells of the extended LSTM: exponential gates, kept in range by the state m, and a normalised memory."""

from __future__ import annotations

import torch
from torch import Tensor, exp, sigmoid, tanh
from torch.nn.functional import logsigmoid

from everloop.cell import Cell, H, I, bias, output, param, size, state

heads = size("heads")


def open_forget_gates(b: Tensor) -> None:
    """Fill biases of forget gates with numbers from 3 to 6, which keep most of the memory, as the authors do."""
    b.copy_(torch.linspace(3, 6, len(b)))


def open_second_gate(b: Tensor) -> None:
    """Fill the biases of four gates: from 3 to 6 for the second, which forgets, and 0 for the others."""
    b.zero_()
    open_forget_gates(b.chunk(4)[1])


class MLSTM(Cell):
    """LSTM whose memory is a matrix of values by keys for each head: mLSTM.

    Beck, Pöppel, Spanring, Auer, Prudnikova, Kopp, Klambauer, Brandstetter and Hochreiter, "xLSTM: Extended long
    short-term memory", NeurIPS 2024, equations 19 to 27, with a sigmoid forget gate. Rows of W and b are q, k, v, o,
    each head after head; k is divided by sqrt(H / heads) with its bias. C and n are the memory and its normaliser
    divided by exp(m).

    Shapes: C [B, heads, H / heads, H / heads]; n [B, heads, H / heads]; m [B, heads]; h [B, H].
    """

    C, n, m = state(heads, H // heads, H // heads), state(heads, H // heads), state(heads)
    h = output(H)
    W, b = param(4 * H, I), bias(4 * H, init=0.0)
    W_i, b_i = param(heads, I), bias(heads, init=0.0)
    W_f, b_f = param(heads, I), bias(heads, init=open_forget_gates)

    def step(self, x: Tensor, C: Tensor, n: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        q, k, v, o = (x @ self.W.T + self.b).unflatten(-1, (4, *n.shape[1:])).unbind(1)
        k = k / n.shape[-1] ** 0.5
        log_i, log_f = x @ self.W_i.T + self.b_i, logsigmoid(x @ self.W_f.T + self.b_f)
        top = torch.maximum(log_f + m, log_i)
        i, f = exp(log_i - top).unsqueeze(-1), exp(log_f + m - top).unsqueeze(-1)
        C = f.unsqueeze(-1) * C + (i * v).unsqueeze(-1) * k.unsqueeze(-2)
        n = f * n + i * k
        least = exp(-top).unsqueeze(-1)  # the 1 of equation 21, divided by exp(m) as n is
        read = (C * q.unsqueeze(-2)).sum(-1) / torch.maximum((n * q).sum(-1, keepdim=True).abs(), least)
        return C, n, top, (sigmoid(o) * read).flatten(1)


class SLSTM(Cell):
    """LSTM with exponential gates and a normaliser n; recurrence mixes the units of each head: sLSTM.

    Beck, Pöppel, Spanring, Auer, Prudnikova, Kopp, Klambauer, Brandstetter and Hochreiter, "xLSTM: Extended long
    short-term memory", NeurIPS 2024, equations 8 to 18, with a sigmoid forget gate. Rows of W and b are i, f, z, o; R
    has their blocks for each head. c and n are the memory and its normaliser divided by exp(m).

    Shapes: h, c, n, m [B, H]; R [4, heads, H / heads, H / heads].
    """

    gates = ("i", "f", "z", "o")

    h, c, n, m = state(H), state(H), state(H), state(H)
    W, R, b = param(4 * H, I), param(4, heads, H // heads, H // heads), bias(4 * H, init=open_second_gate)

    def step(self, x: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        past = torch.einsum("bhd,ghed->bghe", h.view(h.shape[0], *self.R.shape[1:3]), self.R)
        log_i, f, z, o = (x @ self.W.T + past.flatten(1) + self.b).chunk(4, -1)
        log_f = logsigmoid(f)
        top = torch.maximum(log_f + m, log_i)
        i, f = exp(log_i - top), exp(log_f + m - top)
        c = f * c + i * tanh(z)
        n = f * n + i
        return sigmoid(o) * c / n, c, n, top
