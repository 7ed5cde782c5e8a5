"""Generators: from a label or a vector to a text, or to pen strokes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.text import Text as Line
from torch import Tensor

from everloop.data.datasets.conditions import Conditions, ConditionsConfig
from everloop.data.datasets.strokes import Strokes, StrokesConfig
from everloop.data.error_policy import ErrorPolicy
from everloop.data.files import write_atomically
from everloop.data.readers.arrays import read_vectors
from everloop.data.readers.labelled_texts import read_texts
from everloop.data.readers.strokes import read_strokes
from everloop.data.settings import only_one
from everloop.decode.generate import Greedy, Method, Sampling, generate, write
from everloop.decode.sketch import Sketch, sketch
from everloop.decode.writer import Hypothesis, writer
from everloop.draw.strokes import ink, png, sheet, svg
from everloop.errors import DataError, OptionError
from everloop.kinds.decoding import SYMBOLS, PredictOptions
from everloop.kinds.examples import Example
from everloop.kinds.source import PredictSource
from everloop.models.generator import Generator, GeneratorConfig
from everloop.models.kind import Kind
from everloop.train import Run

SAMPLER = Sampling(temperature=0.5)


@dataclass(frozen=True)
class GeneratorDataConfig(StrokesConfig, ConditionsConfig):
    """What is written and what from: texts with labels or vectors, or drawings with labels."""


def dataset(config: GeneratorDataConfig, shape: GeneratorConfig, model: Generator | None) -> Conditions | Strokes:
    """Return the texts or the drawings that a configuration describes."""
    labels = model.labels or None if model else None
    if only_one({"texts": config.texts, "strokes": config.strokes}) == "strokes":
        return Strokes.from_config(config, labels)
    return Conditions.from_config(config, labels, model.vocabulary if model else None)


def create_model(data: Conditions | Strokes, shape: GeneratorConfig) -> Generator:
    """Return a model with fresh weights for some data."""
    if isinstance(data, Strokes):
        return Generator.from_config(data.labels, None, shape)
    return Generator.from_config(data.given_size or data.labels, data.vocabulary, shape)


def answers(
    model: Generator, sources: Sequence[Any], method: Method, length: int
) -> list[list[Hypothesis]] | list[list[Sketch]]:
    """Return what a generator writes or draws for labels or vectors."""
    if model.vocabulary is not None:
        return write(writer(model), sources, method, length)
    match method:
        case Greedy():
            return [[one] for one in sketch(model, sources, temperature=0, length=length)]
        case Sampling(temperature, None, None, num_samples, seed):
            repeated = [source for source in sources for _ in range(num_samples)]
            drawn = sketch(model, repeated, temperature=temperature, length=length, seed=seed)
            return [drawn[i : i + num_samples] for i in range(0, len(drawn), num_samples)]
    raise OptionError("strokes are drawn greedily or by sampling at a temperature; their steps cannot be counted off")


def written(model: Generator, label: str, method: Sampling, length: int) -> Iterator[str]:
    """Yield the text that a generator of texts writes for a label."""
    if model.vocabulary is None or model.given_size is not None:
        way = "draws" if model.vocabulary is None else "reads vectors"
        raise OptionError(f"the run holds a generator that {way}; use everloop predict RUN FILE")
    if label == "\n":
        raise OptionError("a generator needs a prompt: everloop sample RUN LABEL")
    yield generate(model, [label], method, length=length)[0][0].text


def examples(model: Generator, data: Conditions | Strokes, split: str, count: int) -> Iterator[Example]:
    """Yield labels or vectors, and what the model writes or draws for them."""
    sources: Sequence[Any] = data.labels[:count]
    if model.given_size is not None:
        sources = [data[split][i][0] for i in range(min(count, len(data[split])))]
    names = [f"vector {i + 1}" if model.given_size is not None else str(one) for i, one in enumerate(sources)]
    found: Sequence[Sequence[Any]] = answers(model, sources, Sampling(temperature=0.5, num_samples=3, seed=1), 200)
    for name, source, some in zip(names, sources, found, strict=True):
        if model.vocabulary is None:
            yield Example(name, picture=svg([one.lines for one in some], 3))
        else:
            yield Example(name, answer="\n".join(map(str, some)), source=source)


def report(model: Generator, data: Conditions | Strokes, run: Run) -> Iterator[Line]:
    """Yield texts for some labels, or keep a sheet of drawings in the run folder."""
    if isinstance(data, Strokes):
        drawn = generate(model, data.labels, Sampling(temperature=0.4, num_samples=10, seed=1))
        lines = [one.lines for some in drawn for one in some]
        if run.path:
            _picture(lines, run.path / "drawings.svg", run.path / "drawings.png")
            yield Line(f"ten drawings of each label: {run.path / 'drawings.svg'} and .png")
        return
    labels: Sequence[Any] = data.labels[:20]
    if model.given_size is not None:
        labels = [given for given, _ in data["valid" if "valid" in data.splits else "train"][:5]]
    written = generate(model, labels, Sampling(temperature=0.7, num_samples=5, seed=1), length=100)
    for i, some in enumerate(written):
        label = f"vector {i + 1}" if model.given_size is not None else labels[i]
        yield Line.assemble((f"{label}: ", "bold"), ", ".join(one.text for one in some))


def predict(
    model: Generator, config: GeneratorDataConfig, source: PredictSource, options: PredictOptions
) -> Iterator[str]:
    """Yield for each label a line, or one for each answer: the label, a tab, a text; or a JSON object with strokes.

    Where vectors are given their number takes the place of the label. The line of an empty or malformed line is empty.
    """
    decoder, drawn = options.decoder(SAMPLER), list[list[Tensor]]()
    if (options.svg or options.png) and model.vocabulary is not None:
        raise OptionError("--svg and --png are for drawings; this generator writes texts")
    if options.array and model.given_size is None:
        raise OptionError("--array is for vectors; this generator reads labels")
    for chunk in source.chunks(_given(model, config, source, options)):
        wanted = [one[1] for one in chunk if one]
        answers = iter(decoder(model, wanted) if wanted else ())
        for one in chunk:
            if one is None:
                yield "\n"
                continue
            name, found = one[0], next(answers)
            if model.vocabulary is None:
                drawn += [one.lines for one in found] if options.svg or options.png else []
                yield "".join(_strokes(name, one) for one in found)
            else:
                yield decoder.lines(name, found)
    if drawn:
        _picture(drawn, options.svg, options.png)


def _given(
    model: Generator, config: GeneratorDataConfig, source: PredictSource, options: PredictOptions
) -> Iterator[tuple[str, Any] | None]:
    """Yield (name, what is given): labels by themselves, vectors with their number; None where nothing is."""
    size, forms = model.given_size, {".npy": "npy", ".npz": "npz"}
    if source.chosen_format(forms if size is not None else {}, "text") != "text":
        vectors = read_vectors(source.by_path(), options.array or config.array)
        if vectors.shape[1] != size:
            raise DataError(f"{source.place} holds vectors of {vectors.shape[1]} numbers; expected {size}")
        yield from ((str(number), vector) for number, vector in enumerate(vectors, 1))
        return
    for number, line in source.lines():
        text = line.strip()
        if not text or size is None:
            yield (text, text) if text else None
            continue
        vector = _vector(text, size)
        if vector is None:
            source.errors.report(source.place, number, repr(text[:40]), f"{size} numbers between spaces or commas")
        yield None if vector is None else (str(number), vector)


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


def evaluation_dataset(
    model: Generator, config: GeneratorDataConfig, path: Path, labels: Path | None
) -> Conditions | Strokes:
    """Return the texts or drawings of a file as the test split of the model's data."""
    errors = ErrorPolicy(config.malformed)
    if model.vocabulary is None:
        if labels is not None:
            raise OptionError("--labels is for vectors of texts; a file of drawings holds its labels itself")
        found = read_strokes(path, config.fields, errors)
        return Strokes({"test": [one for part in found.values() for one in part]}, config, model.labels, errors)
    pairs = read_texts(path, labels, config.array, errors)
    return Conditions((), (), config, model.labels or None, model.vocabulary, pairs, errors)


KIND = Kind(
    model=Generator,
    model_config=GeneratorConfig,
    data_config=GeneratorDataConfig,
    description="Train a generator: from a label or a vector to a text, or to pen strokes.",
    dataset=dataset,
    create_model=create_model,
    evaluation_dataset=evaluation_dataset,
    predict=predict,
    predict_options=(*SYMBOLS, "array", "svg", "png"),
    examples=examples,
    report=report,
    generate=answers,
    sample=written,
    also=("captioning", "generation", "sketch-rnn"),
)
