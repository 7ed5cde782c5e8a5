"""`everloop experiment gradients|memory`: the experiments of the textbooks, on cells side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from everloop.cell import Cell
from everloop.cells import named
from everloop.cli import and_help
from everloop.cli.options import parse
from everloop.diagnose.experiments import (
    GAINS,
    NORM,
    PROBLEMS,
    RATE,
    UPDATES,
    VALUE,
    Make,
    gradient_experiment,
    memory_experiment,
)
from everloop.draw.curves import Curve, draw_curves
from everloop.draw.figure import Figure, check_file
from everloop.draw.scene import Theme
from everloop.errors import OptionError, unknown

USUAL = ("elman", "lstm", "gru")
BY_NORM, BY_VALUE = f"to {NORM:g}", f"≤ {VALUE:g}"
CLIPPED = (
    f"Clipping. norm: of the gradient of all weights; {BY_NORM}: clipped by norm; {BY_VALUE}: by value, which turns it;"
    f" loss: before, and after {UPDATES} updates (learning rate {RATE:g}) plain and with each."
)


@dataclass(frozen=True)
class Common:
    """What both experiments take."""

    cells: Annotated[tuple[str, ...], tyro.conf.Positional] = USUAL
    """Cells of the library, or your own as file.py:Class."""
    hidden: int = 32
    """Units of each."""
    seed: int = 0
    """Of weights and data."""
    threads: int = 1
    """Processor threads."""
    out: tuple[Path, ...] = ()
    """Files for the picture: .svg, .png (needs matplotlib), .txt."""
    theme: Theme = "light"
    """For light or dark paper."""

    def makers(self) -> dict[str, Make]:
        """Return what makes each cell.

        Raises:
            OptionError: a cell is unknown, or a number makes no sense.
        """
        if self.hidden < 1 or self.threads < 1:
            raise OptionError(f"hidden is {self.hidden} and threads {self.threads}; expected at least 1")
        torch.set_num_threads(self.threads)
        return {name.rpartition(":")[2]: partial(_made, named(name)) for name in self.cells}

    def check(self) -> None:
        """Check that the picture can be written, before it is computed.

        Raises:
            OptionError, OSError: as `check_file` raises them.
        """
        for path in self.out:
            check_file(path)

    def write(self, figure: Figure) -> None:
        """Write the picture."""
        for path in self.out:
            figure.write(path, self.theme)


def _made(kind: type[Cell], inputs: int, hidden: int) -> Cell:
    sizes: dict[str, Any] = dict.fromkeys(kind.letters(), 2)
    return kind(inputs, hidden, **sizes)


@dataclass(frozen=True)
class GradientOptions:
    """The options of `everloop experiment gradients`."""

    steps: int = 50
    """Time steps that the gradient goes back."""
    common: Common = field(default_factory=Common)


@dataclass(frozen=True)
class MemoryOptions:
    """The options of `everloop experiment memory`."""

    problem: Literal["both", "copy", "adding"] = "both"
    """copy: which of eight symbols came first, random ones in between; adding: the sum of two marked numbers."""
    lags: tuple[int, ...] = (5, 10, 20, 40)
    """Steps that must be bridged."""
    updates: int = 500
    """Updates of the weights, with 64 sequences each."""
    common: Common = field(default_factory=Common)


def main(args: Sequence[str]) -> int:
    """Run `everloop experiment`."""
    if not args or args[0] in ("-h", "--help"):
        lines = [f"    everloop experiment {name:11} {does}" for name, (_, does) in EXPERIMENTS.items()]
        print("\n".join(["usage: everloop experiment WHICH CELL …", "", *lines, ""]))
        print("everloop experiment WHICH --help tells the options of one.")
        return 0 if args else 2
    if args[0] not in EXPERIMENTS:
        raise OptionError(and_help(unknown("experiment", args[0], EXPERIMENTS), "experiment"))
    EXPERIMENTS[args[0]][0](args[1:])
    return 0


def _gradients(args: Sequence[str]) -> None:
    description = "How gradients go back in time, for small, right and large recurrent weights, and what clipping does."
    options = parse(GradientOptions, args, command="experiment gradients", description=description)
    if options.steps < 2:
        raise OptionError(f"steps is {options.steps}; expected at least 2")
    common = options.common
    common.check()
    table = Table("cell", "recurrent weights", "a step", f"over {options.steps - 1} steps", box=None)
    heads = ["norm", BY_NORM, BY_VALUE, "turned", "loss", "plain", BY_NORM, BY_VALUE]
    clipped = Table("cell", "weights", *heads, box=None, title=CLIPPED, title_style="", title_justify="left")
    curves: dict[str, Curve] = {}
    makers = common.makers()
    for row in gradient_experiment(makers, hidden=common.hidden, steps=options.steps, seed=common.seed):
        norms = row.curve.norms.tolist()
        colour, stroke = list(makers).index(row.cell), list(GAINS).index(row.gain)
        curves[f"{row.cell}, {row.gain}"] = Curve(range(len(norms)), norms, colour, stroke)
        table.add_row(row.cell, row.gain, f"× {row.curve.rate:.3f}", f"× {norms[-1]:.2g}")
        by = [f"{clipping.norm:.3g}" for clipping in row.clippings]
        turned = row.clippings[-1].turned
        ends = [f"{clipping.losses[-1]:.1f}" for clipping in row.clippings]
        angle = "–" if math.isnan(turned) else f"{turned:.0f}°"
        clipped.add_row(row.cell, row.gain, *by, angle, f"{row.clippings[0].losses[0]:.1f}", *ends)
    title = "Gradient of the last step with respect to earlier states"
    figure = draw_curves(curves, title=title, x_label="steps back", y_label="norm, beside that at lag 0", log=True)
    _show(table, figure, common)
    Console().print(clipped)


def _memory(args: Sequence[str]) -> None:
    description = "Train cells on what must be remembered over a lag, and tell how often they are right."
    options = parse(MemoryOptions, args, command="experiment memory", description=description)
    if options.updates < 1 or not options.lags:
        raise OptionError(f"updates is {options.updates} with {len(options.lags)} lags; expected at least 1 of each")
    common = options.common
    common.check()
    problems = PROBLEMS if options.problem == "both" else (options.problem,)
    sizes: Mapping[str, int] = {"hidden": common.hidden, "steps": options.updates, "seed": common.seed}
    found: dict[tuple[str, str], dict[int, float]] = {}
    chances: dict[str, float] = {}
    for row in memory_experiment(common.makers(), problems=problems, lags=options.lags, **sizes):
        found.setdefault((row.problem, row.cell), {})[row.lag] = row.accuracy
        chances[row.problem] = row.chance
    lags = sorted(options.lags)
    table = Table("problem", "right, by lag", *map(str, lags), box=None)
    curves: dict[str, Curve] = {}
    for number, problem in enumerate(problems):
        rows = {cell: right for (its, cell), right in found.items() if its == problem}
        rows["by chance"] = dict.fromkeys(lags, chances[problem])
        for colour, (cell, right) in enumerate(rows.items()):
            style = "dim" if cell == "by chance" else None
            table.add_row(problem, cell, *(f"{right[lag]:.0%}" for lag in lags), style=style)
            curves[f"{cell}, {problem}"] = Curve(lags, [right[lag] for lag in lags], colour, stroke=number)
    which = " and the ".join(problems)
    title = f"What is remembered: the {which} problem after {options.updates} updates"
    _show(table, draw_curves(curves, title=title, x_label="lag in steps", y_label="right"), common)


def _show(table: Table, figure: Figure, common: Common) -> None:
    console = Console()
    console.print(table)
    console.print(f"\n{figure}", markup=False, highlight=False, soft_wrap=True)
    common.write(figure)


Run = Callable[[Sequence[str]], None]
EXPERIMENTS: dict[str, tuple[Run, str]] = {
    "gradients": (_gradients, "vanishing, stable and exploding gradients, and what clipping changes"),
    "memory": (_memory, "the copy and the adding problem by lag, with accuracy per cell"),
}
