"""`everloop train translator|transcriber|generator`, `tree` and `score`, as a user runs them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from everloop.cli import main
from everloop.data import ParallelConfig, Text, Vocabulary
from everloop.models import LanguageModel, load
from everloop.models.run import RunConfig
from everloop.train import train
from tests.data.test_audio import digit_recordings, write_wav

QUICK = ["--steps", "4", "--batch", "4", "--validate", "2", "--warmup", "1", "--hidden", "8", "--threads", "1"]


def pairs(folder: Path) -> list[str]:
    for name, line in (("a.de", "ein hund und ein mann\n"), ("a.en", "a dog and a man\n")):
        (folder / name).write_text(line * 12)
    names = {"source": "a.de", "written": "a.en", "valid-source": "a.de", "valid-written": "a.en"}
    return [part for flag, name in names.items() for part in (f"--{flag}", str(folder / name))]


def test_a_translator_without_validation_files_holds_a_part_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", "translator", *pairs(tmp_path)[:4], *QUICK, "--out", str(run), "--hold-out", "0.25"]) == 0
    shown = capsys.readouterr()
    assert "valid: 3 pairs, held out of training (--hold-out)" in shown.err
    assert "on 3 valid sentences (beam 5, lower case)" in shown.out
    config = (run / "config.toml").read_text()
    assert "hold_out = 0.25\n" in config
    # a run of the version before names no part, and had none
    (run / "config.toml").write_text(config.replace("hold_out = 0.25\n", ""))
    assert RunConfig.read(run).settings("data", ParallelConfig).hold_out == 0
    assert main(["evaluate", str(run), "--split", "valid"]) == 2
    assert "valid" in capsys.readouterr().err


def test_a_translator_is_trained_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", "translator", *pairs(tmp_path), *QUICK, "--out", str(run)]) == 0
    out = capsys.readouterr().out
    assert "ein hund und ein mann" in out
    assert "on 12 valid sentences (beam 5, lower case)" in out
    assert main(["train", "translator", "--resume", str(run), "--steps", "6"]) == 0
    assert "resuming after step 4" in capsys.readouterr().err
    assert main(["train", "translator", "--resume", str(run), "--hidden", "10"]) == 2
    assert "keeps its model" in capsys.readouterr().err
    assert main(["train", "generator", "--resume", str(run)]) == 2
    assert "is for a translator" in capsys.readouterr().err
    assert main(["evaluate", str(run), str(tmp_path / "a.de"), "--labels", str(tmp_path / "a.en")]) == 0
    figures = capsys.readouterr().out
    assert figures.startswith("accuracy ")
    assert "perplexity" in figures
    assert "on 12 test sentences" in figures
    assert main(["evaluate", str(run), str(tmp_path / "a.de"), "--labels", str(tmp_path / "a.en"), "--json"]) == 0
    assert {"bleu", "perplexity", "accuracy"} <= set(json.loads(capsys.readouterr().out))
    (tmp_path / "new.txt").write_text("ein mann\n\nein hund\n")
    assert main(["predict", str(run), str(tmp_path / "new.txt")]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert (len(lines), lines[1]) == (4, "")
    assert main(["tree", str(run), "ein hund", "--width", "2", "--depth", "2", "--min-probability", "0"]) == 0
    assert capsys.readouterr().out.startswith("ein hund")


def test_a_generator_of_names_and_one_of_strokes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "n.tsv").write_text("Czech\tAbl\nGreek\tMaki\n" * 20)
    assert main(["train", "generator", "--texts", str(tmp_path / "n.tsv"), *QUICK, "--out", str(tmp_path / "a")]) == 0
    assert "Greek: " in capsys.readouterr().out
    drawing = {"label": "1", "split": "train", "strokes": [[[0, 0], [3, 9], [5, 0]]]}
    lines = [json.dumps({**drawing, "split": part}) for part in ("train", "valid") for _ in range(8)]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    strokes = ["--strokes", str(tmp_path / "d.jsonl")]
    assert main(["train", "generator", *strokes, *QUICK, "--out", str(tmp_path / "b")]) == 0
    (tmp_path / "labels.txt").write_text("1\n1\n")
    assert main(["predict", str(tmp_path / "b"), str(tmp_path / "labels.txt")]) == 0
    drawn = capsys.readouterr().out.splitlines()
    rows = [json.loads(line) for line in drawn if line.startswith("{")]
    assert [row["label"] for row in rows] == ["1", "1"]
    pictures = {name: tmp_path / f"new.{name}" for name in ("svg", "png")}
    options = [part for name, path in pictures.items() for part in (f"--{name}", str(path))]
    assert main(["predict", str(tmp_path / "b"), str(tmp_path / "labels.txt"), *options, "--num-samples", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert 'width="384"' in pictures["svg"].read_text()  # six of 64 pixels
    assert pictures["png"].read_bytes().startswith(b"\x89PNG")
    assert main(["sample", str(tmp_path / "b"), "1"]) == 2
    assert "holds a generator that draws" in " ".join(capsys.readouterr().err.split())
    assert main(["predict", str(tmp_path / "b"), str(tmp_path / "labels.txt"), "--array", "x"]) == 2
    assert "--array is for vectors" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", str(tmp_path / "b"), str(tmp_path / "d.jsonl"), "--labels", "x"]) == 2
    assert "a file of drawings holds its labels itself" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", str(tmp_path / "b"), str(tmp_path / "d.jsonl")]) == 0
    assert "loss " in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "a"), str(tmp_path / "n.tsv")]) == 0
    assert "per character" in capsys.readouterr().out
    (tmp_path / "labels.txt").write_text("Czech\nGreek\n")
    assert main(["predict", str(tmp_path / "a"), str(tmp_path / "labels.txt")]) == 0
    assert [line.partition("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["Czech", "Greek"]
    assert (tmp_path / "b" / "drawings.svg").read_text().startswith("<svg")
    assert (tmp_path / "b" / "drawings.png").read_bytes().startswith(b"\x89PNG")
    assert main(["train", "generator", "--resume", str(tmp_path / "b"), "--steps", "5"]) == 0
    assert main(["train", "generator", *QUICK]) == 2
    assert "expected either --texts or --strokes; none was given" in capsys.readouterr().err


def test_a_generator_of_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    up, down = np.array([1.0, 0.0, 0.5]), np.array([0.0, 1.0, 0.5])
    np.savez(tmp_path / "v.npz", images=np.stack([up, down] * 12), other=np.zeros(3))
    (tmp_path / "c.txt").write_text("abcd\ndcba\n" * 12)
    run, new = str(tmp_path / "run"), str(tmp_path / "new.npz")
    captions = ["train", "generator", "--texts", str(tmp_path / "c.txt"), "--vectors", str(tmp_path / "v.npz")]
    assert main([*captions, *QUICK]) == 2
    assert "holds the arrays images, other; name one with --array" in " ".join(capsys.readouterr().err.split())
    learn = ["--steps", "200", "--lr", "0.02", "--hidden", "16", "--dropout", "0", "--array", "images"]
    assert main([*captions, *QUICK, *learn, "--out", run]) == 0
    assert re.search(r"exact match \d+\.\d\d% \(\d of 2 valid texts\), greedy", capsys.readouterr().out)
    np.savez(new, images=np.stack([down, up]))
    assert main(["predict", run, new, "--decode", "greedy"]) == 0
    assert capsys.readouterr().out == "1\tdcba\n2\tabcd\n"
    np.save(tmp_path / "new.npy", np.stack([up, down]))
    assert main(["predict", run, str(tmp_path / "new.npy"), "--decode", "greedy"]) == 0
    assert capsys.readouterr().out == "1\tabcd\n2\tdcba\n"
    (tmp_path / "new.txt").write_text("1, 0, 0.5\n1 0\n0 1 .5\n")
    assert main(["predict", run, str(tmp_path / "new.txt"), "--decode", "greedy", "--malformed", "skip"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "1\tabcd\n\n3\tdcba\n"
    assert "line 2: '1 0'; expected 3 numbers between spaces or commas" in " ".join(shown.err.split())
    np.savez(new, images=np.zeros((2, 4)), words=np.array(["a"]))
    assert main(["evaluate", run, str(tmp_path / "c.txt"), "--labels", str(tmp_path / "v.npz")]) == 0
    for args, message in [
        (["predict", run, new], "holds vectors of 4 numbers; expected 3"),
        (["predict", run, new, "--array", "imags"], "unknown array 'imags'; did you mean 'images'"),
        (["predict", run, new, "--array", "words"], "expected numbers [N, n], a vector a row"),
        (["predict", run, new, "--svg", "x.svg"], "this generator writes texts"),
        (["sample", run, "up"], "holds a generator that reads vectors; use everloop predict"),
        (["tree", run, "up"], "this generator reads vectors of 3 numbers; got a text"),
    ]:
        capsys.readouterr()
        assert main(args) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_sample_asks_generators_and_translators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "n.tsv").write_text("Czech\tAbl\nGreek\tMaki\n" * 20)
    run = str(tmp_path / "run")
    assert main(["train", "generator", "--texts", str(tmp_path / "n.tsv"), *QUICK, "--out", run]) == 0
    capsys.readouterr()
    texts = []
    for seed in "112":
        assert main(["sample", run, "Greek", "--seed", seed, "--length", "9", "--temperature", "2"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert main(["sample", run]) == 2
    assert "a generator needs a prompt" in capsys.readouterr().err
    assert main(["sample", run, "Grek"]) == 2
    assert "did you mean 'Greek'" in capsys.readouterr().err


def test_a_transcriber_of_digits_and_one_of_transcripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for digit, found in digit_recordings(4).items():
        for i, samples in enumerate(found):
            write_wav(tmp_path / f"{digit}_ann_{i}.wav", samples.clamp(-1, 1).numpy())
            said.append(f"{digit}_ann_{i}.wav\t{digit}")
    sizes = ["--rate", "8000", "--mels", "20", "--strings", "12", "--held", "6", "--split", "0.5", "0.25", "0.25"]
    digits = ["train", "transcriber", "--digits", str(tmp_path)]
    assert main([*digits, *sizes, *QUICK, "--out", str(tmp_path / "a")]) == 0
    assert "on 6 test strings, beam 8" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "said.tsv").write_text("\n".join(said))
    said_file = str(tmp_path / "said.tsv")
    audio = ["--audio", str(tmp_path), "--transcripts", said_file, "--valid-transcripts", said_file]
    frames = ["--rate", "8000", "--mels", "20", "--stacked", "1", "--vtlp", "0.1", "--noise", "10", "30"]
    assert main(["train", "transcriber", *audio, *frames, *QUICK, "--out", str(tmp_path / "b")]) == 0
    assert "on 16 valid recordings" in " ".join(capsys.readouterr().out.split())
    assert main(["evaluate", str(tmp_path / "b"), str(tmp_path / "said.tsv")]) == 0
    assert "on 16 test recordings" in " ".join(capsys.readouterr().out.split())
    assert main(["evaluate", str(tmp_path / "b"), str(tmp_path / "said.tsv"), "--labels", "x"]) == 2
    assert "a transcriber's list holds the transcripts itself" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", str(tmp_path / "a"), "--split", "valid"]) == 0
    assert "on 6 valid strings" in " ".join(capsys.readouterr().out.split())
    assert main(["predict", str(tmp_path / "b"), str(tmp_path / "1_ann_2.wav")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / '1_ann_2.wav'}\t")
    soundfile.write(tmp_path / "new.flac", torch.zeros(16_000).numpy(), 44_100)
    assert main(["predict", str(tmp_path / "b"), str(tmp_path / "new.flac")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'new.flac'}\t")
    assert main(["predict", str(tmp_path / "b"), str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 17
    assert main(["train", "transcriber", "--resume", str(tmp_path / "b"), "--steps", "5"]) == 0


def language_model(folder: Path) -> LanguageModel:
    text = Text.from_string("the cat sat on the mat.\n" * 60, split=(0.9, 0.1, 0))
    model = LanguageModel(text.vocabulary, hidden=12, layers=1)
    train(model, text, steps=60, batch=4, length=16, lr=2e-2, out=folder)
    return model


def test_tree_and_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = language_model(tmp_path / "run")
    picture = tmp_path / "tree.svg"
    assert main(["tree", str(tmp_path / "run"), "the c", "--svg", str(picture), "--depth", "3"]) == 0
    assert "the c" in capsys.readouterr().out
    assert picture.read_text().startswith("<svg")
    lines = tmp_path / "lines.txt"
    lines.write_text("the cat sat\n\ntac eht tas\n")
    assert main(["score", str(tmp_path / "run"), str(lines)]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[1:] for row in rows] == [["11", "the cat sat"], [], ["11", "tac eht tas"]]
    assert float(rows[0][0]) > float(rows[2][0])
    assert float(rows[0][0]) == pytest.approx(-model.score("the cat sat").nats, abs=1e-3)
    lines.write_text("the cat\nthe dog\n")
    assert main(["score", str(tmp_path / "run"), str(lines)]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 2
    assert "2 of 14 characters unknown (14.29%), scored as one and the same" in shown.err


def test_new_text_with_unknown_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {"a.txt": "to be or not to be\n" * 40, "b.txt": "to bé\n" * 9, "c.txt": "bee?"}.items():
        Path(name).write_text(text)
    command = ["train", "language-model", "--text", "a.txt", "--valid", "b.txt", "--test", "c.txt"]
    assert main([*command, *QUICK, "--length", "8", "--out", "run"]) == 0
    assert "train 760, valid 54, test 4 characters, 9 different" in capsys.readouterr().err
    assert "é" not in load("run").vocabulary
    for command, few in ((["run", "b.txt"], "9 unknown in test (16.67%)"), (["run"], "1 unknown in test (25.00%)")):
        assert main(["evaluate", *command, "--json"]) == 0
        shown = capsys.readouterr()
        assert few in shown.err
        assert json.loads(shown.out)["loss"] < 20
    assert main(["sample", "run", "bé", "--length", "99", "--temperature", "2", "--seed", "1"]) == 0
    shown = capsys.readouterr()
    assert "unknown to the model: 'é'" in shown.err
    assert "\ufffd" not in shown.out


def test_a_model_without_an_unknown_symbol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Text.from_string("the cat sat\n" * 60, split=(1, 0, 0), vocabulary=Vocabulary.of("the cat sat\n"))
    train(LanguageModel(text.vocabulary, hidden=4, layers=1), text, steps=1, batch=2, length=8, out=tmp_path / "run")
    new, command = tmp_path / "n.txt", ["score", str(tmp_path / "run"), str(tmp_path / "n.txt")]
    new.write_text("the cat\nthe dog\n")
    for verb in ("score", "evaluate"):
        assert main([verb, *command[1:]]) == 2
        assert "line 2" in (told := " ".join(capsys.readouterr().err.split()))
        assert "unknown symbol 'd'" in told
        assert main([verb, *command[1:], "--malformed", "skip"]) == 0
        assert "1 malformed line left out" in capsys.readouterr().err


def test_other_kinds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "n.tsv").write_text("Czech\tAbl\nGreek\tMaki\n" * 20)
    main(["train", "generator", "--texts", str(tmp_path / "n.tsv"), *QUICK, "--out", str(tmp_path / "a")])
    assert main(["score", str(tmp_path / "a"), str(tmp_path / "n.tsv")]) == 2
    assert "holds a generator; expected a language model" in " ".join(capsys.readouterr().err.split())
    assert main(["tree", str(tmp_path / "a"), "Greek", "--depth", "2", "--min-probability", "0"]) == 0
    assert main(["train", "translater"]) == 2
    assert "did you mean 'translator'" in capsys.readouterr().err
