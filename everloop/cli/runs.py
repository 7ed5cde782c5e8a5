"""`everloop runs`: runs with their best figures, sorted and filtered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text as Line

from everloop.cli.options import note, parse, write
from everloop.data.files import no_such
from everloop.data.settings import old_names
from everloop.errors import DataError, OptionError, RunError, unknown
from everloop.models.run import CONFIG, RunConfig
from everloop.train.config import TrainConfig
from everloop.train.folder import METRICS, metrics_of

WIDEST = 10_000  # characters of a table
SHOWN = ("cell", "hidden", "layers", "lr", "batch")  # settings beside the figures


@dataclass(frozen=True)
class Options:
    """The options of `everloop runs`."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs"),)
    """Run folders, or folders with some below."""
    sort: str = "name"
    """name, step, or a figure of validation: the smallest loss, bits first, the largest of any other."""
    where: tuple[str, ...] = ()
    """Only runs with these settings, such as kind=tagger cell=lstm lr=0.002."""
    json: bool = False
    """As JSON, a line each, with all settings."""


@dataclass(frozen=True)
class Row:
    """A run: its name, what it was made with, and its best validation."""

    name: str
    settings: dict[str, Any]
    step: int
    best: dict[str, float]

    @property
    def progress(self) -> str:
        """How far it has come."""
        steps = self.settings.get("steps")
        return f"{self.step:,}" if self.step == steps or steps is None else f"{self.step:,} of {steps:,}"


def main(args: Sequence[str]) -> int:
    """Run `everloop runs`."""
    options = parse(Options, args, command="runs", description="List runs with their best figures.")
    rows = [row for folder in options.folders for row in rows_of(folder)]
    wanted = dict(_setting(part) for part in options.where)
    rows = [row for row in rows if all(_same(row.settings.get(name), value) for name, value in wanted.items())]
    rows = ordered(rows, options.sort)
    if options.json:
        write("".join(json.dumps(vars(row)) + "\n" for row in rows))
    elif rows:
        print_table(table(rows))
    else:
        note("no run found" + (f" with {' '.join(options.where)}" if wanted else ""))
    return 0


def print_table(found: Table) -> None:
    """Print a table; in a terminal, or a file, that is too narrow for it a run takes lines of its own."""
    console = Console()
    if Console(width=WIDEST).measure(found).maximum <= console.width:
        console.print(found)
        return
    cells = [[str(cell) for cell in column.cells] for column in found.columns]
    for name, *values in zip(*cells, strict=True):
        pairs = zip(found.columns[1:], values, strict=True)
        console.print(Line(name, "bold"), soft_wrap=True)
        console.print(Line("  " + "  ".join(f"{c.header} {v}" for c, v in pairs if v)), soft_wrap=True)


def rows_of(folder: Path) -> Iterator[Row]:
    """Yield the runs at and below a folder; one whose configuration cannot be read is told and left out."""
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; expected a folder with runs") if folder.exists() else no_such(folder)
    for path in sorted(folder.rglob(CONFIG)):
        try:
            run = RunConfig.read(path.parent)
            settings, olds = {"kind": run.kind}, old_names(TrainConfig)
            tables: list[dict[str, Any]] = [table for table in run.tables.values() if isinstance(table, dict)]
            for table in tables:
                settings |= {olds.get(name, name): value for name, value in table.items()}
            step, best = figures(path.parent / METRICS, str(settings.get("best_metric", "loss")))
        except RunError as error:
            note(str(error))
            continue
        yield Row(str(path.parent), settings, step, best)


def figures(path: Path, metric: str) -> tuple[int, dict[str, float]]:
    """Return (the last step in a file of metrics, the figures of its best validation and their step)."""
    lines = metrics_of(path)
    valid = [line for line in lines if line["split"] == "valid" and metric in line]
    best = max(valid, key=lambda line: _merit(line, metric), default={})
    step = max((line["step"] for line in lines), default=0)
    return step, {name: value for name, value in best.items() if name not in ("split", "seconds")}


def ordered(rows: Sequence[Row], by: str) -> list[Row]:
    """Return the runs, the best or furthest first; those without the figure come last.

    Raises:
        OptionError: no run has such a figure.
    """
    if by == "name":
        return sorted(rows, key=lambda row: row.name)
    if by == "step":
        return sorted(rows, key=lambda row: -row.step)
    known = dict.fromkeys(name for row in rows for name in row.best if name != "step")
    if rows and by not in known:
        raise OptionError(unknown("figure", by, ["name", "step", *known]))
    return sorted(rows, key=lambda row: (by not in row.best, -_merit(row.best, by) if by in row.best else 0.0))


def table(rows: Sequence[Row], settings: Sequence[str] = SHOWN) -> Table:
    """Return runs as a table: figures and those of the settings that any of them has."""
    names = dict.fromkeys(name for row in rows for name in row.best if name != "step")
    shown = [name for name in settings if any(name in row.settings for row in rows)]
    made = Table("run", "kind", *shown, "steps", *names, "best at", box=None)
    for row in rows:
        best = [f"{row.best[name]:.4g}" if name in row.best else "" for name in names]
        values = [str(row.settings.get(name, "")) for name in shown]
        at = f"{row.best['step']:,}" if row.best else ""
        made.add_row(*(Line(part) for part in (row.name, row.settings["kind"], *values, row.progress, *best, at)))
    return made


def _merit(line: dict[str, Any], name: str) -> float:
    return -float(line[name]) if name in ("loss", "bits") else float(line[name])


def _setting(part: str) -> tuple[str, str]:
    name, equals, value = part.partition("=")
    if not equals or not name:
        raise OptionError(f"where is {part!r}; expected NAME=VALUE, such as cell=lstm")
    return name.replace("-", "_"), value


def _same(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):
        return str(value).lower() == wanted.lower()
    if isinstance(value, int | float):
        try:
            return float(wanted) == value
        except ValueError:
            return False
    return str(value) == wanted
