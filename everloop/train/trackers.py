"""Figures of a run for the tools that watch runs: TensorBoard, and trackers with the interface of Weights & Biases."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from everloop.data.files import writing
from everloop.errors import OptionError
from everloop.train.events import Event, Report, Started, Stepped, Validated

EVENTS = ("tensorboard.compat.proto.event_pb2", "tensorboard.summary.writer.record_writer")
DATED = re.compile(r"events\.out\.tfevents\.(\d+)")
EXTRAS = ("wandb",)  # packages that are an extra of this library


class Tracker(Protocol):
    """What takes the figures of a run: a run of wandb or trackio, a TensorBoard, or else what has these methods."""

    def log(self, data: dict[str, Any], *, step: int) -> Any:
        """Take figures by name, after so many steps."""

    def finish(self) -> Any:
        """End the run."""


def log_to(tracker: Tracker) -> Report:
    """Return what tells a tracker the figures of training: `train(…, report=log_to(wandb.init(project="poems")))`.

    Their names are those in metrics.jsonl, as "train/loss", "train/lr", "valid/loss".
    """

    def report(event: Event) -> None:
        match event:
            case Started() if isinstance(tracker, TensorBoard):
                tracker.begin(event.step)
            case Stepped():
                tracker.log({f"train/{name}": value for name, value in event.figures.items()}, step=event.step)
            case Validated():
                tracker.log({f"valid/{name}": value for name, value in event.figures.items()}, step=event.step)

    return report


class TensorBoard:
    """A Tracker that writes into a folder for `tensorboard --logdir FOLDER`.

    Args:
        folder: where the files are, or will be.

    Raises:
        OptionError: the package is missing.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._event, self._writer = _tensorboard()
        self.folder = Path(folder)
        self._path = self.folder
        self._open: Any = None

    def begin(self, step: int) -> None:
        """Go on after so many steps; what a process that was killed has written of later ones is hidden."""
        self.finish()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        # files are read in the order of their names, so this one is the last, whatever another clock has said
        dates = [int(found[1]) + 1 for path in self.folder.iterdir() if (found := DATED.match(path.name))]
        date = max(int(time.time()), *dates, 0)
        self._path = self.folder / f"events.out.tfevents.{date:010}.{socket.gethostname()}.{os.getpid()}"
        with writing(self._path):
            self._open = self._writer(self._path.open("xb"))
        self._write({"file_version": "brain.Event:2"}, {"step": step + 1, "session_log": {"status": "START"}})

    def log(self, data: dict[str, Any], *, step: int) -> None:
        """Write figures by name; they can be seen at once."""
        if self._open is None:
            self.begin(0)
        named = [{"tag": name, "simple_value": float(value)} for name, value in data.items()]
        self._write({"step": step, "summary": {"value": named}})

    def finish(self) -> None:
        """Close the file."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _write(self, *events: dict[str, Any]) -> None:
        with writing(self._path):
            for event in events:
                self._open.write(self._event(wall_time=time.time(), **event).SerializeToString())
            self._open.flush()


def tracker(name: str) -> Callable[[Path, Mapping[str, Any]], Tracker]:
    """Return what opens a tracker for a run folder and its settings: of TensorBoard, or a package as "wandb:project".

    Of a package `init(project=, name=, config=)` is called, the name being that of the folder.

    Raises:
        OptionError: it is missing, or cannot do that.
    """
    package, colon, project = name.partition(":")
    if package == "tensorboard" and not colon:
        _tensorboard()
        return lambda folder, settings: TensorBoard(folder / "tensorboard")
    if not package.isidentifier() or (colon and not project):
        raise OptionError(f"track is {name!r}; expected tensorboard, or a package as wandb or wandb:PROJECT")
    try:
        module = import_module(package)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        why = "there is no such package" if missing else f"its import fails: {error}"
        wanted = f"'everloop[{package}]'" if package in EXTRAS else package
        raise OptionError(f"track is {name!r}, and {why}; try: pip install {wanted}") from None
    begin = getattr(module, "init", None)
    if not callable(begin):
        raise OptionError(f"track is {name!r}, and {package} has no init(project=, name=, config=) as wandb has")
    return lambda folder, settings: begin(project=project or "everloop", name=folder.name, config=dict(settings))


def _tensorboard() -> tuple[Any, Any]:
    """Return what makes an event of its fields, and a writer of events of a file."""
    try:
        event, record = map(import_module, EVENTS)
    except ImportError:
        raise OptionError("tensorboard is missing; install it with: pip install 'everloop[tensorboard]'") from None
    return event.Event, record.RecordWriter
