"""The exceptions of Everloop. A message says: what, what came, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class EverloopError(Exception):
    """Every error a user can act on derives from this class."""


class CellError(EverloopError, TypeError):
    """A cell is declared in a way that cannot run."""


class ShapeError(EverloopError, ValueError):
    """A tensor has the wrong number of axes or the wrong size; the message names layer, got, expected."""


class OptionError(EverloopError, ValueError):
    """An option, a name or a setting is unknown or out of range."""


class UnsupportedError(EverloopError, NotImplementedError):
    """A target cannot run this cell or this call; the message names the operation and its line."""


class PlanError(UnsupportedError):
    """A plan of the compiler's own is wrong: a defect of this library, found before it could make a wrong number."""


class MismatchError(EverloopError, ArithmeticError):
    """A compiled cell computes something else than its step says; the message names what, by how much, what to do."""


class DataError(EverloopError, ValueError):
    """A data file is missing, unreadable or malformed; the message names file and place."""


class RunError(EverloopError, RuntimeError):
    """A run folder or checkpoint is missing, damaged or made by something else."""


class TrainingError(EverloopError, RuntimeError):
    """Training cannot go on, for instance because the loss is not finite."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name: it names the nearest right one, or all of them.

    The dashes before the names of options are no part of what is near.
    """
    names = list(known)
    bare = {each.removeprefix("--"): each for each in reversed(names)}
    near = [bare[each] for each in get_close_matches(name.removeprefix("--"), bare, n=1)]
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
    return f"unknown {kind} {name!r}; {hint}"
