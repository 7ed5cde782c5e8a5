"""Times that follow one another evenly, and those that do not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from everloop.data.spacing import Spacing, places_of, spacing

START = datetime(2024, 1, 31, 22)
MONTHS = [datetime(2023 + m // 12, 1 + m % 12, 1) for m in range(30)]


@pytest.mark.parametrize("minutes", [1, 15, 60, 1440, 10080])
@pytest.mark.parametrize("gone", [(), (1,), (3, 4, 9), (18,)])
def test_even_times_with_some_missing(minutes: int, gone: tuple[int, ...]) -> None:
    times = [START + timedelta(minutes=minutes * i) for i in range(20) if i not in gone]
    step = spacing(times)
    assert step == Spacing(seconds=60 * minutes)
    assert places_of(times, step) == [i for i in range(20) if i not in gone]
    assert step.after(times[-1], 2) == times[-1] + timedelta(minutes=2 * minutes)


@pytest.mark.parametrize(("every", "gone"), [(1, ()), (1, (4, 5)), (3, (2,)), (12, ())])
def test_months_are_steps(every: int, gone: tuple[int, ...]) -> None:
    times = [time for i, time in enumerate(MONTHS[::every]) if i not in gone]
    step = spacing(times)
    assert step == Spacing(months=every)
    assert step.after(datetime(2024, 11, 1), 2) == datetime(2024 + (10 + 2 * every) // 12, 1 + (10 + 2 * every) % 12, 1)
    assert places_of(times, step)[-1] == len(MONTHS[::every]) - 1


def test_what_is_not_even() -> None:
    days = [START + timedelta(days=i) for i in range(60)]
    assert spacing([day for day in days if day.weekday() < 5]) is None  # too many are missing
    assert spacing([*days, days[-1] + timedelta(hours=7)]) is None
    assert spacing(days[:1]) is None
    assert spacing([time.replace(tzinfo=UTC) for time in days]) == Spacing(seconds=86400)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Spacing(months=1), "1 month"),
        (Spacing(months=3), "3 months"),
        (Spacing(seconds=3600), "1:00:00"),
        (Spacing(seconds=86400), "1 day"),
    ],
)
def test_a_step_in_words(step: Spacing, said: str) -> None:
    assert str(step) == said
