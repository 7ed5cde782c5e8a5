"""Figures of a run for the tools that watch runs: TensorBoard, and trackers with the interface of Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from everloop.errors import OptionError
from everloop.train.events import Event, Report, Started, Stepped, Validated

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
        self._writer = _summary_writer()
        self.folder = Path(folder)
        self._open: Any = None

    def begin(self, step: int) -> None:
        """Go on after so many steps; what a process that was killed has written of later ones is hidden."""
        self._open = self._writer(str(self.folder), purge_step=step + 1)

    def log(self, data: dict[str, Any], *, step: int) -> None:
        """Write figures by name; they can be seen at once."""
        if self._open is None:
            self.begin(0)
        for name, value in data.items():
            self._open.add_scalar(name, value, step)
        self._open.flush()

    def finish(self) -> None:
        """Close the file."""
        if self._open is not None:
            self._open.close()


def tracker(name: str) -> Callable[[Path, Mapping[str, Any]], Tracker]:
    """Return what opens a tracker for a run folder and its settings: of TensorBoard, or a package as "wandb:project".

    Of a package `init(project=, name=, config=)` is called, the name being that of the folder.

    Raises:
        OptionError: it is missing, or cannot do that.
    """
    package, colon, project = name.partition(":")
    if package == "tensorboard" and not colon:
        _summary_writer()
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


def _summary_writer() -> Any:
    try:
        return import_module("torch.utils.tensorboard").SummaryWriter
    except ImportError:
        raise OptionError("tensorboard is missing; install it with: pip install 'everloop[tensorboard]'") from None
