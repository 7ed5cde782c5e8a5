"""`everloop draw cell NAME`: the data flow of a cell as a figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from everloop.cells import named
from everloop.cli.options import parse, write
from everloop.cli.show import example
from everloop.draw import Figure, draw_cell
from everloop.draw.scene import Theme
from everloop.errors import OptionError, unknown


@dataclass(frozen=True)
class Output:
    """Where a figure goes."""

    out: tuple[Path, ...] = ()
    """Files to write instead of printing the figure in characters; each ending says how: .svg, .png (needs
    matplotlib), .dot (Graphviz), .mmd (Mermaid), .txt."""
    theme: Theme = "light"
    """For light or dark paper."""

    def take(self, figure: Figure) -> None:
        """Print the figure, or write the files."""
        for path in self.out:
            figure.write(path, self.theme)
        if not self.out:
            write(str(figure))


@dataclass(frozen=True)
class CellOptions:
    """The options of `everloop draw cell`."""

    cell: Annotated[str, tyro.conf.Positional]
    """A cell of the library (lstm, gru, peephole-lstm, …) or your own: file.py:Class."""
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
        raise OptionError(unknown("subject of a figure", args[0], SUBJECTS) + "; everloop draw --help lists all")
    SUBJECTS[args[0]][0](args[1:])
    return 0


def _cell(args: Sequence[str]) -> None:
    options = parse(CellOptions, args, command="draw cell", description="Draw the data flow of a cell.")
    options.output.take(draw_cell(example(named(options.cell))))


Draw = Callable[[Sequence[str]], None]
SUBJECTS: dict[str, tuple[Draw, str]] = {
    "cell": (_cell, "the data flow of a cell: everloop draw cell lstm --out lstm.svg")
}
