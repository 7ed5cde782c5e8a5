"""The run folder while it is written: configuration, best and last checkpoints, metrics."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from everloop.data.files import write_atomically, writing
from everloop.data.settings import to_table, to_toml
from everloop.errors import RunError
from everloop.models.model import Model
from everloop.models.own_code import keep
from everloop.models.run import BEST, CONFIG, LAST, RunConfig, model_table, write_weights
from everloop.train.config import TrainConfig
from everloop.train.evaluate import Data

METRICS = "metrics.jsonl"


class Folder:
    """A run folder.

    Args:
        path: where it is, or will be.
        resume: whether it holds a run to go on with, or must not hold one.
        config: the configuration of the run to go on with, if it has been read.

    Raises:
        RunError: there is no run to resume, or one that would be overwritten.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: bool, config: RunConfig | None = None) -> None:
        self.path = Path(path)
        self.resumed = (config or RunConfig.read(path)) if resume else None
        self.check()

    def check(self) -> None:
        """Check that there is a run to resume, or none that would be overwritten."""
        if self.resumed:
            if not (self.path / CONFIG).is_file():
                raise RunError(f"{self.path} is not a run folder any more: it has no {CONFIG}")
        elif (self.path / CONFIG).exists():
            raise RunError(f"{self.path} already holds a run; resume it, or choose another folder")
        elif self.path.is_symlink() and not self.path.exists():
            raise RunError(f"{self.path} is a link that leads nowhere, or round in a circle; expected a folder")
        elif self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; expected a folder, or a name that is free")

    @property
    def last(self) -> Path:
        return self.path / LAST

    @property
    def best(self) -> Path:
        return self.path / BEST

    def begin(self, model: Model, data: Data, config: TrainConfig) -> None:
        """Write what describes the run. It makes the folder a run, so it comes before any checkpoint."""
        self.path.mkdir(parents=True, exist_ok=True)
        source = getattr(data, "config", None)
        read = to_table(source) if source else {}
        # so that the run can be resumed from any folder
        read = {name: _absolute(value) for name, value in read.items()}
        table, code = keep(self.path, model_table(model))
        tables = {"model": table, "data": read, "train": to_table(config)} | ({"code": code} if code else {})
        model.write(self.path)
        write_atomically(self.path / CONFIG, to_toml(tables).encode())

    def write_best(self, model: Model, facts: dict[str, Any]) -> None:
        """Keep the model's weights as the best so far."""
        write_weights(self.best, model, facts)

    def metric(self, **values: Any) -> None:
        """Add a line of metrics."""
        path = self.path / METRICS
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop the metrics of steps that will be made again."""
        file = self.path / METRICS
        if not file.exists():
            return
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if (at := _step(line)) is not None and at <= step]
        write_atomically(file, "".join(line + "\n" for line in kept).encode())


def _absolute(value: Any) -> Any:
    """Return a path, or each of several, as an absolute one."""
    if isinstance(value, tuple):
        return tuple(_absolute(part) for part in value)
    return value.absolute() if isinstance(value, Path) else value


def _step(line: str) -> int | None:
    """Return the step of a line of metrics; None for one that a crash cut off."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None
