"""`everloop predict RUN FILE`: what a trained model says about new data, as it comes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Annotated

import torch
import tyro

from everloop.cli.options import CheckpointOptions, note, parse, write
from everloop.data.error_policy import AS_TRAINED, ErrorPolicy, Malformed
from everloop.data.settings import setting
from everloop.errors import OptionError, RunError
from everloop.kinds.decoding import PredictOptions
from everloop.kinds.source import PredictSource
from everloop.models.run import RunConfig


@dataclass(frozen=True)
class Options:
    """The options of `everloop predict`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of any model but a language model."""
    file: Annotated[Path, tyro.conf.Positional] = Path("-")
    """What to read; - is standard input. For a transcriber a sound file (.wav, .flac, .ogg, .oga, .opus,
    .mp3, .aif, .aiff), a folder of them, or a list of their names; for a model that reads pictures a picture (.png,
    .jpg, .jpeg), a folder of them, or a NumPy file (.npy, .npz)."""
    format: str = setting("auto", old="form")
    """What the file is: text, tsv, csv, semicolons, jsonl, json, parquet, conllu, conll, ts, npz or idx; by default as
    its name ends, or text."""
    batch: int = 0
    """Sequences that are read before something is written; 0: one from standard input, 64 from a file."""
    malformed: Malformed = "stop"
    """What to do with a malformed line: stop, or skip and count it."""
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    answers: PredictOptions = field(default_factory=PredictOptions)


def main(args: Sequence[str]) -> int:
    """Run `everloop predict`: each answer is written as soon as it is known."""
    description = "Tell what a trained model says about each sequence of a file or of standard input."
    options = parse(Options, args, command="predict", description=description)
    if options.batch < 0:
        raise OptionError(f"batch is {options.batch}; expected 0 or more")
    run = RunConfig.read(options.run)
    kind = options.checkpoint.kind(run)
    if kind.predict is None:
        raise RunError(
            f"everloop predict is not for a {kind.name}, which {options.run} holds; "
            f"use everloop {kind.without_predict} {quote(str(options.run))}"
        )
    answers = replace(options.answers, trust_code=options.checkpoint.trust_code)
    answers.check(kind.name, kind.predict_options)
    model = options.checkpoint.model(run)
    errors = ErrorPolicy(options.malformed, column_advice=AS_TRAINED)
    source = PredictSource(options.file, options.format, answers.columns, options.batch, errors)
    if source.piped and sys.stdin.isatty():
        note("reading what you type, a line at a time (Ctrl-D ends it)")
    answered = False
    with torch.inference_mode():
        for line in kind.predict(model, run.settings("data", kind.data_config), source, answers):
            write(line)
            answered = True
    if not answered and not errors.skipped:
        note(f"{source.place} is empty: there is nothing to answer")
    for line in source.notes:
        note(line)
    read, missing = source.counts
    if missing:
        note(f"{missing:,} of {read:,} symbols unknown ({missing / read:.2%})")
    if errors.skipped:
        note(str(errors))
    return 0
