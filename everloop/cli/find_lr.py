"""`everloop find-lr KIND`: the learning-rate range test, with its curve and a suggestion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from everloop.cli.options import find_kind, note, select_device, write
from everloop.cli.output import Output
from everloop.cli.train import fresh, paths_exist, read_options, usage
from everloop.draw.curves import Curve, draw_curves
from everloop.train.find_lr import checked_highest, find_lr

ITS_OWN = ("steps", "validate", "early_stop")  # the test has them whatever is given


@dataclass(frozen=True)
class FindOptions:
    """The options of every `everloop find-lr KIND`; beside them a kind has those of `everloop train KIND`."""

    lowest: float = 1e-6
    """The lowest learning rate that is tried."""
    highest: float | None = None
    """The highest; by default 1, with SGD 100."""
    tries: int = 100
    """Steps, at most."""
    config: Path | None = None
    """TOML file with tables [data], [model], [train]; options on the command line come on top."""
    threads: int = 0
    """Processor threads; 0: as many as PyTorch takes."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""
    trust_code: bool = False
    """Whether the Python file of a cell that --config names may run; one given with --cell may anyway."""
    output: Output = field(default_factory=Output)


def main(args: Sequence[str]) -> int:
    """Run `everloop find-lr`: nothing is kept but the figure."""
    if not args or args[0] in ("-h", "--help"):
        return usage("find-lr", args)
    kind = find_kind(args[0])
    options, _ = read_options(kind, args[1:], "find-lr", FindOptions)
    highest = checked_highest(options.train, options.lowest, options.highest, options.tries)  # before data is read
    device = select_device(options.threads, options.device)
    paths_exist(options.data)
    options.output.check()
    torch.manual_seed(options.train.seed)
    model, data, options = fresh(kind, options, args[1:], stay=ITS_OWN)
    note(f"up to {options.tries} steps of {model.kind} {model.config}, from {options.lowest:g} upwards")
    span = {"lowest": options.lowest, "highest": highest, "tries": options.tries}
    found = find_lr(model.to(device), data, options.train, **span)
    curve = Curve([math.log10(rate) for rate in found.rates], found.smooth)
    figure = draw_curves(
        {"loss": curve},
        title="Learning-rate range test",
        x_label="log10 of the learning rate",
        y_label=f"loss ({model.measure} per {model.target})",
        from_zero=False,
    )
    write(f"{found}\n")
    options.output.take(figure)
    return 0
