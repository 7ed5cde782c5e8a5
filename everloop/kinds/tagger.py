"""Taggers: a label for each step of a sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from everloop.data.datasets.tagged import Tagged, TaggedConfig, read_part
from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.arrays import sequences
from everloop.data.readers.conllu import sentences
from everloop.data.readers.lines import numbered
from everloop.data.readers.tables import Records
from everloop.data.tokenize.words import words_of
from everloop.errors import OptionError
from everloop.kinds.decoding import PredictOptions
from everloop.kinds.source import PredictSource
from everloop.models.kind import Kind
from everloop.models.tagger import Tagger, TaggerConfig


def dataset(config: TaggedConfig, shape: TaggerConfig, model: Tagger | None) -> Tagged:
    """Return the tagged sequences that a configuration describes."""
    return Tagged.from_config(config, *((model.tokenizer, model.labels) if model else ()))


def predict(model: Tagger, config: TaggedConfig, source: PredictSource, options: PredictOptions) -> Iterator[str]:
    """Yield the tags of what is read: a word and its tag a line, CoNLL-U completed, or the labels of each step.

    With probabilities: a table of them, whatever is read.
    """
    if options.probabilities:
        yield "\t".join([*(["word"] if model.tokenizer else []), "label", *model.labels.symbols]) + "\n"
    if model.tokenizer is None:
        for vectors in source.chunks(sequences(source.by_path(), config.text, config.lengths)):
            yield from _table(model, vectors) if options.probabilities else _steps(model, vectors)
        return
    chosen = source.chosen_format({".conllu": "conllu", ".conll": "conllu", ".jsonl": "jsonl"}, "text")
    tokenizer = model.tokenizer

    def see(chunk: list[list[str]]) -> list[list[str]]:
        source.saw(tokenizer.encode(word)[0] for words in chunk for word in words)
        return chunk

    with source.open() as file:
        if chosen == "conllu":
            for some in source.chunks(sentences(file, source.place, source.errors)):
                read = see([sentence.column(config.text) for sentence in some])
                if options.probabilities:
                    yield from _table(model, read)
                else:
                    answers = zip(some, model.tag(read), strict=True)
                    yield from (sentence.replaced(config.label, answer) for sentence, answer in answers)
            return
        if chosen == "jsonl":
            records = Records({config.text: "words"}, "jsonl", (), source.place, source.errors).read(file)
            found = (row[config.text] for _, _, row in records)
        else:
            lines = numbered(file, source.place, source.errors)
            found = (words for _, line in lines if (words := words_of(line)))
        for chunk in source.chunks(found):
            if options.probabilities:
                yield from _table(model, see(chunk))
                continue
            for words, answer in zip(chunk, model.tag(see(chunk)), strict=True):
                yield "".join(f"{word}\t{tag}\n" for word, tag in zip(words, answer, strict=True)) + "\n"


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


def labelled(model: Tagger, config: TaggedConfig, path: Path, labels: Path | None) -> Tagged:
    """Return the tagged sequences of a file as the test part of the model's data."""
    if labels is not None:
        raise OptionError("--labels is for IDX images; a tagger's file holds its labels itself")
    if config.format == "chorales":
        return Tagged.from_config(replace(config, train=path), model.tokenizer, model.labels)
    errors = ErrorPolicy(config.malformed)
    parts = {"test": read_part(path, config, errors)}
    return Tagged(parts, config, model.tokenizer, model.labels, errors)


KIND = Kind(
    model=Tagger,
    model_config=TaggerConfig,
    data_config=TaggedConfig,
    description="Train a tagger: a label for each step of a sequence.",
    dataset=dataset,
    untrained=Tagger.of,
    labelled=labelled,
    by_label=True,
    predict=predict,
    predict_options=("probabilities",),
)
