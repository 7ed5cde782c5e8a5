"""Subwords of a text: the numbers are those of the package tokenizers, and any text comes back as it was."""

from __future__ import annotations

import copy
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from everloop.cli import main
from everloop.data import SubwordVocabulary, Text, TextConfig, Vocabulary
from everloop.data.tokenize.load import load_vocabulary
from everloop.errors import DataError, OptionError, UnsupportedError
from everloop.models import LanguageModel

tokenizers = import_module("tokenizers")
TEXT = "the cat sat on the mat, the hat on the cat.\nthat is that: naïve 猫 🐈\n" * 30


@pytest.fixture(scope="module")
def learned() -> SubwordVocabulary:
    return SubwordVocabulary.learn_from([TEXT], min_freq=2, max_vocab=280)


def other(tmp_path: Path) -> Path:
    """Write a tokenizer as another program would: words in lower case, one for what is unknown, one that ends texts."""
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.normalizer = tokenizers.normalizers.Lowercase()
    trainer = tokenizers.trainers.WordLevelTrainer(special_tokens=["[UNK]", "<|end|>"], show_progress=False)
    made.train_from_iterator(["a cat sat", "a dog sat"], trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|end|> $A <|end|>", special_tokens=[("<|end|>", 1)]
    )
    made.save(str(tmp_path / "theirs.json"))
    return tmp_path / "theirs.json"


