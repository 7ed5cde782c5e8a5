"""`everloop compare RUN RUN …`: what tells several runs apart as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from everloop.cli.options import CheckpointOptions, parse, write
from everloop.cli.output import page_path
from everloop.data.files import write_atomically
from everloop.report.compare import compare


@dataclass(frozen=True)
class Options:
    """The options of `everloop compare`."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, at least two."""
    out: Path = Path("compare.html")
    """The file to write, or to replace."""
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)


def main(args: Sequence[str]) -> int:
    """Run `everloop compare`."""
    description = "Write what tells several runs apart as one HTML page: figures, losses, settings."
    options = parse(Options, args, command="compare", description=description)
    path = page_path(options.out)
    write_atomically(path, compare([options.checkpoint.opened(run) for run in options.runs]).encode())
    write(f"{path}\n")
    return 0
