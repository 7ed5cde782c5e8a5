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
def test_recipe_can_be_read(path: Path) -> None:
    kind = tomllib.loads(path.read_text())["model"]["kind"]
    options, _ = read_options(find(kind), ["--config", str(path)])
    assert options.train.seed == 1
    assert f"everloop train {kind} --config recipes/{path.name}" in path.read_text()
    if kind == "language-model":
        text = Text.from_string("to be or not to be " * 9000, split=options.data.split)
        model = LanguageModel.from_config(text.vocabulary, options.model)
        sizes = {"batch": options.train.batch, "length": options.train.length}
        assert model.loss(text.epoch("train", 0, **sizes)[0]).count == options.train.batch * options.train.length


def test_shakespeare_recipe_is_kept() -> None:
    assert "tiny_shakespeare" in [path.stem for path in RECIPES]


def test_the_demo_has_english_to_read() -> None:
    text = reference()
    assert len(text) > 300_000
    assert text.count(" the ") > 3000
    assert TRAIN.length is not None
    assert TRAIN.batch * TRAIN.length * TRAIN.steps > 5 * len(text)
    assert MODEL.cell == "lstm"
