"""Taggers: a label for each step of a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from everloop.data.datasets.tagged import Tagged, TaggedConfig, read_part
from everloop.data.error_policy import AS_TRAINED, ErrorPolicy
from everloop.data.pictures import PictureSize
from everloop.data.readers import conll, conllu
from everloop.data.readers.arrays import films_or_sequences
from everloop.data.readers.films import films
from everloop.data.readers.formats import table_endings, table_reader
from everloop.data.readers.lines import suffix
from everloop.data.readers.source import Fields
from everloop.data.tokenize.words import words_of
from everloop.errors import OptionError
from everloop.kinds.decoding import PredictOptions
from everloop.kinds.examples import label_examples
from everloop.kinds.source import PredictSource, headed
from everloop.models.kind import Kind
from everloop.models.tagger import Tagger, TaggerConfig


def dataset(config: TaggedConfig, shape: TaggerConfig, model: Tagger | None) -> Tagged:
    """Return the tagged sequences that a configuration describes."""
    return Tagged.from_config(config, *((model.tokenizer, model.labels) if model else ()))


def predict(model: Tagger, config: TaggedConfig, source: PredictSource, options: PredictOptions) -> Iterator[str]:
    """Yield the tags of what is read: a word and its tag a line, CoNLL-U completed, or the labels of each step.

    After each sequence there is an empty line; a line without a word, or malformed and left out, has nothing before it.

    With probabilities: a table of them, whatever is read.
    """
    answers = _answers(model, config, source, options)
    if options.probabilities:
        heading = [*(["word"] if model.tokenizer else []), "label", *model.labels.symbols]
        answers = headed("\t".join(heading) + "\n", answers)
    yield from answers


def _answers(model: Tagger, config: TaggedConfig, source: PredictSource, options: PredictOptions) -> Iterator[str]:
    if model.tokenizer is None:
        for vectors in source.chunks(_numbers(model, config, source)):
            yield from _table(model, vectors) if options.probabilities else _steps(model, vectors)
        return
    by_name = table_endings() | {".bio": "conll", ".iob": "conll"}
    by_name |= {".tsv": "conll"} if config.format == "conll" else {}
    by_name |= dict.fromkeys((".conllu", ".conll"), "conllu" if conllu.is_conllu(source.path) else "conll")
    chosen = source.chosen_format(by_name, "text")
    if chosen == "text":
        if config.format == "conll" and source.format == "auto" and not source.piped:
            source.notes.append(f"{source.place} is read as text, a sentence a line; --format conll: a word a line")
        yield from _words(model, (words_of(line) for _, line in source.lines()), source, options)
        return
    columns = source.columns or config.columns
    if chosen in table_endings().values():
        rows = table_reader(source.path, chosen)(source, {config.text: "words"}, columns)
        yield from _words(model, (row[2][config.text] if row else [] for row in source.each(rows)), source, options)
        return
    with source.open() as file:
        if chosen == "conllu":
            for some in source.chunks(conllu.sentences(file, source.place, source.errors)):
                read = [sentence.column(config.text) for sentence in some]
                source.saw(model.tokenizer.encode(word)[0] for words in read for word in words)
                if options.probabilities:
                    yield from _table(model, read)
                else:
                    answers = zip(some, model.tag(read), strict=True)
                    yield from (sentence.replaced(config.label, answer) for sentence, answer in answers)
            return
        fields = Fields(config.text, config.label, columns=columns)
        found = source.each(conll.sentences(file, source.place, source.errors))
        words = (conll.column(one, config.text, fields, source.place) if one else [] for one in found)
        yield from _words(model, words, source, options)


def _numbers(model: Tagger, config: TaggedConfig, source: PredictSource) -> Iterable[torch.Tensor]:
    """Return series or films of an archive, or films of a folder, whose frames are scaled to what the model reads."""
    path, size = source.by_path(), model.features
    if suffix(path) == ".json":
        raise OptionError(f"{path}: predict reads arrays (.npz); evaluate reads chorales, and sample goes on with one")
    if isinstance(size, PictureSize) and path.is_dir():
        return films(path, (size.height, size.width), size.channels)
    return films_or_sequences(path, config.text, config.lengths)


def _words(model: Tagger, found: Iterable[list[str]], source: PredictSource, options: PredictOptions) -> Iterator[str]:
    """Yield the tags of sentences."""
    assert model.tokenizer, "only called with words"
    for chunk in source.chunks(found):
        filled = [words for words in chunk if words]
        source.saw(model.tokenizer.encode(word)[0] for words in filled for word in words)
        if options.probabilities:
            answers = iter(_table(model, filled))
        else:
            tags = zip(filled, model.tag(filled) if filled else (), strict=True)
            answers = iter("".join(f"{word}\t{tag}\n" for word, tag in zip(*one, strict=True)) + "\n" for one in tags)
        yield from (next(answers) if words else "\n" for words in chunk)


def _table(model: Tagger, chunk: Sequence[Any]) -> Iterator[str]:
    """Yield sequences with a step a line: its word if there is one, its labels, the probability of each label."""
    several = model.config.output == "several"
    answers = [[]] * len(chunk) if several else model.tag(chunk)
    for items, tags, sure in zip(chunk, answers, model.probabilities(chunk), strict=True):
        lines = []
        for i, row in enumerate(sure.tolist()):
            word = [items[i]] if model.tokenizer else []
            lines.append("\t".join([*word, _likely(model, row) if several else tags[i], *(f"{p:.4f}" for p in row)]))
        yield "\n".join(lines) + "\n\n"


def _steps(model: Tagger, chunk: list[torch.Tensor]) -> Iterator[str]:
    """Yield the labels of sequences of vectors: a step a line, and those that are more likely than not."""
    if model.config.output != "several":
        yield from ("".join(f"{tag}\n" for tag in tags) + "\n" for tags in model.tag(chunk))
        return
    for sure in model.probabilities(chunk):
        yield "".join(f"{_likely(model, row)}\n" for row in sure.tolist()) + "\n"


def _likely(model: Tagger, row: list[float]) -> str:
    return " ".join(name for name, p in zip(model.labels.symbols, row, strict=True) if p > 0.5)


def evaluation_dataset(model: Tagger, config: TaggedConfig, path: Path, labels: Path | None) -> Tagged:
    """Return the tagged sequences of a file as the test split of the model's data."""
    if labels is not None:
        raise OptionError("--labels is for IDX images; a tagger's file holds its labels itself")
    if config.format == "chorales":
        return Tagged.from_config(replace(config, train=path), model.tokenizer, model.labels)
    errors = ErrorPolicy(config.malformed, column_advice=AS_TRAINED)
    channels = model.features.channels if isinstance(model.features, PictureSize) else None
    parts = {"test": read_part(path, config, errors, channels)}
    return Tagged(parts, config, model.tokenizer, model.labels, errors)


KIND = Kind(
    model=Tagger,
    model_config=TaggerConfig,
    data_config=TaggedConfig,
    description="Train a tagger: a label for each step of a sequence.",
    dataset=dataset,
    create_model=Tagger.of,
    evaluation_dataset=evaluation_dataset,
    label_metrics=True,
    examples=label_examples,
    predict=predict,
    predict_options=("probabilities", "columns"),
    also=("ner", "pos", "pos-tagger", "sequence-labeling", "tagging", "token-classification"),
)
