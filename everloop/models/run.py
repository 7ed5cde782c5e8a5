"""A run folder read back: configuration, vocabulary and weights become the model again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from everloop.data.settings import absent, from_table, read_toml, to_table
from everloop.errors import DataError, EverloopError, OptionError, RunError
from everloop.models.kind import BUILT_IN, Kind, find
from everloop.models.model import Model
from everloop.models.own_code import allow, located
from everloop.models.quantized import FACT, empty, widened
from everloop.models.weights import fill, own_tensors, read_tensors, write_tensors

CONFIG, BEST, LAST, PREVIOUS = "config.toml", "best.safetensors", "last.safetensors", "previous.safetensors"
T = TypeVar("T")


def is_of_run(file: Path) -> bool:
    """Return whether a configuration is that of a run folder, with weights beside it."""
    return file.name == CONFIG and any((file.parent / name).exists() for name in (BEST, LAST))


@dataclass(frozen=True)
class RunConfig:
    """The configuration of a run folder, read once a command.

    Args:
        folder: the run folder.
        kind: the name of the kind of its model.
        tables: its settings: model (without the kind), data and train.
        code: the SHA-256 of the files of code that it keeps, by name.
    """

    folder: Path
    kind: str
    tables: dict[str, Any]
    code: dict[str, str]

    @classmethod
    def read(cls, run: str | os.PathLike[str]) -> RunConfig:
        """Return the configuration of a run folder.

        Raises:
            RunError: this is no run folder.
        """
        folder = Path(run)
        if folder.is_file():
            raise RunError(f"{folder} is a file; expected a run folder")
        if not folder.is_dir():
            raise RunError(f"{folder}: there is no such run folder")
        if not (folder / CONFIG).is_file():
            raise RunError(f"{folder} is not a run folder: it has no {CONFIG}")
        try:
            tables = read_toml(folder / CONFIG)
        except DataError as error:
            raise RunError(str(error)) from None
        if not isinstance(tables.get("model"), dict) or "kind" not in tables["model"]:
            raise RunError(f"{folder / CONFIG} has no [model] with a kind; it was not written by Everloop")
        code = hashes(tables.pop("code", {}), folder / CONFIG)
        tables["model"] = located(tables["model"], folder)
        return cls(folder, str(tables["model"].pop("kind")), tables, code)

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / CONFIG

    def settings(self, name: str, config: type[T]) -> T:
        """Return one of its tables as a dataclass.

        Raises:
            RunError: it is lost, or holds something else.
        """
        table = self.tables.get(name)
        if not isinstance(table, dict):
            raise RunError(f"{self.path} has lost its table [{name}]; expected the settings the run began with")
        try:
            return from_table(config, {**absent(config), **table}, f"{self.path} [{name}]")
        except OptionError as error:
            raise RunError(str(error)) from error

    def find(self, *, trust_code: bool) -> Kind:
        """Return the kind of its model.

        Raises:
            RunError: there is no such kind, or it is not trusted.
        """
        if self.kind not in BUILT_IN and ":" in self.kind and not trust_code:
            raise RunError(
                f"{self.path} names a kind of model that is not built in: to load it is to import the package "
                f"{self.kind.partition(':')[0]}; if you trust it say trust_code=True, on the command line --trust-code"
            )
        try:
            return find(self.kind)
        except OptionError as error:
            raise RunError(f"{self.path}: {error}") from error

    def rebuild(self, *, trust_code: bool = False, kind: Kind | None = None) -> Model:
        """Return the model with fresh weights; `trust_code` is as in `load`, `kind` its kind if that is known.

        Raises:
            RunError: a part of the folder is missing or damaged.
        """
        kind = kind or self.find(trust_code=trust_code)
        config = self.settings("model", kind.model_config)
        allow(str(self.tables["model"].get("cell", "")), self.code, str(self.path), trust_code)
        try:
            return kind.model.read(self.folder, config)
        except RunError:
            raise
        except EverloopError as error:
            raise RunError(str(error)) from error

    def load(
        self, weights: Literal["best", "last"] = "best", *, trust_code: bool = False, kind: Kind | None = None
    ) -> Any:
        """Return the trained model; see the function `load`."""
        model, best = self.rebuild(trust_code=trust_code, kind=kind), self.folder / BEST
        if weights == "best" and best.exists():
            tensors, facts = read_tensors(best)
            if facts.get(FACT):
                model, tensors = empty(model), widened(tensors)
            fill(model, tensors, best)
        else:
            last = self.folder / LAST
            tensors, _ = read_tensors(last)
            own = {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}
            fill(model, own, last)
        return model.eval()


def load(run: str | os.PathLike[str], weights: Literal["best", "last"] = "best", *, trust_code: bool = False) -> Any:
    """Return the trained model of a run folder, ready to use (in evaluation mode).

    The best weights are those of the best validation; a run without one has the average of its weights if it kept one,
    else only its last weights.

    Args:
        run: the folder.
        weights: "best" or "last".
        trust_code: whether the Python file of a cell of your own, which the run keeps, may run, and whether the package
            of a kind of your own may be imported. Nothing else in a run folder is ever executed.

    Raises:
        RunError: no run folder, something in it is missing, damaged or does not fit, or it would run code.
    """
    return RunConfig.read(run).load(weights, trust_code=trust_code)


def hashes(table: Any, where: Path | str) -> dict[str, str]:
    """Return the table [code] of a configuration: the SHA-256 of files of code by name."""
    if not isinstance(table, dict):
        raise RunError(f"{where}: code is {table!r}; expected a table [code] of hashes by file")
    return table


def write_weights(path: Path, model: Model, facts: dict[str, Any]) -> None:
    """Write a model's weights, and nothing else of it."""
    write_tensors(path, own_tensors(model), facts)


def model_table(model: Model) -> dict[str, Any]:
    """Return the settings that rebuild a model, with its kind."""
    return {"kind": model.kind, **to_table(model.config)}
