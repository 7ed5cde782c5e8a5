"""The recipes of the repository can be read, and the demo is what it says."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from everloop.cli.demo import MODEL, TRAIN, reference
from everloop.cli.train import read_options
from everloop.data import Text
from everloop.models import LanguageModel
from everloop.models.kind import find

RECIPES = sorted((Path(__file__).parent.parent.parent / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_can_be_read(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = tomllib.loads(path.read_text())["model"]["kind"]
    options, _ = read_options(find(kind), ["--config", str(path)])
    assert "old name" not in capsys.readouterr().err
    assert options.train.seed == 1
    assert f"everloop train {kind} --config recipes/{path.name}" in path.read_text()
    if kind == "language-model":
        text = Text.from_string("to be or not to be " * 9000, split=options.data.split)
        model = LanguageModel.from_config(text.vocabulary, options.model)
        sizes = {"batch": options.train.batch, "length": options.train.length}
        assert model.loss(text.epoch("train", 0, **sizes)[0]).count == options.train.batch * options.train.length


def test_steps_that_are_asked_for_go_before_passes_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("[train]\nepochs = 3.0\n")
    for args, expected in (([], (5_000, 3.0)), (["--steps", "7"], (7, None)), (["--epochs", "2"], (5_000, 2.0))):
        train = read_options(find("tagger"), ["--config", str(file), *args])[0].train
        assert (train.steps, train.epochs) == expected
    both = read_options(find("tagger"), ["--config", str(file), "--steps", "7", "--epochs", "2"])[0].train
    assert both.epochs == 2.0


def test_shakespeare_recipe_is_kept() -> None:
    assert "tiny_shakespeare" in [path.stem for path in RECIPES]


def test_the_demo_has_english_to_read() -> None:
    text = reference()
    assert len(text) > 300_000
    assert text.count(" the ") > 3000
    assert TRAIN.length is not None
    assert TRAIN.batch * TRAIN.length * TRAIN.steps > 5 * len(text)
    assert MODEL.cell == "lstm"
