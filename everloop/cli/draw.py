"""`everloop draw cell NAME`, `everloop draw network RUN`: figures of cells and models; `draw_run` has those of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from everloop.cells import named
from everloop.cli import and_help
from everloop.cli.draw_run import OF_RUNS, Draw
from everloop.cli.options import CheckpointOptions, find_kind, parse
from everloop.cli.output import Output
from everloop.cli.show import example
from everloop.cli.train import read_options
from everloop.data.settings import read_toml
from everloop.draw import draw_cell, draw_network
from everloop.errors import OptionError, unknown
from everloop.models.kind import BUILT_IN
from everloop.models.run import RunConfig


@dataclass(frozen=True)
class CellOptions:
    """The options of `everloop draw cell`."""

    cell: Annotated[str, tyro.conf.Positional]
    """A cell of the library (lstm, gru, peephole-lstm, …) or your own: file.py:Class."""
    output: Output = field(default_factory=Output)


@dataclass(frozen=True)
class NetworkOptions:
    """The options of `everloop draw network`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder, or the TOML configuration of a training with its data."""
    steps: int = 0
    """Time steps to draw beside each other, at least 2; 0: rolled up, with a loop at each layer."""
    trust_code: bool = False
    """Whether code that the run names may run: the file of a cell, which the run keeps, or the package of its kind."""
    output: Output = field(default_factory=Output)


def main(args: Sequence[str]) -> int:
    """Run `everloop draw`."""
    if not args or args[0] in ("-h", "--help"):
        lines = [f"    everloop draw {name:14} {does}" for name, (_, does) in SUBJECTS.items()]
        print(
            "\n".join(
                ["usage: everloop draw WHAT …", "", *lines, "", "everloop draw WHAT --help tells the options of one."]
            )
        )
        return 0 if args else 2
    if args[0] not in SUBJECTS:
        raise OptionError(and_help(unknown("subject of a figure", args[0], SUBJECTS), "draw"))
    SUBJECTS[args[0]][0](args[1:])
    return 0


def _cell(args: Sequence[str]) -> None:
    options = parse(CellOptions, args, command="draw cell", description="Draw the data flow of a cell.")
    options.output.take(draw_cell(example(named(options.cell))))


def _network(args: Sequence[str]) -> None:
    description = "Draw a model, rolled up or unrolled over time."
    options = parse(NetworkOptions, args, command="draw network", description=description)
    options.output.take(draw_network(_model(options), steps=options.steps))


def _model(options: NetworkOptions) -> Any:
    """Return the model of a run folder, or an untrained one that a configuration describes.

    Raises:
        OptionError: the configuration does not say which kind it is.
    """
    if options.run.suffix != ".toml" or options.run.is_dir():
        run = RunConfig.read(options.run)
        trusted = CheckpointOptions(trust_code=options.trust_code)
        return run.rebuild(trust_code=options.trust_code, kind=trusted.kind(run))
    name = read_toml(options.run).get("model", {}).get("kind")
    if name is None:
        raise OptionError(f"{options.run} has no kind in its table [model]; one of: {', '.join(BUILT_IN)}")
    kind = find_kind(str(name))
    trust = ["--trust-code"] if options.trust_code else []
    settings, _ = read_options(kind, ["--config", str(options.run), *trust])
    return kind.create_model(kind.dataset(settings.data, settings.model, None), settings.model)


SUBJECTS: dict[str, tuple[Draw, str]] = {
    "cell": (_cell, "the data flow of a cell: everloop draw cell lstm --out lstm.svg"),
    "network": (_network, "a model over time: everloop draw network RUN --steps 4 --out model.svg"),
    **OF_RUNS,
}
