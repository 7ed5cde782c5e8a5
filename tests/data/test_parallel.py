"""Parallel files and their pieces: what comes back, what is cut, what is refused."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.data.datasets.parallel import Parallel, ParallelConfig
from everloop.data.tokenize.pieces import BEGIN, END, UNKNOWN, Pieces, split
from everloop.data.tokenize.subwords import learn_merges, merge
from everloop.errors import DataError, OptionError

SENTENCES = [
    "Two young, white males are outside (near many bushes).",
    "A man's blue-ish 3.5 inch hat isn't his.",
    "Zwei junge weiße Männer sind im Freien.",
] * 2


@pytest.mark.parametrize("merges", [0, 40])
def test_known_sentences_come_back_with_their_spaces(merges: int) -> None:
    pieces = Pieces.learn(SENTENCES, min_freq=1, merges=merges, lower=False)
    for sentence in SENTENCES:
        assert pieces.decode(pieces.encode(sentence)) == sentence
    assert len(pieces.encode(SENTENCES[0])) == (13 if not merges else len(pieces.encode(SENTENCES[0])))


@given(st.text(alphabet="abcABC .,'-!?ß3", max_size=40))
def test_any_sentence_of_known_letters_comes_back(sentence: str) -> None:
    letters = "a b c A B C . , ' - ! ? ß 3 xabcABCß3 .,'-!?ß3 x.x x,x x'x x-x x!x x?x"
    pieces = Pieces.learn([letters] * 2, min_freq=1, merges=5, lower=False)
    expected = " ".join(sentence.split())
    assert pieces.decode(pieces.encode(sentence)) == expected


def test_lower_case_and_rare_words() -> None:
    pieces = Pieces.learn(["the cat", "The dog", "the cat"], min_freq=2)
    assert pieces.encode("THE cat dog") == [pieces.numbers["▁the"], pieces.numbers["▁cat"], UNKNOWN]
    assert pieces.decode([BEGIN, *pieces.encode("The dog"), END, 5, 5]) == "the <unknown>"
    assert split("It's 3.5!") == ["▁it", "'", "s", "▁3", ".", "5", "!"]


def test_merges_are_those_of_the_paper() -> None:
    # Sennrich, Haddow and Birch 2016, figure 1, with their end of word left out
    words = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
    assert learn_merges(words, 3) == [("e", "s"), ("es", "t"), ("l", "o")]
    ranks = {pair: rank for rank, pair in enumerate(learn_merges(words, 10))}
    assert merge("lowest", ranks) == ["low", "est"]
    assert merge("x", ranks) == ["x"]


def test_merges_equal_those_of_plain_counting() -> None:
    words = {"banana": 3, "bandana": 2, "anna": 5, "nab": 4, "aaaa": 2}
    spelled = {word: list(word) for word in words}
    expected = []
    for _ in range(8):
        counts: dict[tuple[str, str], int] = {}
        for word, parts in spelled.items():
            for pair in pairwise(parts):
                counts[pair] = counts.get(pair, 0) + words[word]
        if not counts or max(counts.values()) < 2:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        expected.append(best)
        for parts in spelled.values():
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == best:
                    parts[i : i + 2] = ["".join(best)]
                i += 1
    assert learn_merges(words, 8) == expected


def test_pieces_come_back_from_their_file(tmp_path: Path) -> None:
    pieces = Pieces.learn(SENTENCES, merges=20)
    pieces.save(tmp_path / "p.json")
    again = Pieces.load(tmp_path / "p.json")
    assert again == pieces
    assert again.encode(SENTENCES[1]) == pieces.encode(SENTENCES[1])
    (tmp_path / "q.json").write_text("[1]")
    with pytest.raises(DataError, match=r"q\.json is not a vocabulary of pieces"):
        Pieces.load(tmp_path / "q.json")
    with pytest.raises(OptionError, match="min_freq is 0"):
        Pieces.learn(["a"], min_freq=0)


def files(folder: Path, left: str, right: str) -> ParallelConfig:
    (folder / "a.de").write_text(left)
    (folder / "a.en.gz").write_bytes(gzip.compress(right.encode()))
    return ParallelConfig(source=folder / "a.de", target=folder / "a.en.gz", min_freq=1)


def test_files_become_batches(tmp_path: Path) -> None:
    config = files(tmp_path, "ein hund\nzwei hunde\n", "a dog\ntwo dogs\n")
    data = Parallel.from_config(config)
    assert data.splits == ("train",)
    batch = data.epoch("train", 0, batch=2, seed=1)[0]
    for b in range(2):
        wanted = data.target.decode(batch.targets[:, b].tolist())
        source = data.source.decode(batch.source[:, b].tolist())
        assert (source, wanted) in (("ein hund", "a dog"), ("zwei hunde", "two dogs"))
        assert batch.inputs[:, b].tolist() == [BEGIN, *batch.targets[:-1, b].tolist()]
        assert batch.targets[-1, b] == batch.source[-1, b] == END
    assert data.fingerprint == Parallel.from_config(config).fingerprint
    assert data.fingerprint != Parallel([("ein hund", "a dog")]).fingerprint


def test_every_training_pair_comes_once_in_each_pass_and_in_another_order() -> None:
    pairs = [(f"w{i} " * (1 + i % 5), f"v{i}") for i in range(50)]
    data = Parallel(pairs, pairs[:7], ParallelConfig(min_freq=1))
    seen = []
    for number in range(2):
        batches = data.epoch("train", number, batch=8, seed=3)
        seen.append([data.target.decode(row) for batch in batches for row in batch.targets.T.tolist()])
        assert sorted(seen[-1]) == sorted(target for _, target in pairs)
    assert seen[0] != seen[1]
    valid = [row for batch in data.epoch("valid", 4, batch=3) for row in batch.targets.T.tolist()]
    assert len(valid) == 7


def test_without_validation_files_a_part_is_held_out(tmp_path: Path) -> None:
    lines = [f"w{i}" for i in range(40)]
    config = files(tmp_path, "\n".join(lines), "\n".join(line.upper() for line in lines))
    data = Parallel.from_config(config)
    parts = {name: [source for source, _ in data.sentences[name]] for name in data.splits}
    assert {name: len(part) for name, part in parts.items()} == {"train": 38, "valid": 2}
    assert sorted(parts["train"] + parts["valid"]) == sorted(lines)
    assert parts["train"] != lines[:38]  # drawn at random, always the same
    assert data.fingerprint == Parallel.from_config(config).fingerprint
    assert data.notes(8)[1].startswith("valid: 2 pairs, held out of training (--hold-out), 4 pieces")
    assert all(target == source.upper() for part in data.sentences.values() for source, target in part)
    whole = Parallel.from_config(replace(config, hold_out=0.0))
    assert whole.splits == ("train",)
    assert whole.fingerprint == Parallel([(line, line.upper()) for line in lines], config=config).fingerprint
    given = Parallel.from_config(replace(config, valid_source=config.source, valid_target=config.target))
    assert [len(given[name]) for name in given.splits] == [40, 40]
    assert "held out" not in given.notes(8)[1]


def test_what_was_said_of_the_part_that_is_held_out_is_told_as_it_was(tmp_path: Path) -> None:
    config = files(tmp_path, "a\nb", "A\nB")
    with pytest.raises(OptionError, match=r"hold_out is 1\.0; expected"):
        Parallel.from_config(replace(config, hold_out=1.0))


def test_long_pairs_are_left_out_of_training_alone() -> None:
    pairs = [("a " * 9, "b"), ("a", "b")]
    data = Parallel(pairs, pairs, ParallelConfig(min_freq=1, max_length=5))
    assert [len(data[name]) for name in ("train", "valid")] == [1, 2]
    with pytest.raises(DataError, match="raise max_length"):
        Parallel(pairs[:1], config=ParallelConfig(min_freq=1, max_length=5))


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 2 lines and .* has 1"):
        Parallel.from_config(files(tmp_path, "a\nb\n", "a\n"))
    config = files(tmp_path, "a\n\nc\n\n", "x\ny\nz\n\n")
    with pytest.raises(DataError, match=r"a\.de: line 2: an empty line"):
        Parallel.from_config(config)
    skipping = ParallelConfig(config.source, config.target, min_freq=1, malformed="skip")
    data = Parallel.from_config(skipping)
    assert (len(data["train"]), data.errors.skipped) == (2, 1)
    (tmp_path / "a.de").write_bytes(b"a\n\xff\n")
    with pytest.raises(DataError, match=r"a\.de: line 2: byte 0xff"):
        Parallel.from_config(config)
    with pytest.raises(DataError, match="--source FILE --target FILE"):
        Parallel.from_config(ParallelConfig())


def test_the_fingerprint_is_that_of_the_pairs_in_memory() -> None:
    data = Parallel([("ein hund", "a dog"), ("hund", "dog")], [("x", "y")])
    pairs = {name: [(a, b) for a, b in part] for name, part in data.items.items()}
    digest = hashlib.sha256(repr((data.source.symbols, data.target.symbols)).encode() + repr(pairs).encode())
    assert data.fingerprint == digest.hexdigest()[:16] == "9bce08a9285a85e4"


PAIRS = [(f"ein hund, {i}", f"a dog {i}") for i in range(12)]


def table(path: Path, header: tuple[str, str] | None, sign: str) -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=sign)
        writer.writerows([*([header] if header else []), *PAIRS])
    return path


def test_pairs_in_a_table(tmp_path: Path) -> None:
    whole = ParallelConfig(min_freq=1, hold_out=0)
    wanted = Parallel(PAIRS, config=whole).fingerprint
    named = replace(whole, source_column="german", target_column="english")
    excel = table(tmp_path / "e.csv", ("german", "english"), ";")
    for config in (
        replace(whole, train=table(tmp_path / "a.csv", ("source", "target"), ",")),
        replace(whole, train=table(tmp_path / "b.tsv", None, "\t"), columns=("source", "target")),
        replace(named, train=excel, format="semicolons"),
    ):
        assert Parallel.from_config(config).fingerprint == wanted
    lines = [json.dumps({"english": b, "german": a, "id": 1}) for a, b in PAIRS]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    both = Parallel.from_config(replace(named, train=tmp_path / "c.jsonl", valid=tmp_path / "c.jsonl"))
    assert list(both.sentences["train"]) == list(both.sentences["valid"]) == PAIRS
    with pytest.raises(DataError, match=r"look as if ';' were between them: say --format semicolons"):
        Parallel.from_config(replace(named, train=excel))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("de,en\na,b\n", r"unknown column 'source'; known: de, en; .* \(--source-column, --target-column\)"),
        ("source,target\na,b\nc,\n", "line 3: target is empty; expected the translation of a sentence that is not"),
        ("source,target\na,b\nc\n", "line 3: 1 field; expected 2"),
    ],
)
def test_what_is_wrong_with_a_table_of_pairs(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        Parallel.from_config(ParallelConfig(train=tmp_path / "t.csv"))


def test_pairs_come_from_one_place(tmp_path: Path) -> None:
    config = files(tmp_path, "a\n", "b\n")
    with pytest.raises(OptionError, match="--train is a file of pairs, and --source or --target is given too"):
        Parallel.from_config(replace(config, train=tmp_path / "t.csv"))
    with pytest.raises(OptionError, match="--valid is a file of pairs, and --valid-source or --valid-target is given"):
        Parallel.from_config(replace(config, valid=tmp_path / "t.csv", valid_target=config.target))
    with pytest.raises(DataError, match="of two files one is missing; expected --valid-source and --valid-target"):
        Parallel.from_config(replace(config, valid_target=config.target))
    (tmp_path / "t.csv").write_text("source,target\na,b\n")
    with pytest.raises(OptionError, match="source_column and target_column are both 'target'; expected two columns"):
        Parallel.from_config(ParallelConfig(train=tmp_path / "t.csv", source_column="target"))
