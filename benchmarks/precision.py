"""Layers in bfloat16 under autocast against `torch.nn` under the same autocast and our own float32, alternating.

A ratio is the time of the peer divided by ours in bfloat16: above 1 bfloat16 is faster. Saved is the memory that a
training step keeps for its gradient, ours in bfloat16 divided by ours in float32. `--step` times one streamed step.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.layers import MODES, TWINS
from benchmarks.timing import SHAPES, alternate, geometric_mean, machine, statistic_option, table
from everloop import cells
from everloop.layers import Recurrent

CELLS = ("lstm", "gru", "elman", "peephole-lstm")  # torch.nn's own three, and one that is only ours
STEPS = (128, 256, 512, 1024)  # H of the streamed steps
LOW = torch.bfloat16


def in_autocast(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    """Return a call that is made and runs under autocast, as a user's loop has it."""
    with torch.autocast("cpu", LOW):
        call = make()

    def run() -> object:
        with torch.autocast("cpu", LOW):
            return call()

    return run


def peers(name: str, shape: tuple[int, int, int], mode: str) -> dict[str, Callable[[], object]]:
    """Return one call of each peer for one cell, shape (B, T, H) and mode."""
    batch, steps, hidden = shape
    x, run = torch.randn(steps, batch, hidden), MODES[mode]
    layer = Recurrent(cells.named(name)(hidden, hidden))
    calls = {"bfloat16": in_autocast(lambda: run(layer, x)), "float32": run(layer, x)}
    if name in TWINS:
        theirs = TWINS[name](hidden, hidden)
        calls["torch.nn"] = in_autocast(lambda: run(theirs, x))
    return calls


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """Return the bytes that one call keeps for its gradient, parameters and x apart."""
    own = {t.untyped_storage().data_ptr() for t in (x, *layer.parameters())}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in own:
            held[memory.data_ptr()] = memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)[0]
    del y
    return sum(held.values())


def saved_share(name: str, shape: tuple[int, int, int]) -> float:
    """Return the bytes that a training step in bfloat16 keeps, divided by those of one in float32."""
    batch, steps, hidden = shape
    layer, x = Recurrent(cells.named(name)(hidden, hidden)), torch.randn(steps, batch, hidden)
    wide = saved_bytes(layer, x)
    with torch.autocast("cpu", LOW):
        return saved_bytes(layer, x) / wide


def step_peers(name: str, hidden: int) -> dict[str, Callable[[], object]]:
    """Return one call of a streamed step, B = 1, of a layer of bfloat16 and of the same one in float32."""
    layer, x = Recurrent(cells.named(name)(hidden, hidden)).eval(), torch.randn(1, hidden)
    half = Recurrent(cells.named(name)(hidden, hidden)).eval().to(LOW)
    state, low, narrow = layer.step(x)[1], half.step(x.to(LOW))[1], x.to(LOW)
    return {"bfloat16": lambda: half.step(narrow, low), "float32": lambda: layer.step(x, state)}


def sequences(asked: argparse.Namespace) -> None:
    """Print a table of whole sequences for each cell and mode."""
    for name in asked.cells:
        for mode in asked.modes:
            lines: list[list[object]] = []
            ratios: list[list[float]] = []
            for shape in (SHAPES[index] for index in asked.shapes):
                seconds = alternate(peers(name, shape, mode), rounds=asked.rounds, statistic=asked.statistic)
                ratios.append([value / seconds["bfloat16"] for value in list(seconds.values())[1:]])
                saved = [saved_share(name, shape)] if mode == "training" else []
                lines.append([", ".join(map(str, shape)), seconds["bfloat16"] * 1e3, *ratios[-1], *saved])
            heads = ["B, T, H", "bfloat16 ms", *list(seconds)[1:], *["saved"] * (mode == "training")]
            blank = [""] * (mode == "training")
            lines.append(["geometric mean", "", *map(geometric_mean, zip(*ratios, strict=True)), *blank])
            print(f"### {name}, {mode}\n\n{table(heads, lines)}\n", flush=True)


def steps(asked: argparse.Namespace) -> None:
    """Print a table of single steps in microseconds for each cell."""
    with torch.no_grad():
        for name in asked.cells:
            lines: list[list[object]] = []
            for hidden in STEPS:
                seconds = alternate(step_peers(name, hidden), rounds=asked.rounds, statistic=asked.statistic)
                ratio = seconds["float32"] / seconds["bfloat16"]
                lines.append([hidden, *(value * 1e6 for value in seconds.values()), ratio])
            print(table([f"{name}, H", *seconds, "float32 / bfloat16"], lines) + "\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="+", default=CELLS, choices=cells.names())
    parser.add_argument("--modes", nargs="+", default=[*MODES], choices=[*MODES])
    parser.add_argument("--shapes", nargs="+", type=int, default=range(len(SHAPES)), help="indices of SHAPES")
    parser.add_argument("--step", action="store_true", help="single steps in place of whole sequences")
    statistic_option(parser)
    asked = parser.parse_args()
    print(f"{machine()}; {asked.statistic} of {asked.rounds} rounds\n")
    (steps if asked.step else sequences)(asked)


if __name__ == "__main__":
    main()
