"""Ragged arrays and lazy sequences: what is appended is read back, from memory and from a file."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from everloop.data import ragged
from everloop.data.error_policy import ErrorPolicy
from everloop.data.lazy import LazySequence, Subset, Zip
from everloop.data.ragged import IntLists, RaggedArray, Strings, WordLists
from everloop.data.readers.chunks import byte_chunks, text_chunks

SPILLS = [0, 10, None]


@pytest.mark.parametrize("spill", SPILLS)
@given(rows=st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=9), max_size=12))
def test_rows_come_back(spill: int | None, rows: list[list[int]]) -> None:
    found = RaggedArray(spill=spill)
    for row in rows:
        found.append(row)
    assert [row.tolist() for row in found] == rows
    assert found.lengths.tolist() == list(map(len, rows))
    assert found.all.tolist() == [number for row in rows for number in row]
    assert found.count(0) == sum(row.count(0) for row in rows)


@pytest.mark.parametrize("spill", SPILLS)
def test_rows_of_steps(spill: int | None) -> None:
    rows = [torch.randn(n, 3) for n in (4, 0, 1)]
    found = RaggedArray("float32", 3, spill=spill)
    for row in rows:
        found.append(row)
    assert all(mine.equal(row) for mine, row in zip(found, rows, strict=True))
    assert found[1].shape == (0, 3)


def test_a_row_is_appended_in_parts() -> None:
    found = RaggedArray("uint8", spill=2)
    for part in ([1, 2], [], [3, 4, 5]):
        found.write(part)
    assert found.all.tolist() == [1, 2, 3, 4, 5]
    assert isinstance(found.all, np.memmap)
    assert not isinstance(RaggedArray().all, np.memmap)


@pytest.mark.parametrize("spill", SPILLS)
def test_a_copy_in_another_process_has_the_rows(spill: int | None) -> None:
    found = RaggedArray(spill=spill)
    for row in ([1, 2, 3], [], [4]):
        found.append(row)
    copy = pickle.loads(pickle.dumps(found))
    assert [row.tolist() for row in copy] == [[1, 2, 3], [], [4]]


@pytest.mark.parametrize("spill", [0, 1 << 20])
def test_texts_and_words_come_back(spill: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ragged, "SPILL", spill)
    lines = ["a b", "", "日本 \ud800", "\0\n", "a b"]
    texts, words = Strings(), WordLists()
    for line in lines:
        texts.append(line)
        words.append(line.split())
    assert list(texts) == lines
    assert list(words) == [line.split() for line in lines]
    assert len(words.words) == 5


def test_a_lazy_sequence_is_a_sequence() -> None:
    lists = IntLists()
    for row in ([1], [2, 2], [3]):
        lists.append(row)
    chosen = Subset(lists, np.array([2, 0]))
    pairs = Zip(chosen, ["c", "a"])
    assert list(pairs) == [([3], "c"), ([1], "a")]
    assert (pairs[-1], pairs[1:], len(pairs)) == (([1], "a"), [([1], "a")], 2)
    assert isinstance(pairs, LazySequence)
    for wrong in (2, -3):
        with pytest.raises(IndexError, match="expected one below 2"):
            pairs[wrong]


@pytest.mark.parametrize("size", [8, 13, 1 << 20])
@given(text=st.text(alphabet="ab \r\n\té日\U0001f600", min_size=1).filter(str.strip))
def test_chunks_are_the_file(size: int, text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("p") / "t.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = list(text_chunks(path, ErrorPolicy(), size))
    assert "".join(chunk.text for chunk in found) == text.replace("\r\n", "\n")
    read, lines = 0, 1
    for chunk in found:
        assert (chunk.position, chunk.line) == (read, lines)
        read, lines = read + len(chunk.text), lines + chunk.text.count("\n")
    data = b"".join(p.text.encode("utf-8", "surrogateescape") for p in byte_chunks(path, size))
    assert data == path.read_bytes()


def test_chunks_end_after_a_line_or_before_a_space(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one two\nthree four five six seven\n")
    assert [p.text for p in text_chunks(tmp_path / "t.txt", ErrorPolicy(), 12)] == [
        *("one two\n", "three four five", " six seven\n")
    ]
