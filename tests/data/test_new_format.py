"""A file format is one reader and one row of the table: this file adds one, and every dataset reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop.data import (
    AudioConfig,
    Examples,
    ExamplesConfig,
    FrameConfig,
    Recordings,
    Series,
    SeriesConfig,
    Tagged,
    TaggedConfig,
)
from everloop.data.readers import formats
from everloop.data.readers.formats import Format
from everloop.data.readers.source import ColumnType, Fields, Record, Row, See, Source
from everloop.errors import OptionError

KINDS: dict[str, Callable[[str], Any]] = {"text": str, "words": str.split, "number": float, "value": float, "time": str}


def read_equals(
    source: Source, wanted: Mapping[str, ColumnType], columns: Sequence[str] = (), see: See | None = None
) -> Iterator[tuple[int, bytes, Row]]:
    """Yield the rows of a file of lines `name=value;name=value`."""
    with source.open() as file:
        for number, raw in enumerate(file, 1):
            fields = dict(part.split("=") for part in raw.decode().strip().split(";"))
            yield number, raw, {name: KINDS[kind](fields[name]) for name, kind in wanted.items()}


def read_digits(source: Source, fields: Fields) -> Iterator[Record]:
    """Yield for each line its digits as features, and how many they are as the label."""
    with source.open() as file:
        for line in file:
            digits = [[float(digit)] for digit in line.decode().strip()]
            yield Record(torch.tensor(digits), str(len(digits)))


def read_silence(path: Path) -> tuple[Tensor, int]:
    """Return as many samples of silence as the file says."""
    return torch.zeros(int(path.read_text())), 8000


@pytest.fixture
def new_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    new = (
        Format("equals", (".eq",), rows=read_equals),
        Format("digits", (".dig",), examples=read_digits),
        Format("silence", (".mute",), audio=read_silence),
    )
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, *new))


@pytest.mark.usefixtures("new_formats")
def test_a_table_of_a_new_format_is_read_by_every_dataset(tmp_path: Path) -> None:
    path = tmp_path / "t.eq"
    path.write_text("".join(f"text=a b;label=x y;n={i}\n" for i in range(20)))
    examples = Examples.from_config(ExamplesConfig(train=path, hold_out=(0, 0)))
    assert (len(examples["train"]), examples.labels.symbols) == (20, ("x y",))
    tagged = Tagged.from_config(TaggedConfig(train=path, text="text", label="label", hold_out=(0, 0)))
    assert tagged["train"][0][0] == ["a", "b"]
    assert tagged.labels.symbols == ("x", "y")
    series = Series.from_config(SeriesConfig(train=(path,), series=("n",), one_series=True), context=2, horizon=1)
    assert series.values[:, 0].tolist() == list(range(20))


@pytest.mark.usefixtures("new_formats")
def test_sequences_and_sound_of_a_new_format(tmp_path: Path) -> None:
    (tmp_path / "t.dig").write_text("123\n4567\n")
    examples = Examples.from_config(ExamplesConfig(train=tmp_path / "t.dig", hold_out=(0, 0)))
    assert examples["train"][1][0].tolist() == [[4], [5], [6], [7]]
    assert examples.labels.symbols == ("3", "4")
    (tmp_path / "a.mute").write_text("700")
    (tmp_path / "said.txt").write_text("a.mute\thush\n")
    recordings = Recordings.from_config(AudioConfig(tmp_path, tmp_path / "said.txt"), FrameConfig(rate=8000))
    assert [(len(samples), text) for samples, text in recordings["train"]] == [(700, "hush")]


@pytest.mark.parametrize("form", ["auto", "equals"])
def test_a_format_that_is_not_in_the_table_is_refused(tmp_path: Path, form: str) -> None:
    (tmp_path / "t.eq").write_text("text=a;label=x\n")
    message = "the name tells no format; expected one that ends in" if form == "auto" else "unknown format 'equals'"
    with pytest.raises(OptionError, match=message):
        Examples.from_config(ExamplesConfig(train=tmp_path / "t.eq", format=form))
