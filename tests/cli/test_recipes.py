"""The recipes of the repository can be read, and the demo is what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from everloop.cli.demo import MODEL, TRAIN, reference
from everloop.cli.train import read_options
from everloop.data import Text
from everloop.models import LanguageModel

RECIPES = sorted((Path(__file__).parent.parent.parent / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_builds_its_model(path: Path) -> None:
    if "language-model" not in path.read_text():
        pytest.skip("not a language model")
    options = read_options(["--config", str(path)])
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
    assert TRAIN.batch * TRAIN.length * TRAIN.steps > 5 * len(text)
    assert MODEL.cell == "lstm"
