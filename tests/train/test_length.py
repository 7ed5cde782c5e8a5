"""The length of windows is for streams: elsewhere it would do nothing, and is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from everloop.cli import main
from everloop.data import Examples, Part
from everloop.errors import OptionError
from everloop.models import Classifier, ClassifierConfig
from everloop.models.kind import BUILT_IN, find
from everloop.train import TrainConfig, evaluate, train
from tests.train.small import CONFIG, TEXT, small_model

SMALL: dict[str, Any] = {"steps": 2, "batch": 4, "warmup": 0, "validate": 1}
REFUSED = "length is 8, which is for streams of text; a classifier reads whole sequences: leave it out"


def classifier() -> tuple[Classifier, Examples]:
    """Return an untrained classifier and its data."""
    texts, labels = ["a fine film", "a dull film", "fine"] * 6, ["good", "bad", "good"] * 6
    parts = {name: Part(texts.__getitem__, labels, True, name) for name in ("train", "valid")}
    data = Examples(parts)
    torch.manual_seed(0)
    return Classifier.of(data, ClassifierConfig(cell="elman", hidden=4, layers=1)), data


def lengths(folder: Path) -> object:
    return tomllib.loads((folder / "config.toml").read_text())["train"].get("length")


def test_only_language_models_read_streams() -> None:
    assert [name for name in BUILT_IN if find(name).model.streams] == ["language-model"]


def test_a_length_for_whole_sequences_is_refused(tmp_path: Path) -> None:
    model, data = classifier()
    for ask in (
        lambda: train(model, data, length=8, **SMALL),
        lambda: train(model, data, TrainConfig(length=8), out=tmp_path / "run"),
        lambda: evaluate(model, data, length=8),
    ):
        with pytest.raises(OptionError, match=REFUSED):
            ask()
    assert not (tmp_path / "run").exists()


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.tsv").write_text("text\tlabel\n" + "a fine film\tgood\na dull film\tbad\n" * 9)
    options = ["--train", str(tmp_path / "t.tsv"), "--hidden", "4", "--out", str(tmp_path / "run")]
    assert main(["train", "classifier", *options, "--length", "8"]) == 2
    assert REFUSED in capsys.readouterr().err


def test_a_run_from_before_goes_on(tmp_path: Path) -> None:
    train(*classifier(), out=tmp_path / "run", **SMALL)
    assert lengths(tmp_path / "run") is None
    file = tmp_path / "run" / "config.toml"
    file.write_text(file.read_text().replace("[train]\n", "[train]\nlength = 256\n"))
    for config in (None, TrainConfig(**SMALL | {"steps": 3})):
        assert train(*classifier(), config, out=tmp_path / "run", resume=True).step == (3 if config else 2)
        assert lengths(tmp_path / "run") is None
    with pytest.raises(OptionError, match=REFUSED):
        train(*classifier(), out=tmp_path / "run", resume=True, length=8)


def test_a_stream_has_one_that_counts(tmp_path: Path) -> None:
    for name, given, kept in (("own", 7, 7), ("default", None, 256)):
        config = CONFIG.replace({"length": given, "steps": 2, "batch": 2})
        train(small_model(), TEXT, config, out=tmp_path / name)
        assert lengths(tmp_path / name) == kept
    train(small_model(), TEXT, config.replace({"steps": 3}), out=tmp_path / "default", resume=True)
    with pytest.raises(OptionError, match="length 256 instead of 7"):
        train(small_model(), TEXT, config.replace({"steps": 3}), out=tmp_path / "own", resume=True)
