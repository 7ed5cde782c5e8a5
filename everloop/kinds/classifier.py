"""Classifiers: one label for a whole sequence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from everloop.data.datasets.examples import Examples, ExamplesConfig, read_part
from everloop.data.error_policy import AS_TRAINED, ErrorPolicy
from everloop.data.readers.arrays import sequences
from everloop.data.readers.idx import read_images
from everloop.data.readers.pictures import ENDINGS, has_pictures, picture_files, read_picture, steps_of
from everloop.data.readers.ts import ts_series
from everloop.errors import DataError
from everloop.kinds.decoding import PredictOptions
from everloop.kinds.examples import label_examples
from everloop.kinds.source import PredictSource, headed
from everloop.models.classifier import Classifier, ClassifierConfig
from everloop.models.kind import Kind


def dataset(config: ExamplesConfig, shape: ClassifierConfig, model: Classifier | None) -> Examples:
    """Return the labelled sequences that a configuration describes."""
    return Examples.from_config(config, *((model.tokenizer, model.labels) if model else ()))


def predict(model: Classifier, config: ExamplesConfig, source: PredictSource, options: PredictOptions) -> Iterator[str]:
    """Yield for each text, series or picture a line: the likeliest label, its probability (or those of all), and the
    text or the name of the picture.

    The line of an empty text, or of a malformed one that is left out, is empty.
    """
    answers = _answers(model, config, source, options)
    if options.probabilities:
        shown = ["text"] if model.tokenizer else ["picture"] if _of_pictures(source) else []
        answers = headed("\t".join(["label", *model.labels.symbols, *shown]) + "\n", answers)
    yield from answers


def _answers(
    model: Classifier, config: ExamplesConfig, source: PredictSource, options: PredictOptions
) -> Iterator[str]:
    for named in source.chunks(_read(model, config, source)):
        chunk = [sequence for _, sequence in named]
        there = [item for item in chunk if item is not None]
        if model.tokenizer is not None:
            source.saw(number for text in there for number in model.tokenizer.encode(text))
        found = iter(model.classify(there).tolist() if there else ())
        for name, item in named:
            if item is None:
                yield "\n"
                continue
            probabilities = next(found)
            best = max(range(len(probabilities)), key=probabilities.__getitem__)
            shown = probabilities if options.probabilities else [probabilities[best]]
            text = [name] if name else []
            yield "\t".join([model.labels.symbols[best], *(f"{p:.4f}" for p in shown), *text]) + "\n"


def _of_pictures(source: PredictSource) -> bool:
    return source.path.is_dir() or source.path.suffix.lower() in ENDINGS


def _read(model: Classifier, config: ExamplesConfig, source: PredictSource) -> Iterator[tuple[str, Any]]:
    """Yield texts, series or pictures, each with what it is called in the answer; None where there is none."""
    if model.tokenizer is None:
        if _of_pictures(source):
            yield from _pictures(model, config, source.path)
            return
        chosen = source.chosen_format({".ts": "ts", ".npz": "npz", "": "idx"}, "ts")
        if chosen == "ts":
            with source.open() as file:
                found = source.each(ts_series(file, source.place, source.errors, labelled=False))
                yield from (("", one and one[1]) for one in found)
        elif chosen == "npz":
            yield from (("", one) for one in sequences(source.by_path(), config.text, config.lengths))
        else:
            yield from (("", one) for one in read_images(source.by_path()))
        return
    for _, text in source.texts(config.text, config.columns):
        yield text, text if text.strip() else None


def _pictures(model: Classifier, config: ExamplesConfig, path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield a PNG or JPEG file, or all of a folder, as sequences as in training: in grey, or else in colours."""
    files = picture_files(path)
    for file in files:
        steps = steps_of(read_picture(file, config.size, _channels(model, config, file)), config.patch)
        if steps.shape[1] != model.features:
            came = f"{file} makes steps of {steps.shape[1]} numbers"
            raise DataError(f"{came}; expected {model.features}, as the pictures of training have")
        yield str(file), steps


def _channels(model: Classifier, config: ExamplesConfig, file: Path) -> int:
    """Return how many channels the pictures of training have, told by the numbers of a step, if `file` is as large."""
    wide = config.patch**2 if config.patch else (config.size or read_picture(file).shape[:2])[1]
    return 1 if model.features == wide else 3


def evaluation_dataset(model: Classifier, config: ExamplesConfig, path: Path, labels: Path | None) -> Examples:
    """Return the labelled sequences of a file as the test split of the model's data."""
    errors = ErrorPolicy(config.malformed, column_advice=AS_TRAINED)
    channels = _channels(model, config, picture_files(path)[0]) if has_pictures(path) else None
    parts = {"test": read_part(path, labels, config, errors, channels)}
    return Examples(parts, config, model.tokenizer, model.labels, errors)


KIND = Kind(
    model=Classifier,
    model_config=ClassifierConfig,
    data_config=ExamplesConfig,
    description="Train a classifier: one label for a whole sequence.",
    dataset=dataset,
    create_model=Classifier.of,
    evaluation_dataset=evaluation_dataset,
    label_metrics=True,
    examples=label_examples,
    predict=predict,
    predict_options=("probabilities", "columns"),
    also=("classification", "sentiment", "text-classification"),
)