@pytest.mark.parametrize("text", ["the cat", " the  cat\n\n", "naïve 猫 🐈", "", "\x00\x1c€", "x" * 999])
def test_a_text_comes_back(learned: SubwordVocabulary, text: str) -> None:
    numbers = learned.encode(text)
    assert learned.decode(numbers) == text
    pieces = [*learned.stream(numbers.tolist())]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_numbers_are_those_of_the_package(learned: SubwordVocabulary, tmp_path: Path) -> None:
    learned.save(tmp_path / "vocabulary.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert learned.encode(TEXT).tolist() == theirs.encode(TEXT).ids
    assert len(learned) == theirs.get_vocab_size() == 280
    assert len(learned.encode("the cat")) < len("the cat")
    assert learned.unknown is None
    assert learned.unknown_symbols("猫 ☃") == []


def test_half_a_character_waits_for_the_other_half(learned: SubwordVocabulary) -> None:
    numbers = learned.encode("☃☃").tolist()  # not in the text: six bytes
    assert len(numbers) == 6
    assert [*learned.stream(numbers)] == ["☃", "☃"]
    assert [*learned.stream(numbers[:4])] == ["☃", "\ufffd"]


def test_symbols_are_shown_as_text(learned: SubwordVocabulary) -> None:
    assert " the" in learned
    assert "\n" in learned
    assert len(set(learned.symbols)) == len(learned) == 280
    assert learned.encode(" the").tolist() == [learned.one(" the")]


def test_a_tokenizer_of_others(tmp_path: Path) -> None:
    known = SubwordVocabulary.of_file(other(tmp_path), separator="<|end|>")
    assert known.unknown == 0
    assert known.document_end == 1
    assert known.encode("A cat \x1c a bird").tolist() == [known.one(w) for w in ("a", "cat", "<|end|>", "a")] + [0]
    assert known.unknown_symbols("a red bird sat") == ["red", "bird"]
    assert known.decode(known.encode("a cat sat")) == "a cat sat"
    with pytest.raises(DataError, match="has no token '\\\\n\\\\n', which is said to end documents"):
        SubwordVocabulary.of_file(tmp_path / "theirs.json", separator="\n\n")


def test_saved_and_copied(learned: SubwordVocabulary, tmp_path: Path) -> None:
    learned.save(tmp_path / "vocabulary.json")
    again = load_vocabulary(tmp_path / "vocabulary.json")
    assert again == learned == copy.deepcopy(learned)
    assert again != SubwordVocabulary.learn_from([TEXT], min_freq=2, max_vocab=270)
    with pytest.raises(DataError, match="is a vocabulary of subwords; expected one of characters or bytes"):
        Vocabulary.load(tmp_path / "vocabulary.json")
    SubwordVocabulary.learn_from([TEXT], min_freq=2, max_vocab=270).save(tmp_path / "x" / ".." / "other.json")
    with pytest.raises(DataError, match="is not the tokenizer of"):
        load_vocabulary(tmp_path / "vocabulary.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"is no tokenizer\.json"):
        load_vocabulary(tmp_path / "vocabulary.json")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="no such"):
        load_vocabulary(tmp_path / "vocabulary.json")


def test_they_are_learned_from_the_training_split() -> None:
    text = TEXT + "zyzzyva " * (len(TEXT) // 8)
    data = Text.from_string(text, units="subwords", split=(0.5, 0.25, 0.25), max_vocab=280)
    assert data.vocabulary == SubwordVocabulary.learn_from([text[: len(text) // 2]], min_freq=2, max_vocab=280)
    assert not any("zyz" in symbol for symbol in data.vocabulary.symbols)


def test_of_a_string(learned: SubwordVocabulary, tmp_path: Path) -> None:
    learned.save(tmp_path / "vocabulary.json")
    assert Text.from_string(TEXT, units="subwords", tokenizer=tmp_path / "tokenizer.json").vocabulary == learned


@pytest.mark.parametrize("ending", ["files", "<|end|>"])
def test_documents(tmp_path: Path, ending: str) -> None:
    texts = ["the cat sat\n" * 9, "the mat sat\n" * 9, "the hat sat\n" * 9]
    mark = "" if ending == "files" else ending
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text + mark)
    data = Text(tmp_path, units="subwords", documents=ending, max_vocab=280, split=(1.0, 0.0, 0.0))
    assert data.documents == {"train": 3, "valid": 0, "test": 0}
    assert not [symbol for symbol in data.vocabulary.symbols if "end" in symbol and symbol != ending], "no pieces of it"
    model = LanguageModel(data.vocabulary, hidden=4, layers=1)
    model.write(tmp_path)
    assert load_vocabulary(tmp_path / "vocabulary.json") == data.vocabulary
    assert model.score("the cat").count == len(data.vocabulary.encode("the cat"))


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(TEXT)
    small = ["--steps", "2", "--hidden", "4", "--length", "8", "--batch", "4", "--threads", "1"]
    command = ["train", "language-model", "--text", "t.txt", "--units", "subwords", *small]
    assert main([*command, "--max-vocab", "290", "--out", "run"]) == 0
    assert json.loads(Path("run/vocabulary.json").read_text())["units"] == "subwords"
    assert main(["train", "language-model", "--resume", "run", "--steps", "4"]) == 0
    capsys.readouterr()
    assert main(["sample", "run", "the cat", "--length", "4"]) == 0
    assert capsys.readouterr().out.startswith("the cat")
    assert main(["tree", "run", "the cat", "--min-probability", "0.99"]) == 0
    assert "nothing that may come next is as likely as --min-probability 0.99" in capsys.readouterr().err
    assert main(["evaluate", "run", "t.txt"]) == 0
    assert "per subword" in capsys.readouterr().out
    assert main([*command, "--tokenizer", "run/tokenizer.json", "--out", "other"]) == 0
    assert Path("other/tokenizer.json").read_bytes() == Path("run/tokenizer.json").read_bytes()
    assert main([*command, "--tokenizer", "t.txt", "--out", "none"]) == 2
    assert "t.txt is no tokenizer.json of Hugging Face's tokenizers" in capsys.readouterr().err


def test_settings_that_make_no_sense(learned: SubwordVocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="that is for subwords, and units is 'words'"):
        TextConfig(units="words", tokenizer=Path("tokenizer.json"))
    with pytest.raises(OptionError, match="max_vocab is 60; that is for subwords that are learned"):
        TextConfig(units="subwords", tokenizer=Path("tokenizer.json"), max_vocab=60)
    with pytest.raises(OptionError, match="max_vocab is 256; expected at least 257"):
        Text.from_string(TEXT, units="subwords", max_vocab=256)
    with pytest.raises(OptionError, match="lower is True"):
        TextConfig(units="subwords", lower=True)
    with pytest.raises(OptionError, match="units is 'subwords', which have a vocabulary of their own"):
        Vocabulary("ab", "subwords")
    with pytest.raises(OptionError, match="units is 'characters', and the vocabulary has subwords"):
        Text.from_string(TEXT, vocabulary=learned)
    absent: Any = None
    monkeypatch.setitem(sys.modules, "tokenizers", absent)
    with pytest.raises(UnsupportedError, match=r"pip install 'everloop\[tokenizers\]'"):
        SubwordVocabulary.learn_from([TEXT], min_freq=2)


def test_numbers_may_have_gaps() -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 5}))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    known = SubwordVocabulary(made)
    assert known.encode("a b").tolist() == [0, 5]
    assert len(known) == 6
