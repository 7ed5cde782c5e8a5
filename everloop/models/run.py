"""A run folder read back: configuration, vocabulary and weights become the model again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from everloop.data.settings import from_table, read_toml, to_table
from everloop.errors import DataError, EverloopError, RunError, unknown
from everloop.models.classifier import Classifier, ClassifierConfig
from everloop.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from everloop.models.forecaster import Forecaster, ForecasterConfig
from everloop.models.generator import Generator, GeneratorConfig
from everloop.models.language_model import LanguageModel, LanguageModelConfig
from everloop.models.loss import Model
from everloop.models.own_code import allow, located
from everloop.models.tagger import Tagger, TaggerConfig
from everloop.models.transcriber import Transcriber, TranscriberConfig
from everloop.models.weights import fill, own_tensors, read_tensors, write_tensors


@dataclass(frozen=True)
class Kind:
    """A kind of model that run folders can hold."""

    model: type[Model]
    config: type[Any]


KINDS = {
    LanguageModel.kind: Kind(LanguageModel, LanguageModelConfig),
    Tagger.kind: Kind(Tagger, TaggerConfig),
    Classifier.kind: Kind(Classifier, ClassifierConfig),
    Forecaster.kind: Kind(Forecaster, ForecasterConfig),
    EncoderDecoder.kind: Kind(EncoderDecoder, EncoderDecoderConfig),
    Generator.kind: Kind(Generator, GeneratorConfig),
    Transcriber.kind: Kind(Transcriber, TranscriberConfig),
}

CONFIG, BEST, LAST = "config.toml", "best.safetensors", "last.safetensors"


def read_config(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the tables of a run's config.toml.

    Raises:
        RunError: this is no run folder.
    """
    folder = Path(run)
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
    return tables


def rebuild(run: str | os.PathLike[str], *, trust_code: bool = False) -> Model:
    """Return the model of a run folder with fresh weights; `trust_code` is as in `load`.

    Raises:
        RunError: the folder is no run, or a part of it is missing or damaged.
    """
    folder, tables = Path(run), read_config(run)
    table = located(tables["model"], folder)
    name = table.pop("kind")
    if name not in KINDS:
        raise RunError(f"{folder / CONFIG}: {unknown('kind of model', str(name), KINDS)}")
    kind = KINDS[name]
    try:
        config = from_table(kind.config, table, f"{folder / CONFIG} [model]")
        allow(config.cell, kept_code(tables, folder / CONFIG), str(folder / CONFIG), trust_code)
        return kind.model.read(folder, config)
    except RunError:
        raise
    except EverloopError as error:
        raise RunError(str(error)) from error


def load(run: str | os.PathLike[str], weights: Literal["best", "last"] = "best", *, trust_code: bool = False) -> Any:
    """Return the trained model of a run folder, ready to use (in evaluation mode).

    The best weights are those of the best validation; a run without one has the average of its weights if it kept one,
    else only its last weights.

    Args:
        run: the folder.
        weights: "best" or "last".
        trust_code: whether the Python file of a cell of your own, which the run keeps, may run. Nothing else in a run
            folder is ever executed.

    Raises:
        RunError: no run folder, something in it is missing, damaged or does not fit, or it would run code.
    """
    folder = Path(run)
    model = rebuild(folder, trust_code=trust_code)
    if weights == "best" and (folder / BEST).exists():
        fill(model, read_tensors(folder / BEST)[0], folder / BEST)
    else:
        tensors, _ = read_tensors(folder / LAST)
        own = {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}
        fill(model, own, folder / LAST)
    return model.eval()


def kept_code(tables: dict[str, Any], where: Path | str) -> dict[str, str]:
    """Return the SHA-256 of the files of code that a run keeps, by name."""
    code = tables.get("code", {})
    if not isinstance(code, dict):
        raise RunError(f"{where}: code is {code!r}; expected a table [code] of hashes by file")
    return code


def write_weights(path: Path, model: Model, facts: dict[str, Any]) -> None:
    """Write a model's weights, and nothing else of it."""
    write_tensors(path, own_tensors(model), facts)


def model_table(model: Model) -> dict[str, Any]:
    """Return the settings that rebuild a model, with its kind."""
    return {"kind": model.kind, **to_table(model.config)}
