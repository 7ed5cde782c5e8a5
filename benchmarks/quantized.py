"""One streamed step in 8 bits, B = 1: `quantize(layer).step` beside the layer in float32 and its peers in 8 bits.

ONNX Runtime's DynamicQuantizeLSTM and torch.ao's dynamic quantization of nn.LSTM; neither has a GRU in one operator.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.onnx_peer import onnx_session
from benchmarks.timing import alternate, machine, statistic_option, table
from everloop import cells, quantize
from everloop.layers import Recurrent

SMALL = 0.02  # how far a peer in 8 bits may be from the same layer in float32
CELLS = {"lstm": cells.LSTM, "gru": cells.GRU, "elman": cells.Elman}


def peers(name: str, hidden: int) -> dict[str, Callable[[], object]]:
    """Return one call of a single step for each peer."""
    layer, x = Recurrent(CELLS[name](hidden, hidden)).eval(), torch.randn(1, hidden)
    small = quantize(layer)
    state = layer.step(x)[1]
    calls: dict[str, Callable[[], object]] = {
        "int8": lambda: small.step(x, state),
        "float32": lambda: layer.step(x, state),
    }
    if name != "lstm":
        return calls
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.ao will move
        dynamic: Any = torch.ao.quantization.quantize_dynamic
        own = nn.LSTM(hidden, hidden)
        theirs = dynamic(nn.Sequential(own), {nn.LSTM}, dtype=torch.qint8)[0]  # only what is inside is converted
    assert isinstance(theirs, torch.ao.nn.quantized.dynamic.LSTM)
    y, pair = theirs(x[None])
    torch.testing.assert_close(y, own(x[None])[0], rtol=0, atol=SMALL)
    calls["torch.ao int8"] = lambda: theirs(x[None], pair)
    session = onnx_session(name, layer.cell, x[None], is_quantized=True)
    return calls if session is None else calls | {"onnxruntime int8": session}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    statistic_option(parser)
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 256, 512, 1024])
    options = parser.parse_args()
    print(f"{machine()}; {options.statistic} of {options.rounds} rounds, microseconds\n")
    with torch.no_grad():
        for name in CELLS:
            lines: list[list[object]] = []
            for hidden in options.hidden:
                seconds = alternate(peers(name, hidden), rounds=options.rounds, statistic=options.statistic)
                ratio = seconds["int8"] / seconds["float32"]
                lines.append([hidden, *(value * 1e6 for value in seconds.values()), ratio])
            print(table([f"{name}, H", *seconds, "int8 / float32"], lines), flush=True)


if __name__ == "__main__":
    main()
