"""`everloop evaluate RUN FILE`: how good a trained model is on labelled data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from everloop.cli.figures import print_notes, told
from everloop.cli.options import machine, parse, write
from everloop.cli.predict import part_of
from everloop.data.faults import Malformed
from everloop.models import load
from everloop.train import evaluate


@dataclass(frozen=True)
class Options:
    """What `everloop evaluate` can be told."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of any model but a language model."""
    file: Annotated[Path | None, tyro.conf.Positional] = None
    """Labelled data, in the form that the model was trained on; without it, a part of the model's own data."""
    labels: Path | None = None
    """IDX file with the labels of images, or the translations of the file's lines."""
    part: Literal["train", "valid", "test"] = "test"
    """Which part of the model's own data."""
    batch: int = 64
    """Sequences in a batch."""
    malformed: Malformed = "stop"
    """What to do with a malformed line: stop, or skip and count it."""
    weights: Literal["best", "last"] = "best"
    """The weights of the best validation, or the last ones."""
    threads: int = 0
    """Processor threads; 0: as many as PyTorch takes."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""


def main(args: Sequence[str]) -> int:
    """Run `everloop evaluate`: one line with the figures, and on standard error what was read."""
    options = parse(Options, args, command="evaluate", description="Tell how good a trained model is.")
    device = machine(options.threads, options.device)
    module, config = part_of(options.run)
    config = replace(config, malformed=options.malformed)
    model = load(options.run, options.weights).to(device)
    data = module.given(model, config, options.file, options.labels) if options.file else module.own(model, config)
    part = "test" if options.file else options.part
    print_notes(data, options.batch, part)
    write(told(evaluate(model, data, part, batch=options.batch), model) + "\n")
    if hasattr(module, "decoded"):
        write(module.decoded(model, data, part) + "\n")
    return 0
