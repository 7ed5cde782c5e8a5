"""Generators: from a label, a vector or a picture to a text, or to pen strokes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.text import Text as Line
from torch import Tensor

from everloop.data.datasets.conditions import Conditions, ConditionsConfig, read_pairs
from everloop.data.datasets.strokes import Strokes, StrokesConfig
from everloop.data.error_policy import AS_TRAINED, ErrorPolicy
from everloop.data.files import write_atomically
from everloop.data.pictures import PictureSize
from everloop.data.readers.arrays import read_vectors
from everloop.data.readers.pictures import ARRAYS, ENDINGS, pictures_of
from everloop.data.readers.strokes import read_strokes
from everloop.data.settings import only_one
from everloop.decode.generate import Greedy, Method, Sampling, generate, write
from everloop.decode.sketch import Sketch, sketch
from everloop.decode.writer import Hypothesis, writer
from everloop.draw import pictures
from everloop.draw.strokes import ink, png, sheet, svg
from everloop.errors import DataError, OptionError, unknown
from everloop.kinds.decoding import SYMBOLS, Decoder, PredictOptions
from everloop.kinds.examples import Example, spread
from everloop.kinds.source import PredictSource
from everloop.models.generator import Generator, GeneratorConfig
from everloop.models.kind import Kind
from everloop.train import Run

SAMPLER = Sampling(temperature=0.5)
METHOD = Greedy()  # where one text is right


@dataclass(frozen=True)
class GeneratorDataConfig(StrokesConfig, ConditionsConfig):
    """What is written and what from: texts with labels, vectors or pictures, or drawings with labels."""


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
    """Return what a generator writes or draws for labels, vectors or pictures."""
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
        way = "draws" if model.vocabulary is None else f"reads {_plural(model)}"
        raise OptionError(f"the run holds a generator that {way}; use everloop predict RUN FILE")
    if label == "\n":
        raise OptionError("a generator needs a prompt: everloop sample RUN LABEL")
    yield generate(model, [label], method, length=length)[0][0].text


def examples(model: Generator, data: Conditions | Strokes, split: str, count: int) -> Iterator[Example]:
    """Yield labels, vectors or pictures, and what the model writes or draws for them."""
    if model.given_size is not None:
        yield from _told(model, data, split, count)
        return
    labels = data.labels[:count]
    found: Sequence[Sequence[Any]] = answers(model, labels, Sampling(temperature=0.5, num_samples=3, seed=1), 200)
    for label, some in zip(labels, found, strict=True):
        if model.vocabulary is None:
            yield Example(label, picture=svg([one.lines for one in some], 3))
        else:
            yield Example(label, answer="\n".join(map(str, some)), source=label)


def _told(model: Generator, data: Any, split: str, count: int) -> Iterator[Example]:
    """Yield vectors or pictures, the text that the data has for them, and the one that the model writes."""
    assert model.vocabulary is not None, "vectors and pictures are given to generators of texts"
    chosen = spread(count, len(data[split]))
    items = [data[split][i] for i in chosen]
    found: Sequence[Sequence[Hypothesis]] = Decoder(METHOD)(model, [source for source, _ in items])
    for i, (source, numbers), (best, *_) in zip(chosen, items, found, strict=True):
        shown = pictures.svg([source]) if source.dim() == 3 else ""
        name = f"{_plural(model)[:-1]} {i + 1}"
        yield Example(
            name,
            model.vocabulary.decode(numbers),
            best.text,
            f"log-probability {best.logp:.2f}",
            source=source,
            shown=shown,
        )


def _plural(model: Generator) -> str:
    """Return what is given, where it is no label."""
    return "pictures" if isinstance(model.given_size, PictureSize) else "vectors"


def decoding_metrics(
    model: Generator, data: Conditions | Strokes, split: str, decoder: Decoder
) -> tuple[dict[str, float | str], str]:
    """Return how many texts are exactly those of the data, where each has a vector or a picture of its own.

    Raises:
        OptionError: a way to decode was chosen where many texts, or drawings, are right.
    """
    if model.given_size is None or not isinstance(data, Conditions):
        if decoder.method != METHOD or decoder.max_length is not None:
            raise OptionError("many answers are right to a label, so none is decoded here; leave out how to decode")
        return {}, ""
    items, right, lines = data[split], 0, list[str]()
    for start in range(0, len(items), 64):
        some = items[start : start + 64]
        found = decoder(model, [given for given, _ in some])
        for (_, numbers), (best, *_) in zip(some, found, strict=True):
            wanted = data.vocabulary.decode(numbers)
            right += best.text == wanted
            if best.text != wanted and len(lines) < 5:
                lines.append(f"{best.text}   (in the data: {wanted})")
    text = f"exact match {right / len(items):.2%} ({right:,} of {len(items):,} {split} texts), {decoder}"
    return {"exact_match": right / len(items), "decoding": str(decoder)}, "\n".join([*lines, text])


def report(model: Generator, data: Conditions | Strokes, run: Run) -> Iterator[Line]:
    """Yield texts for some labels, or keep a sheet of drawings in the run folder."""
    if isinstance(data, Strokes):
        drawn = generate(model, data.labels, Sampling(temperature=0.4, num_samples=10, seed=1))
        lines = [one.lines for some in drawn for one in some]
        if run.path:
            _picture(lines, run.path / "drawings.svg", run.path / "drawings.png")
            yield Line(f"ten drawings of each label: {run.path / 'drawings.svg'} and .png")
        return
    split = "valid" if "valid" in data.splits else "train"
    if model.given_size is not None:
        if not run.interrupted:
            yield Line(decoding_metrics(model, data, split, Decoder(METHOD))[1])
        return
    labels: Sequence[Any] = data.labels[:20]
    written = generate(model, labels, Sampling(temperature=0.7, num_samples=5, seed=1), length=100)
    for label, some in zip(labels, written, strict=True):
        yield Line.assemble((f"{label}: ", "bold"), ", ".join(one.text for one in some))


def predict(
    model: Generator, config: GeneratorDataConfig, source: PredictSource, options: PredictOptions
) -> Iterator[str]:
    """Yield for each label a line, or one for each answer: the label, a tab, a text; or a JSON object with strokes.

    Where vectors are given their number takes the place of the label, and the name of its file that of a picture. The
    line of an empty or malformed line is empty.
    """
    decoder = options.decoder(SAMPLER if model.given_size is None else METHOD)
    drawn = list[list[Tensor]]()
    if (options.svg or options.png) and model.vocabulary is not None:
        raise OptionError("--svg and --png are for drawings; this generator writes texts")
    if options.array and model.given_size is None:
        raise OptionError("--array is for vectors and pictures; this generator reads labels")
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
    if isinstance(model.given_size, PictureSize):
        source.chosen_format(dict.fromkeys((*ENDINGS, *ARRAYS), "pictures"), "pictures")
        yield from pictures_of(source.by_path(), model.given_size, options.array or config.array)
        return
    size, forms = model.given_size, {".npy": "npy", ".npz": "npz"}
    if source.chosen_format(forms if size is not None else {}, "text") != "text":
        vectors = read_vectors(source.by_path(), options.array or config.array)
        if vectors.shape[1] != size:
            raise DataError(f"{source.place} holds vectors of {vectors.shape[1]} numbers; expected {size}")
        yield from ((str(number), vector) for number, vector in enumerate(vectors, 1))
        return
    for number, line in source.lines():
        text = line.strip()
        if not text:
            yield None
            continue
        if size is None:
            is_known = text in model.labels
            if not is_known:
                source.errors.report(source.place, number, unknown("label", text, model.labels), "a label of training")
            yield (text, text) if is_known else None
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
    errors = ErrorPolicy(config.malformed, column_advice=AS_TRAINED)
    if model.vocabulary is None:
        if labels is not None:
            raise OptionError("--labels is for vectors of texts; a file of drawings holds its labels itself")
        found = read_strokes(path, config.fields, errors)
        return Strokes({"test": [one for part in found.values() for one in part]}, config, model.labels, errors)
    size = model.given_size
    if size is not None:
        if labels is None:
            raise OptionError(
                f"texts need their {_plural(model)}: everloop evaluate RUN TEXTS --labels {_plural(model).upper()}"
            )
    elif labels is not None:
        raise OptionError("--labels is for vectors or pictures of texts; this generator reads labels")
    shown = labels if isinstance(size, PictureSize) else None
    config = replace(config, vectors=None if shown else labels, pictures=shown)
    pairs = read_pairs(path, config, errors, size if isinstance(size, PictureSize) else None)
    return Conditions((), (), config, model.labels or None, model.vocabulary, pairs, errors)


KIND = Kind(
    model=Generator,
    model_config=GeneratorConfig,
    data_config=GeneratorDataConfig,
    description="Train a generator: from a label, a vector or a picture to a text, or to pen strokes.",
    dataset=dataset,
    create_model=create_model,
    evaluation_dataset=evaluation_dataset,
    predict=predict,
    predict_options=(*SYMBOLS, "array", "svg", "png"),
    method=METHOD,
    decoding_metrics=decoding_metrics,
    examples=examples,
    report=report,
    generate=answers,
    sample=written,
    also=("captioning", "generation", "sketch-rnn"),
)
