"""Documents in a text: what ends them is one symbol, wherever it stands in files and chunks."""

from __future__ import annotations

from pathlib import Path

import pytest

from everloop.data import Text, Vocabulary, WordVocabulary
from everloop.data.readers.chunks import Chunk
from everloop.data.readers.documents import marked
from everloop.data.tokenize.load import load_vocabulary
from everloop.data.tokenize.vocabulary import DOCUMENT_END
from everloop.errors import DataError, OptionError

POEMS = "one two\ntwo one\n\nthree one\n\n\ntwo\n\n"


def read(units: str = "characters", documents: str | None = "\n\n", text: str = POEMS) -> Text:
    return Text.from_string(text, split=(1, 0, 0), documents=documents, units=units, min_freq=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("separator", ["\n\n", "--", "-.-", "x"])
def test_separators_across_chunks(size: int, separator: str) -> None:
    text = f"ab{separator}{separator}c-\n{separator}-.d\n-{separator}\n"
    chunks = [Chunk(text[i : i + size], "here", i, 1 + text.count("\n", 0, i)) for i in range(0, len(text), size)]
    found = list(marked(chunks, separator, DOCUMENT_END))
    assert "".join(chunk.text for chunk in found) == text.replace(separator, DOCUMENT_END)
    for chunk in found:
        rest = text[chunk.position :].replace(separator, DOCUMENT_END)
        assert rest.startswith(chunk.text[: len(chunk.text) - 1])
        assert chunk.line == 1 + text.count("\n", 0, chunk.position)


@pytest.mark.parametrize("units", ["characters", "words"])
def test_a_separator_is_one_symbol_and_is_written_as_it_was(units: str) -> None:
    text = read(units)
    end = text.vocabulary.document_end
    assert text.documents == {"train": 3, "valid": 0, "test": 0}
    assert text["train"].eq(end or -1).sum() == 3
    assert text.vocabulary.decode(text["train"]) == POEMS
    assert text.vocabulary.encode("one\n\n\n\ntwo").eq(end or -1).sum() == 2
    assert "3 ends of documents" in repr(text)
    assert text.fingerprint != read(units, None).fingerprint
    assert text.vocabulary != read(units, "two").vocabulary
    if units == "words":
        assert text.vocabulary.unknown_symbols("four\n\none") == ["four"]
        assert [len(part) for part in (text["train"], read(units, None)["train"])] == [12, 15]


def test_words_beside_a_separator_within_a_line() -> None:
    text = read("words", "<|end|>", "a b, c<|end|>d<|end|> e.<|end|>" * 2)
    assert text.vocabulary.decode(text["train"]) == "a b, c<|end|>d<|end|>e.<|end|>" * 2
    assert set(text.vocabulary.symbols) == {"<unknown>", "\n", DOCUMENT_END, "a", "b", ", ", "c", "d", "e", ". "}
    assert text.vocabulary.decode(text.vocabulary.encode("d"), "a<|end|>") == "d"


def test_separators_on_the_command_line_are_spelled() -> None:
    assert read(documents="\\n\\n").fingerprint == read().fingerprint


@pytest.mark.parametrize("units", ["characters", "words"])
def test_files_are_documents(tmp_path: Path, units: str) -> None:
    for name, content in {"a": "one two", "b": "two\n", "c": "one\n\none"}.items():
        (tmp_path / f"{name}.txt").write_text(content)
    text = Text(tmp_path, documents="files", split=(1, 0, 0), units=units, min_freq=1)  # type: ignore[arg-type]
    assert text.vocabulary.decode(text["train"]).split(DOCUMENT_END) == ["one two", "two\n", "one\n\none", ""]
    one = Text(tmp_path / "a.txt", vocabulary=text.vocabulary, split=(0, 0, 1), units=units)  # type: ignore[arg-type]
    assert one.vocabulary.decode(one["test"]) == f"one two{DOCUMENT_END}"
    assert Text.from_config(text.config).fingerprint == text.fingerprint


def test_a_file_that_ends_with_a_separator_gets_no_newline(tmp_path: Path) -> None:
    for name, content in {"a": "one##", "b": "two"}.items():
        (tmp_path / f"{name}.txt").write_text(content)
    text = Text(tmp_path, documents="##", split=(1, 0, 0), min_freq=1)
    assert text.vocabulary.decode(text["train"]) == "one##two\n"


@pytest.mark.parametrize("units", ["characters", "words"])
def test_a_vocabulary_keeps_its_separator(tmp_path: Path, units: str) -> None:
    known = read(units).vocabulary
    known.save(tmp_path / "v.json")
    found = load_vocabulary(tmp_path / "v.json")
    assert found == known
    assert (found.separator, found.document_end) == ("\n\n", known.document_end)
    assert found != read(units, None).vocabulary
    again = Text.from_string(POEMS, vocabulary=found, units=units, split=(1, 0, 0))  # type: ignore[arg-type]
    assert again["train"].tolist() == read(units)["train"].tolist()


def test_an_end_is_known_though_it_is_rare() -> None:
    text = Text.from_string("abab##abab" * 1, documents="##", split=(1, 0, 0), min_freq=2, max_vocab=1)
    assert set(text.vocabulary.symbols) == {"\ufffd", "a", DOCUMENT_END}


def test_what_makes_no_sense(tmp_path: Path) -> None:
    for documents, units, message in (
        ("", "characters", "documents is empty; expected what ends a document, or 'files'"),
        ("##", "bytes", "documents is '##'; that is for characters, words and subwords, not for bytes"),
    ):
        with pytest.raises(OptionError, match=message):
            Text.from_string(POEMS, units=units, documents=documents)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no document ends in the training split of the string: documents is '##'"):
        read(documents="##")
    with pytest.raises(
        OptionError, match=r"documents is '##', and the vocabulary has None; expected the same, or none"
    ):
        Text.from_string(POEMS, documents="##", vocabulary=read(documents=None).vocabulary)
    for kind in (Vocabulary, WordVocabulary):
        with pytest.raises(DataError, match=r"separator is '##', and no symbol is '\\x1c', as which it is read"):
            kind(["<unknown>", "\n"] if kind is WordVocabulary else "ab", separator="##")
    (tmp_path / "v.json").write_text('{"format": "everloop-vocabulary-1", "symbols": ["a"], "separator": 3}')
    with pytest.raises(DataError, match="separator is 3; expected a text that ends a document"):
        load_vocabulary(tmp_path / "v.json")
