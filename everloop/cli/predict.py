"""`everloop predict RUN FILE`: what a trained model says about new data, as it comes."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.text import Text as Line

from everloop.cli.options import machine, parse, write
from everloop.cli.source import Source
from everloop.data.faults import Faults, Malformed
from everloop.data.settings import from_table
from everloop.errors import OptionError, RunError
from everloop.models import load
from everloop.models.run import read_config

# kind -> module with `predict`, `given`, `own` and `Options`, and `decoded` where models write sequences
MODULES = {
    "tagger": "everloop.cli.tagger",
    "classifier": "everloop.cli.classifier",
    "forecaster": "everloop.cli.forecaster",
    "translator": "everloop.cli.translator",
    "transcriber": "everloop.cli.transcriber",
    "generator": "everloop.cli.generator",
}


@dataclass(frozen=True)
class Options:
    """What `everloop predict` can be told."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of any model but a language model."""
    file: Annotated[Path, tyro.conf.Positional] = Path("-")
    """What to read; - is standard input. For a transcriber a WAV file, a folder of them, or a list of their names."""
    form: str = "auto"
    """What the file is: text, tsv, csv, jsonl, conllu, ts, npz or idx; by default as its name ends, or text."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a table without a header; by default as in training."""
    batch: int = 0
    """Sequences that are read before something is written; 0: one from standard input, 64 from a file."""
    every: int = 0
    """Rows of a series after which a forecast is written; 0: one at the end."""
    malformed: Malformed = "stop"
    """What to do with a malformed line: stop, or skip and count it."""
    weights: Literal["best", "last"] = "best"
    """The weights of the best validation, or the last ones."""
    threads: int = 1
    """Processor threads; 0: as many as PyTorch takes."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""


def main(args: Sequence[str]) -> int:
    """Run `everloop predict`: each answer is written as soon as it is known."""
    description = "Tell what a trained model says about each sequence of a file or of standard input."
    options = parse(Options, args, command="predict", description=description)
    if options.batch < 0 or options.every < 0:
        raise OptionError(f"batch is {options.batch} and every is {options.every}; expected 0 or more")
    device = machine(options.threads, options.device)
    module, config = part_of(options.run)
    model = load(options.run, options.weights).to(device)
    faults = Faults(options.malformed)
    source = Source(options.file, options.form, options.columns, options.batch, options.every, faults)
    with torch.inference_mode():
        for line in module.predict(model, config, source):
            write(line)
    console, (read, strange) = Console(stderr=True), source.counts
    if strange:
        console.print(Line(f"{strange:,} of {read:,} symbols unknown ({strange / read:.2%})", "dim"), soft_wrap=True)
    if faults.skipped:
        console.print(Line(str(faults), "yellow"), soft_wrap=True)
    return 0


def part_of(run: Path) -> tuple[Any, Any]:
    """Return (the module of a run's kind, how its data was read).

    Raises:
        RunError: no run folder, or one of a kind that is not asked for predictions.
    """
    tables = read_config(run)
    kind = tables["model"]["kind"]
    if kind not in MODULES:
        raise RunError(f"{run} holds a {kind}; expected one of: {', '.join(MODULES)}")
    module = importlib.import_module(MODULES[kind])
    return module, from_table(type(module.Options().data), tables.get("data", {}), f"{run / 'config.toml'} [data]")
