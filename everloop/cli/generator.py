"""`everloop train generator`: from a label or a vector to a text, or to pen strokes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text as Line

from everloop.cli.figures import print_notes
from everloop.cli.kind import Common, check_one, train_kind
from everloop.cli.source import Source
from everloop.data import Vocabulary
from everloop.data.conditions import Conditions, ConditionsConfig, read_texts
from everloop.data.faults import Faults
from everloop.data.files import write_atomically
from everloop.data.lines import numbered
from everloop.data.strokes import Strokes, StrokesConfig, read_strokes
from everloop.decode.generate import Sampling, generate
from everloop.draw.strokes import ink, png, sheet, svg
from everloop.errors import OptionError
from everloop.models.generator import Generator, GeneratorConfig
from everloop.train import Run


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
    return train_kind("generator", Options, prepare, show, args, text)


def prepare(options: Options, resumed: Path | None) -> tuple[Conditions | Strokes, Generator]:
    """Return the data and the untrained model of these options."""
    given = json.loads((resumed / "given.json").read_text("utf-8")) if resumed else None
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
        drawn = generate(model, data.labels, Sampling(temperature=0.4, count=10, seed=1))
        lines = [one.lines for some in drawn for one in some]
        if run.path:
            write_atomically(run.path / "drawings.svg", svg(lines).encode())
            write_atomically(run.path / "drawings.png", png(sheet([ink(drawing, 56, pen=1.5) for drawing in lines])))
            console.print(f"ten drawings of each label: {run.path / 'drawings.svg'} and .png")
        return
    labels = data.labels[:20]
    written = generate(model, labels, Sampling(temperature=0.7, count=5, seed=1), length=100)
    for label, some in zip(labels, written, strict=True):
        console.print(Line(f"{label}: ", "bold"), Line(", ".join(one.text for one in some)), sep="", soft_wrap=True)


def predict(model: Generator, config: GivenConfig, source: Source) -> Iterator[str]:
    """Yield for each label a line: the label, a tab, a text; or a JSON object with strokes."""
    if model.given_size is not None:
        raise OptionError("this generator reads vectors, which are no lines of text; decode it from Python")
    source.chosen({}, "text")
    with source.open() as file:
        lines = (line.strip() for _, line in numbered(file, source.place, source.faults) if line.strip())
        for chunk in source.chunks(lines):
            for label, (one,) in zip(chunk, generate(model, chunk, Sampling(temperature=0.5)), strict=True):
                if model.vocabulary is None:
                    strokes = [[[round(x, 4) for x in point] for point in line.tolist()] for line in one.lines]
                    yield json.dumps({"label": label, "strokes": strokes}, ensure_ascii=False) + "\n"
                else:
                    yield f"{label}\t{one.text}\n"


def given(model: Generator, config: GivenConfig, path: Path, labels: Path | None = None) -> Conditions | Strokes:
    """Return the texts or drawings of a file as the test part of the model's data."""
    faults = Faults(config.malformed)
    data: Conditions | Strokes
    if model.vocabulary is None:
        found = read_strokes(replace(config, strokes=path), faults)
        data = Strokes({"test": [one for part in found.values() for one in part]}, config, model.labels)
    else:
        pairs = read_texts(replace(config, texts=path, vectors=labels), faults)
        data = Conditions((), (), config, model.labels or None, model.vocabulary, pairs)
    data.faults = faults
    return data


def own(model: Generator, config: GivenConfig) -> Conditions | Strokes:
    """Return the data that the model was trained with."""
    if model.vocabulary is None:
        return Strokes.from_config(config, model.labels)
    return Conditions.from_config(config, model.labels or None, model.vocabulary)
