"""`compare`: one page about several runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from everloop.data.settings import to_table
from everloop.errors import OptionError
from everloop.report import figures
from everloop.report.html import Html, figure, paragraph, table
from everloop.report.opened import Opened
from everloop.report.page import page, section
from everloop.report.report import facts, said


def compare(runs: Sequence[Opened]) -> str:
    """Return what tells several runs apart as one HTML page.

    Raises:
        OptionError: there is only one.
    """
    if len(runs) < 2:
        raise OptionError(f"{len(runs)} run to compare; expected at least 2")
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
    """Yield the settings in which the runs differ, and no other."""
    found: dict[str, dict[str, str]] = {}
    for name, one in runs.items():
        groups = {"model": one.model.config, "data": one.data_config, "train": one.train}
        found[name] = {"kind": one.kind.name}
        found[name] |= {f"{part}.{key}": said(v) for part, config in groups.items() for key, v in _all(config)}
    heads, rows = _side_by_side(found)
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        yield paragraph("They do not differ.")
        return
    yield table(heads, rows, "Settings that differ; a dash where a run has no such setting")


def _all(config: Any) -> Iterable[tuple[str, Any]]:
    return {**dict.fromkeys(vars(config)), **to_table(config)}.items()


def _side_by_side(found: Mapping[str, Mapping[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Return (heads, rows) of a table with a column for each run."""
    keys = list(dict.fromkeys(key for one in found.values() for key in one))
    return ["what", *found], [[key, *(one.get(key, "–") for one in found.values())] for key in keys]
