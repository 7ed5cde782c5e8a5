"""One streamed step, B = 1, no gradient: `layer.step`, torch.nn.LSTMCell and ONNX Runtime, in microseconds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.onnx_peer import onnx_session
from benchmarks.timing import alternate, started, table
from everloop import cells
from everloop.layers import Recurrent


def peers(hidden: int) -> dict[str, Callable[[], object]]:
    """Return one call of a single step for each peer."""
    layer, theirs, x = Recurrent(cells.LSTM(hidden, hidden)).eval(), nn.LSTMCell(hidden, hidden), torch.randn(1, hidden)
    state, pair = layer.step(x)[1], theirs(x)
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: layer.step(x, state),
        "nn.LSTMCell": lambda: theirs(x, pair),
    }
    session = onnx_session("lstm", layer.cell, x[None])
    return calls if session is None else calls | {"onnxruntime": session}


def main() -> None:
    options = started(__doc__)
    lines: list[list[object]] = []
    with torch.no_grad():
        for hidden in (64, 128, 256, 512):
            seconds = alternate(peers(hidden), rounds=options.rounds, statistic=options.statistic)
            lines.append([hidden, *(value * 1e6 for value in seconds.values())])
    print(table(["H", *seconds], lines))


if __name__ == "__main__":
    main()
