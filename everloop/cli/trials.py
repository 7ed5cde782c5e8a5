"""What a sweep tries: settings with several values or a range, and the trials that they make."""

from __future__ import annotations

import itertools
import math
import random
import re
import shlex
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from everloop.data.settings import flag
from everloop.errors import OptionError

DRAWS = 1000  # draws for each trial that there may be, none of which is new, after which no more are expected
DECADE = 10  # a range above 0 whose ends differ by this factor is drawn by orders of magnitude
LONGEST = 120  # characters of a folder's name


@dataclass(frozen=True)
class Axis:
    """A setting that varies: its name, and its values or the two ends of a range."""

    name: str
    values: tuple[str, ...]
    is_range: bool = False

    @classmethod
    def of(cls, text: str) -> Axis:
        """Return the axis that "lr=1e-3,3e-3" or "lr=1e-4..1e-2" says.

        Raises:
            OptionError: it says neither.
        """
        name, equals, said = text.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        if not equals or not name.isidentifier() or not said:
            raise OptionError(
                f"{text!r} is no setting to sweep; expected NAME=VALUE,VALUE or NAME=LOW..HIGH, as lr=1e-4..1e-2"
            )
        low, dots, high = said.partition("..")
        if not dots:
            values = tuple(said.split(","))
            if len(set(values)) < len(values) or not all(values):
                raise OptionError(f"{text!r} has an empty value, or one twice")
            return cls(name, values)
        ends = [_number(end) for end in (low, high)]
        if not all(map(math.isfinite, ends)) or ends[0] >= ends[1]:
            raise OptionError(f"{text!r} is no range; expected two numbers, the lower first, as {name}=0.1..0.5")
        return cls(name, (low, high), True)

    @property
    def is_whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return self.is_range and all(re.fullmatch(r"[+-]?\d+", end) for end in self.values)

    @property
    def size(self) -> float:
        """How many values it has; infinitely many, as far as that goes, between two numbers."""
        if self.is_whole:
            return int(self.values[1]) - int(self.values[0]) + 1
        return math.inf if self.is_range else len(self.values)

    def draw(self, source: random.Random) -> str:
        """Return a value: one of several, or a number of the range, of whole ones if both ends are."""
        if not self.is_range:
            return source.choice(self.values)
        low, high = map(float, self.values)
        if low > 0 and high / low >= DECADE:
            drawn = math.exp(source.uniform(math.log(low), math.log(high)))
        else:
            drawn = source.uniform(low, high)
        if self.is_whole:
            return str(min(max(round(drawn), int(low)), int(high)))
        short = f"{drawn:.3g}"
        return short if low <= float(short) <= high else repr(drawn)


@dataclass(frozen=True)
class Trial:
    """One training of a sweep: the settings that it has besides those of all."""

    settings: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """What its folder is called."""
        name = ",".join(f"{name}={value}" for name, value in self.settings)
        name = re.sub(r"[^\w.,=+-]", "_", name)
        return name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{zlib.crc32(name.encode()):08x}"

    def options(self, known: Sequence[str]) -> list[str]:
        """Return the options of `everloop train`, whose names are `known`, truth values as --name or --no-name."""
        found: list[str] = []
        for name, value in self.settings:
            if f"no-{name}" in known and value.lower() in ("true", "false"):
                found.append(flag(name) if value.lower() == "true" else flag(f"no-{name}"))
            else:
                found += [flag(name), *shlex.split(value)]
        return found


def trials_of(axes: Sequence[Axis], count: int | None, seed: int) -> list[Trial]:
    """Return all combinations of values, or so many different ones that are drawn; fewer where there are no more.

    Raises:
        OptionError: a setting is there twice; a range needs a count.
    """
    names = [axis.name for axis in axes]
    if not axes or len(set(names)) < len(names):
        raise OptionError(f"settings to sweep are {', '.join(names) or 'none'}; expected some, each once")
    if count is None:
        if ranges := [axis.name for axis in axes if axis.is_range]:
            raise OptionError(f"{ranges[0]} has a range, of which values are drawn: say how many with --trials")
        values = itertools.product(*(axis.values for axis in axes))
        return [Trial(tuple(zip(names, each, strict=True))) for each in values]
    if count < 1:
        raise OptionError(f"trials is {count}; expected at least 1")
    source, found, seen_again = random.Random(seed), dict[Trial, None](), 0
    while len(found) < count and seen_again < DRAWS * min(DRAWS, math.prod(axis.size for axis in axes)):
        trial = Trial(tuple((axis.name, axis.draw(source)) for axis in axes))
        seen_again = seen_again + 1 if trial in found else 0
        found[trial] = None
    return list(found)


def alone(axes: Sequence[Axis]) -> Iterator[Trial]:
    """Yield each value, or end of a range, by itself, so that wrong ones are found before anything is trained."""
    for axis in axes:
        for value in axis.values:
            yield Trial(((axis.name, value),))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
