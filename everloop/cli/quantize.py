"""`everloop quantize RUN --out FOLDER`: a trained model in 8 bits, as a run folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from everloop.cli.options import CheckpointOptions, parse, write
from everloop.errors import OptionError, RunError
from everloop.layers.quantized_cell import QuantizedCell
from everloop.models.kind import Kind
from everloop.models.quantized import quantize, write_quantized
from everloop.models.run import BEST, RunConfig
from everloop.models.weights import own_tensors
from everloop.train import evaluate
from everloop.train.folder import METRICS

BATCHES = 8  # on which numbers are measured


@dataclass(frozen=True)
class Options:
    """The options of `everloop quantize`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of any model."""
    out: Path
    """The folder of the quantized run; expected to be free."""
    checkpoint: CheckpointOptions = field(default_factory=lambda: CheckpointOptions(threads=0))


def main(args: Sequence[str]) -> int:
    """Run `everloop quantize`: what was proved or measured, and the size of the weights."""
    about = "Write a trained model in 8 bits, for inference: a quarter of its size."
    options = parse(Options, args, command="quantize", description=about)
    run = RunConfig.read(options.run)
    if options.out.exists():
        raise RunError(f"{options.out} is there already; expected the name of a new folder")
    kind, model = options.checkpoint.kind(run), options.checkpoint.model(run)
    if any(isinstance(part, QuantizedCell) for part in model.modules()):
        raise OptionError(f"{options.run} is in 8 bits already")
    try:
        small = quantize(model)
    except OptionError:
        small = quantize(model, _measured(run, kind, model))
    shutil.copytree(options.run, options.out, ignore=shutil.ignore_patterns("*.safetensors", METRICS, "*.lock"))
    write_quantized(options.out / BEST, small, {})
    before = sum(t.numel() * t.itemsize for t in own_tensors(model).values())
    after = (options.out / BEST).stat().st_size
    cells = [part.summary() for part in small.modules() if isinstance(part, QuantizedCell)]
    write(
        "\n\n".join([*cells, f"{options.out}: {after:,} bytes of weights, {after / before:.0%} of {before:,}"]) + "\n"
    )
    return 0


def _measured(run: RunConfig, kind: Kind, model: Any) -> Callable[[Any], Any]:
    """Return what calls a model on some of the data that the run was trained with."""
    data = kind.dataset(run.settings("data", kind.data_config), model.config, model)
    split = "valid" if "valid" in data.splits else "train"

    def some(own: Any) -> None:
        left = iter(range(BATCHES))
        evaluate(own, data, split, stop=lambda: next(left, None) is None)

    return some
