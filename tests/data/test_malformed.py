"""Malformed lines of every format: the message names file, line and what was expected; the user may skip them."""

from __future__ import annotations

import dataclasses
import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everloop.data import (
    AudioConfig,
    Conditions,
    ConditionsConfig,
    Examples,
    ExamplesConfig,
    FrameConfig,
    Handwriting,
    HandwritingConfig,
    Parallel,
    ParallelConfig,
    Recordings,
    Series,
    SeriesConfig,
    Strokes,
    StrokesConfig,
    Tagged,
    TaggedConfig,
    Text,
    TextConfig,
)
from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.strokes import StrokeFields, read_strokes
from everloop.errors import DataError

BAD = b"\xff\xfe\xfd"
FRAMES = FrameConfig(rate=8000)
POINTS = [[0, 0], [1, 2]]


def word(number: int, form: bytes, tag: bytes = b"X") -> bytes:
    return b"\t".join([str(number).encode(), form, b"_", tag, *[b"_"] * 6]) + b"\n"


def drawing(**fields: Any) -> bytes:
    return json.dumps({"label": "1", "split": "train", "strokes": [POINTS], **fields}).encode() + b"\n"


def numbers(*rows: str) -> bytes:
    good = "".join(f"2024-01-{day:02},{day}\n" for day in range(1, 13))
    return f"day,a\n{good}{''.join(rows)}".encode()


def sounds(folder: Path) -> Path:
    for name, rate, count in (("a", 8000, 4000), ("short", 8000, 10)):
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, rate, count, "NONE", ""))
            file.writeframes(b"\1\0" * count)
    (folder / "torn.wav").write_bytes(b"RIFF")
    return folder


def text(path: Path) -> TextConfig:
    return TextConfig(text=(path,), split=(1, 0, 0))


def examples(path: Path) -> ExamplesConfig:
    return ExamplesConfig(train=path, hold_out=(0, 0))


def tagged(path: Path) -> TaggedConfig:
    return TaggedConfig(train=path, hold_out=(0, 0), min_freq=1)


def source(path: Path) -> ParallelConfig:
    (path.parent / "b").write_bytes(b"x\ny\nz\n")
    return ParallelConfig(source=path, target=path.parent / "b", min_freq=1)


def written(path: Path) -> ParallelConfig:
    return dataclasses.replace(source(path), source=path.parent / "b", target=path)


def labels(path: Path) -> ConditionsConfig:
    return ConditionsConfig(texts=path, hold_out=0)


def folder(path: Path) -> ConditionsConfig:
    inside = path.parent / "folder"
    inside.mkdir(exist_ok=True)
    path.rename(inside / path.name)
    return ConditionsConfig(texts=inside, hold_out=0)


def vectors(path: Path) -> ConditionsConfig:
    np.save(path.parent / "v.npy", np.eye(3))
    return ConditionsConfig(texts=path, vectors=path.parent / "v.npy", hold_out=0)


def series(path: Path) -> SeriesConfig:
    return SeriesConfig(train=(path,), series=("a",), time=("day",), split=(1, 0, 0))


def strokes(path: Path) -> StrokesConfig:
    return StrokesConfig(strokes=path)


def handwriting(path: Path) -> HandwritingConfig:
    return HandwritingConfig(strokes=path)


def transcripts(path: Path) -> AudioConfig:
    return AudioConfig(audio=sounds(path.parent), transcripts=path)


READERS: dict[type, Callable[[Any], Any]] = {
    TextConfig: Text.from_config,
    ExamplesConfig: Examples.from_config,
    TaggedConfig: Tagged.from_config,
    ParallelConfig: Parallel.from_config,
    ConditionsConfig: Conditions.from_config,
    SeriesConfig: lambda config: Series.from_config(config, context=2, horizon=1),
    StrokesConfig: Strokes.from_config,
    HandwritingConfig: lambda config: Handwriting.from_config(config, 0.1),
    AudioConfig: lambda config: Recordings.from_config(config, FRAMES),
}

