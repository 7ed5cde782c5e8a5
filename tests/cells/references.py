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


REFERENCES: dict[str, Callable[..., list[Array]]] = {
    "elman": elman,
    "elman-relu": elman_relu,
    "lstm": lstm,
    "peephole-lstm": peephole,
    "coupled-lstm": coupled,
    "projected-lstm": projected,
    "layer-norm-lstm": layer_norm_lstm,
    "gru": gru,
    "reset-before-gru": reset_before_gru,
    "minimal-gated-unit": minimal,
    "indrnn": indrnn,
}


def over_time(name: str, p: Weights, x: Array, states: list[Array]) -> tuple[Array, list[Array]]:
    """Run the reference over x [T, B, I]; return the outputs and the last states."""
    outputs = []
    for x_t in x:
        states = REFERENCES[name](p, x_t, *states)
        outputs.append(states[0])
    return np.stack(outputs), states
