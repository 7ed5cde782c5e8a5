"""A figure: a scene that writes itself as SVG and PNG, and a graph also as Graphviz DOT, Mermaid and text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from everloop.data.files import check_writable, write_atomically
from everloop.draw.png import matplotlib, png
from everloop.draw.scene import PAGE, Scene, Theme, checked_theme
from everloop.draw.svg import svg
from everloop.errors import OptionError

ENDINGS = (".svg", ".png", ".txt")  # of files that figures are written into
GRAPH_ENDINGS = (".dot", ".mmd")  # and graphs besides


@dataclass(frozen=True)
class Figure:
    """What was drawn. `text` is its form for a terminal; `dot` and `mermaid` are empty where it is no graph.

    narrow: the same for the screen of a phone, where it is drawn otherwise there.
    """

    scene: Scene
    text: str = ""
    dot: str = ""
    mermaid: str = ""
    narrow: Figure | None = None

    def __str__(self) -> str:
        return self.text

    def svg(self, theme: Theme = "light") -> str:
        """Return the figure as SVG, for light or dark paper."""
        return svg(self.scene, checked_theme(theme))

    def inline(self) -> str:
        """Return the figure as SVG for a page whose style sheet sets the colours (`everloop.draw.scene.variables`)."""
        return svg(self.scene, PAGE)

    def png(self, theme: Theme = "light", scale: float = 2.0) -> bytes:
        """Return the figure as a PNG file, `scale` pixels for each unit of the SVG.

        Raises:
            OptionError: matplotlib is not installed.
        """
        return png(self.scene, checked_theme(theme), scale)

    @property
    def endings(self) -> tuple[str, ...]:
        """How the name of a file may end that the figure is written into."""
        return tuple(ending for ending in (*ENDINGS, *GRAPH_ENDINGS) if self._texts.get(ending, "drawn"))

    @property
    def _texts(self) -> dict[str, str]:
        return {".txt": self.text, ".dot": self.dot, ".mmd": self.mermaid}

    def write(self, path: str | os.PathLike[str], theme: Theme = "light") -> None:
        """Write the figure into a file; its ending says how: .svg, .png, .txt, and for graphs .dot, .mmd (Mermaid).

        Raises:
            OptionError: the ending is another one, or this is no graph.
        """
        file = Path(path)
        check_ending(file, self.endings)
        if file.suffix == ".png":
            write_atomically(file, self.png(theme))
        else:
            write_atomically(file, (self.svg(theme) if file.suffix == ".svg" else self._texts[file.suffix]).encode())


def check_ending(file: Path, endings: Sequence[str]) -> None:
    """Check that the name of a file ends in one of several ways.

    Raises:
        OptionError: it does not.
    """
    if file.suffix not in endings:
        found = repr(file.suffix) if file.suffix else "missing"
        raise OptionError(f"{file}: the ending is {found}; expected one of {', '.join(endings)}")


def check_file(file: Path, endings: Sequence[str] = ENDINGS) -> None:
    """Check that a figure can be written into a file, before it is computed.

    Raises:
        OptionError: its name ends in another way, or matplotlib is not installed.
        OSError: it cannot be written there.
    """
    check_ending(file, endings)
    if file.suffix == ".png":
        matplotlib()
    check_writable(file)