UTF8 = "byte 0xff at .* is not UTF-8; expected UTF-8 text"
SENTENCES = word(1, b"a") + word(2, BAD) + word(3, b"c") + b"\n" + word(1, b"kept") + b"\n"
LAST = word(1, b"a") + word(2, BAD) + b"\n" + word(1, b"kept") + b"\n"
PLACES = "expected an object with strokes"
NO_STROKES = "no field 'strokes'; expected an object with strokes, label"
CASES: list[tuple[Callable[[Path], Any], str, bytes, int, str, int]] = [
    (text, "t.txt", b"one\n" + BAD + b"\nthree\n", 2, UTF8, 10),
    (text, "t.txt", b"one one\n\x89PNG\0\n", 2, "byte 0x89 at offset 8 is not UTF-8, and it looks binary", 8),
    (text, "t.txt", b"one\ntwo\nth\0ree\n", 3, "a zero byte at offset 10.*; expected UTF-8 text", 8),
    (examples, "t.tsv", b"text\tlabel\n" + BAD + b"\tA\ngood\tA\n", 2, UTF8, 1),
    (examples, "t.csv", b"text,label\ngood,A\nbad\n", 3, "1 field; expected 2: text, label", 1),
    (examples, "t.jsonl", b'{"text": "good", "label": "A"}\n{"text"\n', 2, "no JSON .*; expected one JSON object", 1),
    (
        examples,
        "t.jsonl",
        b'{"text": "a", "label": "A"}\n{"text": "b", "text": "c", "label": "A"}\n',
        2,
        r"no JSON \('text' occurs twice in an object\); expected one JSON object",
        1,
    ),
    (examples, "t.ts", b"@data\n1,2:A\n1,x:A\n", 3, "value 2 of channel 1 is .x.; expected a number that is finite", 1),
    (tagged, "t.conllu", SENTENCES, 2, UTF8, 1),
    (tagged, "t.conllu", LAST, 2, UTF8, 1),
    (tagged, "t.conllu", word(1, b"a") + b"2\tb\n\n" + word(1, b"c"), 2, "2 fields; expected 10 fields", 1),
    (tagged, "t.jsonl", b'{"form": "a b", "upos": "X"}\n{"form": "a", "upos": "X"}\n', 1, "expected equally many", 1),
    (source, "a", b"a\n" + BAD + b"\nc\n", 2, UTF8, 2),
    (written, "a", b"a\n" + BAD + b"\nc\n", 2, UTF8, 2),
    (source, "a", b"a\n\nc\n", 2, "an empty line; expected the translation of a line that is not", 2),
    (labels, "t.tsv", b"A\tone\ntwo\n", 2, "'two'; expected LABEL TAB TEXT", 1),
    (labels, "t.tsv", b"A\tone\nB\t" + BAD + b"\n", 2, UTF8, 1),
    (folder, "A.txt", b"one\n" + BAD + b"\n", 2, UTF8, 1),
    (vectors, "t.txt", b"one\n" + BAD + b"\nthree\n", 2, UTF8, 2),
    (series, "t.csv", numbers("2024-01-13,x\n"), 14, "a is 'x'; expected a number", 12),
    (series, "t.csv", numbers("someday,13\n"), 14, "day is 'someday'; expected a time such as 2016", 12),
    (strokes, "t.jsonl", drawing() + b"[1]\n", 2, f"a JSON list; {PLACES}", 1),
    (strokes, "t.jsonl", drawing() + b"{\n", 2, PLACES, 1),
    (handwriting, "t.jsonl", drawing() + b"{\n", 2, PLACES, 1),
    (
        handwriting,
        "t.jsonl",
        drawing() + b'{"label": "1"}\n',
        2,
        NO_STROKES,
        1,
    ),
    (
        strokes,
        "t.jsonl",
        drawing() + b'{"label": "1"}\n',
        2,
        "no field 'strokes'; expected an object with strokes, label",
        1,
    ),
    (strokes, "t.jsonl", drawing() + drawing(strokes=7), 2, f"strokes is 7; {PLACES}", 1),
    (strokes, "t.jsonl", drawing() + drawing(strokes=[[[0, 0], [1]]]), 2, PLACES, 1),
    (strokes, "t.jsonl", drawing() + drawing(strokes=[[[0, 0], [1, float("nan")]]]), 2, f"list of points.*{PLACES}", 1),
    (strokes, "t.jsonl", drawing() + BAD + b"\n", 2, UTF8, 1),
    (transcripts, "said", b"a.wav\tone\na.wav one\n", 2, "expected NAME.wav TAB TEXT", 1),
    (transcripts, "said", b"a.wav\tone\nb.wav\ttwo\n", 2, r"there is no .*b\.wav; expected the name of a recording", 1),
    (transcripts, "said", b"a.wav\tone\ntorn.wav\ttwo\n", 2, "no WAV file.*; expected a recording that can be read", 1),
    (transcripts, "said", b"a.wav\tone\nshort.wav\ttwo\n", 2, "has 10 samples; expected at least 200", 1),
    (transcripts, "said", b"a.wav\tone\n" + BAD + b"\n", 2, UTF8, 1),
]


def count(data: Any) -> int:
    """Return how many records (of a text: characters) the training part has."""
    return len(data.values) if isinstance(data, Series) else len(data["train"])


