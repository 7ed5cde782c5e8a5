"""`everloop recipes`: settings for public data that come with the library, and scripts that make such data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import everloop
from everloop.cli.options import note, parse, write
from everloop.data.files import read_bytes, write_atomically
from everloop.errors import OptionError, unknown


@dataclass(frozen=True)
class Options:
    """The options of `everloop recipes`."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Recipes and scripts to copy; without a name, all are listed."""
    out: Path = Path()
    """Folder that copies are written to."""


def main(args: Sequence[str]) -> int:
    """Run `everloop recipes`: list the recipes, or copy some for `everloop train KIND --config FILE`."""
    options = parse(Options, args, command="recipes", description="List the recipes, or copy some.")
    found = {path.stem: path for ending in ("toml", "py") for path in sorted(folder().glob(f"*.{ending}"))}
    for name in options.names:
        if name not in found:
            raise OptionError(unknown("recipe", name, found))
    if not options.names:
        width = max(map(len, found))
        write("".join(f"{name:<{width}}  {about(path)}\n" for name, path in found.items()))
        note("copy one with: everloop recipes NAME")
    for name in options.names:
        copy = options.out / found[name].name
        if copy.exists():
            raise OptionError(f"{copy} is there already; choose another folder with --out")
        write_atomically(copy, read_bytes(found[name]))
        write(f"{copy}\n")
    return 0


def folder() -> Path:
    """Return the folder of the recipes: inside the installed package, or beside it in a checkout."""
    package = Path(everloop.__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def about(path: Path) -> str:
    """Return what a recipe or script is for: the first sentence of its comment, cut where it is long."""
    lines = read_bytes(path).decode("utf-8").splitlines()
    comment = lines[0].strip('"') if path.suffix == ".py" else ""
    comment = comment or " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    first = comment.partition(". ")[0]
    return first if len(first) <= 90 else f"{first[:89]}…"
