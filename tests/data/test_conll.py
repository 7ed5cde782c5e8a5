"""CoNLL with a word a line: the sentences that are there, which columns are read, and what is refused where."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from everloop.data import Tagged, TaggedConfig
from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.conll import sentences
from everloop.data.readers.formats import read_tagged
from everloop.data.readers.source import Fields, FileSource
from everloop.errors import DataError, OptionError

SPACES = """# a comment of some words
-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
# # B-NP O
 \t
-DOCSTART-
Peter  NNP\tB-NP B-PER

"""
ROWS = [[["EU", "NNP", "B-NP", "B-ORG"], ["rejects", "VBZ", "B-VP", "O"], ["#", "#", "B-NP", "O"]]]
TABS = "# 1 \t2\n#new\tO\nNew York\tB-LOC\r\n#\tO\n\n# next\n\nhi\tO"


def rows(content: str, errors: ErrorPolicy | None = None) -> list[list[list[str]]]:
    return [one.rows for one in sentences(io.BytesIO(content.encode()), "f", errors or ErrorPolicy())]


def test_columns_between_spaces() -> None:
    assert rows(SPACES) == [*ROWS, [["Peter", "NNP", "B-NP", "B-PER"]]]
    found = [one.line for one in sentences(io.BytesIO(SPACES.encode()), "f", ErrorPolicy())]
    assert found == [4, 9]


def test_columns_between_tabs() -> None:
    assert rows(TABS) == [[["#new", "O"], ["New York", "B-LOC"], ["#", "O"]], [["hi", "O"]]]
    assert rows("") == rows("\n\n# only this\n") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a O\nb\n\nc O\n", r"f: line 2: 1 field; expected 2 fields between spaces, as in line 1"),
        ("a O\nb O X\n\nc O\n", r"f: line 2: 3 fields; expected 2 fields between spaces, as in line 1"),
        ("a\tO\nb O\n\nc\tO\n", r"f: line 2: 1 field; expected 2 fields between tabs, as in line 1"),
        ("a\tO\n\t\tO\n\nc\tO\n", r"f: line 2: 3 fields"),
        ("a\tO\nb\t\n\nc\tO\n", r"f: line 2: an empty field in 'b\\t'"),
        ("x O\n\n# newdoc\na O\n\nc O\n", r"f: line 3: '# newdoc', which may be a comment or the word #; expected"),
        ("x O\n# more of this\n\nc O\n", r"f: line 2: 4 fields"),
    ],
)
def test_a_malformed_line_spoils_its_sentence_alone(content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rows(content)
    errors = ErrorPolicy("skip")
    kept = ["x"] if content.startswith("x O\n\n") else []
    assert [[word for word, _ in one] for one in rows(content, errors)] == [*([kept] if kept else []), ["c"]]
    assert errors.skipped == 1


@pytest.mark.parametrize("before", ["", "\n\n", "# a longer comment, or several\n# of them\n", "-DOCSTART- X\n\n"])
def test_the_first_word_of_a_file_is_no_comment_without_saying_so(before: str) -> None:
    content = f"{before}# O\nx O\n\na O\n"
    with pytest.raises(DataError, match=r"f: line \d: '# O', which may be a comment or the word #; expected"):
        rows(content)
    errors = ErrorPolicy("skip")
    assert rows(content, errors) == [[["a", "O"]]]
    assert errors.skipped == 1
    assert rows(f"{before}# 1\tO\nx\tO\n") == [[["x", "O"]]], "between tabs it is a comment"


@pytest.mark.parametrize("space", ["\u00a0", "\u202f", "\u3000", "\x85", "\u2028"])
def test_a_space_that_does_not_break_is_part_of_a_word(space: str) -> None:
    word = f"10{space}000"
    assert rows(f"x  O\n{word} B\n{space} O\n") == [[["x", "O"], [word, "B"], [space, "O"]]]
    assert rows(f"x\tO\n{word}\tB\n{space}\tO\n") == [[["x", "O"], [word, "B"], [space, "O"]]]


def test_a_column_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.conll").write_text("a X\nb Y\n")
    with pytest.raises(OptionError, match="2 columns are called 'form'"):
        read(tmp_path / "t.conll", columns="form form", label="form")


def read(path: Path, form: str = "auto", *, columns: str = "", text: str = "form", label: str = "upos") -> list[str]:
    fields = Fields(text, label, columns=(*columns.split(),))
    found = read_tagged(FileSource(path, ErrorPolicy()), form, fields)
    return [" ".join(f"{word}/{tag}" for word, tag in zip(one.sequence, one.label, strict=True)) for one in found]


def test_which_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text(TABS)
    assert read(path, "conll") == ["#new/O New York/B-LOC #/O", "hi/O"]
    assert read(path, "conll", columns="tag word", text="word", label="tag") == ["O/#new B-LOC/New York O/#", "O/hi"]
    path.write_text(SPACES)
    four = "word pos chunk tag"
    assert read(path, "conll", columns=four, text="word", label="tag") == ["EU/B-ORG rejects/O #/O", "Peter/B-PER"]
    with pytest.raises(DataError, match=r"train\.txt: line 4 has 4 columns: EU NNP B-NP B-ORG; name .* --columns word"):
        read(path, "conll")
    with pytest.raises(DataError, match="has 4 columns and 3 are named"):
        read(path, "conll", columns="word pos tag", text="word", label="tag")
    with pytest.raises(OptionError, match=r"unknown column 'upos'; did you mean .pos.\?; say which are read"):
        read(path, "conll", columns=four, text="word")
    path.write_text("alone\n")
    with pytest.raises(DataError, match="line 1 has 1 column: alone; name them all"):
        read(path, "conll")


def test_the_first_word_tells_conll_from_conllu(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("# text\n" + "\t".join(["1", "word", "_", "X", *"______"]) + "\n")
    assert read(path) == ["word/X"]
    path.write_text("# a longer text\nword X\n")
    assert read(path) == ["word/X"]
    with pytest.raises(DataError, match=r"no such file"):
        read(tmp_path / "b.conll")
    path.rename(tmp_path / "a.conllu")
    with pytest.raises(DataError, match=r"expected 10 fields .* for lines of a word and its tag say --format conll"):
        read(tmp_path / "a.conllu")
    path.with_suffix(".tsv").write_text("word\tX\n")
    with pytest.raises(DataError, match=r"unknown column 'form'.*for lines of a word and its tag say --format conll"):
        read(path.with_suffix(".tsv"))


def test_a_table_of_tagged_words_without_header(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("a b\tX Y\n")
    assert read(path, columns="form upos") == ["a/X b/Y"]


def test_a_dataset(tmp_path: Path) -> None:
    path = tmp_path / "t.iob"
    path.write_text("".join(f"w{i} X\nv Y\n\n" for i in range(20)))
    data = Tagged.from_config(TaggedConfig(train=path, min_freq=1))
    assert [len(data[name]) for name in data.splits] == [18, 2]
    assert data.labels.symbols == ("X", "Y")
