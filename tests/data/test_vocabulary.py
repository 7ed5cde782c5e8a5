"""Vocabularies: numbering, files, and errors that say where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.data import Vocabulary
from everloop.errors import DataError, OptionError


def test_numbers_follow_code_order() -> None:
    vocabulary = Vocabulary.of("banana\n")
    assert vocabulary.symbols == ("\n", "a", "b", "n")
    assert vocabulary.encode("nab").tolist() == [3, 1, 2]


def test_the_given_order_is_kept() -> None:
    vocabulary = Vocabulary("cab")
    assert vocabulary.encode("abc").tolist() == [1, 2, 0]
    assert vocabulary.decode([0, 1, 2]) == "cab"


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1))
def test_decode_undoes_encode(text: str) -> None:
    vocabulary = Vocabulary.of(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_bytes_hold_any_text(text: str) -> None:
    vocabulary = Vocabulary.of("", units="bytes")
    assert vocabulary.encode(text).tolist() == list(text.encode("utf-8"))
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_bytes_stream_whole_characters() -> None:
    vocabulary = Vocabulary.of("", units="bytes")
    assert list(vocabulary.stream("日x".encode())) == ["日", "x"]
    assert "".join(vocabulary.stream("日".encode()[:2])) == "\ufffd"


def test_small_numbers_take_small_room() -> None:
    assert Vocabulary.of("ab").encode("ab").dtype == torch.uint8
    assert Vocabulary(map(chr, range(300))).encode("ab").dtype == torch.int32


@pytest.mark.parametrize(("units", "text"), [("characters", "日月\n\ud800\U0001f600"), ("bytes", "x")])
def test_save_and_load(tmp_path: Path, units: str, text: str) -> None:
    vocabulary = Vocabulary.of(text, units=units)  # type: ignore[arg-type]
    vocabulary.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == vocabulary
    assert json.loads((tmp_path / "v.json").read_text())["units"] == units


def test_unknown_symbol_names_place() -> None:
    with pytest.raises(
        DataError, match=r"'é' \(U\+00E9\) at position 7, line 2 of the prompt; the model knows 4 others"
    ):
        Vocabulary("abc\n").encode("abcabc\né", "the prompt")


@pytest.mark.parametrize("symbol", ["\x00", "\x60", "z", "\U0010ffff"])
def test_unknown_symbols_outside_and_between(symbol: str) -> None:
    with pytest.raises(DataError, match="at position 1, line 1"):
        Vocabulary("ac").encode("a" + symbol)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "expected JSON with format"),
        ('{"symbols": ["a"]}', "expected JSON with format"),
        ('{"format": "everloop-vocabulary-1", "symbols": [1]}', "list of strings"),
        ('{"format": "everloop-vocabulary-1", "symbols": []}', "at least one"),
        ('{"format": "everloop-vocabulary-1", "symbols": ["a", "a"]}', "'a' is twice"),
        ('{"format": "everloop-vocabulary-1", "symbols": ["ab"]}', "not one character"),
        ('{"format": "everloop-vocabulary-1", "symbols": ["a"], "units": "bytes"}', "256 byte values"),
        ('{"format": "everloop-vocabulary-1", "symbols": ["a"], "units": 5}', "unknown unit of text '5'"),
    ],
)
def test_damaged_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "v.json").write_text(content)
    with pytest.raises(DataError, match=message):
        Vocabulary.load(tmp_path / "v.json")


def test_unknown_unit_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean 'characters'"):
        Vocabulary.of("a", units="character")  # type: ignore[arg-type]
