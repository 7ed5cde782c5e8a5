"""Lists of files with their texts: lines between tabs, or tables of any format."""

from __future__ import annotations

import csv
import json
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from everloop.data import AudioConfig, Conditions, ConditionsConfig, FrameConfig, Recordings
from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.file_lists import FileColumns, named_texts
from everloop.errors import DataError

ROWS = [("a.wav", "one, two"), ("b.wav", "three")]
FRAMES = FrameConfig(rate=8000)


def write(path: Path, names: tuple[str, str] | None = ("file", "text")) -> Path:
    match path.suffix:
        case ".jsonl":
            assert names
            path.write_text("\n".join(json.dumps({"id": 1, **dict(zip(names, row, strict=True))}) for row in ROWS))
        case ".parquet":
            assert names
            frame = dict(zip(names, map(list, zip(*ROWS, strict=True)), strict=True))
            pytest.importorskip("polars").DataFrame(frame).write_parquet(path)
        case _:
            with path.open("w", newline="") as file:
                sign = "," if path.suffix == ".csv" else "\t"
                csv.writer(file, delimiter=sign).writerows([*([names] if names else []), *ROWS])
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet"])
def test_a_table(name: str, tmp_path: Path) -> None:
    errors = ErrorPolicy()
    read = [(name, text) for _, name, text in named_texts(write(tmp_path / name), FileColumns(), "", errors)]
    assert read == ROWS
    other = write(tmp_path / f"u{name}", ("path", "sentence"))
    again = named_texts(other, FileColumns("path", "sentence"), "", errors)
    assert [(name, text) for _, name, text in again] == ROWS


@pytest.mark.parametrize("name", ["t.tsv", "t.txt", "said"])
def test_lines(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, None)
    assert list(named_texts(path, FileColumns(), "", ErrorPolicy())) == [(i, *row) for i, row in enumerate(ROWS, 1)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,text\na.wav,b\n", r"unknown column 'file'; known: path, text; say which"),
        ("file,text\na.wav,\n", "line 2: text is empty; expected both"),
        ("file,text\n,b\n", "line 2: file is empty; expected both"),
    ],
)
def test_what_is_wrong(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(content)
    errors = ErrorPolicy(column_advice="say which", header_advice="")
    with pytest.raises(DataError, match=message):
        list(named_texts(tmp_path / "t.csv", FileColumns(), "", errors))


def test_labelled_texts_of_a_table(tmp_path: Path) -> None:
    whole = ConditionsConfig(hold_out=0)
    (tmp_path / "lines").write_text("Greek\tKosta\nCzech\tNovak\n")
    wanted = Conditions.from_config(replace(whole, texts=tmp_path / "lines")).fingerprint
    (tmp_path / "a.csv").write_text("id,text,label\n1,Kosta,Greek\n2,Novak,Czech\n")
    assert Conditions.from_config(replace(whole, texts=tmp_path / "a.csv")).fingerprint == wanted
    (tmp_path / "b.csv").write_text("name,language\nKosta,Greek\nNovak,Czech\n")
    named = replace(whole, texts=tmp_path / "b.csv", label_column="language", text_column="name")
    assert Conditions.from_config(named).fingerprint == wanted
    with pytest.raises(DataError, match=r"known: name, language; say which ones they are \(--label-column, --text-col"):
        Conditions.from_config(replace(whole, texts=tmp_path / "b.csv"))
    pairs = {"language": ["Greek", "Czech"], "text": ["Kosta", "Novak"]}
    assert Conditions.of(pairs, config=replace(whole, label_column="language")).fingerprint == wanted


def test_recordings_and_pictures_of_a_table(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    for name, _ in ROWS:
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setparams((1, 2, 8000, 4000, "NONE", ""))
            file.writeframes(b"\1\0" * 4000)
        pillow.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name.replace(".wav", ".png"))
    audio = AudioConfig(audio=tmp_path, transcripts=write(tmp_path / "t.csv"))
    assert [text for _, text in Recordings.from_config(audio, FRAMES)["train"]] == ["one, two", "three"]
    renamed = write(tmp_path / "u.jsonl", ("audio_filepath", "sentence"))
    audio = replace(audio, transcripts=renamed, file_column="audio_filepath", text_column="sentence")
    assert [text for _, text in Recordings.from_config(audio, FRAMES)["train"]] == ["one, two", "three"]
    (tmp_path / "p.csv").write_text("image,caption\na.png,a cat\nb.png,a dog\n")
    shown = ConditionsConfig(
        texts=tmp_path / "p.csv", pictures=tmp_path, file_column="image", text_column="caption", hold_out=0
    )
    data = Conditions.from_config(shown)
    assert [data.vocabulary.decode(numbers) for _, numbers in data["train"]] == ["a cat", "a dog"]
