"""Language models of the texts in tables: the symbols are those of the same texts in a text file."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from everloop.data import Text
from everloop.data.datasets.text_config import TextConfig
from everloop.data.settings import from_table
from everloop.errors import DataError, OptionError

TEXTS = ["The cat sat, and sat.", 'It said "no".', "", "Two\nlines", *(f"line {i}, and more" for i in range(90))]
WHOLE: dict[str, Any] = {"split": (1, 0, 0), "min_freq": 1}


def write(path: Path) -> Path:
    rows = [{"id": i, "text": text, "other": "x"} for i, text in enumerate(TEXTS)]
    match path.suffixes[0]:
        case ".jsonl":
            content = "".join(json.dumps(row) + "\n" for row in rows).encode()
            path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        case ".parquet":
            pytest.importorskip("polars").DataFrame(rows).write_parquet(path)
        case _:
            with path.open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, rows[0], delimiter=";" if "semi" in path.name else ",")
                table.writeheader()
                table.writerows(rows)
    return path


@pytest.mark.parametrize("units", ["characters", "words"])
@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.parquet", "t.csv", "semi.csv"])
def test_texts_of_a_table_are_lines(name: str, units: Any, tmp_path: Path) -> None:
    form = "semicolons" if "semi" in name else "auto"
    read = Text(write(tmp_path / name), units=units, format=form, **WHOLE)
    plain = Text.from_string("".join(f"{text}\n" for text in TEXTS), units=units, **WHOLE)
    assert read.vocabulary.symbols == plain.vocabulary.symbols
    assert torch.equal(read["train"], plain["train"])


def test_each_row_may_be_a_document(tmp_path: Path) -> None:
    read = Text(write(tmp_path / "t.jsonl"), documents="files", **WHOLE)
    assert read.documents == {"train": len(TEXTS), "valid": 0, "test": 0}
    assert read.vocabulary.decode(read["train"]).split(read.vocabulary.separator or "?")[:4] == TEXTS[:4]


def test_a_folder_of_tables_and_a_table_for_validation(tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    write(folder / "a.jsonl")
    write(folder / "b.jsonl")
    read = Text(folder, pattern="*.jsonl", valid=[write(tmp_path / "v.csv")], split=(1, 0, 0), min_freq=1)
    once = "".join(f"{text}\n" for text in TEXTS)
    assert read.vocabulary.decode(read["train"]) == once * 2
    assert read.vocabulary.decode(read["valid"]) == once
    with pytest.raises(DataError, match=r"no file that fits '\*.txt'; its files end in .jsonl; --pattern says which"):
        Text(folder)


def test_a_table_may_be_read_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl")
    content = path.read_text(encoding="utf-8")
    read = Text(path, format="text", **WHOLE)
    assert read.vocabulary.decode(read["train"]) == content
    assert bytes(Text(path, units="bytes", split=(1, 0, 0))["train"].tolist()) == path.read_bytes()
    old = from_table(TextConfig, {"format": "text", "text": [str(path)]}, "data")
    assert Text.from_config(old).vocabulary.decode(Text.from_config(old)["train"])[:4] == content[:4]


def test_what_is_wrong_with_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"body": "a"}\n')
    with pytest.raises(DataError, match=r"line 1: no 'text' among 'body'; expected text; .* is \(--text-column\)"):
        Text(tmp_path / "t.jsonl")
    (tmp_path / "t.csv").write_text("body,id\na,1\nb,2\n")
    with pytest.raises(DataError, match=r"unknown column 'text'; known: body, id; .* is \(--text-column\)"):
        Text(tmp_path / "t.csv")
    read = Text(tmp_path / "t.csv", text_column="body", **WHOLE)
    assert read.vocabulary.decode(read["train"]) == "a\nb\n"
    read = Text(tmp_path / "t.csv", text_column="one", columns=("one", "two"), **WHOLE)
    assert read.vocabulary.decode(read["train"]) == "body\na\nb\n"
    (tmp_path / "u.csv").write_text("text\n")
    with pytest.raises(DataError, match=r"u.csv has no row; expected at least one with text"):
        Text(tmp_path / "u.csv")
    with pytest.raises(OptionError, match=r"format is 'csv'; that is for characters, words and subwords"):
        Text(tmp_path / "t.csv", units="bytes", format="csv")
    with pytest.raises(OptionError, match=r"unknown format 'cvs'; did you mean 'csv'"):
        Text(tmp_path / "t.csv", format="cvs")


def test_files_of_a_folder_that_are_not_read_are_told(tmp_path: Path) -> None:
    for name in ("a.txt", "b.md", "c.md", ".hidden", "inner/d.rst"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("some text " * 9)
    assert Text(tmp_path, split=(1, 0, 0)).notes(1)[1:] == [
        "3 files are passed over, whose names end in .md, .rst (--pattern says which are read)"
    ]
    assert len(Text(tmp_path / "a.txt", split=(1, 0, 0)).notes(1)) == 1
    read = Text(tmp_path, pattern="*.md", valid=[tmp_path / "inner/d.rst"], split=(1, 0, 0))
    assert read.notes(1)[1:] == ["1 file is passed over, whose names end in .txt (--pattern says which are read)"]
