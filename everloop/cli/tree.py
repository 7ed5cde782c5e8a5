"""`everloop tree RUN "prompt"`: what may come next, and how probable each continuation is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from everloop.cli.figures import note_unknown
from everloop.cli.options import CheckpointOptions, note, parse
from everloop.data.files import write_atomically
from everloop.data.settings import setting
from everloop.decode.tree import tree
from everloop.draw.tree import draw_tree, terminal
from everloop.models.run import RunConfig


@dataclass(frozen=True)
class Options:
    """The options of `everloop tree`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of a model that writes symbols."""
    prompt: Annotated[str, tyro.conf.Positional] = "\n"
    """What the model reads first: a prompt, a sentence to translate, a label."""
    width: int = 4
    """Branches of each branch."""
    depth: int = 6
    """Levels."""
    min_probability: float = setting(0.01, old="least")
    """Branches whose cumulative probability is smaller are cut."""
    svg: Path | None = None
    """Also write the tree as an SVG picture."""
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)


def main(args: Sequence[str]) -> int:
    """Run `everloop tree`."""
    options = parse(Options, args, command="tree", description="Show the most probable continuations as a tree.")
    model = options.checkpoint.model(RunConfig.read(options.run))
    note_unknown(model, options.prompt)
    found = tree(
        model, options.prompt, width=options.width, depth=options.depth, min_probability=options.min_probability
    )
    Console().print(terminal(found))
    if not found.children:
        note(f"nothing that may come next is as likely as --min-probability {options.min_probability:g}")
    if options.svg:
        write_atomically(options.svg, draw_tree(found).svg().encode())
    return 0
