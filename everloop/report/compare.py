"""`compare`: one page about several runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from everloop.errors import OptionError
from everloop.report import figures
from everloop.report.html import Html, figure, paragraph, table
from everloop.report.opened import Opened
from everloop.report.page import page, section
from everloop.report.report import facts, said, settings


def compare(runs: Sequence[Opened]) -> str:
    """Return what tells several runs apart as one HTML page.

    Raises:
        OptionError: there is only one.
    """
    if len(runs) < 2:
        raise OptionError(f"{len(runs)} run{'s' * (len(runs) != 1)} to compare; expected at least 2")
    names = names_of([str(one.run.folder) for one in runs])
    known = dict(zip(names, runs, strict=True))
    parts = [
        ("figures", "Figures", lambda: results(known)),
        ("losses", "Losses", lambda: losses(known)),
        ("configuration", "What differs in their configuration", lambda: differences(known)),
    ]
    kinds = ", ".join(dict.fromkeys(one.kind.name for one in runs))
    best = [(name, _best(one)) for name, one in known.items()]
    return page(f"{len(runs)} runs", f"Compared: {kinds}.", best, [section(*part) for part in parts])


def names_of(folders: Sequence[str]) -> list[str]:
    """Return a name for each folder: as they were given, with a number where one comes twice."""
    found: list[str] = []
    for folder in folders:
        number = 1
        while (name := folder if number == 1 else f"{folder} ({number})") in found:
            number += 1
        found.append(name)
    return found


def _best(opened: Opened) -> str:
    noted = opened.noted()
    points, split = (noted.valid, "validation") if noted.valid else (noted.losses, "training")
    return f"{split} {min(v for _, v in points):.4g} {opened.model.measure}" if points else "no loss was noted"


def results(runs: Mapping[str, Opened]) -> Iterator[Html]:
    """Yield the figures of each run side by side."""
    found = {name: dict(facts(one)) for name, one in runs.items()}
    yield table(*_side_by_side(found), "Figures of the runs; speed is that of the machine each was trained on")


def losses(runs: Mapping[str, Opened]) -> Iterator[Html]:
    """Yield the losses of all runs on one plot, where they are counted alike."""
    measures = list(dict.fromkeys(f"{one.model.measure} per {one.model.target}" for one in runs.values()))
    if len(measures) > 1:
        yield paragraph(f"Their losses are counted differently: {', '.join(measures)}; curves are not comparable.")
    drawn = figures.losses({name: one.noted() for name, one in runs.items()}, " or ".join(measures))
    yield figure(drawn, "Losses of training and validation by step.")


def differences(runs: Mapping[str, Opened]) -> Iterator[Html]:
    """Yield the settings in which the runs differ, and no other: what some kinds lack only where it was chosen."""
    found, chosen = dict[str, dict[str, str]](), set[str]()
    for name, one in runs.items():
        found[name] = {"kind": one.kind.name} | {each.name: said(each.value) for each in settings(one)}
        chosen |= {each.name for each in settings(one) if not each.is_usual}
    heads, rows = _side_by_side(found)
    rows = [row for row in rows if _differs(row[0], list(found.values()), chosen)]
    if not rows:
        yield paragraph("They do not differ.")
        return
    yield table(heads, rows, "Settings that differ; a dash where a kind of model has no such setting")


def _differs(key: str, found: Sequence[Mapping[str, str]], chosen: set[str]) -> bool:
    values = [one[key] for one in found if key in one]
    return len(set(values)) > 1 or (len(values) < len(found) and key in chosen)


def _side_by_side(found: Mapping[str, Mapping[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Return (heads, rows) of a table with a column for each run."""
    keys = list(dict.fromkeys(key for one in found.values() for key in one))
    return ["what", *found], [[key, *(one.get(key, "–") for one in found.values())] for key in keys]
