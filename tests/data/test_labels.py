"""Labels as newcomers' files have them: empty, true or false, folders of files, other encodings and endings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from everloop.data import Examples, ExamplesConfig, FrameConfig, Recordings, Tagged, TaggedConfig, Text
from everloop.data.datasets.recordings import AudioConfig
from everloop.errors import DataError
from tests.data.test_malformed import sounds

WHOLE = (0.0, 0.0)


def read(path: Path, **settings: Any) -> Examples:
    return Examples.from_config(ExamplesConfig(train=path, hold_out=WHOLE, **settings))


def test_an_empty_label_is_no_label(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\na,x\nb, \nc,y\n")
    with pytest.raises(DataError, match=r"t.csv: line 3: label is empty; expected a label"):
        read(tmp_path / "t.csv")
    (tmp_path / "v.csv").write_text("text,label\na,yy\n")
    (tmp_path / "u.csv").write_text("text,label\na,x\nb,y\n")
    with pytest.raises(DataError, match=r"line 2: unknown label 'yy'; did you mean 'y'\? expected a label of training"):
        read(tmp_path / "u.csv", valid=tmp_path / "v.csv")
    data = read(tmp_path / "t.csv", malformed="skip")
    assert (data.labels.symbols, len(data["train"])) == (("x", "y"), 2)
    with pytest.raises(DataError, match=r"example 2 has no label"):
        Examples.of((["a", "b"], ["x", ""]))


def test_labels_may_be_true_or_false(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "a", "label": true}\n{"text": "b", "label": false}\n')
    assert read(tmp_path / "t.jsonl").labels.symbols == ("false", "true")


def test_a_folder_for_each_label(tmp_path: Path) -> None:
    for name, text in {"pos/1_7.txt": "good\n\nfilm\n", "pos/2.txt": "fine", "neg/in/1_7.txt": "dull"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    part = read(tmp_path).parts["train"]
    assert [*zip(part, part.labels, strict=True)] == [("dull", "neg"), ("good film", "pos"), ("fine", "pos")]
    (tmp_path / "pos.txt").write_text("good\n")
    with pytest.raises(DataError, match=r"files of its own, such as pos.txt, and others in folders, such as neg.in"):
        read(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_tables_in_another_encoding(encoding: str, tmp_path: Path) -> None:
    text = "text\tlabel\na\tx\n"
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "t.tsv").write_bytes((mark + text).encode(encoding))
    for policy in ("stop", "skip"):
        with pytest.raises(DataError, match=r"t.tsv is UTF-16, not UTF-8; convert it, .* iconv -f utf-16 -t utf-8"):
            read(tmp_path / "t.tsv", malformed=policy)
    (tmp_path / "t.tsv").write_bytes("text\tlabel\ncafé\tx\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"line 2: byte 0xe9 .* convert the file \(iconv -f latin1 -t utf-8\)"):
        read(tmp_path / "t.tsv")


def test_a_list_of_objects_is_a_table(tmp_path: Path) -> None:
    rows = [{"text": "a b", "label": "x"}, {"text": "c", "label": 1}]
    (tmp_path / "t.json").write_text(json.dumps(rows, indent=2))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lists, lines = read(tmp_path / "t.json"), read(tmp_path / "t.jsonl")
    assert [*lists.parts["train"]] == [*lines.parts["train"]] == ["a b", "c"]
    assert lists.labels.symbols == lines.labels.symbols == ("1", "x")
    assert Text(tmp_path / "t.json", split=(1, 0, 0), min_freq=1).vocabulary.symbols[1:] == ("\n", " ", "a", "b", "c")
    for content, message in (
        ('[{"text": "a", "label": "x"}, {"text": "b"}]', r"t.json, an object a line: line 2: no 'label' among 'text'"),
        ('[{"text": "a", "label": "x"}, 3]', r"line 2: a JSON int; expected one JSON object a line"),
        ('{"train": []}', r"t.json is a JSON dict; expected a list of objects; for chorales .* --format chorales"),
        ('{"text": "a"}\n{"text": "b"}', r"t.json is no JSON \(Extra data.*one object a line is JSON lines"),
        ("[]", r"t.json has no row"),
    ):
        (tmp_path / "t.json").write_text(content)
        with pytest.raises(DataError, match=message):
            read(tmp_path / "t.json")
    (tmp_path / "t.json").write_text('[{"text": "a", "label": "x"}, {"text": "b"}]')
    assert len(read(tmp_path / "t.json", malformed="skip")["train"]) == 1
    (tmp_path / "w.json").write_text('[{"form": ["a"], "upos": ["X"]}]')
    assert Tagged.from_config(TaggedConfig(train=tmp_path / "w.json", hold_out=WHOLE, min_freq=1)).labels.symbols == (
        "X",
    )


def test_recordings_without_a_list_for_validation_are_validated(tmp_path: Path) -> None:
    (tmp_path / "said").write_text("a.wav\tone\n" * 20)
    config = AudioConfig(audio=sounds(tmp_path), transcripts=tmp_path / "said")
    data = Recordings.from_config(config, FrameConfig(rate=8000))
    assert {name: len(data[name]) for name in data.splits} == {"train": 18, "valid": 2}
    assert "valid: 2 recordings, held out of training (--hold-out)" in data.notes(8)[1]
    whole = Recordings.from_config(
        AudioConfig(audio=tmp_path, transcripts=tmp_path / "said", hold_out=0), FrameConfig(rate=8000)
    )
    assert whole.splits == ("train",)
