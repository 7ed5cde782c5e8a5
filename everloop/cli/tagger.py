"""`everloop train tagger`, and what `predict` and `evaluate` do with one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from everloop.cli.asked import Asked
from everloop.cli.figures import print_notes, show
from everloop.cli.kind import Common, train_kind
from everloop.cli.source import Source
from everloop.data.datasets.tagged import Tagged, TaggedConfig, read_part
from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.arrays import sequences
from everloop.data.readers.conllu import sentences
from everloop.data.readers.lines import numbered
from everloop.data.readers.tables import Records
from everloop.data.tokenize.symbols import Symbols
from everloop.data.tokenize.words import WordReader, read_reader, words_of
from everloop.errors import OptionError
from everloop.models.tagger import Tagger, TaggerConfig
from everloop.train import TrainConfig

KIND, TAKES = Tagger.kind, ("probabilities",)


@dataclass(frozen=True)
class Options(Common):
    """What `everloop train tagger` can be told."""

    data: TaggedConfig = field(default_factory=TaggedConfig)
    model: TaggerConfig = field(default_factory=TaggerConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch=32, monitor="accuracy"))


def main(args: Sequence[str]) -> int:
    """Run `everloop train tagger`; 130 if it was interrupted."""
    return train_kind(KIND, Options, prepare, show, args, "Train a tagger: a label for each step of a sequence.")


def prepare(options: Options, resumed: Path | None) -> tuple[Tagged, Tagger]:
    """Return the data and the untrained model of these options."""
    reads = read_reader(resumed, WordReader) if resumed else None
    labels = Symbols.load(resumed / "labels.json") if resumed else None
    data = Tagged.from_config(options.data, reads if isinstance(reads, WordReader) else None, labels)
    print_notes(data, options.train.batch)
    return data, Tagger.of(data, options.model)


def predict(model: Tagger, config: TaggedConfig, source: Source, asked: Asked) -> Iterator[str]:
    """Yield the tags of what is read: a word and its tag a line, CoNLL-U completed, or the labels of each step.

    With probabilities: a table of them, whatever is read.
    """
    if asked.probabilities:
        yield "\t".join([*(["word"] if model.reader else []), "label", *model.labels.symbols]) + "\n"
    if model.reader is None:
        for vectors in source.chunks(sequences(source.by_path(), config.text, config.lengths)):
            yield from _table(model, vectors) if asked.probabilities else _steps(model, vectors)
        return
    form = source.chosen({".conllu": "conllu", ".conll": "conllu", ".jsonl": "jsonl"}, "text")
    reader = model.reader

    def see(chunk: list[list[str]]) -> list[list[str]]:
        source.saw(reader.encode(word)[0] for words in chunk for word in words)
        return chunk

    with source.open() as file:
        if form == "conllu":
            for some in source.chunks(sentences(file, source.place, source.errors)):
                read = see([sentence.column(config.text) for sentence in some])
                if asked.probabilities:
                    yield from _table(model, read)
                else:
                    answers = zip(some, model.tag(read), strict=True)
                    yield from (sentence.replaced(config.label, answer) for sentence, answer in answers)
            return
        if form == "jsonl":
            records = Records({config.text: "words"}, "jsonl", (), source.place, source.errors).read(file)
            found = (row[config.text] for _, _, row in records)
        else:
            lines = numbered(file, source.place, source.errors)
            found = (words for _, line in lines if (words := words_of(line)))
        for chunk in source.chunks(found):
            if asked.probabilities:
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
            word = [items[i]] if model.reader else []
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


def given(model: Tagger, config: TaggedConfig, path: Path, labels: Path | None = None) -> Tagged:
    """Return the tagged sequences of a file as the test part of the model's data."""
    if config.form == "chorales":
        return Tagged.from_config(replace(config, train=path), model.reader, model.labels)
    if labels is not None:
        raise OptionError("--labels is for IDX images; a tagger's file holds its labels itself")
    errors = ErrorPolicy(config.malformed)
    parts = {"test": read_part(path, config, errors)}
    return Tagged(parts, config, model.reader, model.labels, errors)


def own(model: Tagger, config: TaggedConfig) -> Tagged:
    """Return the data that the model was trained with."""
    return Tagged.from_config(config, model.reader, model.labels)
