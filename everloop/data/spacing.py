"""Times that follow one another evenly: their step, which of them are missing, and those to come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

MOST_MISSING = 0.25  # fraction of the rows, above which times are not taken for evenly spaced ones


@dataclass(frozen=True)
class Spacing:
    """The step from one time to the next: so many months, or seconds."""

    months: int = 0
    seconds: float = 0.0

    def after(self, time: datetime, steps: int) -> datetime:
        """Return the time so many steps later."""
        if not self.months:
            return time + timedelta(seconds=self.seconds * steps)
        years, month = divmod(time.month - 1 + self.months * steps, 12)
        return time.replace(year=time.year + years, month=month + 1)

    def between(self, first: datetime, last: datetime) -> float:
        """Return how many steps there are from one time to another."""
        if self.months:
            return (12 * (last.year - first.year) + last.month - first.month) / self.months
        return (last - first).total_seconds() / self.seconds

    def __str__(self) -> str:
        if self.months:
            return "1 month" if self.months == 1 else f"{self.months} months"
        return str(timedelta(seconds=self.seconds)).removesuffix(", 0:00:00")


def spacing(times: Sequence[datetime]) -> Spacing | None:
    """Return the step of rising times, some of which may be missing; None if there is none.

    A step divides all differences, is the most frequent one, and leaves few times without a row: working days have
    none.
    """
    if len(times) < 2:
        return None
    found = _months(times) or _seconds(times)
    if found is None:
        return None
    places = [found.between(times[0], time) for time in times]
    even = all(abs(place - round(place)) < 1e-6 for place in places)
    return found if even and places[-1] + 1 <= (1 + MOST_MISSING) * len(times) + 2 else None


def places_of(times: Sequence[datetime], step: Spacing) -> list[int]:
    """Return the number of each time, counted in steps from the first."""
    return [round(step.between(times[0], time)) for time in times]


def _months(times: Sequence[datetime]) -> Spacing | None:
    first = times[0]
    if first.day > 28 or any((t.day, t.time()) != (first.day, first.time()) for t in times):
        return None
    counts = Counter(12 * (b.year - a.year) + b.month - a.month for a, b in pairwise(times))
    step = counts.most_common(1)[0][0]
    return Spacing(months=step) if step > 0 else None


def _seconds(times: Sequence[datetime]) -> Spacing | None:
    counts = Counter((b - a).total_seconds() for a, b in pairwise(times))
    step = counts.most_common(1)[0][0]
    return Spacing(seconds=step) if step > 0 else None  # where times repeat, there is none
