"""`report`: one page about one run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, fields
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from everloop.diagnose import diagnose
from everloop.diagnose.activity import activities_of, connectivity_of
from everloop.diagnose.gradients import record
from everloop.errors import DataError, EverloopError
from everloop.report import inside, sections
from everloop.report.figures import STEPS
from everloop.report.html import Html, folded, listed, paragraph, table
from everloop.report.opened import Opened
from everloop.report.page import page, section
from everloop.train.environment import environment as environment_of
from everloop.train.events import clock

SEQUENCES = 8


def report(opened: Opened) -> str:
    """Return all that is known of a run as one HTML page, which needs no other file and no network."""
    look = Look(opened)
    parts: list[tuple[str, str, Callable[[], Iterable[Html]]]] = [
        ("findings", "What stands out", lambda: sections.findings(look.diagnosis())),
        ("training", "Training", lambda: sections.curves(opened)),
        ("examples", "Examples", lambda: sections.examples(opened, look.examples(), look.split())),
        ("tree", "What may come next", lambda: sections.prediction_tree(opened, look.examples())),
        ("attention", "Attention", lambda: sections.attention(opened, look.examples(), look.split())),
        ("labels", "Labels", lambda: sections.labels(opened, look.split())),
        ("gradients", "Gradients through time", lambda: inside.gradients(look.diagnosis())),
        ("gates", "Gates", lambda: inside.gates(look.diagnosis(), look.active()[0], look.active()[1])),
        ("states", "States and units", lambda: inside.states(look.diagnosis(), look.active()[0], look.active()[1])),
        ("dependence", "What outputs depend on", lambda: inside.dependence(look.active()[2], look.active()[1])),
        ("network", "The network", lambda: inside.network(opened.model)),
        ("cells", "The cell", lambda: inside.cells(opened.model)),
        ("configuration", "Configuration", lambda: configuration(opened)),
        ("data", "Data", lambda: data(opened)),
        ("environment", "Environment", lambda: environment(opened)),
    ]
    outline = opened.model.outline()
    does = opened.kind.description.removeprefix("Train ")
    lead = f"{does[:1].upper()}{does[1:]} {outline.topology}."
    return page(str(opened.run.folder), lead, facts(opened), [section(*part) for part in parts])


class Look:
    """What is computed once for several parts; where it cannot be, each of them says why."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.diagnosis = lru_cache(1)(self._diagnosis)
        self.examples = lru_cache(1)(self._examples)
        self.active = lru_cache(1)(self._active)

    def split(self) -> str:
        """Return the split that was held out, if any was."""
        return self.data()[1]

    def data(self) -> tuple[Any, str]:
        """Return the data, and that split. Raises DataError where it is gone."""
        try:
            return self.opened.read(None)
        except DataError as error:
            raise DataError(f"the data that the run was trained with is not there: {error}") from error

    def _diagnosis(self) -> Any:
        data, _ = self.data()
        first, *further = self.opened.stream(data, "train", SEQUENCES)
        return diagnose(self.opened.model, first, facts=self.opened.facts(), further=further)

    def _examples(self) -> Any:
        return sections.found_examples(self.opened, self.split())

    def _active(self) -> Any:
        """Return (activities, what is read, connectivity) of one sequence, of the layers that the outline names."""
        model = self.opened.model
        batch = self.opened.batch(*self.data(), 1, length=STEPS)
        outline, lanes = model.outline(), record(model, batch)
        lanes = [lane for lane in lanes if outline.has(model.get_submodule(lane.name))]
        return activities_of(lanes), model.symbols_read(batch), connectivity_of(model, lanes)


def facts(opened: Opened) -> list[tuple[str, str]]:
    """Return the figures of a run that one asks for first, each with its name."""
    found = [("parameters", f"{sum(p.numel() for p in opened.model.parameters()):,}")]
    noted = opened.noted()
    train = [line for line in opened.metrics if line.get("split") == "train"]
    if noted.losses:
        found.append(("steps", f"{noted.losses[-1][0]:,}"))
        found.append((f"last training loss ({opened.model.measure})", f"{noted.losses[-1][1]:.4g}"))
    valid = [line for line in opened.metrics if line.get("split") == "valid"]
    if valid:
        best = min(valid, key=lambda line: line["loss"])
        found.append(("best validation loss", f"{best['loss']:.4g}"))
        names = [name for name in best if name not in ("step", "split", "loss", "seconds")]
        found += [(f"{name}, best validation", sections.number(best[name])) for name in names[:3]]
    if train:
        rates = sorted(line["rate"] for line in train)
        found.append((f"{opened.model.target}s a second, median", f"{rates[len(rates) // 2]:,}"))
        found.append(("time of training", clock(train[-1]["seconds"])))
    return found


class Setting(NamedTuple):
    """A setting of a run, with its default, or MISSING."""

    name: str
    value: Any
    default: Any

    @property
    def is_usual(self) -> bool:
        """Whether it was left alone."""
        return self.default is not MISSING and bool(self.value == self.default)


def settings(opened: Opened) -> Iterator[Setting]:
    """Yield all settings of a run."""
    for part, config in {"model": opened.model.config, "data": opened.data_config, "train": opened.train}.items():
        for field in fields(config):
            made = field.default_factory
            default = field.default if made is MISSING else made()
            yield Setting(f"{part}.{field.name}", getattr(config, field.name), default)


def configuration(opened: Opened) -> Iterator[Html]:
    """Yield the settings of a run: those that were chosen, and folded in the others."""
    chosen: list[tuple[str, ...]] = []
    usual: list[tuple[str, ...]] = []
    for one in settings(opened):
        row = (one.name, said(one.value))
        if one.is_usual:
            usual += [] if one.value is None else [row]
        else:
            chosen.append((*row, "" if one.default is MISSING else said(one.default)))
    yield table(["setting", "value", "by default"], chosen, "Settings that differ from their defaults")
    yield folded("The others", table(["setting", "value"], usual, "Settings at their defaults"))


def said(value: Any) -> str:
    """Return a setting in words."""
    if isinstance(value, tuple | list):
        return ", ".join(map(said, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {said(part)}" for name, part in value.items()) or "none"
    if isinstance(value, bool) or value is None or value == "":
        return {True: "yes", False: "no"}.get(value, "none") if value != "" else "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def data(opened: Opened) -> Iterator[Html]:
    """Yield what was read for training, and the first of each split."""
    try:
        found = opened.data
    except EverloopError as error:
        raise DataError(f"the data that the run was trained with is not there: {error}") from error
    yield listed(found.notes(opened.train.batch))
    firsts = [(split, found.first(split)) for split in found.splits]
    if any(text for _, text in firsts):
        yield table(["split", "begins with"], firsts, "The first of each split")
    yield paragraph(f"Fingerprint of the data: {found.fingerprint}.")


def environment(opened: Opened) -> Iterator[Html]:
    """Yield where the run was trained, and where this page was made."""
    here = environment_of(torch.device("cpu"))
    for title, found in (("Where it was trained last", opened.history[-1:]), ("Where this page was made", [here])):
        for each in found:
            rows = [(name, str(number)) for name, number in each.get("versions", {}).items() if number]
            rows += [(name, _shown(each[name])) for name in each if name != "versions" and each[name] is not None]
            yield table(["what", "which"], rows, title)
    if not opened.history:
        yield paragraph("The run folder does not say where it was trained.")


def _shown(value: Any) -> str:
    return shlex.join(value) if isinstance(value, list) else str(value)
