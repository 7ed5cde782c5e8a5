"""`everloop predict RUN FILE`: what a trained model says about new data, as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.text import Text as Line

from everloop.cli import fetch
from everloop.cli.asked import Asked
from everloop.cli.kinds import MODULES
from everloop.cli.options import Trained, parse, write
from everloop.cli.source import Source
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.settings import from_table
from everloop.errors import OptionError, RunError, unknown
from everloop.models.run import read_config


@dataclass(frozen=True)
class Options:
    """What `everloop predict` can be told."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of any model but a language model."""
    file: Annotated[Path, tyro.conf.Positional] = Path("-")
    """What to read; - is standard input. For a transcriber a WAV file, a folder of them, or a list of their names."""
    form: str = "auto"
    """What the file is: text, tsv, csv, jsonl, conllu, ts, npz or idx; by default as its name ends, or text."""
    batch: int = 0
    """Sequences that are read before something is written; 0: one from standard input, 64 from a file."""
    malformed: Malformed = "stop"
    """What to do with a malformed line: stop, or skip and count it."""
    trained: Trained = field(default_factory=Trained)
    asked: Asked = field(default_factory=Asked)


def main(args: Sequence[str]) -> int:
    """Run `everloop predict`: each answer is written as soon as it is known."""
    description = "Tell what a trained model says about each sequence of a file or of standard input."
    options = parse(Options, args, command="predict", description=description)
    if options.batch < 0:
        raise OptionError(f"batch is {options.batch}; expected 0 or more")
    module, config = part_of(options.run)
    if not hasattr(module, "predict"):
        verbs = f"everloop sample, tree or score {quote(str(options.run))}"
        raise RunError(f"{options.run} holds a {module.KIND}, which goes on writing: {verbs}")
    asked = replace(options.asked, trust_code=options.trained.trust_code)
    asked.check(module.KIND, module.TAKES)
    model = options.trained.model(options.run)
    errors = ErrorPolicy(options.malformed)
    source = Source(options.file, options.form, asked.columns, options.batch, errors)
    with torch.inference_mode():
        for line in module.predict(model, config, source, asked):
            write(line)
    console, (read, strange) = Console(stderr=True), source.counts
    if strange:
        console.print(Line(f"{strange:,} of {read:,} symbols unknown ({strange / read:.2%})", "dim"), soft_wrap=True)
    if errors.skipped:
        console.print(Line(str(errors), "yellow"), soft_wrap=True)
    return 0


def part_of(run: Path) -> tuple[Any, Any]:
    """Return (the module of a run's kind, how its data was read).

    Raises:
        RunError: no run folder, or one of an unknown kind.
    """
    tables = read_config(run)
    kind = tables["model"]["kind"]
    if kind not in MODULES:
        raise RunError(f"{run / 'config.toml'}: {unknown('kind of model', str(kind), MODULES)}")
    module = fetch(MODULES[kind])
    return module, from_table(type(module.Options().data), tables.get("data", {}), f"{run / 'config.toml'} [data]")
