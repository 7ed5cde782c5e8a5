"""`everloop report RUN`: all that is known of a run as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from everloop.cli.options import CheckpointOptions, parse, write
from everloop.cli.output import page_path
from everloop.data.files import write_atomically
from everloop.errors import RunError
from everloop.report.report import report


@dataclass(frozen=True)
class Options:
    """The options of `everloop report`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    out: Path | None = None
    """The file to write, or to replace; by default report.html in the run folder."""
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)


def main(args: Sequence[str]) -> int:
    """Run `everloop report`."""
    description = "Write all that is known of a run as one HTML page, which needs no other file and no network."
    options = parse(Options, args, command="report", description=description)
    path = page_path(options.out or options.run / "report.html")
    opened = options.checkpoint.opened(options.run)
    page = report(opened).encode()
    try:
        write_atomically(path, page)
    except OSError as error:
        said = f"{path} cannot be written: {error.strerror}"
        raise RunError(f"{said}; name {'another file' if options.out else 'a file elsewhere'} with --out") from None
    write(f"{path}\n")
    return 0
