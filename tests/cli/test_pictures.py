"""Captions of pictures and labels of frames, as a user trains and uses them."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from everloop.cli import main

QUICK = ["--batch", "4", "--validate", "50", "--warmup", "1", "--hidden", "12", "--threads", "1", "--embedding", "8"]
LEARN = ["--steps", "50", "--lr", "0.02", "--dropout", "0", "--channels", "8"]


def halves(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return pictures [count, 6, 6]: bright above and bright on the left, by turns."""
    pictures = np.zeros((count, 6, 6), np.uint8)
    pictures[::2, :3] = 255
    pictures[1::2, :, :3] = 255
    return pictures


def exactly(answers: list[str], wanted: list[str]) -> str:
    """Return how `evaluate` tells how many answers are right."""
    right, count = sum(map(str.__eq__, answers, wanted)), len(wanted)
    return f"exact match {right / count:.2%} ({right} of {count} test texts), greedy\n"


def told(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    shown = capsys.readouterr()
    return shown.out, " ".join(shown.err.split())


def test_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, pictures, run = tmp_path / "c.txt", tmp_path / "p.npz", str(tmp_path / "run")
    texts.write_text("up\nleft\n" * 12)
    np.savez(pictures, pictures=halves(24))
    captions = ["train", "generator", "--texts", str(texts), "--pictures", str(pictures)]
    assert main([*captions, *QUICK, *LEARN, "--out", run]) == 0
    assert re.search(r"exact match \d+\.00% \(\d of 2 valid texts\), greedy", told(capsys)[0])
    assert main(["predict", run, str(pictures)]) == 0
    numbers, answers = zip(*(line.split("\t") for line in told(capsys)[0].splitlines()), strict=True)
    assert [*map(int, numbers)] == [*range(1, 25)]
    assert main(["evaluate", run, str(texts), "--labels", str(pictures)]) == 0
    assert told(capsys)[0].endswith(exactly([*answers], ["up", "left"] * 12))
    assert main(["evaluate", run, "--split", "valid", "--json", "--beam", "2"]) == 0
    figures = json.loads(told(capsys)[0])
    assert figures["exact_match"] in (0, 0.5, 1)
    assert figures["decoding"] == "beam 2"
    other = tmp_path / "other.txt"
    other.write_text("up\nleft\n" * 11 + "up\nright\n")
    assert main(["evaluate", run, str(other), "--labels", str(pictures)]) == 2
    assert "'r'" in told(capsys)[1]  # a character that it cannot write
    turned = [answer[::-1] or "up" for answer in answers]
    other.write_text("".join(f"{text}\n" for text in turned))
    assert main(["evaluate", run, str(other), "--labels", str(pictures)]) == 0
    both = zip(answers, turned, strict=True)
    wrong = [f"{answer}   (in the data: {text})\n" for answer, text in both if answer != text]
    assert "".join(wrong[:5]) in told(capsys)[0]
    np.save(tmp_path / "new.npy", halves(2)[::-1])
    assert main(["predict", run, str(tmp_path / "new.npy")]) == 0
    assert told(capsys)[0] == f"1\t{answers[1]}\n2\t{answers[0]}\n"
    for args, message in [
        (["evaluate", run, str(texts)], "texts need their pictures: everloop evaluate RUN TEXTS --labels PICTURES"),
        (["predict", run, str(texts)], "is no picture that can be read"),
        (["predict", run], "cannot come from standard input"),
        (["predict", run, str(tmp_path / "new.npy"), "--format", "csv"], "this model reads: pictures"),
        (["sample", run, "x"], "holds a generator that reads pictures; use everloop predict"),
        ([*captions, *QUICK, "--channels", "0"], "channels is [0]"),
        ([*captions, "--vectors", str(pictures), *QUICK], "both --vectors and --pictures were given"),
    ]:
        assert main(args) == 2
        assert message in told(capsys)[1]
    assert main(["report", run]) == 0
    page = Path(run, "report.html").read_text("utf-8")
    assert 'role="img" aria-label="picture 1"' in page
    assert "data:image/png;base64," in page
    assert main(["draw", "network", run]) == 0
    assert "convolutions 36 → 8" in told(capsys)[0]
    assert main(["diagnose", run]) == 0
    assert main(["quantize", run, "--out", str(tmp_path / "small")]) == 0
    told(capsys)
    assert main(["predict", str(tmp_path / "small"), str(tmp_path / "new.npy")]) == 0
    assert re.fullmatch("1\t.*\n2\t.*\n", told(capsys)[0])
    assert main(["train", "generator", "--resume", run, "--steps", "52"]) == 0
    assert "resuming after step 50" in told(capsys)[1]


def test_captions_of_picture_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = import_module("PIL.Image")
    (tmp_path / "shown").mkdir()
    for i, pixels in enumerate(halves(12)):
        image.fromarray(pixels).resize((12, 12)).save(tmp_path / "shown" / f"{i:02}.png")
    table, run, shown = tmp_path / "c.tsv", str(tmp_path / "run"), str(tmp_path / "shown")
    table.write_text("".join(f"{i:02}.png\t{('up', 'left')[i % 2]}\n" for i in range(12)))
    captions = ["train", "generator", "--texts", str(table), "--pictures", shown, "--size", "6", "6"]
    assert main([*captions, *QUICK, *LEARN, "--out", run]) == 0
    told(capsys)
    assert main(["predict", run, shown]) == 0
    names, answers = zip(*(line.split("\t") for line in told(capsys)[0].splitlines()), strict=True)
    assert [*names] == [str(tmp_path / "shown" / f"{i:02}.png") for i in range(12)]
    assert main(["predict", run, names[3]]) == 0
    assert told(capsys)[0] == f"{names[3]}\t{answers[3]}\n"
    assert main(["evaluate", run, str(table), "--labels", shown]) == 0
    assert exactly([*answers], ["up", "left"] * 6) in told(capsys)[0]


def test_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = np.random.default_rng(0)
    labels = chance.integers(0, 2, (24, 5))
    for name, x in (("f.npz", halves(2)[labels]), ("new.npz", halves(2)[labels[:2]])):
        np.savez(tmp_path / name, frames=x, sides=labels[: len(x)])
    run, names = str(tmp_path / "run"), ["--text", "frames", "--label", "sides"]
    films = ["train", "tagger", "--train", str(tmp_path / "f.npz"), *names]
    assert main([*films, *QUICK, *LEARN, "--out", run]) == 0
    assert "5 frames of 6×6×1" in told(capsys)[1]
    assert main(["evaluate", run, str(tmp_path / "f.npz")]) == 0
    assert "per frame, 120 frames" in told(capsys)[0]
    assert main(["predict", run, str(tmp_path / "new.npz")]) == 0
    tags = told(capsys)[0]
    assert re.fullmatch(r"(([01]\n){5}\n){2}", tags)
    assert main(["predict", run, str(tmp_path / "new.npz"), "--probabilities"]) == 0
    head, *rows = told(capsys)[0].splitlines()
    assert head == "label\t0\t1"
    assert [row.partition("\t")[0] for row in rows] == tags.splitlines()
    for label, *shown in (row.split("\t") for row in rows if row):
        assert float(shown[int(label)]) == max(map(float, shown))
    assert main(["report", run]) == 0
    assert 'role="img" aria-label="5 frames"' in Path(run, "report.html").read_text("utf-8")
    assert main(["draw", "network", run]) == 0
    assert "convolutions 36 → 8" in told(capsys)[0]
    assert main(["diagnose", run]) == 0
    assert main(["quantize", run, "--out", str(tmp_path / "small")]) == 0
    told(capsys)
    assert main(["predict", str(tmp_path / "small"), str(tmp_path / "new.npz")]) == 0
    assert re.fullmatch(r"(([01]\n){5}\n){2}", told(capsys)[0])
    assert main(["train", "tagger", "--resume", run, "--steps", "52"]) == 0
    assert "resuming after step 50" in told(capsys)[1]
    assert main(["train", "classifier", *films[2:], *QUICK]) == 2
    assert "expected numbers [N, T, F]" in told(capsys)[1]


def test_frames_and_pictures_of_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = import_module("PIL.Image")
    sides = [("up", "left")[i % 2] for i in range(16)]
    for i, pixels in enumerate(halves(16)):
        for place in (tmp_path / "pictures" / sides[i], tmp_path / "films" / f"{i // 4}"):
            place.mkdir(parents=True, exist_ok=True)
            image.fromarray(pixels).save(place / f"{i}.png")
    table = "".join(f"{film}\t{' '.join(sides[:4])}\n" for film in range(4))
    (tmp_path / "films" / "labels.tsv").write_text(table)
    few = ["--steps", "2", "--validate", "1", "--batch", "4", "--hidden", "4", "--threads", "1"]
    for kind, folder, more in (
        ("tagger", "films", ["--channels", "4", "--hold-out", "0.25", "0"]),
        ("classifier", "pictures", ["--patch", "3"]),
    ):
        run, data = str(tmp_path / kind), str(tmp_path / folder)
        assert main(["train", kind, "--train", data, *few, *more, "--out", run]) == 0
        assert main(["evaluate", run, data]) == 0
        assert "16" in told(capsys)[0]
        assert main(["predict", run, data]) == 0
        assert sum(bool(line) for line in told(capsys)[0].splitlines()) == 16
    assert main(["predict", str(tmp_path / "tagger"), str(tmp_path / "films" / "2")]) == 0
    assert len(told(capsys)[0].splitlines()) == 5
    assert main(["predict", str(tmp_path / "classifier"), str(tmp_path / "pictures" / "up" / "0.png")]) == 0
    assert len(told(capsys)[0].splitlines()) == 1
    image.fromarray(halves(1)[0]).resize((5, 6)).save(tmp_path / "odd.png")
    assert main(["predict", str(tmp_path / "classifier"), str(tmp_path / "odd.png")]) == 2
    assert "patch is 3; expected what divides 6 and 5" in told(capsys)[1]
