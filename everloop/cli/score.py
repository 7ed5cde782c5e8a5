"""`everloop score RUN FILE`: how probable a language model finds each line of a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from everloop.cli.figures import note_unknown
from everloop.cli.options import CheckpointOptions, parse, write
from everloop.data.error_policy import AS_TRAINED, ErrorPolicy, Malformed
from everloop.decode.writer import unknown_symbols
from everloop.errors import DataError, RunError
from everloop.kinds.source import PredictSource
from everloop.models.run import RunConfig


@dataclass(frozen=True)
class Options:
    """The options of `everloop score`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of a language model."""
    file: Annotated[Path, tyro.conf.Positional]
    """Text with a sentence a line, or a table (JSON lines, Parquet, CSV, TSV) with one a row; - is standard input."""
    format: str = "auto"
    """What the file is: text, jsonl, json, parquet, csv, tsv or semicolons; by default as its name ends, or text."""
    context: str | None = None
    """What stands before each sentence; it is read, not scored. By default the end of a document, or of a line."""
    malformed: Malformed = "stop"
    """What to do with a line that is not UTF-8, or has a character for which an older model has no number; unknown
    symbols are scored as one and the same."""
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)


def main(args: Sequence[str]) -> int:
    """Run `everloop score`: for each line its log-probability (natural), its symbols and itself, between tabs.

    The answer to an empty line, or to a malformed one that is left out, is an empty line.
    """
    options = parse(Options, args, command="score", description="Tell how probable a language model finds each line.")
    run = RunConfig.read(options.run)
    kind = options.checkpoint.kind(run)
    if kind.scorer is None:
        raise RunError(f"{options.run} holds a {kind.name}; expected a language model, or another that scores texts")
    model = options.checkpoint.model(run)
    scored = kind.scorer(model, options.context)
    note_unknown(model, options.context or "")
    errors = ErrorPolicy(options.malformed, column_advice=AS_TRAINED)
    source = PredictSource(options.file, options.format, (), 0, errors)
    config = run.settings("data", kind.data_config)
    named = getattr(config, "text_column", "text"), getattr(config, "columns", ())
    read, missing = 0, 0
    for number, line in source.texts(*named):
        try:
            score = scored(line) if line.strip() else None
        except DataError as error:
            errors.report(source.place, number, str(error), "symbols that the model knows")
            score = None
        if score is None:
            write("\n")
            continue
        missing += len(unknown_symbols(model, line))
        read += score.count
        write(f"{-score.nats:.4f}\t{score.count}\t{line}\n")
    if missing:
        few = f"{missing:,} of {read:,} {model.target}s unknown ({missing / read:.2%})"
        sys.stderr.write(f"{few}, scored as one and the same\n")
    if errors.skipped:
        sys.stderr.write(f"{errors}\n")
    return 0
