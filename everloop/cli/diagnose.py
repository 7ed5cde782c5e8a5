"""`everloop diagnose RUN [FILE]`: what stands out in a trained model, and the numbers behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from everloop.cli.options import CheckpointOptions, parse, write
from everloop.diagnose import Diagnosis, diagnose
from everloop.errors import OptionError


@dataclass(frozen=True)
class Options:
    """The options of `everloop diagnose`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    file: Annotated[Path | None, tyro.conf.Positional] = None
    """A file to look at the model with, in a format that `everloop evaluate` takes; by default the training split of
    the data that the run was trained with."""
    labels: Path | None = None
    """What belongs to the file in one of its own, as `everloop evaluate --labels` takes it: translations, labels of
    images, pictures of captions."""
    sequences: int = 8
    """How many sequences are run step by step."""
    json: bool = False
    """Write everything as one JSON object."""
    checkpoint: CheckpointOptions = field(default_factory=lambda: CheckpointOptions(weights="last", threads=0))


def main(args: Sequence[str]) -> int:
    """Run `everloop diagnose`."""
    description = "Tell what stands out in a trained model: gradients through time, gates, states, training."
    options = parse(Options, args, command="diagnose", description=description)
    found = diagnosed(options)
    write((json.dumps(found.as_json(), ensure_ascii=False) if options.json else str(found)) + "\n")
    return 0


def diagnosed(options: Options) -> Diagnosis:
    """Return what is found of a run.

    Raises:
        DataError: the file is missing, or the data of the run.
        OptionError: fewer than one sequence is asked for.
        RunError: the run is missing or damaged.
    """
    if options.labels and not options.file:
        raise OptionError("labels belong to a file: everloop diagnose RUN FILE --labels LABELS")
    if options.sequences < 1:
        raise OptionError(f"sequences is {options.sequences}; expected at least 1")
    opened = options.checkpoint.opened(options.run)
    if options.file:
        data, split = opened.read(options.file, options.labels)
    else:
        data, split = opened.data, "train"
    first, *further = opened.stream(data, split, options.sequences)
    return diagnose(opened.model, first, facts=opened.facts(), further=further)