@pytest.mark.parametrize(("how", "name", "content", "line", "message", "kept"), CASES)
def test_a_malformed_line_stops_or_is_counted(
    how: Callable[[Path], Any], name: str, content: bytes, line: int, message: str, kept: int, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    config = how(tmp_path / name)
    read = READERS[type(config)]
    with pytest.raises(DataError, match=rf"{name}: line {line}: .*{message}.*malformed skip"):
        read(config)
    data = read(dataclasses.replace(config, malformed="skip"))
    assert data.errors.skipped == 1
    assert count(data) == kept
    assert f"1 malformed line left out; the first: {tmp_path}" in data.notes(2)[-1]


def test_fields_of_drawings_are_called_as_in_the_file(tmp_path: Path) -> None:
    fields = StrokeFields("ink", "word", "part")
    for line, message in (
        ('{"ink": 7, "word": "a", "part": "train"}', r"ink is 7; expected an object with ink \[\["),
        ('{"ink": [[[0, 0], [1, 1]]]}', "no field 'word'; .* ink, word, part"),
    ):
        (tmp_path / "one.jsonl").write_text(f"{line}\n")
        with pytest.raises(DataError, match=message):
            read_strokes(tmp_path / "one.jsonl", fields, ErrorPolicy())


@pytest.mark.parametrize("units", ["characters", "words"])
def test_a_text_without_its_malformed_lines(units: Any, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"one\r\n" + BAD + b"\nt\0wo\n\nthree\n" + BAD + b"\nfour")
    least = None if units == "bytes" else 1
    text = Text(tmp_path / "t.txt", units=units, split=(1, 0, 0), malformed="skip", min_freq=least)
    assert text.vocabulary.decode(text["train"]) == "one\n\nthree\nfour"
    assert text.errors.skipped == 3


ARRAYS: list[tuple[type, dict[str, Any], str]] = [
    (ExamplesConfig, {"text": np.full((2, 3, 1), np.nan)}, "sequence 1 of text has a number that is not finite"),
    (ExamplesConfig, {"text": np.full((2, 3, 1), 1e39)}, "sequence 1 of text has a number that is not finite"),
    (ExamplesConfig, {"text": np.array(["a"])}, r"text is <U1 \[1\]; expected numbers \[N, T, F\]"),
    (ExamplesConfig, {"label": np.zeros((2, 2))}, r"label is float64 \[2, 2\]; expected whole numbers or strings"),
    (ExamplesConfig, {"label": np.arange(3)}, "has 2 sequences and 3 labels"),
    (ExamplesConfig, {"n": np.array([0, 3])}, "train, example 1 has no step"),
    (ExamplesConfig, {"n": np.array([1, 4])}, "n does not fit text"),
    (TaggedConfig, {"label": np.array([["a"]])}, r"label is <U1 \[1, 1\]; expected numbers \[N, T\]"),
    (TaggedConfig, {"label": np.zeros((2, 2), int)}, "sequence 2 has 3 steps and 2 tags"),
    (TaggedConfig, {"label": np.zeros((1, 3), int)}, "label has 1 rows; expected 2, one a sequence"),
    (
        TaggedConfig,
        {"label": np.full((2, 3), -1)},
        "sequence 1 of label has tags from -1 to -1; expected whole numbers",
    ),
    (TaggedConfig, {"label": np.full((2, 3, 4), 2)}, "sequence 1 of label has tags from 2 to 2; expected 0 and 1"),
]


@pytest.mark.parametrize(("kind", "changed", "message"), ARRAYS)
def test_arrays_that_do_not_fit(kind: type, changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    label = np.zeros((2, 3), int) if kind is TaggedConfig else np.arange(2)
    good: dict[str, Any] = {"text": np.ones((2, 3, 1)), "label": label, "n": np.array([2, 3])}
    config = kind(train=tmp_path / "a.npz", text="text", label="label", lengths="n", hold_out=(0, 0))
    np.savez(tmp_path / "a.npz", **good)
    assert READERS[kind](config).splits == ("train",)
    np.savez(tmp_path / "a.npz", **(good | changed))
    with pytest.raises(DataError, match=message):
        READERS[kind](config)


def test_a_strange_label_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"form": "a b", "upos": "X Y"}\n')
    (tmp_path / "v.jsonl").write_text('{"form": "a", "upos": "X"}\n{"form": "a b", "upos": "X Z"}\n')
    with pytest.raises(DataError, match=r"v\.jsonl: line 2: unknown label 'Z'"):
        Tagged.from_config(TaggedConfig(train=tmp_path / "t.jsonl", valid=tmp_path / "v.jsonl", min_freq=1))
    with pytest.raises(DataError, match="valid, text 2: unknown label 'C'"):
        Conditions([("A", "x")], [("A", "x"), ("C", "x")])
    with pytest.raises(DataError, match=r"'y' .* of test, text 1"):
        Conditions((), (), None, "A", Conditions([("A", "x")]).vocabulary, [("A", "y")])
