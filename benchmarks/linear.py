"""The linear layer of the models beside PyTorch's: milliseconds of a product, and of it with its three gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.timing import alternate, geometric_mean, started, table
from everloop.layers.linear import Linear

ROWS = (256, 1024, 4096, 16384)
SIZES = [(512, 65), (128, 512), (512, 512), (512, 2048), (768, 256)]
"""(I, O): a head of characters, a bridge or small key, an attention, input gates, a readout."""

PEERS: dict[str, type[nn.Linear]] = {"everloop": Linear, "PyTorch": nn.Linear}


def inference(layer: nn.Linear, x: Tensor) -> Callable[[], object]:
    """Return a call without gradients."""
    return torch.no_grad()(lambda: layer(x))


def training(layer: nn.Linear, x: Tensor) -> Callable[[], object]:
    """Return a call that makes the gradients of rows, weight and bias."""
    slope = torch.randn(len(x), layer.out_features)

    def call() -> None:
        x.grad = None
        layer.zero_grad()
        torch.autograd.backward(layer(x), slope)

    return call


MODES = {"inference": inference, "training": training}


def measure(rows: int, inputs: int, outputs: int, mode: str, rounds: int, statistic: str) -> dict[str, float]:
    """Return the milliseconds of each peer."""
    x = torch.randn(rows, inputs, requires_grad=True)
    peers = {name: MODES[mode](made(inputs, outputs), x) for name, made in PEERS.items()}
    return {name: 1e3 * value for name, value in alternate(peers, rounds=rounds, statistic=statistic).items()}


def main() -> None:
    options = started(__doc__)
    lines: list[list[object]] = []
    ratios: dict[str, list[float]] = {mode: [] for mode in MODES}
    for inputs, outputs in SIZES:
        for rows in ROWS:
            line: list[object] = [f"{rows}, {inputs}, {outputs}"]
            for mode in MODES:
                found = measure(rows, inputs, outputs, mode, options.rounds, options.statistic)
                ratios[mode].append(found["PyTorch"] / found["everloop"])
                line += [*found.values(), ratios[mode][-1]]
            lines.append(line)
    heads = [f"{mode}: {name}" for mode in MODES for name in (*PEERS, "PyTorch / everloop")]
    print(table(["N, I, O", *heads], lines))
    print("\n" + "; ".join(f"{mode}: geometric mean {geometric_mean(found):.2f}" for mode, found in ratios.items()))


if __name__ == "__main__":
    main()
