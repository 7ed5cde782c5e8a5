"""`everloop train generator`: from a label or a vector to a text, or to pen strokes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text as Line
from torch import Tensor

from everloop.cli.asked import WRITING, Asked
from everloop.cli.figures import print_notes
from everloop.cli.kind import Common, check_one, train_kind
from everloop.cli.source import Source
from everloop.data import Vocabulary
from everloop.data.datasets.conditions import Conditions, ConditionsConfig
from everloop.data.datasets.strokes import Strokes, StrokesConfig
from everloop.data.error_policy import ErrorPolicy
from everloop.data.files import write_atomically
from everloop.data.readers.arrays import read_vectors
from everloop.data.readers.labelled_texts import read_texts
from everloop.data.readers.lines import numbered
from everloop.data.readers.strokes import read_strokes
from everloop.decode.generate import Sampling, generate
from everloop.decode.sketch import Sketch
from everloop.draw.strokes import ink, png, sheet, svg
from everloop.errors import DataError, OptionError
from everloop.models.generator import Generator, GeneratorConfig, read_given
from everloop.train import Run

KIND, TAKES, DEFAULT = Generator.kind, (*WRITING, "array", "svg", "png"), Sampling(temperature=0.5)


@dataclass(frozen=True)
class GivenConfig(StrokesConfig, ConditionsConfig):
    """What is written and what from: texts with labels or vectors, or drawings with labels."""


@dataclass(frozen=True)
class Options(Common):
    """What `everloop train generator` can be told."""

    data: GivenConfig = field(default_factory=GivenConfig)
    model: GeneratorConfig = field(default_factory=GeneratorConfig)


def main(args: Sequence[str]) -> int:
    """Run `everloop train generator`."""
    text = "Train a generator: from a label or a vector to a text, or to pen strokes."
    return train_kind(KIND, Options, prepare, show, args, text)


def prepare(options: Options, resumed: Path | None) -> tuple[Conditions | Strokes, Generator]:
    """Return the data and the untrained model of these options."""
    given = read_given(resumed) if resumed else None
    labels = given if isinstance(given, list) else None
    if check_one({"texts": options.data.texts, "strokes": options.data.strokes}) == "strokes":
        drawings = Strokes.from_config(options.data, labels)
        print_notes(drawings, options.train.batch)
        return drawings, Generator.from_config(drawings.labels, None, options.model)
    known = Vocabulary.load(resumed / "vocabulary.json") if resumed else None
    data = Conditions.from_config(options.data, labels, known)
    print_notes(data, options.train.batch)
    return data, Generator.from_config(data.given_size or data.labels, data.vocabulary, options.model)


def show(model: Generator, data: Conditions | Strokes, run: Run) -> None:
    """Print texts for some labels, or keep a sheet of drawings in the run folder."""
    console = Console()
    if isinstance(data, Strokes):
        drawn = generate(model, data.labels, Sampling(temperature=0.4, num_samples=10, seed=1))
        lines = [one.lines for some in drawn for one in some]
        if run.path:
            _picture(lines, run.path / "drawings.svg", run.path / "drawings.png")
            console.print(f"ten drawings of each label: {run.path / 'drawings.svg'} and .png")
        return
    labels: Sequence[Any] = data.labels[:20]
    if model.given_size is not None:
        labels = [given for given, _ in data["valid" if "valid" in data.splits else "train"][:5]]
    written = generate(model, labels, Sampling(temperature=0.7, num_samples=5, seed=1), length=100)
    for i, some in enumerate(written):
        label = f"vector {i + 1}" if model.given_size is not None else labels[i]
        console.print(Line(f"{label}: ", "bold"), Line(", ".join(one.text for one in some)), sep="", soft_wrap=True)


def predict(model: Generator, config: GivenConfig, source: Source, asked: Asked) -> Iterator[str]:
    """Yield for each label a line, or one for each answer: the label, a tab, a text; or a JSON object with strokes.

    Where vectors are given their number takes the place of the label.
    """
    way, drawn = asked.way(DEFAULT), list[list[Tensor]]()
    if (asked.svg or asked.png) and model.vocabulary is not None:
        raise OptionError("--svg and --png are for drawings; this generator writes texts")
    if asked.array and model.given_size is None:
        raise OptionError("--array is for vectors; this generator reads labels")
    for chunk in source.chunks(_given(model, config, source, asked)):
        wanted = [given for _, given in chunk]
        for (name, _), found in zip(
            chunk, generate(model, wanted, way.next(), length=way.max_length or 200), strict=True
        ):
            if model.vocabulary is None:
                drawn += [one.lines for one in found] if asked.svg or asked.png else []
                yield "".join(_strokes(name, one) for one in found)
            else:
                yield way.lines(name, found)
    if drawn:
        _picture(drawn, asked.svg, asked.png)


def _given(model: Generator, config: GivenConfig, source: Source, asked: Asked) -> Iterator[tuple[str, Any]]:
    """Yield (name, what is given): labels by themselves, vectors with their number."""
    size, forms = model.given_size, {".npy": "npy", ".npz": "npz"}
    if source.chosen(forms if size is not None else {}, "text") != "text":
        vectors = read_vectors(source.by_path(), asked.array or config.array)
        if vectors.shape[1] != size:
            raise DataError(f"{source.place} holds vectors of {vectors.shape[1]} numbers; expected {size}")
        yield from ((str(number), vector) for number, vector in enumerate(vectors, 1))
        return
    with source.open() as file:
        for number, line in numbered(file, source.place, source.errors):
            text = line.strip()
            if text and size is None:
                yield text, text
            elif text:
                vector = _vector(text, size or 0)
                if vector is None:
                    source.errors.report(
                        source.place, number, repr(text[:40]), f"{size} numbers between spaces or commas"
                    )
                else:
                    yield str(number), vector


def _vector(text: str, size: int) -> Tensor | None:
    try:
        numbers = torch.tensor([float(part) for part in text.replace(",", " ").split()])
    except ValueError:
        return None
    return numbers if len(numbers) == size and bool(torch.isfinite(numbers).all()) else None


def _picture(drawn: Sequence[Sequence[Tensor]], vector: Path | None, pixels: Path | None) -> None:
    if vector:
        write_atomically(vector, svg(drawn).encode())
    if pixels:
        write_atomically(pixels, png(sheet([ink(lines, 56, pen=1.5) for lines in drawn])))


def _strokes(label: str, drawn: Sketch) -> str:
    strokes = [[[round(x, 4) for x in point] for point in line.tolist()] for line in drawn.lines]
    return json.dumps({"label": label, "strokes": strokes}, ensure_ascii=False) + "\n"


def given(model: Generator, config: GivenConfig, path: Path, labels: Path | None = None) -> Conditions | Strokes:
    """Return the texts or drawings of a file as the test part of the model's data."""
    errors = ErrorPolicy(config.malformed)
    if model.vocabulary is None:
        found = read_strokes(path, config.fields, errors)
        return Strokes({"test": [one for part in found.values() for one in part]}, config, model.labels, errors)
    pairs = read_texts(path, labels, config.array, errors)
    return Conditions((), (), config, model.labels or None, model.vocabulary, pairs, errors)


def own(model: Generator, config: GivenConfig) -> Conditions | Strokes:
    """Return the data that the model was trained with."""
    if model.vocabulary is None:
        return Strokes.from_config(config, model.labels)
    return Conditions.from_config(config, model.labels or None, model.vocabulary)
