"""Every cell written a second time, gate by gate in float64 NumPy, from the papers and not from the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Weights = dict[str, Array]


def logistic(a: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-a))


def block(w: Array, k: int, n: int) -> Array:
    return w[k * n : (k + 1) * n]


def elman(p: Weights, x: Array, h: Array) -> list[Array]:
    return [np.tanh(np.einsum("bi,hi->bh", x, p["W"]) + np.einsum("bk,hk->bh", h, p["R"]) + p["b"])]


def elman_relu(p: Weights, x: Array, h: Array) -> list[Array]:
    return [np.maximum(np.einsum("bi,hi->bh", x, p["W"]) + np.einsum("bk,hk->bh", h, p["R"]) + p["b"], 0.0)]


def gate(p: Weights, k: int, n: int, x: Array, h: Array) -> Array:
    return x @ block(p["W"], k, n).T + h @ block(p["R"], k, n).T + block(p["b"], k, n)


def lstm(p: Weights, x: Array, h: Array, c: Array) -> list[Array]:
    n = c.shape[1]
    i, f, g, o = (gate(p, k, n, x, h) for k in range(4))
    memory = logistic(f) * c + logistic(i) * np.tanh(g)
    return [logistic(o) * np.tanh(memory), memory]


def peephole(p: Weights, x: Array, h: Array, c: Array) -> list[Array]:
    n = c.shape[1]
    i = logistic(gate(p, 0, n, x, h) + p["p_i"][None] * c)
    f = logistic(gate(p, 1, n, x, h) + p["p_f"][None] * c)
    memory = f * c + i * np.tanh(gate(p, 2, n, x, h))
    return [logistic(gate(p, 3, n, x, h) + p["p_o"][None] * memory) * np.tanh(memory), memory]


def coupled(p: Weights, x: Array, h: Array, c: Array) -> list[Array]:
    n = c.shape[1]
    f = logistic(gate(p, 0, n, x, h))
    memory = c * f + np.tanh(gate(p, 1, n, x, h)) * (1.0 - f)
    return [logistic(gate(p, 2, n, x, h)) * np.tanh(memory), memory]


def projected(p: Weights, x: Array, h: Array, c: Array) -> list[Array]:
    full, memory = lstm(p, x, h, c)
    return [full @ p["V"].T, memory]


def normalised(a: Array) -> Array:
    centred = a - a.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)


def layer_norm_lstm(p: Weights, x: Array, h: Array, c: Array) -> list[Array]:
    n = c.shape[1]
    total = normalised(x @ p["W"].T) * p["gain_x"] + normalised(h @ p["R"].T) * p["gain_h"] + p["b"]
    i, f, g, o = (total[:, k * n : (k + 1) * n] for k in range(4))
    memory = logistic(f) * c + logistic(i) * np.tanh(g)
    return [logistic(o) * np.tanh(normalised(memory) * p["gain_c"] + p["b_c"]), memory]


def gru(p: Weights, x: Array, h: Array) -> list[Array]:
    n = h.shape[1]
    of_x = [x @ block(p["W"], k, n).T + block(p["b"], k, n) for k in range(3)]
    of_h = [h @ block(p["R"], k, n).T + block(p["d"], k, n) for k in range(3)]
    r, z = logistic(of_x[0] + of_h[0]), logistic(of_x[1] + of_h[1])
    return [(1.0 - z) * np.tanh(of_x[2] + r * of_h[2]) + z * h]


def reset_before_gru(p: Weights, x: Array, h: Array) -> list[Array]:
    n = h.shape[1]
    of_x = [x @ block(p["W"], k, n).T + block(p["b"], k, n) for k in range(3)]
    r = logistic(of_x[0] + h @ block(p["R"], 0, n).T)
    z = logistic(of_x[1] + h @ block(p["R"], 1, n).T)
    return [(1.0 - z) * np.tanh(of_x[2] + (r * h) @ p["R_n"].T) + z * h]


def minimal(p: Weights, x: Array, h: Array) -> list[Array]:
    n = h.shape[1]
    f = logistic(h @ p["W_f"][:, :n].T + x @ p["W_f"][:, n:].T + p["b_f"])
    candidate = np.tanh((f * h) @ p["W_n"][:, :n].T + x @ p["W_n"][:, n:].T + p["b_n"])
    return [h + f * (candidate - h)]


def indrnn(p: Weights, x: Array, h: Array) -> list[Array]:
    return [np.maximum(x @ p["W"].T + p["u"][None] * h + p["b"], 0.0)]


def softplus(a: Array) -> Array:
    return np.log1p(np.exp(-np.abs(a))) + np.maximum(a, 0.0)


def silu(a: Array) -> Array:
    return a * logistic(a)


def by_head(a: Array, like: Array) -> Array:
    """Return [B, n] as [B, heads, n / heads], with the heads of a state."""
    return a.reshape(len(a), like.shape[1], -1)


def outer(values: Array, keys: Array) -> Array:
    return np.einsum("bhv,bhk->bhvk", values, keys)


def read(memory: Array, query: Array) -> Array:
    return np.einsum("bhvk,bhk->bhv", memory, query)


def of_length_one(a: Array) -> Array:
    return a / np.sqrt((a**2).sum(-1, keepdims=True))


def normalised_heads(a: Array, eps: float = 1e-5) -> Array:
    return (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + eps)


def mlstm(p: Weights, x: Array, C: Array, n: Array, m: Array) -> list[Array]:
    size = C.shape[1] * C.shape[2]
    q, k, v, o = (x @ block(p["W"], j, size).T + block(p["b"], j, size) for j in range(4))
    q, k, v = by_head(q, C), by_head(k, C) / np.sqrt(C.shape[3]), by_head(v, C)
    i, f = np.exp(x @ p["W_i"].T + p["b_i"])[..., None], logistic(x @ p["W_f"].T + p["b_f"])[..., None]
    scale = np.exp(m)[..., None]  # the paper's equations without m, of C exp(m) and n exp(m)
    C, n = f[..., None] * C * scale[..., None] + outer(i * v, k), f * n * scale + i * k
    h = read(C, q) / np.maximum(np.abs((n * q).sum(-1, keepdims=True)), 1.0)
    scale = np.maximum(f * scale, i)
    m = np.log(scale)[..., 0]
    return [C / scale[..., None], n / scale, m, logistic(o) * h.reshape(len(x), -1)]


def slstm(p: Weights, x: Array, h: Array, c: Array, n: Array, m: Array) -> list[Array]:
    size = h.shape[1]
    heads, each = p["R"].shape[1:3]
    gates = []
    for j in range(4):
        mixed = [h[:, k * each : (k + 1) * each] @ p["R"][j, k].T for k in range(heads)]
        gates.append(x @ block(p["W"], j, size).T + np.concatenate(mixed, 1) + block(p["b"], j, size))
    i, f, z, o = np.exp(gates[0]), logistic(gates[1]), np.tanh(gates[2]), logistic(gates[3])
    memory, total = f * c * np.exp(m) + i * z, f * n * np.exp(m) + i
    scale = np.maximum(f * np.exp(m), i)
    return [o * memory / total, memory / scale, total / scale, np.log(scale)]


def linear_attention(p: Weights, x: Array, S: Array, z: Array) -> list[Array]:
    size = S.shape[1] * S.shape[2]
    q, k, v = (by_head(x @ block(p["W"], j, size).T + block(p["b"], j, size), S) for j in range(3))
    q, k = (np.where(a > 0, a + 1.0, np.exp(a)) for a in (q, k))
    S, z = S + outer(v, k), z + k
    return [S, z, (read(S, q) / ((q * z).sum(-1, keepdims=True) + 1e-6)).reshape(len(x), -1)]


def retnet(p: Weights, x: Array, S: Array, Z: Array) -> list[Array]:
    _, heads, _, keys = S.shape
    parts = [by_head(x @ w.T + b, S) for w, b in zip(np.split(p["W"], 4), np.split(p["b"], 4), strict=True)]
    q, k = parts[0] + 1j * parts[1], parts[2] + 1j * parts[3]
    v, g = np.split(x @ p["W_v"].T + p["b_v"], 2, 1)
    rates = 1.0 - np.exp2(-5.0 - np.arange(heads))
    angles = np.power(10000.0, -np.arange(keys) / keys)
    turned = (S + 1j * Z) * (rates[:, None] * np.exp(1j * angles))[None, :, None]
    memory = turned + outer(by_head(v, S), np.conj(k))
    y = normalised_heads(read(memory, q).real).reshape(len(x), -1)
    return [memory.real, memory.imag, (silu(g) * y) @ p["W_o"].T]


def gla(p: Weights, x: Array, S: Array) -> list[Array]:
    size = S.shape[1] * S.shape[2]
    q, k, v, r = (x @ block(p["W"], j, size).T for j in range(4))
    a = by_head(logistic((x @ p["W_1"].T) @ p["W_2"].T + p["b"]) ** (1 / 16), S)
    S = a[:, :, None] * S + outer(by_head(v, S), by_head(k, S))
    y = normalised_heads(read(S, by_head(q, S))) * p["gain"]
    return [S, (silu(r + p["b_r"]) * y.reshape(len(x), -1)) @ p["W_o"].T]


def delta_rule(p: Weights, x: Array, S: Array, keep: Array) -> list[Array]:
    size = S.shape[1] * S.shape[2]
    q, k, v = (by_head(x @ block(p["W"], j, size).T, S) for j in range(3))
    q, k = of_length_one(silu(q)), of_length_one(silu(k))
    beta = logistic(x @ p["W_b"].T + p["b_b"])[..., None]
    change = np.eye(S.shape[3]) - outer(beta * k, k)
    S = np.einsum("bhvk,bhkl->bhvl", keep[..., None, None] * S, change) + outer(beta * v, k)
    return [S, read(S, q).reshape(len(x), -1)]


def deltanet(p: Weights, x: Array, S: Array) -> list[Array]:
    return delta_rule(p, x, S, np.ones(S.shape[:2]))


def gated_deltanet(p: Weights, x: Array, S: Array) -> list[Array]:
    return delta_rule(p, x, S, np.exp(-np.exp(p["A"]) * softplus(x @ p["W_d"].T + p["b_d"])))


def mamba2(p: Weights, x: Array, S: Array) -> list[Array]:
    u, (B, C) = by_head(x @ p["W"].T, S), np.split(x @ p["W_bc"].T, 2, 1)
    step = softplus(x @ p["W_d"].T + p["b_d"])
    S = np.exp(step * -np.exp(p["A"]))[..., None, None] * S + np.einsum("bh,bn,bhp->bhpn", step, B, u)
    return [S, (np.einsum("bn,bhpn->bhp", C, S) + p["D"][:, None] * u).reshape(len(x), -1)]


def rwkv7(p: Weights, x: Array, S: Array, before: Array) -> list[Array]:
    of_r, of_d, of_k, of_v, of_a, of_g = [(1 - mu) * x + mu * before for mu in p["mu"]]
    r, k, v = of_r @ p["W_r"].T, of_k @ p["W_k"].T, of_v @ p["W_v"].T
    w = by_head(np.exp(-np.exp(-0.5) * logistic(np.tanh(of_d @ p["D_1"].T) @ p["D_2"].T + p["b_d"])), S)
    a = logistic(of_a @ p["A_1"].T @ p["A_2"].T + p["b_a"])
    g = logistic(of_g @ p["G_1"].T) @ p["G_2"].T
    kappa = of_length_one(by_head(k * p["removal"], S))
    k = k * (1 - p["replacement"] + a * p["replacement"])
    r, k, v, a = (by_head(each, S) for each in (r, k, v, a))
    change = np.einsum("bhk,kl->bhkl", w, np.eye(S.shape[3])) - outer(kappa, a * kappa)
    S = np.einsum("bhvk,bhkl->bhvl", S, change) + outer(v, k)
    y = normalised_heads(read(S, r), 1e-5 * S.shape[3]).reshape(len(x), -1) * p["gain"] + p["b_n"]
    extra = (r * by_head(p["bonus"][None], S) * k).sum(-1, keepdims=True) * v
    return [S, x, (g * (y + extra.reshape(len(x), -1))) @ p["W_o"].T]


def fast_weights(p: Weights, x: Array, h: Array, A: Array) -> list[Array]:
    A = 0.95 * A + 0.5 * np.einsum("bi,bj->bij", h, h)
    boundary = x @ p["W"].T + h @ p["R"].T + p["b"]
    h = np.maximum(boundary, 0.0)
    h = np.maximum(normalised(boundary + np.einsum("bij,bj->bi", A, h)) * p["gain"] + p["b_n"], 0.0)
    return [h, A]


def min_gru(p: Weights, x: Array, h: Array) -> list[Array]:
    n = h.shape[1]
    z = logistic(x @ block(p["W"], 0, n).T + block(p["b"], 0, n))
    return [h + z * (x @ block(p["W"], 1, n).T + block(p["b"], 1, n) - h)]


def min_lstm(p: Weights, x: Array, h: Array) -> list[Array]:
    n = h.shape[1]
    f, i, candidate = (x @ block(p["W"], k, n).T + block(p["b"], k, n) for k in range(3))
    forget, enter = logistic(f) / (logistic(f) + logistic(i)), logistic(i) / (logistic(f) + logistic(i))
    return [forget * h + enter * candidate]


def sru(p: Weights, x: Array, c: Array) -> list[Array]:
    n = c.shape[1]
    candidate, f, r, through = (x @ block(p["W"], k, n).T for k in range(4))
    f = logistic(f + block(p["v"], 0, n) * c + block(p["b"], 0, n))
    r = logistic(r + block(p["v"], 1, n) * c + block(p["b"], 1, n))
    c = f * c + (1.0 - f) * candidate
    return [c, r * c + (1.0 - r) * through]


def lru(p: Weights, x: Array, re: Array, im: Array) -> list[Array]:
    rate = np.exp(-np.exp(p["nu"]) + 1j * np.exp(p["theta"]))
    B, C = p["B_re"] + 1j * p["B_im"], p["C_re"] + 1j * p["C_im"]
    z = rate * (re + 1j * im) + np.exp(p["gamma"]) * (x @ B.T)
    return [z.real, z.imag, (z @ C.T).real + x @ p["D"].T]


def rg_lru(p: Weights, x: Array, h: Array) -> list[Array]:
    n = h.shape[1]
    r, i, u = (x @ block(p["W"], k, n).T + block(p["b"], k, n) for k in range(3))
    a = logistic(p["rate"]) ** (8.0 * logistic(r))
    return [a * h + np.sqrt(1.0 - a**2) * logistic(i) * u]


def lmu(p: Weights, x: Array, h: Array, m: Array) -> list[Array]:
    order, theta, parts = m.shape[1], 100.0, 400
    A, B = np.zeros((order, order)), np.zeros(order)
    for i in range(order):
        B[i] = (2 * i + 1) * (-1) ** i / theta
        for j in range(order):
            A[i, j] = (2 * i + 1) / theta * (-1.0 if i < j else (-1.0) ** (i - j + 1))
    u = x @ p["e_x"][0] + h @ p["e_h"][0] + m @ p["e_m"][0]
    for _ in range(parts):  # the differential equation m' = A m + B u over one step, by Runge and Kutta

        def slope(m: Array) -> Array:
            return m @ A.T + u[:, None] * B

        d = 1.0 / parts
        k1 = slope(m)
        k2 = slope(m + d / 2 * k1)
        k3 = slope(m + d / 2 * k2)
        m = m + d / 6 * (k1 + 2 * k2 + 2 * k3 + slope(m + d * k3))
    return [np.tanh(x @ p["W"].T + h @ p["R"].T + m @ p["M"].T), m]


def cornn(p: Weights, x: Array, y: Array, z: Array) -> list[Array]:
    acceleration = np.tanh(y @ p["R"].T + z @ p["R_z"].T + x @ p["W"].T + p["b"]) - 2.7 * y - 4.7 * z
    z = z + 0.042 * acceleration
    return [y + 0.042 * z, z]


def fastgrnn(p: Weights, x: Array, h: Array) -> list[Array]:
    shared = x @ p["W"].T + h @ p["R"].T
    z, candidate = logistic(shared + p["b_z"]), np.tanh(shared + p["b_n"])
    return [(logistic(p["zeta"]) * (1.0 - z) + logistic(p["nu"])) * candidate + z * h]


def recurrent_highway(p: Weights, x: Array, h: Array) -> list[Array]:
    n = h.shape[1]
    for depth, (R, b) in enumerate(zip(p["R"], p["b"], strict=True)):
        of_x = [x @ block(p["W"], k, n).T if depth == 0 else 0.0 for k in range(2)]
        candidate = np.tanh(of_x[0] + h @ R[:n].T + b[:n])
        t = logistic(of_x[1] + h @ R[n:].T + b[n:])
        h = candidate * t + h * (1.0 - t)
    return [h]


def multiplicative_lstm(p: Weights, x: Array, h: Array, c: Array) -> list[Array]:
    return lstm(p, x, (x @ p["W_m"].T) * (h @ p["R_m"].T), c)


def hyper_lstm(p: Weights, x: Array, h: Array, c: Array, s: Array, m: Array) -> list[Array]:
    n, k, e = h.shape[1], s.shape[1], p["Z_h"].shape[0] // 4
    total = np.concatenate([h, x], 1) @ p["W_s"].T + s @ p["R_s"].T
    i, f, g, o = (
        normalised(total[:, j * k : (j + 1) * k]) * block(p["gain_s"], j, k) + block(p["b_s"], j, k) for j in range(4)
    )
    m = logistic(f) * m + logistic(i) * np.tanh(g)
    s = logistic(o) * np.tanh(normalised(m) * p["gain_m"] + p["b_m"])
    gates = []
    for j in range(4):
        d_h = (s @ block(p["Z_h"], j, e).T + block(p["b_h"], j, e)) @ p["D_h"][j].T
        d_x = (s @ block(p["Z_x"], j, e).T + block(p["b_x"], j, e)) @ p["D_x"][j].T
        d_b = (s @ block(p["Z_b"], j, e).T) @ p["D_b"][j].T + block(p["b"], j, n)
        y = d_h * (h @ block(p["R"], j, n).T) + d_x * (x @ block(p["W"], j, n).T) + d_b
        gates.append(normalised(y) * block(p["gain"], j, n) + block(p["b_g"], j, n))
    i, f, g, o = gates
    c = logistic(f) * c + logistic(i) * np.tanh(g)
    return [logistic(o) * np.tanh(normalised(c) * p["gain_c"] + p["b_c"]), c, s, m]


def lif(p: Weights, x: Array, s: Array, u: Array, i: Array) -> list[Array]:
    u, i = 0.9 * u + i - s, 0.82 * i + x @ p["W"].T + s @ p["R"].T
    return [(u > 1.0).astype(np.float64), u, i]


def low_rank_rnn(p: Weights, x: Array, v: Array) -> list[Array]:
    J = p["M"] @ p["N"] / v.shape[1]
    v = 0.8 * v + 0.2 * (np.tanh(v) @ J.T + x @ p["W"].T)
    return [v, np.tanh(v)]


def ltc(p: Weights, x: Array, h: Array) -> list[Array]:
    tau, length = 1.0 / np.log1p(np.exp(p["leak"])), p["dt"] / 6
    for _ in range(6):
        f = logistic(x @ p["W"].T + h @ p["R"].T + p["b"])
        h = (h + length * f * p["A"]) / (1.0 + length * (1.0 / tau + f))
    return [h]


def cfc(p: Weights, x: Array, h: Array) -> list[Array]:
    n = h.shape[1]
    shared = 1.7159 * np.tanh(0.6666666666666666 * (x @ p["W"].T + h @ p["R"].T + p["b"]))
    f, g, after = (shared @ block(p["V"], k, n).T + block(p["c"], k, n) for k in range(3))
    near = 1.0 / (1.0 + np.exp(f * p["dt"]))
    return [near * np.tanh(g) + (1.0 - near) * np.tanh(after)]


def gru_d(p: Weights, x: Array, h: Array, last: Array) -> list[Array]:
    n, seen = h.shape[1], p["seen"] > 0.5
    kept = np.exp(-np.maximum(0.0, p["dt"] * p["d_x"] + p["b_x"]))
    h = h * np.exp(-np.maximum(0.0, p["dt"] @ p["d_h"].T + p["b_h"]))
    filled = np.where(seen, x, kept * last + (1.0 - kept) * p["mean"])
    r, z, candidate = (filled @ block(p["W"], k, n).T + p["seen"] @ block(p["V"], k, n).T + block(p["b"], k, n)
                       for k in range(3))  # fmt: skip
    r, z = logistic(r + h @ block(p["R"], 0, n).T), logistic(z + h @ block(p["R"], 1, n).T)
    candidate = np.tanh(candidate + (r * h) @ p["R_n"].T)
    return [(1.0 - z) * h + z * candidate, np.where(seen, x, last)]


def ctrnn(p: Weights, x: Array, v: Array) -> list[Array]:
    rates = np.maximum(v, 0.0)
    v = 0.8 * v + 0.2 * (rates @ p["R"].T + x @ p["W"].T + p["b"]) + np.sqrt(0.4) * 0.15 * p["jitter"]
    return [v, np.maximum(v, 0.0)]


def attention_gru(p: Weights, x: Array, h: Array) -> list[Array]:
    n, read = h.shape[1], np.zeros((len(x), p["memory"].shape[2]))
    for b, (rows, is_there) in enumerate(zip(p["memory"], p["memory_mask"] > 0, strict=True)):
        energies = np.array([p["v"] @ np.tanh(p["W_a"] @ h[b] + p["U_a"] @ row) for row in rows[is_there]])
        weights = np.exp(energies - energies.max(initial=0.0))
        read[b] = weights @ rows[is_there] / max(weights.sum(), 1e-300)
    of_x = [x @ block(p["W"], k, n).T + read @ block(p["C"], k, n).T + block(p["b"], k, n) for k in range(3)]
    r, z = (logistic(of_x[k] + h @ block(p["R"], k, n).T) for k in range(2))
    h = (1.0 - z) * h + z * np.tanh(of_x[2] + (r * h) @ p["R_n"].T)
    return [h, h, read]


def convolved(x: Array, kernel: Array) -> Array:
    """Return the convolution of images [B, C, P, Q] with a kernel [C', C, k, k], zeros around them."""
    reach, (height, width) = kernel.shape[2] // 2, x.shape[2:]
    wide = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    found = np.zeros((len(x), len(kernel), height, width))
    for i in range(kernel.shape[2]):
        for j in range(kernel.shape[3]):
            found += np.einsum("bcpq,dc->bdpq", wide[:, :, i : i + height, j : j + width], kernel[:, :, i, j])
    return found


def conv_lstm(p: Weights, x: Array, h: Array, c: Array) -> list[Array]:
    image = x.reshape(len(x), -1, *h.shape[2:])
    total = convolved(image, p["W"]) + convolved(h, p["R"]) + p["b"][:, None, None]
    i, f, g, o = (total[:, k * h.shape[1] : (k + 1) * h.shape[1]] for k in range(4))
    i, f = logistic(i + p["p_i"] * c), logistic(f + p["p_f"] * c)
    c = f * c + i * np.tanh(g)
    h = logistic(o + p["p_o"] * c) * np.tanh(c)
    return [h, c, h.reshape(len(h), -1)]


REFERENCES: dict[str, Callable[..., list[Array]]] = {
    "elman": elman,
    "elman-relu": elman_relu,
    "lstm": lstm,
    "peephole-lstm": peephole,
    "coupled-lstm": coupled,
    "projected-lstm": projected,
    "conv-lstm": conv_lstm,
    "layer-norm-lstm": layer_norm_lstm,
    "gru": gru,
    "reset-before-gru": reset_before_gru,
    "attention-gru": attention_gru,
    "minimal-gated-unit": minimal,
    "indrnn": indrnn,
    "multiplicative-lstm": multiplicative_lstm,
    "hyper-lstm": hyper_lstm,
    "recurrent-highway": recurrent_highway,
    "fastgrnn": fastgrnn,
    "sru": sru,
    "lif": lif,
    "low-rank-rnn": low_rank_rnn,
    "ctrnn": ctrnn,
    "ltc": ltc,
    "cfc": cfc,
    "gru-d": gru_d,
    "lmu": lmu,
    "cornn": cornn,
    "lru": lru,
    "rg-lru": rg_lru,
    "min-gru": min_gru,
    "min-lstm": min_lstm,
    "fast-weights": fast_weights,
    "linear-attention": linear_attention,
    "retnet": retnet,
    "deltanet": deltanet,
    "mlstm": mlstm,
    "slstm": slstm,
    "gla": gla,
    "mamba-2": mamba2,
    "gated-deltanet": gated_deltanet,
    "rwkv-7": rwkv7,
}


def over_time(name: str, p: Weights, x: Array, states: list[Array], told: Weights) -> tuple[Array, list[Array]]:
    """Run the reference over x [T, B, I]; return the outputs and the last states.

    A step gives the states and then the outputs, where these are none of them. told: what each step reads besides, by
    name: inputs and noise [T, B, n].
    """
    count, outputs = len(states), []
    for t, x_t in enumerate(x):
        results = REFERENCES[name](p | {key: value[t] for key, value in told.items()}, x_t, *states)
        states = results[:count]
        outputs.append(np.concatenate(results[count:], 1) if len(results) > count else results[0])
    return np.stack(outputs), states
