"""Examples, tagged sequences and windows of series: parts, batches, what is unknown, what a run resumes on."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch

from everloop.data.datasets.calendar import calendar_of
from everloop.data.datasets.examples import Examples, ExamplesConfig
from everloop.data.datasets.series import Series
from everloop.data.datasets.series_config import SeriesConfig
from everloop.data.datasets.tagged import Tagged, TaggedConfig
from everloop.data.readers.tables import time_of
from everloop.data.tokenize.symbols import UNKNOWN, Symbols
from everloop.data.tokenize.words import MAX_WORD_LENGTH, TextTokenizer, WordTokenizer, words_of
from everloop.errors import DataError, OptionError

TSV = "text\tlabel\n" + "".join(f"{'word ' * (1 + i % 9)}w{i}\t{'ab'[i % 2]}\n" for i in range(200))


@pytest.fixture
def table(tmp_path: Path) -> ExamplesConfig:
    (tmp_path / "t.tsv").write_text(TSV)
    return ExamplesConfig(train=tmp_path / "t.tsv", hold_out=(0.1, 0.2))


def test_held_out_parts_are_apart_and_always_the_same(table: ExamplesConfig) -> None:
    data = Examples.from_config(table)
    parts = {name: set(part) for name, part in data.parts.items()}
    assert {name: len(part) for name, part in parts.items()} == {"train": 140, "valid": 20, "test": 40}
    assert len(set.union(*parts.values())) == 200
    assert Examples.from_config(table).fingerprint == data.fingerprint
    less = Examples.from_config(replace(table, hold_out=(0.0, 0.2)))
    assert set(less.parts["test"]) == parts["test"]
    assert less.fingerprint != data.fingerprint


def test_batches_are_the_texts(table: ExamplesConfig) -> None:
    data = Examples.from_config(table)
    assert data.tokenizer is not None
    seen = []
    for batch in data.epoch("train", 3, batch=16, seed=5):
        assert batch.x.shape == (int(batch.lengths.max()), len(batch.y))
        for b, length in enumerate(batch.lengths.tolist()):
            words = [data.tokenizer.symbols.symbols[i] for i in batch.x[:length, b].tolist()]
            seen.append((" ".join(words), data.labels.symbols[batch.y[b]]))
            assert batch.x[length:, b].sum() == 0
    assert sorted(seen) == sorted(zip(data.parts["train"], data.parts["train"].labels, strict=True))


def test_a_pass_depends_on_its_number_and_seed_alone(table: ExamplesConfig) -> None:
    data = Examples.from_config(table)
    first, again, other = (data.epoch("train", number, batch=16, seed=5)[2] for number in (0, 0, 1))
    assert first.x.equal(again.x)
    assert first.x.shape != other.x.shape or not first.x.equal(other.x)


def test_unknown_symbols_and_padding_are_told(table: ExamplesConfig) -> None:
    train, valid, _ = Examples.from_config(table).notes(16)
    assert train.startswith("train: 140 examples, padding ")
    assert ", 0 of " in train
    assert ", 20 of " in valid  # the last word of each is new
    few = Examples.from_config(replace(table, min_freq=2)).notes(16)
    assert ", 140 of " in few[0]


def test_malformed_lines_are_counted(table: ExamplesConfig, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(TSV + "only one field\n")
    with pytest.raises(DataError, match=r"t\.tsv: line 202: 1 field; expected 2: text, label"):
        Examples.from_config(table)
    data = Examples.from_config(replace(table, malformed="skip"))
    assert data.errors.skipped == 1
    assert "1 malformed line left out" in data.notes(8)[-1]


def test_a_folder_has_a_label_for_each_file(tmp_path: Path) -> None:
    (tmp_path / "Czech.txt").write_text("Dvořák\nSmetana\n")
    (tmp_path / "Polish.txt").write_text("Chopin\n\n")
    config = ExamplesConfig(train=tmp_path, units="characters", lower=False, hold_out=(0, 0))
    data = Examples.from_config(config)
    assert data.labels.symbols == ("Czech", "Polish")
    assert list(data.parts["train"]) == ["Dvořák", "Smetana", "Chopin"]
    assert data.lengths["train"].tolist() == [6, 7, 6]


def test_images(tmp_path: Path) -> None:
    pixels = bytes(range(2 * 5 * 4))
    (tmp_path / "x-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 2, 5, 4) + pixels))
    (tmp_path / "y-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 2) + b"\x07\x03")
    config = ExamplesConfig(train=tmp_path / "x-idx3-ubyte.gz", train_labels=tmp_path / "y-idx1-ubyte", hold_out=(0, 0))
    (batch,) = Examples.from_config(config).epoch("train", 0, batch=2)
    assert batch.x.shape == (5, 2, 4)
    shifted = Examples.from_config(replace(config, shift=2))
    passes = [shifted.epoch("train", n, batch=2, seed=1)[0].x for n in (0, 0, 1, 2)]
    assert passes[0].equal(passes[1])
    assert any(not passes[0].equal(other) for other in passes[2:])
    with pytest.raises(DataError, match="name their IDX file"):
        Examples.from_config(replace(config, train_labels=None))


def test_a_file_of_labels_that_nothing_reads(table: ExamplesConfig, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"y: a file of labels is for IDX images; .* holds its labels itself"):
        Examples.from_config(replace(table, train_labels=tmp_path / "y"))


def test_labels_of_other_parts_must_be_known(table: ExamplesConfig, tmp_path: Path) -> None:
    (tmp_path / "v.tsv").write_text("text\tlabel\nword\tc\n")
    with pytest.raises(DataError, match="unknown label 'c'"):
        Examples.from_config(replace(table, valid=tmp_path / "v.tsv"))
    with pytest.raises(OptionError, match="hold_out is"):
        Examples.from_config(replace(table, hold_out=(0.6, 0.4)))
    with pytest.raises(DataError, match="--train FILE"):
        Examples.from_config(ExamplesConfig())


def test_words() -> None:
    assert words_of("It's good, isn't it? We'd 'quote' 3.5 déjà-vu") == [
        *("It", "'s", "good", ",", "isn't", "it", "?", "We", "'d", "'", "quote", "'", "3", ".", "5", "déjà", "-", "vu")
    ]


def test_readers_come_back(tmp_path: Path) -> None:
    text = TextTokenizer.learn(["A b b", "c"], "characters", lower=True)
    text.save(tmp_path / "r.json")
    again = TextTokenizer.load(tmp_path / "r.json")
    assert (again.symbols, again.units, again.lower) == (text.symbols, "characters", True)
    assert again.encode("bz") == [text.symbols.numbers["b"], UNKNOWN]
    assert again.encode("") == [UNKNOWN]
    words = WordTokenizer.learn([["The", "the", "cat"]], min_freq=2)
    words.save(tmp_path / "w.json")
    other = WordTokenizer.load(tmp_path / "w.json")
    assert other.words.symbols[2:] == ("the",)
    assert other.encode("THE")[0] == other.encode("the")[0] == 2
    assert other.encode("cat")[0] == UNKNOWN
    assert len(other.encode("x" * 99)[1]) == MAX_WORD_LENGTH
    with pytest.raises(DataError, match="everloop-word-reader-1"):
        WordTokenizer.load(tmp_path / "r.json")


def test_each_word_of_a_batch_is_spelled_once() -> None:
    tokenizer = WordTokenizer.learn([["a", "bc", "a"]])
    words, lengths = tokenizer.batch([["a", "bc", "a"], ["bc"]])
    assert lengths.tolist() == [3, 1]
    assert words.which[:, 0].tolist() == [0, 1, 0]
    assert words.spelled_lengths.tolist() == [1, 2]
    assert words.numbers[1:, 1].tolist() == [0, 0]
    assert words.spelled[:, 1].tolist() == tokenizer.characters.encode(["b", "c"])


def test_tagged_json_lines(tmp_path: Path) -> None:
    lines = [
        {"form": ["a", "b"], "upos": ["X", "Y"]},
        {"form": ["c"], "upos": ["X", "Y"]},
        {"form": "d e", "upos": "X X"},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = TaggedConfig(train=tmp_path / "t.jsonl", hold_out=(0, 0))
    with pytest.raises(DataError, match="line 2: 1 words and 2 tags"):
        Tagged.from_config(config)
    data = Tagged.from_config(replace(config, malformed="skip"))
    assert [words for words, _ in data["train"]] == [["a", "b"], ["d", "e"]]
    assert data.labels.symbols == ("X", "Y")
    (batch,) = data.epoch("train", 0, batch=4)
    assert sorted(batch.y.T.tolist()) == [[0, 0], [0, 1]]


def test_chorales_are_transposed_while_training_alone(tmp_path: Path) -> None:
    pieces = {name: [[[60, 64], [62], [64]]] for name in ("train", "valid")}
    (tmp_path / "c.json").write_text(json.dumps(pieces))
    config = TaggedConfig(train=tmp_path / "c.json", format="chorales", transpose=5)
    data = Tagged.from_config(config)
    (plain,) = data.epoch("valid", 0, batch=4)
    assert plain.x.shape == plain.y.shape == (2, 1, 88)  # type: ignore[union-attr]
    lowest = {int(data.epoch("train", n, batch=4)[0].y[0, 0].nonzero()[0]) for n in range(20)}
    assert len(lowest) > 3
    assert lowest <= set(range(62 - 21 - 5, 62 - 21 + 6))
    assert data.epoch("train", 7, batch=4, seed=2)[0].y.equal(data.epoch("train", 7, batch=4, seed=2)[0].y)


def test_symbols(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'a' is twice"):
        Symbols("aba")
    with pytest.raises(DataError, match="unknown label 'c'"):
        Symbols("ab").encode("c")


VALUES = torch.arange(100.0)[:, None] * torch.tensor([[1.0, 10.0]])


def test_windows_of_a_part_forecast_that_part() -> None:
    data = Series(VALUES, config=SeriesConfig(split=(0.6, 0.2, 0.2)), context=5, horizon=3)
    firsts = {name: data.epoch(name, 0, batch=200)[0].future[0, :, 0].tolist() for name in data.splits}
    assert sorted(firsts["train"]) == list(range(5, 58))
    assert firsts["valid"] == list(range(60, 78))
    assert firsts["test"] == list(range(80, 98))
    (batch,) = data.epoch("valid", 0, batch=200)
    assert batch.past.shape == (5, 18, 2)
    assert batch.past[:, 0, 1].tolist() == [550, 560, 570, 580, 590]
    assert batch.future[:, 0, 0].tolist() == [60, 61, 62]


def test_scale_is_that_of_the_training_part() -> None:
    data = Series(VALUES, config=SeriesConfig(split=(50, 25, 25)), context=5, horizon=3)
    mean, deviation = data.scale()
    assert mean.tolist() == [24.5, 245]
    torch.testing.assert_close(deviation, VALUES[:50].std(0, unbiased=False))


def test_calendar_turns() -> None:
    start = datetime(2024, 1, 1)
    hours = calendar_of([start + timedelta(hours=6 * i) for i in range(5)], ["hour"])
    torch.testing.assert_close(hours, torch.tensor([[0.0, 1], [1, 0], [0, -1], [-1, 0], [0, 1]]), atol=1e-6, rtol=0)
    weeks = calendar_of([start + timedelta(days=7 * i) for i in range(3)], ["weekday"])
    assert weeks[0].equal(weeks[1])
    assert time_of("1949-03") == datetime(1949, 3, 1)
    assert time_of("soon") is None


@pytest.mark.parametrize(
    ("split", "message"), [((0.9, 0.2, 0.1), "expected three fractions"), ((90, 20, 1), "asks for 111 rows")]
)
def test_splits_that_make_no_sense(split: tuple[float, float, float], message: str) -> None:
    with pytest.raises((DataError, OptionError), match=message):
        Series(VALUES, config=SeriesConfig(split=split), context=5, horizon=3)


def test_series_files(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text('"Month","a","b"\n' + "".join(f'"2001-{m:02}",{m},{m * m}\n' for m in range(1, 13)))
    config = SeriesConfig(
        train=(tmp_path / "s.csv",),
        series=("a",),
        covariates=("b",),
        time=("Month",),
        calendar=("month",),
        split=(1, 0, 0),
    )
    data = Series.from_config(config, context=4, horizon=2)
    assert data.extras == (1, 0, 2)
    (batch,) = data.epoch("train", 0, batch=99)
    assert batch.extra.shape == (4, 7, 3)
    assert batch.ahead.shape == (2, 7, 2)
    with pytest.raises(OptionError, match="--series"):
        Series.from_config(replace(config, series=(), covariates=()), context=4, horizon=2)
    assert Series.from_config(replace(config, series=()), context=4, horizon=2).names == ("a",)
    with pytest.raises(DataError, match="unknown column 'c'"):
        Series.from_config(replace(config, series=("c",)), context=4, horizon=2)
    with pytest.raises(DataError, match="a window of 10 \\+ 5 needs more"):
        Series.from_config(config, context=10, horizon=5)


def test_the_digest_of_a_folder_is_that_of_its_texts_in_memory(tmp_path: Path) -> None:
    for label, lines in (("A", "eins\n\n zwei \n'q'\n"), ("B", "drei\nvier")):
        (tmp_path / f"{label}.txt").write_text(lines)
    data = Examples.from_config(ExamplesConfig(train=tmp_path, hold_out=(0, 0)))
    texts = ["eins", "zwei", "'q'", "drei", "vier"]
    assert data.parts["train"].digest == hashlib.sha256(repr(texts).encode()).hexdigest() + " 5"
