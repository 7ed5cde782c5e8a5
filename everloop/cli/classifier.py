"""`everloop train classifier`, and what `predict` and `evaluate` do with one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everloop.cli.asked import Asked
from everloop.cli.figures import print_notes, show
from everloop.cli.kind import Common, train_kind
from everloop.cli.source import Source
from everloop.data.datasets.examples import Examples, ExamplesConfig, read_part
from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.arrays import sequences
from everloop.data.readers.formats import table_endings, table_reader
from everloop.data.readers.idx import read_images
from everloop.data.readers.lines import numbered
from everloop.data.readers.ts import ts_series
from everloop.data.tokenize.symbols import Symbols
from everloop.data.tokenize.words import TextReader, read_reader
from everloop.models.classifier import Classifier, ClassifierConfig
from everloop.train import TrainConfig

KIND, TAKES = Classifier.kind, ("probabilities", "columns")


@dataclass(frozen=True)
class Options(Common):
    """What `everloop train classifier` can be told."""

    data: ExamplesConfig = field(default_factory=ExamplesConfig)
    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def main(args: Sequence[str]) -> int:
    """Run `everloop train classifier`; 130 if it was interrupted."""
    return train_kind(KIND, Options, prepare, show, args, "Train a classifier: one label for a whole sequence.")


def prepare(options: Options, resumed: Path | None) -> tuple[Examples, Classifier]:
    """Return the data and the untrained model of these options."""
    reads = read_reader(resumed, TextReader) if resumed else None
    labels = Symbols.load(resumed / "labels.json") if resumed else None
    data = Examples.from_config(options.data, reads if isinstance(reads, TextReader) else None, labels)
    print_notes(data, options.train.batch)
    return data, Classifier.of(data, options.model)


def predict(model: Classifier, config: ExamplesConfig, source: Source, asked: Asked) -> Iterator[str]:
    """Yield for each text or series a line: the most likely label, its probability (or those of all), and the text."""
    if asked.probabilities:
        yield "\t".join(["label", *model.labels.symbols, *(["text"] if model.reader else [])]) + "\n"
    for chunk in source.chunks(_read(model, config, source)):
        if model.reader is not None:
            source.saw(number for text in chunk for number in model.reader.encode(text))
        for item, chances in zip(chunk, model.classify(chunk).tolist(), strict=True):
            best = max(range(len(chances)), key=chances.__getitem__)
            shown = chances if asked.probabilities else [chances[best]]
            text = [item] if isinstance(item, str) else []
            yield "\t".join([model.labels.symbols[best], *(f"{p:.4f}" for p in shown), *text]) + "\n"


def _read(model: Classifier, config: ExamplesConfig, source: Source) -> Iterator[Any]:
    if model.reader is None:
        form = source.chosen({".ts": "ts", ".npz": "npz", "": "idx"}, "ts")
        if form == "ts":
            with source.open() as file:
                yield from (series for series, _ in ts_series(file, source.place, source.errors, labelled=False))
        elif form == "npz":
            yield from sequences(source.by_path(), config.text, config.lengths)
        else:
            yield from read_images(source.by_path())
        return
    form = source.chosen(table_endings(), "text")
    if form != "text":
        rows = table_reader(source.path, form)(source, {config.text: "text"}, source.columns or config.columns)
        yield from (row[config.text].replace("\n", " ") for _, _, row in rows)
    else:
        with source.open() as file:
            yield from (line for _, line in numbered(file, source.place, source.errors) if line.strip())


def given(model: Classifier, config: ExamplesConfig, path: Path, labels: Path | None = None) -> Examples:
    """Return the labelled sequences of a file as the test part of the model's data."""
    errors = ErrorPolicy(config.malformed)
    parts = {"test": read_part(path, labels, config, errors)}
    return Examples(parts, config, model.reader, model.labels, errors)


def own(model: Classifier, config: ExamplesConfig) -> Examples:
    """Return the data that the model was trained with."""
    return Examples.from_config(config, model.reader, model.labels)
