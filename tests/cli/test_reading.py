"""What commands say of the data that they read, before they train on it."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import pytest

from everloop.cli import main

SIZES = ["--steps", "1", "--batch", "2", "--hidden", "4", "--validate", "1", "--threads", "1"]


def conllu() -> str:
    def word(n: int, form: str) -> str:
        return f"{n}\t{form}\t_\tX\t" + "\t".join("______") + "\n"

    return "".join("".join(word(n, f"w{n}") for n in range(1, 2 + i % 5)) + "\n" for i in range(12))


def drawing(i: int) -> str:
    strokes = [[[n, n * n % 7] for n in range(4 + i % 5)]]
    return json.dumps({"label": "1", "split": "train" if i % 3 else "valid", "strokes": strokes}) + "\n"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [" ".join(["word"] * (1 + i % 5)) for i in range(12)]
    Path("t.txt").write_text("\n".join(lines) + "\n")
    Path("t.tsv").write_text("text\tlabel\n" + "".join(f"{line}\t{i % 2}\n" for i, line in enumerate(lines)))
    Path("labels.tsv").write_text("".join(f"{i % 2}\t{line}\n" for i, line in enumerate(lines)))
    Path("t.conllu").write_text(conllu())
    Path("s.jsonl").write_text("".join(map(drawing, range(12))))
    for i in range(6):
        with wave.open(f"{i}.wav", "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(b"\1\0\7\0" * (400 + 200 * i))
    Path("said").write_text("".join(f"{i}.wav\tone\n" for i in range(6)))
    return tmp_path


@pytest.mark.parametrize(
    "args",
    [
        ("classifier", "--train", "t.tsv"),
        ("tagger", "--train", "t.conllu"),
        (
            "translator",
            "--source",
            "t.txt",
            "--target",
            "t.txt",
            "--valid-source",
            "t.txt",
            "--valid-target",
            "t.txt",
        ),
        ("generator", "--texts", "labels.tsv"),
        ("generator", "--strokes", "s.jsonl"),
        ("transcriber", "--audio", ".", "--transcripts", "said", "--valid-transcripts", "said", "--rate", "8000"),
    ],
    ids=lambda args: f"{args[0]}{args[1]}",
)
def test_the_share_of_padding_is_said(args: tuple[str, ...], files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *args, *SIZES, "--out", "run"]) == 0
    lines = capsys.readouterr().err.splitlines()
    for part in ("train: ", "valid: "):
        (line,) = [line for line in lines if line.startswith(part)]
        assert ", padding " in line


def test_malformed_lines_of_a_text(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.txt").write_bytes(b"a line\n" * 30 + b"\xff\n" + b"a line\n" * 70)
    command = ["train", "language-model", "--text", "t.txt", *SIZES, "--length", "4", "--out", "run"]
    assert main(command) == 2
    assert "t.txt: line 31: byte 0xff at offset 210 is not UTF-8" in capsys.readouterr().err
    assert main([*command, "--malformed", "skip"]) == 0
    assert "1 malformed line left out; the first: t.txt: line 31" in capsys.readouterr().err
    assert main(["evaluate", "run", "t.txt"]) == 2
    assert main(["evaluate", "run", "t.txt", "--malformed", "skip"]) == 0
    assert "1 malformed line left out" in capsys.readouterr().err
