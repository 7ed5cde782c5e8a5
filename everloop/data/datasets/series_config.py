"""How series over time are read, as a user says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from everloop.data.datasets.calendar import Cycle
from everloop.data.error_policy import Malformed
from everloop.data.readers.time_series import Table
from everloop.errors import OptionError


@dataclass(frozen=True)
class SeriesConfig:
    """Which series are read, and how."""

    train: tuple[Path, ...] = ()
    """CSV, TSV or JSON lines with a row a time step, of one series or, with `group`, of several; all splits are cut
    from it. Several files without `group` are a series each."""
    format: str = "auto"
    """What the file is: csv, tsv, semicolons, jsonl, json or parquet; by default as its name ends."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a TSV or CSV file that has no header."""
    series: tuple[str, ...] = ()
    """Columns to forecast; an empty cell, or NA, is a missing number."""
    group: tuple[str, ...] = ()
    """Columns that tell the series of a long table apart, such as store and item."""
    covariates: tuple[str, ...] = ()
    """Further columns of numbers that help; they are known as far as the series are."""
    planned: tuple[str, ...] = ()
    """Further columns of numbers that are known for the steps to come too: plans, prices, a calendar of your own."""
    static: tuple[str, ...] = ()
    """Columns of words that do not change within a series, such as station or region, and that the model knows."""
    time: tuple[str, ...] = ()
    """Column with the time of each row (such as 2016-07-01 00:00:00), or several with its parts (year month day hour);
    rows are sorted by it, and steps without a row are missing."""
    calendar: tuple[Cycle, ...] = ()
    """What the model knows of the time, also of the time to come."""
    split: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Fractions of the rows of each series for training, validation and test, in this order; numbers above 1 count
    rows."""
    malformed: Malformed = "stop"
    """What to do with a malformed line; skip leaves its step missing, or without `time` a gap that no window reaches
    across."""
    one_series: bool = False
    """Take the rows as one series, though several have the same time, or a column looks like several series."""

    def table(self, numbers: tuple[str, ...]) -> Table:
        """Return how these columns are read."""
        return Table(numbers, self.time, self.columns, self.group, self.one_series, self.static)


def columns_of(config: SeriesConfig) -> tuple[str, ...]:
    """Return the columns of numbers: series, covariates, what is planned.

    Raises:
        OptionError: there is no series, the column of the time is missing, or one is named for two things.
    """
    if not config.series:
        raise OptionError("no series named; say which columns are to be forecast with --series COLUMN…")
    if config.calendar and not config.time:
        raise OptionError("calendar needs the column of the time; name it with --time COLUMN")
    numbers = (*config.series, *config.covariates, *config.planned)
    words = {*config.group, *config.static}  # a series may be told apart by what the model knows of it
    named = (*numbers, *config.time, *words)
    if twice := [name for name in named if named.count(name) > 1]:
        expected = "each once among --series, --covariates, --planned, --time, and --group or --static"
        raise OptionError(f"column {twice[0]} is named twice; expected {expected}")
    return numbers
