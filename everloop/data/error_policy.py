"""What happens to a malformed line: it stops the reading, or is left out and counted, as the user chose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from everloop.errors import DataError, OptionError, unknown

Malformed = Literal["stop", "skip"]


@dataclass
class Faults:
    """The malformed lines of some files: `skipped` counts them, `first` describes the first.

    Args:
        malformed: "stop" raises at the first one, "skip" counts.
        advice: what a user can do who is stopped.
    """

    malformed: Malformed = "stop"
    skipped: int = 0
    first: str = ""
    advice: str = "malformed skip leaves such lines out and counts them"

    def __post_init__(self) -> None:
        if self.malformed not in get_args(Malformed):
            raise OptionError(unknown("choice for malformed", self.malformed, get_args(Malformed)))

    def __call__(self, place: str | Path, line: int, came: str, expected: str) -> None:
        """Take note of a malformed line.

        Raises:
            DataError: malformed lines stop the reading.
        """
        message = f"{place}: line {line}: {came}; expected {expected}"
        if self.malformed == "stop":
            raise DataError(f"{message} ({self.advice})")
        self.skipped += 1
        self.first = self.first or message

    def __str__(self) -> str:
        if not self.skipped:
            return "no malformed line"
        return f"{self.skipped:,} malformed line{'s' if self.skipped > 1 else ''} left out; the first: {self.first}"
