"""How long windows are, and which splits they are of: as the user says, and otherwise as fits the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from everloop.data.dataset import SPLITS
from everloop.data.spacing import Spacing, spacing
from everloop.errors import DataError, OptionError

SEASON = 24  # steps, where no time tells
DAY = 86_400  # seconds
MOST = 336  # steps known, unless the user asks for more


@dataclass(frozen=True)
class WindowSizes:
    """Steps known, steps to forecast, and steps after which a series roughly repeats; 0: as fits the data."""

    context: int = 0
    horizon: int = 0
    season: int = 0

    def fitted(
        self, counts: Sequence[int], times: Sequence[datetime], split: tuple[float, float, float], patch: int = 1
    ) -> tuple[WindowSizes, str]:
        """Return sizes that fit series of so many steps, and what was chosen in words, or nothing.

        A season is a day of hours, a week of days, a year of months or weeks. Four of them are known and one is to
        come, but at most half of the training steps are before the first window, and two windows fit into each of the
        other splits.

        Args:
            counts: the steps of each series.
            times: of the first of them, if it has some.
            split: as in SeriesConfig.
            patch: what the context is a multiple of.
        """
        step = spacing(times)
        season = self.season or season_of(step)
        sizes = [{name: end - begin for name, (begin, end) in spans(count, split, "").items()} for count in counts]
        held_out = [size[name] for size in sizes for name in SPLITS[1:] if size[name]]
        train = min((size["train"] for size in sizes if size["train"]), default=0)
        horizon = self.horizon or max(1, min([season if 4 <= season <= 96 else SEASON, *(n // 2 for n in held_out)]))
        wanted = min(4 * season if season > 1 else SEASON, max(96, season), MOST)
        context = min(wanted, (train - horizon) // 2) if train else wanted
        context = self.context or max(context - context % patch, patch)
        found = WindowSizes(context, horizon, season)
        chosen = [name for name, size in vars(self).items() if not size]
        if not chosen:
            return found, ""
        said = ", ".join(f"{name} {getattr(found, name)}" for name in chosen)
        steps = f"steps of {step}" if step else "steps without evenly spaced times"
        options = ", ".join(f"--{name}" for name in chosen)
        return found, f"{said}: as fits {train:,} {steps} in training (or say {options})"


def season_of(step: Spacing | None) -> int:
    """Return after how many steps a series of such steps roughly repeats: a day, a week, or a year of them."""
    if step is None:
        return SEASON
    if step.months:
        return 12 // step.months if 12 % step.months == 0 else 1
    if step.seconds == DAY:
        return 7
    if step.seconds == 7 * DAY:
        return 52
    return round(DAY / step.seconds) if step.seconds < DAY and DAY % step.seconds == 0 else 1


def spans(count: int, split: tuple[float, float, float], group: str) -> dict[str, tuple[int, int]]:
    """Return the first and the last step of each split of a series of `count` steps.

    Raises:
        DataError: it has fewer than the splits ask for.
        OptionError: the splits make no sense.
    """
    if len(split) != 3 or min(split) < 0 or (max(split) <= 1 and sum(split) > 1 + 1e-9):
        raise OptionError(
            f"split is {split}; expected three fractions that add up to 1 at most, or three numbers of rows"
        )
    sizes = [round(part * count) if max(split) <= 1 else round(part) for part in split]
    if max(split) <= 1 and abs(sum(split) - 1) < 1e-9:
        sizes[2 if split[2] else 1 if split[1] else 0] += count - sum(sizes)
    if sum(sizes) > count:
        of = f"series {group} has" if group else "the series have"
        raise DataError(f"split asks for {sum(sizes):,} rows; {of} {count:,}")
    ends = [sum(sizes[: i + 1]) for i in range(3)]
    return {name: (end - size, end) for name, size, end in zip(SPLITS, sizes, ends, strict=True)}
