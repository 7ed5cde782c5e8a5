"""Layers against torch.nn, the eager loop and ONNX Runtime: one table of ratios, peers alternating in one process.

A ratio is the time of the peer divided by ours: above 1 we are faster. Packing, input and weight products included.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.onnx_peer import onnx_session
from benchmarks.timing import SHAPES, alternate, geometric_mean, machine, statistic_option, table
from everloop import cells
from everloop.layers import Recurrent

TWINS: dict[str, type[nn.Module]] = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
VARIANTS = ("peephole-lstm", "layer-norm-lstm", "reset-before-gru", "minimal-gated-unit")
ONNX = ("lstm", "gru", "peephole-lstm")
PEERS = ("torch.nn", "own lstm", "eager loop", "onnxruntime")


def inference(layer: nn.Module, x: Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return layer(x)

    return call


def training(layer: nn.Module, x: Tensor) -> Callable[[], object]:
    x = x.clone().requires_grad_()
    gradient = torch.randn(layer(x)[0].shape)

    def call() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        torch.autograd.backward(layer(x)[0], gradient)

    return call


MODES: dict[str, Callable[[nn.Module, Tensor], Callable[[], object]]] = {"inference": inference, "training": training}


def products(cell: nn.Module) -> int:
    """Return the multiplications of one step of one sequence in products with matrices."""
    return sum(p.numel() for p in cell.parameters() if p.dim() == 2)


def measure(
    name: str, shape: tuple[int, int, int], mode: str, rounds: int, statistic: str, wanted: Collection[str] = PEERS
) -> dict[str, Any]:
    """Return the milliseconds of ours and the ratio of each of the `wanted` peers for one cell, shape and mode."""
    batch, steps, hidden = shape
    x = torch.randn(steps, batch, hidden)
    ours = Recurrent(cells.named(name)(hidden, hidden))
    run = MODES[mode]
    peers = {"ours": run(ours, x)}
    if name in TWINS and "torch.nn" in wanted:
        peers["torch.nn"] = run(TWINS[name](hidden, hidden), x)
    if name not in TWINS and "own lstm" in wanted:
        peers["own lstm"] = run(Recurrent(cells.LSTM(hidden, hidden)), x)
    if name not in TWINS and "eager loop" in wanted:
        peers["eager loop"] = run(Recurrent(ours.cell, target="eager"), x)
    if name in ONNX and mode == "inference" and "onnxruntime" in wanted:
        session = onnx_session(name, ours.cell, x)
        peers |= {} if session is None else {"onnxruntime": session}
    seconds = alternate(peers, rounds=rounds, statistic=statistic)
    result: dict[str, Any] = {"ms": seconds["ours"] * 1e3}
    result |= {peer: seconds[peer] / seconds["ours"] for peer in seconds if peer != "ours"}
    if "own lstm" in result:
        scale = products(ours.cell) / products(cells.LSTM(hidden, hidden))
        result["own lstm"] = 1 / (result["own lstm"] * scale)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="*", default=[*TWINS, *VARIANTS], choices=cells.names())
    parser.add_argument("--modes", nargs="*", default=[*MODES], choices=[*MODES])
    parser.add_argument("--shapes", nargs="*", type=int, default=range(len(SHAPES)), help="indices of SHAPES")
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS, help="the eager loop takes longest")
    statistic_option(parser)
    options = parser.parse_args()
    print(f"{machine()}; {options.statistic} of {options.rounds} rounds")
    print("torch.nn, eager loop, onnxruntime: time of the peer / ours, above 1 is faster.")
    print("own lstm: our time per multiplication of the products / that of our LSTM, below 1.25 is the goal.\n")
    for mode in options.modes:
        for name in options.cells:
            shapes = [SHAPES[index] for index in options.shapes]
            how = (mode, options.rounds, options.statistic, options.peers)
            rows = [(shape, measure(name, shape, *how)) for shape in shapes]
            peers = [key for key in rows[0][1] if key != "ms"]
            lines: list[list[object]] = [
                [", ".join(map(str, shape)), r["ms"], *(r[p] for p in peers)] for shape, r in rows
            ]
            means = [geometric_mean(r[p] for _, r in rows) for p in peers]
            lines.append(["geometric mean", "", *means])
            print(f"### {name}, {mode}\n\n" + table(["B, T, H", "ours ms", *peers], lines) + "\n", flush=True)


if __name__ == "__main__":
    main()
