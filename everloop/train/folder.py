"""The run folder while it is written: configuration, best and last checkpoints, metrics."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from everloop.data.files import parse_json, read_bytes, write_atomically, writing
from everloop.data.settings import to_table, to_toml
from everloop.errors import OptionError, RunError
from everloop.models.model import Model
from everloop.models.own_code import keep
from everloop.models.run import BEST, CONFIG, LAST, PREVIOUS, RunConfig, model_table, write_weights
from everloop.train.checkpoint import Checkpoint
from everloop.train.config import TrainConfig
from everloop.train.environment import environment, other_numbers
from everloop.train.evaluate import Data

METRICS, HISTORY = "metrics.jsonl", "history.jsonl"
SWEEP = "sweep.json"  # what `everloop sweep` writes into a folder of runs


class Folder:
    """A run folder.

    Args:
        path: where it is, or will be.
        resume: whether it holds a run to go on with, or must not hold one.
        config: the configuration of the run to go on with, if it has been read.

    Raises:
        OptionError: the path is empty.
        RunError: there is no run to resume, or one that would be overwritten.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: bool, config: RunConfig | None = None) -> None:
        if not os.fspath(path):
            raise OptionError("out is ''; expected the name of a folder")
        self.path = Path(path)
        self.last_is_whole = True  # as far as this process knows
        self.resumed = (config or RunConfig.read(path)) if resume else None
        self.check()

    def check(self) -> None:
        """Check that there is a run to resume, or none that would be overwritten."""
        if self.resumed:
            if not (self.path / CONFIG).is_file():
                raise RunError(f"{self.path} is not a run folder any more: it has no {CONFIG}")
        elif self.is_begun:
            raise RunError(f"{self.path} already holds a run; resume it, or choose another folder")
        elif (self.path / SWEEP).exists():
            raise RunError(f"{self.path} holds a sweep; choose another folder, or one inside of it")
        elif self.path.is_symlink() and not self.path.exists():
            raise RunError(f"{self.path} is a link that leads nowhere, or round in a circle; expected a folder")
        elif self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; expected a folder, or a name that is free")

    @property
    def is_begun(self) -> bool:
        """Whether there is a run already, which can be resumed."""
        return (self.path / CONFIG).exists()

    @property
    def last(self) -> Path:
        return self.path / LAST

    @property
    def previous(self) -> Path:
        return self.path / PREVIOUS

    @property
    def best(self) -> Path:
        return self.path / BEST

    def begin(self, model: Model, data: Data, config: TrainConfig, processes: int) -> str:
        """Write what describes the run, and return in a sentence what rounds otherwise than when it was trained before.

        It makes the folder a run, so it comes after the first checkpoint.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        source = getattr(data, "config", None)
        read = to_table(source) if source else {}
        # so that the run can be resumed from any folder
        read = {name: _absolute(value) for name, value in read.items()}
        table, code = keep(self.path, model_table(model))
        tables = {"model": table, "data": read, "train": to_table(config)} | ({"code": code} if code else {})
        model.write(self.path)
        write_atomically(self.path / CONFIG, to_toml(tables).encode())
        now, history = environment(next(model.parameters()).device, processes), self._history()
        lines = "".join(json.dumps(facts) + "\n" for facts in (*history, now))
        write_atomically(self.path / HISTORY, lines.encode())
        return other_numbers(history[-1], now) if history else ""

    def _history(self) -> list[dict[str, Any]]:
        """Return where the run was trained before, without lines that a crash cut off."""
        file = self.path / HISTORY
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
        found = []
        for line in lines:
            with suppress(ValueError):
                found.append(parse_json(line))
        return [facts for facts in found if isinstance(facts, dict)]

    def kept(self) -> Path | None:
        """Return where the last checkpoint stays when the next one is written; None if it is damaged."""
        whole, self.last_is_whole = self.last_is_whole, True
        return self.previous if whole else None

    def checkpoint(self, say: Callable[[str], None]) -> Checkpoint:
        """Return the last checkpoint, or, where that is damaged or lost, the one before it, and say so.

        Raises:
            RunError: there is none that is whole.
        """
        try:
            return Checkpoint(self.last)
        except RunError as error:
            if not self.previous.is_file():
                raise
            try:
                found = Checkpoint(self.previous)
            except RunError as other:
                raise RunError(f"{error}; nor is there one before it: {other}; start a new run") from None
            self.last_is_whole = False
            say(f"{error}; training goes on from the checkpoint before it, that of step {found.facts['step']:,}")
            return found

    def write_best(self, model: Model, facts: dict[str, Any]) -> None:
        """Keep the model's weights as the best so far."""
        write_weights(self.best, model, facts)

    def metric(self, **values: Any) -> None:
        """Add a line of metrics."""
        append_line(self.path / METRICS, values)

    def forget_after(self, step: int, validated: int) -> None:
        """Drop the metrics of steps and of validations that will be made again, and lines that a crash cut off."""
        file = self.path / METRICS
        if not file.exists():
            return
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        last = {"train": step, "valid": validated}
        kept = [line for line in lines if (at := _place(line)) and at[1] <= last.get(at[0], step)]
        write_atomically(file, "".join(line + "\n" for line in kept).encode())


def append_line(path: Path, values: dict[str, Any]) -> None:
    """Add a line of JSON to a file, in the place of one that a crash or a full disk has cut off."""
    with writing(path), path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.truncate(path.read_bytes().rfind(b"\n") + 1)
        file.write(json.dumps(values).encode() + b"\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return what a file of lines of JSON says, without the half line of a run that was killed while it wrote.

    Raises:
        RunError: another line is no JSON.
    """
    lines, found = read_bytes(path).splitlines() if path.is_file() else [], []
    for number, line in enumerate(lines, 1):
        try:
            values = parse_json(line)
        except ValueError:
            if number < len(lines):
                raise RunError(f"{path}, line {number} is no JSON: the file was changed") from None
            continue
        if not isinstance(values, dict):
            raise RunError(f"{path}, line {number} is no JSON object: the file was changed")
        found.append(values)
    return found


def metrics_of(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of metrics: each the name of a split, a step and figures.

    Raises:
        RunError: the file was changed.
    """
    found = read_lines(path)
    for line in found:
        numbers = all(isinstance(value, int | float) for name, value in line.items() if name != "split")
        if not (numbers and isinstance(line.get("split"), str) and isinstance(line.get("step"), int)):
            raise RunError(f"{path}: {json.dumps(line)[:80]} is no line of metrics: the file was changed")
    return found


def _absolute(value: Any) -> Any:
    """Return a path, or each of several, as an absolute one."""
    if isinstance(value, tuple):
        return tuple(_absolute(part) for part in value)
    return value.absolute() if isinstance(value, Path) else value


def _place(line: str) -> tuple[str, int] | None:
    """Return the split and the step of a line of metrics; None for one that a crash cut off."""
    try:
        values = json.loads(line)
        return str(values["split"]), int(values["step"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
