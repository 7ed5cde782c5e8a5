"""The peers of recipes in plain torch.nn are the same models in the same loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import plain_torch
from everloop.cli.options import find_kind
from everloop.cli.train import read_options
from everloop.errors import OptionError
from everloop.train import evaluate, train
from everloop.train.evaluate import pass_sizes

TRAINING = ["--threads", "1", "--steps", "4", "--batch", "3", "--ema-decay", "0.5", "--validate", "2", "--warmup", "1"]
TRAINING += ["--weight-decay", "0.1", "--lr", "0.02"]


def _classifier(folder: Path) -> list[str]:
    texts = ["bad\tno", "good good\tyes", "so bad it is\tno", "good\tyes", "all is good here\tyes", "bad bad\tno"]
    (folder / "texts.tsv").write_text("".join(f"{text}\n" for text in texts))
    file = str(folder / "texts.tsv")
    shape = [
        "--units",
        "words",
        "--min-freq",
        "1",
        "--layers",
        "2",
        "--label-smoothing",
        "0.1",
        "--columns",
        "text",
        "label",
        "--embedding",
        "5",
    ]
    return ["--train", file, "--valid", file, *shape]


def _tagger(folder: Path) -> list[str]:
    words = [("a", "DET"), ("dog", "NOUN"), ("barks", "VERB")]
    lines = ["\t".join([str(i + 1), word, "_", tag, *"______"]) for i, (word, tag) in enumerate(words)]
    texts = ["\n".join(lines[:n]) + "\n\n" for n in (3, 1, 2, 3, 2)]
    (folder / "tags.conllu").write_text("".join(texts))
    file = str(folder / "tags.conllu")
    return ["--train", file, "--valid", file, "--format", "conllu", "--text", "form", "--label", "upos"]


def _chorales(folder: Path) -> list[str]:
    pieces = "[[[60, 64], [62], [], [64, 67]], [[60], [62, 65]], [[67], [64], [60]]]"
    (folder / "pieces.json").write_text(f'{{"train": {pieces}, "valid": {pieces}, "test": {pieces}}}')
    return ["--train", str(folder / "pieces.json"), "--format", "chorales", "--output", "several", "--no-bidirectional"]


def _language_model(folder: Path) -> list[str]:
    (folder / "text.txt").write_text("to be, or not to be: that is the question. " * 30)
    shape = ["--split", "0.8", "0.1", "0.1", "--layers", "2", "--length", "7", "--embedding", "5"]
    return ["--text", str(folder / "text.txt"), *shape]


def _forecaster(folder: Path) -> list[str]:
    rows = "".join(f"{i % 7},{i % 5 - i / 40}\n" for i in range(120))
    (folder / "series.csv").write_text(f"a,b\n{rows}")
    shape = [
        "--split",
        "60",
        "30",
        "30",
        "--context",
        "12",
        "--patch",
        "3",
        "--horizon",
        "4",
        "--season",
        "4",
        "--around",
        "mean",
    ]
    return ["--train", str(folder / "series.csv"), "--series", "a", "b", *shape]


def _translator(folder: Path) -> list[str]:
    for name in ("a", "b"):
        (folder / name).write_text(f"ein hund {name}\n{name} mann\nein\nein mann sieht ein hund\nhund und mann\n")
    source, target = str(folder / "a"), str(folder / "b")
    files = ["--source", source, "--target", target, "--valid-source", source, "--valid-target", target]
    return [*files, "--min-freq", "1", "--embedding", "5", "--dropout", "0"]


def _generator(folder: Path) -> list[str]:
    lines = [f"{'north' if i % 3 else 'south'}\tword{'abc'[i % 3] * (i % 4)}" for i in range(20)]
    (folder / "names.tsv").write_text("\n".join(lines))
    return [
        "--texts",
        str(folder / "names.tsv"),
        "--layers",
        "2",
        "--given",
        "first",
        "--embedding",
        "5",
        "--dropout",
        "0",
    ]


def _pen(folder: Path) -> str:
    glyphs = {"1": [[[0, 0], [1, 9]]], "7": [[[0, 9], [5, 9], [2, 0]], [[1, 5], [4, 6]]]}
    some = [{"label": label, "split": split} for split in ("train", "valid") for label in ("1", "7", "7", "1")]
    rows = [json.dumps({**one, "strokes": glyphs[one["label"]], "writer": one["split"]}) for one in some]
    (folder / "glyphs.jsonl").write_text("\n".join(rows))
    return str(folder / "glyphs.jsonl")


def _drawings(folder: Path) -> list[str]:
    return ["--strokes", _pen(folder), "--mixtures", "3", "--embedding", "5", "--dropout", "0"]


def _transcriber(folder: Path) -> list[str]:
    return ["--glyphs", _pen(folder), "--strings", "9", "--held", "4", "--stacked", "2", "--dropout", "0"]


CASES: dict[str, tuple[str, Callable[[Path], list[str]]]] = {
    "classifier": ("classifier", _classifier),
    "tagger": ("tagger", _tagger),
    "chorales": ("tagger", _chorales),
    "language-model": ("language-model", _language_model),
    "forecaster": ("forecaster", _forecaster),
    "translator": ("translator", _translator),
    "generator": ("generator", _generator),
    "drawings": ("generator", _drawings),
    "transcriber": ("transcriber", _transcriber),
}


def _read(folder: Path, name: str, *more: str) -> tuple[Any, Any, Any, Any, dict[str, int]]:
    """Return (our model, theirs with the same weights, the data, settings of training, sizes of batches)."""
    torch.manual_seed(0)
    kind = find_kind(CASES[name][0])
    options, _ = read_options(kind, [*CASES[name][1](folder), *TRAINING, *more])
    data = kind.dataset(options.data, options.model, None)
    ours = kind.create_model(data, options.model)
    plain = plain_torch.MODELS[kind.name](ours)
    _copy(ours, plain)
    return ours, plain, data, options.train, pass_sizes(ours, options.train.batch, options.train.length)


def _copy(ours: nn.Module, plain: nn.Module) -> None:
    """Copy all weights. Theirs have two biases; an LSTM of ours has one, and their second is 0."""
    known = {name.replace("layers.", ""): weight for name, weight in plain.named_parameters()}
    for name, weight in known.items():
        if "bias_hh" in name:
            nn.init.zeros_(weight)
    copied = set()
    for name, value in ours.named_parameters():
        room, *path = name.split(".")
        if room in ("recurrent", "speller", "encoder", "decoder"):
            level = path[path.index("members") + 1] if "members" in path else "0"
            letter = {"W": "weight_ih", "R": "weight_hh", "b": "bias_ih", "d": "bias_hh"}[path[-1]]
            theirs = f"{letter}_l{level}{'_reverse' if 'back' in path else ''}"
            theirs = f"{room}.{theirs}" if f"{room}.{theirs}" in known else theirs
        else:
            theirs = name.replace("read_in.0", "patches").replace("bridge.maps.0.0", "bridge").replace("attention.", "")
        with torch.no_grad():
            known[theirs].copy_(value)
        copied.add(theirs)
    assert all("bias_hh" in name for name in known.keys() - copied)


@pytest.mark.parametrize("name", CASES)
def test_the_same_weights_lose_the_same(tmp_path: Path, name: str) -> None:
    cell = "gru" if name == "translator" else "lstm"
    ours, plain, data, config, sizes = _read(tmp_path, name, "--cell", cell, "--hidden", "6")
    score = evaluate(ours, data, "valid", batch=config.batch, length=config.length)
    found = plain_torch.figures_of(plain, data, "valid", sizes)
    assert found["loss"] == pytest.approx(score.loss, rel=1e-5)
    assert found.get("accuracy") == pytest.approx(score.means.get("accuracy"))


@pytest.mark.parametrize("name", CASES)
def test_the_same_weights_learn_the_same(tmp_path: Path, name: str) -> None:
    ours, plain, data, config, sizes = _read(tmp_path, name, "--cell", "gru", "--hidden", "6")
    before = evaluate(ours, data, "valid", batch=config.batch, length=config.length).loss
    train(ours, data, config)
    plain_torch.plain_train(plain, data, config, sizes)
    after = evaluate(ours, data, "valid", batch=config.batch, length=config.length).loss
    assert after != before
    # a step of AdamW is as long for a small gradient as for a large one
    assert plain_torch.figures_of(plain, data, "valid", sizes)["loss"] == pytest.approx(after, rel=1e-4)


def test_both_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain_torch.main(["forecaster", *_forecaster(tmp_path), *TRAINING, "--hidden", "6", "--out", str(tmp_path / "run")])
    assert (tmp_path / "run" / "best.safetensors").is_file()
    theirs, ours = capsys.readouterr().out.splitlines()[1:]
    assert theirs.startswith("torch.nn: test loss ")
    assert ours.startswith("Everloop: test loss ")


def test_a_cell_that_torch_nn_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"cell is 'min-gru'; .*: lstm, gru"):
        _read(tmp_path, "classifier", "--cell", "min-gru")
