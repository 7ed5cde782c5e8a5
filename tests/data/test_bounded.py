"""Files larger than memory: every kind of data reads them within a bound, and they mean what they mean in memory."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from everloop.data import (
    Conditions,
    ConditionsConfig,
    Examples,
    ExamplesConfig,
    Parallel,
    ParallelConfig,
    Strokes,
    StrokesConfig,
    Tagged,
    TaggedConfig,
    Text,
    ragged,
)
from everloop.data.readers import chunks
from everloop.data.readers.lines import unpacked

LINES = [" ".join(f"w{(i * k) % 97}" for k in range(1, 3 + (7 * i) % 180)) for i in range(300)]


def lines_file(path: Path, times: int) -> Path:
    with gzip.open(path, "wt", compresslevel=1) if path.suffix == ".gz" else path.open("w") as file:
        for _ in range(times):
            file.writelines(f"{line}\n" for line in LINES)
    return path


def text(folder: Path, times: int) -> Text:
    return Text(lines_file(folder / "t.txt.gz", times))


def words(folder: Path, times: int) -> Text:
    return Text(lines_file(folder / "t.txt", times), units="words")


def examples(folder: Path, times: int) -> Examples:
    with (folder / "t.jsonl").open("w") as file:
        for i in range(times * len(LINES)):
            file.write(json.dumps({"text": LINES[i % len(LINES)], "label": "ab"[i % 2]}) + "\n")
    return Examples.from_config(ExamplesConfig(train=folder / "t.jsonl"))


def tagged(folder: Path, times: int) -> Tagged:
    with (folder / "t.conllu").open("w") as file:
        for line in LINES * times:
            rows = (f"{n}\t{word}\t_\t{word[-1]}\t" + "\t".join("______") for n, word in enumerate(line.split(), 1))
            file.write("\n".join(rows) + "\n\n")
    return Tagged.from_config(TaggedConfig(train=folder / "t.conllu"))


def parallel(folder: Path, times: int) -> Parallel:
    read, written = lines_file(folder / "a.txt", times), lines_file(folder / "b.txt.gz", times)
    return Parallel.from_config(ParallelConfig(source=read, target=written))


def conditions(folder: Path, times: int) -> Conditions:
    (folder / "texts").mkdir(exist_ok=True)
    for label in "ab":
        lines_file(folder / "texts" / f"{label}.txt", times)
    return Conditions.from_config(ConditionsConfig(texts=folder / "texts"))


def strokes(folder: Path, times: int) -> Strokes:
    with (folder / "s.jsonl").open("w") as file:
        for i in range(times * 50):
            points = [[n, (i * n * n) % 31 + n / 3] for n in range(20 + i % 30)]
            file.write(json.dumps({"label": "xy"[i % 2], "split": "train", "strokes": [points]}) + "\n")
    return Strokes.from_config(StrokesConfig(strokes=folder / "s.jsonl"))


KINDS: list[Callable[[Path, int], Any]] = [text, words, examples, tagged, parallel, conditions, strokes]


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_from_a_file_as_from_memory(
    kind: Callable[[Path, int], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = kind(tmp_path, 1)
    monkeypatch.setattr(ragged, "SPILL", 100)
    monkeypatch.setattr(ragged, "PIECE", 33)
    monkeypatch.setattr(chunks, "SIZE", 50)
    filed = kind(tmp_path, 1)
    assert filed.fingerprint == kept.fingerprint
    assert filed.notes(8) == kept.notes(8)
    for split in kept.splits:
        mine, theirs = (data.epoch(split, 2, batch=8, seed=3) for data in (kept, filed))
        assert len(mine) == len(theirs) > 0
        for one, other in zip(mine, theirs, strict=True):
            assert all(a.equal(b) for a, b in zip(tensors(one), tensors(other), strict=True))


TIMES = [100, 40, 20, 8, 14, 10, 40]


@pytest.mark.parametrize(("kind", "times"), list(zip(KINDS, TIMES, strict=True)))
def test_memory_stays_bounded(
    kind: Callable[[Path, int], Any], times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ragged, "SPILL", 1 << 16)
    monkeypatch.setattr(ragged, "PIECE", 1 << 14)
    monkeypatch.setattr(chunks, "SIZE", 1 << 16)
    kind(tmp_path, 1)
    tracemalloc.start()
    try:
        data = kind(tmp_path, times)
        data.notes(16)
        for i in range(20):
            data.epoch("train", 1, batch=16, seed=1)[i]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = sum(len(unpacked(path)) for path in tmp_path.rglob("*.*"))
    assert peak < size / 4, f"{peak:,} bytes were held of a file of {size:,}"
