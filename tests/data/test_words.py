"""Words of a text: how it is split, joined, numbered and kept."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.data import Text, TextConfig, Vocabulary, WordVocabulary
from everloop.data.settings import from_table, to_table
from everloop.data.tokenize.load import load_vocabulary
from everloop.data.tokenize.spelling import lines_of
from everloop.errors import DataError, OptionError

PROSE = "The cat, who\nsaid: \"It's late\" (or so), sat.\n\nIs it 3.5, well-known—or 'tis th' end?\n"


def vocabulary_of(text: str, **options: Any) -> WordVocabulary:
    counts = Counter(symbol for line in lines_of(text) for symbol in line)
    return WordVocabulary.learn(counts, min_freq=1, **options)


def test_signs_carry_the_spaces_beside_them() -> None:
    (line,) = lines_of("He said: \"don't (ever) go,\" it's 3.5!")
    expected = ["He", "said", ": ", ' "', "don't", " (", "ever", ") ", "go", ",", '" ', "it", "'s", "3", ".", "5", "! "]
    assert line == expected


def test_ends_of_lines_are_symbols() -> None:
    assert list(lines_of("a b\n\nc")) == [["a", "b", "\n"], ["\n"], ["c"]]
    assert list(lines_of("a\n")) == [["a", "\n"], []]


@pytest.mark.parametrize(
    "text", [PROSE, "-- so", "x=f(a_1)*2;", "\"'Tis,\" 'he' said", "…and? 'What!' - no --", "naïve 日本 e\u0301"]
)
def test_joining_gives_the_text_back(text: str) -> None:
    vocabulary = vocabulary_of(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_runs_of_spaces_become_one_and_endings_are_joined() -> None:
    text = "  a \t b \n let 's "
    vocabulary = vocabulary_of(text)
    assert vocabulary.decode(vocabulary.encode(text)) == "a b\nlet's"


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab' \n.,-\"(s_’é1", max_size=30))
def test_what_was_joined_once_stays(text: str) -> None:
    vocabulary = vocabulary_of(text)
    joined = vocabulary.decode(vocabulary.encode(text))
    again = vocabulary_of(joined)
    assert again.decode(again.encode(joined)) == joined
    without = "".join(text.split())
    assert "".join(joined.split()) == without


def test_the_first_word_after_a_prompt_has_the_space_it_needs() -> None:
    vocabulary = vocabulary_of('(a) b\na, "b"')
    (word,), (comma,) = vocabulary.encode("b").tolist(), vocabulary.encode("a, b").tolist()[1:2]
    starts = {
        after: vocabulary.decode([word, comma, word], after) for after in ("", "a", "a ", "a\n", "a,", "a (", '"')
    }
    spaced = {"a", "a,"}
    assert starts == {after: " " * (after in spaced) + "b, b" for after in starts}
    assert vocabulary.decode([comma], "a") == ","


def test_a_sign_in_other_surroundings_is_known() -> None:
    vocabulary = vocabulary_of("a, b (c) d")
    numbers = vocabulary.numbers
    assert vocabulary.encode("a,b").tolist() == [numbers["a"], numbers[", "], numbers["b"]]
    assert vocabulary.encode("a (").tolist() == [numbers["a"], numbers[" ("]]
    assert vocabulary.unknown_symbols("a ,( ; x\nx") == [";", "x", "x"]


def test_learned_by_frequency_from_least_to_limit() -> None:
    counts = Counter({"a": 3, "b": 5, "c": 1, "\n": 9, "d": 3, "<unknown>": 7})
    assert WordVocabulary.learn(counts, min_freq=1).symbols == ("<unknown>", "\n", "b", "a", "d", "c")
    assert WordVocabulary.learn(counts, min_freq=3, max_vocab=2).symbols == ("<unknown>", "\n", "b", "a")
    assert WordVocabulary.learn(counts).symbols == ("<unknown>", "\n", "b", "a", "d")


def test_lower_case() -> None:
    vocabulary = vocabulary_of("the cat", lower=True)
    assert vocabulary.encode("The CAT").tolist() == vocabulary.encode("the cat").tolist()
    assert vocabulary.unknown_symbols("The DOG") == ["dog"]
    assert 0 in vocabulary_of("the cat").encode("The CAT")


def test_one_word() -> None:
    vocabulary = vocabulary_of("king, queen")
    assert vocabulary.symbols[vocabulary.one("king")] == "king"
    assert vocabulary.symbols[vocabulary.one(",")] == ", "
    with pytest.raises(DataError, match="knows 5 words, but not 'kng'; did you mean 'king'"):
        vocabulary.one("kng")
    with pytest.raises(DataError, match="'king queen' is 2 words; expected one"):
        vocabulary.one("king queen")


@pytest.mark.parametrize("lower", [True, False])
def test_save_and_load(tmp_path: Path, lower: bool) -> None:
    vocabulary = vocabulary_of("a “quoted”\nline", lower=lower)
    vocabulary.save(tmp_path / "v.json")
    assert WordVocabulary.load(tmp_path / "v.json") == vocabulary == load_vocabulary(tmp_path / "v.json")
    assert load_vocabulary(tmp_path / "v.json") != vocabulary_of("a “quoted”\nline", lower=not lower)
    with pytest.raises(DataError, match="is a vocabulary of words; expected one of characters or bytes"):
        Vocabulary.load(tmp_path / "v.json")
    Vocabulary.of("abc").save(tmp_path / "c.json")
    assert load_vocabulary(tmp_path / "c.json") == Vocabulary.of("abc")
    with pytest.raises(DataError, match="is a vocabulary of characters; expected one of words"):
        WordVocabulary.load(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        (["\n", "<unknown>"], "begins with"),
        (["<unknown>", "\n", "a", "a"], "'a' is twice"),
        (["<unknown>", "\n", " a"], "' a' is no word or sign"),
        (["<unknown>", "\n", " "], "' ' is no word or sign"),
        ([], "at least one"),
    ],
)
def test_damaged_vocabularies(tmp_path: Path, symbols: list[str], message: str) -> None:
    content = {"format": "everloop-vocabulary-1", "units": "words", "symbols": symbols}
    (tmp_path / "v.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        load_vocabulary(tmp_path / "v.json")


def test_characters_are_no_words() -> None:
    with pytest.raises(OptionError, match="have a vocabulary of their own"):
        Vocabulary(["a"], units="words")


def test_a_text_of_words_learns_from_its_training_part_and_counts_the_unknown() -> None:
    text = Text.from_string("a b\n" * 30 + "a once\n" + "a new\n" * 9, units="words", split=(0.775, 0.225, 0))
    assert text.vocabulary.symbols == ("<unknown>", "\n", "a", "b")
    assert [len(text[part]) for part in text.splits] == [93, 27]
    assert text.unknown == {"train": (1, 93), "valid": (9, 27), "test": (0, 0)}
    assert "1 unknown in train (1.08%), 9 unknown in valid (33.33%)" in repr(text)
    assert "120" not in repr(text)
    assert text.vocabulary.decode(text["train"][:6]) == "a b\na b\n"


def test_a_text_keeps_a_known_vocabulary() -> None:
    first = Text.from_string("The cat\n" * 9, units="words", split=(1, 0, 0), lower=True)
    again = Text.from_string("THE dog", units="words", split=(0, 0, 1), vocabulary=first.vocabulary)
    assert torch.equal(again["test"], torch.tensor([first.vocabulary.numbers["the"], 0], dtype=torch.uint8))
    with pytest.raises(OptionError, match="units is 'characters', and the vocabulary has words"):
        Text.from_string("abc", vocabulary=first.vocabulary)


def test_settings_of_words_reach_the_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Yes yes no no NO maybe\n" * 2)
    sizes = {}
    for name, words in {
        "plain": {},
        "lower": {"lower": True},
        "least": {"min_freq": 3},
        "limit": {"max_vocab": 2},
    }.items():
        config = TextConfig((tmp_path,), units="words", split=(1, 0, 0), **words)  # type: ignore[arg-type]
        text = Text.from_config(config)
        assert from_table(TextConfig, to_table(text.config), "data") == text.config
        sizes[name] = len(text.vocabulary)
    assert sizes == {"plain": 7, "lower": 5, "least": 3, "limit": 4}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lower": True}, "lower is True; that is for words, and units is 'characters'"),
        ({"min_freq": 3, "units": "bytes"}, "min_freq is 3; that is for characters, words and subwords"),
        (
            {"max_vocab": 3, "units": "bytes"},
            "max_vocab is 3; that is for characters, words and subwords, not for bytes",
        ),
        ({"min_freq": 0, "units": "words"}, "min_freq is 0; expected at least 1"),
        ({"max_vocab": 0, "units": "words"}, "max_vocab is 0; expected at least 1"),
        ({"units": "word"}, "did you mean 'words'"),
    ],
)
def test_settings_that_do_nothing_or_make_no_sense(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Text.from_string("abc", split=(1, 0, 0), **wrong)  # type: ignore[arg-type]


def test_fingerprints_of_characters_are_as_before_there_were_words() -> None:
    text = Text.from_string("abab" * 10, split=(0.5, 0.5, 0), vocabulary=Vocabulary("ab"))
    assert text.fingerprint == "cee90d42b2e2e33c"


TREEBANK = " mr. <unk> 's n't N - , co.\n a a <unk> N\n\n"


def test_words_that_others_have_split(tmp_path: Path) -> None:
    text = Text.from_string(TREEBANK * 2, units="words", pretokenized=True, min_freq=1, split=(0.5, 0.5, 0))
    words = ["mr.", "<unk>", "'s", "n't", "N", "-", ",", "co."]
    assert set(text.vocabulary.symbols) == {"<unknown>", "\n", "a", *words}
    assert [text.vocabulary.symbols[n] for n in text["train"]] == [*words, "\n", "a", "a", "<unk>", "N", "\n", "\n"]
    assert text.vocabulary.decode(text["train"]) == "mr. <unk> 's n't N - , co.\na a <unk> N\n\n"
    assert text.vocabulary.decode(text.vocabulary.encode("a a"), "N") == " a a"
    assert text.vocabulary.unknown_symbols("a b, ,") == ["b,"]
    text.vocabulary.save(tmp_path / "v.json")
    assert load_vocabulary(tmp_path / "v.json") == text.vocabulary
    known = Text.from_string(TREEBANK, units="words", split=(1, 0, 0), vocabulary=load_vocabulary(tmp_path / "v.json"))
    assert known["train"].tolist() == text["train"].tolist()
    plain = Text.from_string(TREEBANK * 2, units="words", min_freq=1, split=(0.5, 0.5, 0))
    assert plain.vocabulary != text.vocabulary
    with pytest.raises(OptionError, match="pretokenized is True; that is for words, and units is 'characters'"):
        Text.from_string(TREEBANK, pretokenized=True)
    with pytest.raises(DataError, match=r"symbol ', ' has a space in it, and texts are split at spaces"):
        WordVocabulary(("<unknown>", "\n", ", "), pretokenized=True)
