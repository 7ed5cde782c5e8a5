"""`everloop score RUN FILE`: how probable a language model finds each line of a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from everloop.cli.options import machine, parse, write
from everloop.data.parallel import read_lines
from everloop.errors import DataError, RunError
from everloop.models import LanguageModel, load


@dataclass(frozen=True)
class Options:
    """What `everloop score` can be told."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of a language model."""
    file: Annotated[Path, tyro.conf.Positional]
    """Text with a sentence a line; - reads standard input."""
    context: str = "\n"
    """What stands before each sentence; it is read, not scored."""
    malformed: Literal["stop", "skip"] = "stop"
    """What to do with a line that has a symbol the model does not know."""
    weights: Literal["best", "last"] = "best"
    """The weights of the best validation, or the last ones."""
    threads: int = 1
    """Processor threads; 0: as many as PyTorch takes."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""


def main(args: Sequence[str]) -> int:
    """Run `everloop score`: for each line its log-probability (natural), its symbols and itself, between tabs."""
    given = parse(Options, args, command="score", description="Tell how probable a language model finds each line.")
    device = machine(given.threads, given.device)
    model = load(given.run, given.weights)
    if not isinstance(model, LanguageModel):
        raise RunError(f"{given.run} holds a {model.kind}; expected a language model")
    model.to(device)
    skipped = 0
    for number, line in enumerate(_lines(given.file), 1):
        if not line.strip():
            continue
        try:
            score = model.score(line, given.context)
        except DataError as error:
            if given.malformed == "stop":
                raise DataError(f"{given.file}: line {number}: {error}; --malformed skip leaves it out") from None
            skipped += 1
            continue
        write(f"{-score.nats:.4f}\t{score.count}\t{line}\n")
    if skipped:
        sys.stderr.write(f"{given.file}: left out {skipped} lines with unknown symbols\n")
    return 0


def _lines(file: Path) -> Iterator[str]:
    if str(file) == "-":
        yield from (line.rstrip("\n") for line in sys.stdin)
    else:
        yield from read_lines(file)
