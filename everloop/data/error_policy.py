"""What to do with a malformed line, as the user chose: stop, or skip and count it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from everloop.errors import DataError, OptionError, unknown

Malformed = Literal["stop", "skip"]
AS_TRAINED = "rename it as it was in training"  # where no option names columns


@dataclass
class ErrorPolicy:
    """What to do with a malformed line: stop, or skip it. `skipped` counts those skipped, `first` describes the first.

    Args:
        malformed: "stop" raises at the first one, "skip" leaves it out and counts it.
        advice: what the error tells the user to do.
        column_advice: what it tells to do where a column is not there.
        header_advice: what it tells before that of a table whose header may be none.
    """

    malformed: Malformed = "stop"
    skipped: int = 0
    first: str = ""
    advice: str = "malformed skip leaves such lines out and counts them"
    column_advice: str = "say which one it is (--text, --label, --series, …)"
    header_advice: str = "if its first line is data, name the columns with --columns; if not, "

    def __post_init__(self) -> None:
        if self.malformed not in get_args(Malformed):
            raise OptionError(unknown("choice for malformed", self.malformed, get_args(Malformed)))

    def report(self, place: str | Path, line: int, came: str, expected: str) -> None:
        """Report a malformed line.

        Raises:
            DataError: the policy is to stop.
        """
        self.refuse(f"{place}: line {line}: {came}", expected)

    def refuse(self, came: str, expected: str) -> None:
        """Report what is malformed; `came` tells its place too.

        Raises:
            DataError: the policy is to stop.
        """
        message = f"{came}{'' if came.endswith('?') else ';'} expected {expected}"
        if self.malformed == "stop":
            raise DataError(f"{message} ({self.advice})")
        self.skipped += 1
        self.first = self.first or message

    def nothing(self, place: str | Path, expected: str) -> DataError:
        """Return the error for a place with no row, or none that is well-formed."""
        left_out = f"; {self}" if self.skipped else ""
        return DataError(f"{place} has no row; expected at least one with {expected}{left_out}")

    def __str__(self) -> str:
        if not self.skipped:
            return "no malformed line"
        return f"{self.skipped:,} malformed line{'s' if self.skipped > 1 else ''} left out; the first: {self.first}"
