"""One streamed step: `layer.step`, torch.nn.LSTMCell and ONNX Runtime, in microseconds; with gradients too.

A step with gradients is the step and the gradients of all that it reads, from the sum of its output.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.layers import MODES
from benchmarks.onnx_peer import onnx_session
from benchmarks.timing import alternate, machine, statistic_option, table
from everloop import cells
from everloop.layers import Recurrent


def peers(hidden: int, rows: int, trains: bool) -> dict[str, Callable[[], object]]:
    """Return one call of a single step for each peer; ONNX Runtime has no gradients."""
    layer, theirs, x = Recurrent(cells.LSTM(hidden, hidden)), nn.LSTMCell(hidden, hidden), torch.randn(rows, hidden)
    with torch.no_grad():
        state, pair = layer.step(x)[1], theirs(x)
    if trains:
        return {
            "ours": lambda: layer.step(x, state)[0].sum().backward(),
            "nn.LSTMCell": lambda: theirs(x, pair)[0].sum().backward(),
        }
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: layer.step(x, state),
        "nn.LSTMCell": lambda: theirs(x, pair),
    }
    session = onnx_session("lstm", layer.cell, x[None])
    return calls if session is None else calls | {"onnxruntime": session}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    statistic_option(parser)
    parser.add_argument("--rows", nargs="*", type=int, default=[1])
    parser.add_argument("--modes", nargs="*", default=["inference"], choices=[*MODES])
    options = parser.parse_args()
    print(f"{machine()}; {options.statistic} of {options.rounds} rounds")
    for mode in options.modes:
        lines: list[list[object]] = []
        for hidden in (64, 128, 256, 512):
            for rows in options.rows:
                with torch.set_grad_enabled(mode == "training"):
                    calls = peers(hidden, rows, mode == "training")
                    seconds = alternate(calls, rounds=options.rounds, statistic=options.statistic)
                ratio = seconds["nn.LSTMCell"] / seconds["ours"]
                lines.append([hidden, rows, *(value * 1e6 for value in seconds.values()), ratio])
        print(f"\n### {mode}\n\n{table(['H', 'B', *seconds, 'nn.LSTMCell / ours'], lines)}")


if __name__ == "__main__":
    main()
