"""Where output goes: figures into files or onto the terminal, pages into files, a run into a new folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from everloop.cli.options import write
from everloop.draw import Figure
from everloop.draw.figure import check_file
from everloop.draw.scene import Theme
from everloop.errors import OptionError


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


def page_path(path: Path) -> Path:
    """Return a path that may hold a page.

    Raises:
        OptionError: it ends as another kind of file.
    """
    if path.suffix not in (".html", ".htm"):
        raise OptionError(f"out is {path}; expected a name that ends in .html")
    return path


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make `path`, or the first of path-2, path-3, … that nobody has, and remove it if nothing is written there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found, number = path, 1
    while not _made(found):
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    try:
        yield found
    finally:
        if found.is_dir() and not any(found.iterdir()):
            found.rmdir()


def _made(folder: Path) -> bool:
    """Make a folder, and return whether it was not there before."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True
