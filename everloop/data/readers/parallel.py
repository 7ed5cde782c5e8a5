"""Parallel files: line n of one is the translation of line n of the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from everloop.data.error_policy import ErrorPolicy
from everloop.data.lazy import Zip
from everloop.data.ragged import Strings
from everloop.data.readers.lines import decoded, opened
from everloop.errors import DataError


def read_pairs(source: Path, target: Path, errors: ErrorPolicy) -> Sequence[tuple[str, str]]:
    """Return the pairs of two parallel files; a pair of empty lines is passed over.

    Raises:
        DataError: the files have different numbers of lines, or a line is malformed and stops the reading.
    """
    read, written = Strings(), Strings()
    with opened(source) as left, opened(target) as right:
        for number, lines in enumerate(zip_longest(left, right), 1):
            if None in lines:
                more = number + sum(1 for _ in left) + sum(1 for _ in right)
                counts = (more, number - 1) if lines[1] is None else (number - 1, more)
                raise DataError(
                    f"{source} has {counts[0]:,} lines and {target} has {counts[1]:,}; line n of one is the "
                    "translation of line n of the other, so they must be equally many"
                )
            a, b = (decoded(raw, str(p), number, errors) for raw, p in zip(lines, (source, target), strict=True))
            if a is None or b is None:
                continue
            if a.strip() and b.strip():
                read.append(a)
                written.append(b)
            elif a.strip() or b.strip():
                empty = target if a.strip() else source
                errors.report(empty, number, "an empty line", "the translation of a line that is not")
    return Zip(read, written)
