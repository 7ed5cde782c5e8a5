"""The reference of all public names, from their docstrings; `make docs` writes it into build/docs."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pdoc

MODULES = (
    "everloop",
    "everloop.data",
    "everloop.models",
    "everloop.train",
    "everloop.decode",
    "everloop.diagnose",
    "everloop.draw",
    "everloop.errors",
    "everloop.compiler.target",
)


def build(folder: Path) -> None:
    """Write the pages; whatever pdoc warns of is an error."""
    pdoc.render.configure(docformat="google", show_source=False, footer_text="Everloop")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The __init__ of a dataclass has the annotations of its bases as text, which only their own files can resolve.
        warnings.filterwarnings("ignore", r"Error parsing type annotation .*\.__init__\.", UserWarning)
        pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
