"""CoNLL-U, IDX, .npz, .ts and chorales: what is read, and what is refused and where."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers import arrays
from everloop.data.readers.chorales import PITCHES, read_chorales, transposed
from everloop.data.readers.conllu import sentences
from everloop.data.readers.idx import moved, read_idx, read_images, read_labels
from everloop.data.readers.source import Fields, FileSource
from everloop.data.readers.ts import examples, ts_series
from everloop.errors import DataError, OptionError


def row(number: str, form: str, tag: str = "X") -> str:
    return "\t".join([number, form, "_", tag, *"______"])


CONLLU = "\n".join(
    ["# text = don't", row("1-2", "don't"), row("1", "do", "AUX"), row("2", "n't", "PART"), "", row("1", "Go", "VERB")]
)


def test_conllu() -> None:
    found = list(sentences(io.BytesIO(CONLLU.encode()), "f", ErrorPolicy()))
    assert [s.column("form") for s in found] == [["do", "n't"], ["Go"]]
    assert found[0].column("upos") == ["AUX", "PART"]
    again = found[0].replaced("upos", ["A", "B"])
    assert again == CONLLU.split("\n\n")[0].replace("AUX", "A").replace("PART", "B") + "\n\n"
    with pytest.raises(OptionError, match="did you mean 'xpos'"):
        found[0].column("opos")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\tword", "f: line 1: 2 fields; expected 10"),
        (row("2", "word"), "line 1: word 2 'word'; expected word 1"),
        (row("x", "word"), "line 1: id 'x'"),
    ],
)
def test_a_malformed_line_spoils_its_sentence_alone(line: str, message: str) -> None:
    content = f"{line}\n{row('2', 'b')}\n\n{row('1', 'kept')}\n".encode()
    with pytest.raises(DataError, match=message):
        list(sentences(io.BytesIO(content), "f", ErrorPolicy()))
    errors = ErrorPolicy("skip")
    assert [s.column("form") for s in sentences(io.BytesIO(content), "f", errors)] == [["kept"]]
    assert errors.skipped == 1


def idx(path: Path, values: np.ndarray[Any, Any], kind: int) -> Path:
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(bytes([0, 0, kind, values.ndim]) + sizes + values.tobytes())
    return path


def test_idx(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=">u1").reshape(2, 3, 4)
    images = read_images(idx(tmp_path / "i", pixels, 8))
    assert [list(image.shape) for image in images] == [[3, 4], [3, 4]]
    assert float(images[1][2, 3]) == pytest.approx(23 / 255)
    shorts = np.array([-3, 500], dtype=">i2")
    assert read_idx(idx(tmp_path / "s", shorts, 11)).tolist() == [-3, 500]
    assert read_labels(tmp_path / "s") == ["-3", "500"]
    with pytest.raises(DataError, match="1 axes; expected 3"):
        read_images(tmp_path / "s")
    (tmp_path / "i").write_bytes((tmp_path / "i").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"39 bytes; expected 40 for an array of \[2, 3, 4\]"):
        read_idx(tmp_path / "i")
    (tmp_path / "i").write_bytes(b"PNG!")
    with pytest.raises(DataError, match="no IDX file"):
        read_idx(tmp_path / "i")


def test_images_are_moved_without_wrapping() -> None:
    image = torch.arange(6.0).reshape(2, 3)
    assert moved(image, 1, -1).tolist() == [[0, 0, 0], [1, 2, 0]]
    assert moved(image, -1, 1).tolist() == [[0, 3, 4], [0, 0, 0]]
    assert moved(image, 0, 0).tolist() == image.tolist()


def test_npz(tmp_path: Path) -> None:
    flat = np.arange(10.0).reshape(5, 2)
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3, 4)), n=np.array([3, 1]), flat=flat, flat_n=np.array([2, 3]))
    path = tmp_path / "a.npz"
    assert [list(s.shape) for s in arrays.sequences(path, "x", "")] == [[3, 4], [3, 4]]
    assert [list(s.shape) for s in arrays.sequences(path, "x", "n")] == [[3, 4], [1, 4]]
    assert [s.tolist() for s in arrays.sequences(path, "flat", "flat_n")] == [flat[:2].tolist(), flat[2:].tolist()]
    with pytest.raises(DataError, match="unknown array 'flot'; did you mean 'flat'"):
        arrays.sequences(path, "flot", "")
    with pytest.raises(DataError, match="does not fit"):
        arrays.sequences(path, "flat", "n")
    np.savez(tmp_path / "o.npz", x=np.array([{}, 1], dtype=object))
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        arrays.read_npz(tmp_path / "o.npz")
    (tmp_path / "b.npz").write_bytes(b"PK broken")
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        arrays.read_npz(tmp_path / "b.npz")


TS = "#about\n@problemName x\n@dimensions 2\n@classLabel true a b\n@data\n1,2,3:4,5,6:a\n7:8:b\n"


def test_ts(tmp_path: Path) -> None:
    (tmp_path / "x.ts").write_text(TS)
    records = list(examples(FileSource(tmp_path / "x.ts", ErrorPolicy()), Fields("", "")))
    series = [record.sequence for record in records]
    assert series[0].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert [len(s) for s in series] == [3, 1]
    assert [record.label for record in records] == ["a", "b"]
    unlabelled = list(ts_series(io.BytesIO(b"@dimensions 2\n1,2:3,4\n"), "f", ErrorPolicy(), labelled=False))
    assert unlabelled[0][1].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2:3:a", "line 8: 2 channels of 1 and 2 values"),
        ("1,2:a", "line 8: 1 channels of 2 values; expected 2 channels"),
        ("1,?:2,3:a", "line 8"),
        ("1:2:c", "line 8: label 'c'; expected one of a, b"),
    ],
)
def test_malformed_series(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "x.ts").write_text(f"{TS}{line}\n")
    with pytest.raises(DataError, match=message):
        list(examples(FileSource(tmp_path / "x.ts", ErrorPolicy()), Fields("", "")))
    errors = ErrorPolicy("skip")
    assert len(list(examples(FileSource(tmp_path / "x.ts", errors), Fields("", "")))) == 2
    assert errors.skipped == 1


def test_chorales(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"train": [[[60, 64], [], [108]]], "test": []}))
    (roll,) = read_chorales(path)["train"]
    assert roll.shape == (3, 88)
    assert [PITCHES[i] for i in roll[0].nonzero()[:, 0].tolist()] == ["C4", "E4"]
    assert roll.sum().item() == 3
    path.write_text(json.dumps({"train": [[[60], [20]]]}))
    with pytest.raises(DataError, match=r"train, piece 0, step 1 is \[20\]; expected MIDI pitches from 21 to 108"):
        read_chorales(path)


def test_transposing_keeps_intervals_and_stays_on_the_piano() -> None:
    roll = torch.zeros(1, 88)
    roll[0, [0, 4]] = 1
    assert transposed(roll, 3)[0].nonzero()[:, 0].tolist() == [3, 7]
    assert transposed(roll, -3)[0].nonzero()[:, 0].tolist() == [0, 4]
    assert transposed(roll.flip(1), 9)[0].nonzero()[:, 0].tolist() == [83, 87]
    assert transposed(torch.zeros(1, 88), 5).sum() == 0
