"""Strings: reading, cutting, and every way a file can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from everloop.data import Text, Vocabulary
from everloop.errors import DataError, OptionError


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_cut_in_order() -> None:
    text = Text.from_string("abcdefghij" * 10, split=(0.5, 0.3, 0.2))
    joined = "".join(text.vocabulary.decode(text[part]) for part in ("train", "valid", "test"))
    assert joined == "abcdefghij" * 10
    assert [len(text[part]) for part in text.splits] == [50, 30, 20]


@pytest.mark.parametrize("length", [7, 10, 99, 1001])
@pytest.mark.parametrize("split", [(1.0, 0.0, 0.0), (0.7, 0.3, 0.0), (0.7, 0.0, 0.3), (1 / 3, 1 / 3, 1 / 3)])
def test_a_part_that_is_not_asked_for_is_empty(length: int, split: tuple[float, float, float]) -> None:
    text = Text.from_string("ab" * length, split=split)
    assert text.splits == tuple(n for n, s in zip(("train", "valid", "test"), split, strict=True) if s)
    assert sum(len(text[part]) for part in ("train", "valid", "test")) == 2 * length


def test_chinese(tmp_path: Path) -> None:
    poem = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n" * 20
    text = Text(write(tmp_path / "poem.txt", poem))
    assert set(text.vocabulary.symbols) == {*poem, "\ufffd"}
    assert "".join(text.vocabulary.decode(text[part]) for part in text.splits) == poem


def test_files_and_folders_one_after_another(tmp_path: Path) -> None:
    write(tmp_path / "in" / "b.txt", "second\n")
    write(tmp_path / "in" / "a.txt", "first")
    write(tmp_path / "in" / "deep" / "c.txt", "third\n")
    write(tmp_path / "in" / "ignored.md", "€")
    last = write(tmp_path / "z.md", "last")
    text = Text(tmp_path / "in", last, split=(1, 0, 0), min_freq=1)
    assert text.vocabulary.decode(text["train"]) == "first\nsecond\nthird\nlast\n"


def test_pattern_chooses_files(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "aaaa")
    write(tmp_path / "b.md", "bbbb")
    text = Text(tmp_path, pattern="*.md", split=(1, 0, 0))
    assert text.vocabulary.symbols == ("\ufffd", "b")


def test_mark_and_line_ends_are_normalised(tmp_path: Path) -> None:
    text = Text(write(tmp_path / "dos.txt", b"\xef\xbb\xbfone\r\ntwo\r\n"), split=(1, 0, 0), min_freq=1)
    assert text.vocabulary.decode(text["train"]) == "one\ntwo\n"


def test_bytes_take_any_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 2
    text = Text(write(tmp_path / "any.bin", content), units="bytes", split=(1, 0, 0))
    assert bytes(text["train"].tolist()) == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "f.txt is empty"),
        (b" \n\n ", "f.txt is empty"),
        (b"abc\xffdef", r"f.txt: line 1: byte 0xff at offset 3 is not UTF-8; .*iconv"),
        (b"abc\xe6\x97", r"byte 0xe6 at offset 3"),
        (b"abc\nd\0ef", "line 2: a zero byte at offset 5, it looks binary"),
        (b"one\ntwo\nth\xffree\n", "line 3: byte 0xff at offset 10"),
        (b"one\ntwo\n\xffthree", "line 3: byte 0xff at offset 8"),
        ("text".encode("utf-16"), "UTF-16"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Text(write(tmp_path / "f.txt", content))


def test_offset_of_a_bad_byte_counts_the_mark(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="offset 5"):
        Text(write(tmp_path / "f.txt", b"\xef\xbb\xbfab\xff"))


def test_missing_file_names_a_near_one(tmp_path: Path) -> None:
    write(tmp_path / "shakespeare.txt", "to be")
    with pytest.raises(DataError, match=r"shakespear\.txt: no such file.*did you mean .*shakespeare\.txt"):
        Text(tmp_path / "shakespear.txt")


def test_folder_without_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no file that fits '\*\.txt'"):
        Text(tmp_path)


@pytest.mark.parametrize("pattern", ["/x", "**x"])
def test_patterns_that_are_none(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match="pattern"):
        Text(tmp_path, pattern=pattern)


def test_nothing_given() -> None:
    with pytest.raises(DataError, match="no text given"):
        Text()


@pytest.mark.parametrize("split", [(0.5, 0.2, 0.2), (1.2, -0.1, -0.1), (1.0, 0.0)])
def test_split_must_add_up(split: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match="three fractions"):
        Text.from_string("abc", split=split)  # type: ignore[arg-type]


def test_part_too_short() -> None:
    with pytest.raises(DataError, match="its valid split would have 1"):
        Text.from_string("abcdefghij" * 2, split=(0.9, 0.05, 0.05))


def test_known_vocabulary_is_kept_or_refused() -> None:
    vocabulary = Vocabulary("zyxcba")
    assert Text.from_string("abc", split=(1, 0, 0), vocabulary=vocabulary)["train"].tolist() == [5, 4, 3]
    with pytest.raises(DataError, match="unknown symbol 'd'"):
        Text.from_string("abcd", split=(1, 0, 0), vocabulary=vocabulary)


def test_fingerprint_sees_symbols_and_cut() -> None:
    texts = [
        Text.from_string("abab" * 10, split=(0.5, 0.5, 0)),
        Text.from_string("abab" * 10, split=(0.6, 0.4, 0)),
        Text.from_string("baba" * 10, split=(0.5, 0.5, 0)),
        Text.from_string("acac" * 10, split=(0.5, 0.5, 0)),
    ]
    assert len({text.fingerprint for text in texts}) == 4
    assert Text.from_string("abab" * 10, split=(0.5, 0.5, 0)).fingerprint == texts[0].fingerprint


def test_windows_continue_each_stream() -> None:
    numbers = "".join(chr(0x100 + i) for i in range(1000))
    text = Text.from_string(numbers, split=(1, 0, 0), min_freq=1)
    windows = text.epoch("train", 0, batch=3, length=16)
    x = torch.cat([window.x for window in windows])
    y = torch.cat([window.y for window in windows])
    assert torch.equal(y, x + 1)
    assert torch.equal(x[1:], x[:-1] + 1)
    assert [window.first for window in windows] == [True] + [False] * (len(windows) - 1)
    assert windows[0].x.shape == (16, 3)
    assert x.dtype == torch.int64


def test_every_pass_is_shifted_and_reproducible() -> None:
    text = Text.from_string("".join(chr(0x100 + i) for i in range(1000)), split=(1, 0, 0), min_freq=1)

    def start(epoch: int, seed: int) -> int:
        return int(text.epoch("train", epoch, batch=2, length=32, seed=seed)[0].x[0, 0])

    assert len({start(epoch, 0) for epoch in range(20)}) > 5
    assert [start(epoch, 0) for epoch in range(20)] != [start(epoch, 1) for epoch in range(20)]
    assert [start(epoch, 3) for epoch in range(9)] == [start(epoch, 3) for epoch in range(9)]


def test_validation_scores_every_symbol() -> None:
    letters = "".join(chr(0x100 + i) for i in range(1000))
    text = Text.from_string(letters, split=(0.5, 0.5, 0), vocabulary=Vocabulary(letters))
    seen = torch.cat([window.y.flatten() for window in text.epoch("valid", 0, batch=64, length=64)])
    assert sorted(seen.tolist()) == list(range(501, 1000))


@pytest.mark.parametrize(("size", "fits"), [(64, False), (65, True)])
def test_text_must_hold_one_window(size: int, fits: bool) -> None:
    text = Text.from_string("ab" * 40, split=(size / 80, 1 - size / 80, 0))
    if fits:
        assert len(text.epoch("train", 0, batch=4, length=16)) == 1
        return
    with pytest.raises(DataError, match=r"the train split of the string has 64 symbols, too short.*need 65"):
        text.epoch("train", 0, batch=4, length=16)


@pytest.mark.parametrize(("batch", "length"), [(0, 4), (4, 0)])
def test_sizes_of_windows(batch: int, length: int) -> None:
    with pytest.raises(OptionError, match="at least 1"):
        Text.from_string("abcabc", split=(1, 0, 0)).epoch("train", 0, batch=batch, length=length)


def test_unknown_part() -> None:
    with pytest.raises(OptionError, match="did you mean 'train'"):
        Text.from_string("abab", split=(1, 0, 0))["trian"]


def test_rare_characters_of_training_stand_for_unknown_ones(tmp_path: Path) -> None:
    train, valid, test = (write(tmp_path / name, content) for name, content in
        [("a.txt", "abab" * 20 + "x"), ("b.txt", "abz\nx"), ("c.txt", "ayay")])  # fmt: skip
    text = Text(train, valid=[valid], test=[test])
    assert text.vocabulary.symbols == ("\ufffd", "a", "b")  # neither x, which is rare, nor those of the other files
    assert [len(text[part]) for part in ("train", "valid", "test")] == [81, 5, 4]
    assert text.unknown == {"train": (1, 81), "valid": (3, 5), "test": (2, 4)}
    assert text.vocabulary.decode(text["valid"]) == "ab\ufffd\ufffd\ufffd"
    assert "3 unknown in valid (60.00%)" in repr(text)
    assert len(Text(train, min_freq=1, split=(1, 0, 0)).vocabulary) == 4
    assert Text(train, max_vocab=1, split=(1, 0, 0)).vocabulary.symbols == ("\ufffd", "a")


def test_characters_are_learned_from_the_training_split() -> None:
    text = Text.from_string("ab" * 40 + "cd" * 10, split=(0.8, 0.1, 0.1))
    assert text.vocabulary.symbols == ("\ufffd", "a", "b")
    assert text.unknown == {"train": (0, 80), "valid": (10, 10), "test": (10, 10)}


def test_a_split_with_files_leaves_its_fraction_to_training(tmp_path: Path) -> None:
    main, own = write(tmp_path / "a.txt", "ab" * 50), write(tmp_path / "b.txt", "ba" * 7)
    text = Text(main, valid=[own], split=(0.5, 0.3, 0.2))
    assert [len(text[part]) for part in ("train", "valid", "test")] == [80, 14, 20]
    assert Text.from_config(text.config).fingerprint == text.fingerprint
    with pytest.raises(DataError, match=r"c\.txt has 1 symbols; expected at least 2"):
        Text(main, test=[write(tmp_path / "c.txt", "a")])


def test_only_characters_that_are_rare() -> None:
    with pytest.raises(DataError, match="no character occurs 2 times; give more text, or take min_freq 1"):
        Text.from_string("abcdef", split=(1, 0, 0))


def test_lines_that_an_older_vocabulary_cannot_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "abab\nabxb\nbb\nyy\nba\n")
    with pytest.raises(DataError, match=r"'x' \(U\+0078\) at position 7, line 2 of .*a\.txt"):
        Text(path, vocabulary=Vocabulary("ab\n"), split=(1, 0, 0))
    text = Text(path, vocabulary=Vocabulary("ab\n"), split=(1, 0, 0), malformed="skip")
    assert text.vocabulary.decode(text["train"]) == "abab\nbb\nba\n"
    assert text.errors.skipped == 2
    assert f"{path}: line 2: unknown symbol 'x'" in text.errors.first
