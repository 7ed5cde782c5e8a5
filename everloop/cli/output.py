"""Where a figure goes: into files, or in characters onto the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from everloop.cli.options import write
from everloop.draw import Figure
from everloop.draw.figure import check_file
from everloop.draw.scene import Theme


@dataclass(frozen=True)
class Output:
    """Where a figure goes."""

    out: tuple[Path, ...] = ()
    """Files to write instead of printing the figure in characters; each ending says how: .svg, .png (needs
    matplotlib), .txt, and of cells and networks .dot (Graphviz), .mmd (Mermaid)."""
    theme: Theme = "light"
    """For light or dark paper."""

    def check(self) -> None:
        """Check that a figure that is no graph can be written into the files, before it is computed.

        Raises:
            OptionError, OSError: as `check_file` raises them.
        """
        for path in self.out:
            check_file(path)

    def take(self, figure: Figure) -> None:
        """Print the figure, or write the files."""
        for path in self.out:
            figure.write(path, self.theme)
        if not self.out:
            write(str(figure))
