"""Run folders read back: the same model, or an error that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from everloop import cells
from everloop.data import Text
from everloop.errors import RunError
from everloop.models import LanguageModel, Score, load
from everloop.train import TrainConfig, train

TEXT = Text.from_string("the cat sat on the mat.\n" * 30, split=(0.8, 0.2, 0))
SMALL = TrainConfig(steps=4, batch=2, length=8, validate=2, warmup=0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    model = LanguageModel(TEXT.vocabulary, cell=cells.LSTM, hidden=6, layers=2, embedding=4)
    train(model, TEXT, SMALL, out=tmp_path / "run")
    return tmp_path / "run"


def test_the_same_model_comes_back(tmp_path: Path) -> None:
    model = LanguageModel(TEXT.vocabulary, cell="projected-lstm", hidden=6, options={"proj_size": 4})
    run = train(model, TEXT, SMALL, out=tmp_path / "run")
    loaded = load(run)
    assert loaded.config == model.config
    assert loaded.vocabulary == model.vocabulary
    assert not loaded.training
    assert loaded.score("the mat") == model.score("the mat")


def test_tied_weights_come_back_tied(tmp_path: Path) -> None:
    model = LanguageModel(TEXT.vocabulary, hidden=6, tied=True)
    loaded = load(train(model, TEXT, SMALL, out=tmp_path / "run"))
    assert loaded.head.weight is loaded.embedding.weight
    assert loaded.score("the mat") == model.score("the mat")


def test_best_and_last_weights(run: Path) -> None:
    last = load(run, "last")
    assert torch.equal(last.head.weight, load_file(run / "last.safetensors")["model/head.weight"])
    (run / "best.safetensors").unlink()
    assert torch.equal(load(run).head.weight, last.head.weight)


def test_nothing_is_pickled(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock",
        "best.safetensors",
        "config.toml",
        "history.jsonl",
        "last.safetensors",
        "metrics.jsonl",
        "previous.safetensors",
        "vocabulary.json",
    ]
    for path in run.glob("*.safetensors"):
        assert load_file(path)


def test_no_folder_and_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no such run folder"):
        load(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"is not a run folder: it has no config\.toml"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["best.safetensors", "vocabulary.json", "config.toml"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 50, b'{"a": 1}', b"[model]\nhidden = 3\n"])
def test_foreign_content(run: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        load(run)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_truncated_weights(run: Path, share: float) -> None:
    whole = (run / "best.safetensors").read_bytes()
    (run / "best.safetensors").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(RunError, match=r"best\.safetensors is damaged"):
        load(run)


def test_one_wrong_bit(run: Path) -> None:
    content = bytearray((run / "best.safetensors").read_bytes())
    content[-5] ^= 1
    (run / "best.safetensors").write_bytes(content)
    with pytest.raises(RunError, match="is damaged: its checksum"):
        load(run)


def test_weights_of_something_else(run: Path) -> None:
    save_file({"weight": torch.zeros(3)}, run / "best.safetensors")
    with pytest.raises(RunError, match="was not written by Everloop"):
        load(run)


def test_sizes_that_do_not_fit_name_layer_got_expected(run: Path) -> None:
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("hidden = 6", "hidden = 7"))
    with pytest.raises(RunError, match=r"does not fit the model: recurrent\.\S+ got \[24, \d\], expected \[28, \d\]"):
        load(run)


def test_names_that_do_not_fit(run: Path) -> None:
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("layers = 2", "layers = 3"))
    with pytest.raises(RunError, match=r"it lacks recurrent\.\S+"):
        load(run)
    (run / "config.toml").write_text(config.replace("layers = 2", "layers = 1"))
    with pytest.raises(RunError, match=r"it lacks|has no recurrent\.\S+"):
        load(run)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "language-model"', 'kind = "langage-model"', "did you mean 'language-model'"),
        ("hidden = 6", "hiden = 6", "unknown setting 'hiden'; did you mean 'hidden'"),
        ("hidden = 6", 'hidden = "6"', "hidden is '6'; expected an integer"),
        ('cell = "lstm"', 'cell = "lstn"', "did you mean 'lstm'"),
    ],
)
def test_configuration_with_a_mistake(run: Path, old: str, new: str, message: str) -> None:
    config = (run / "config.toml").read_text()
    assert old in config
    (run / "config.toml").write_text(config.replace(old, new))
    with pytest.raises(RunError, match=message):
        load(run)


def test_a_run_without_folder_is_no_path() -> None:
    model = LanguageModel(TEXT.vocabulary, hidden=4, layers=1)
    with pytest.raises(RunError, match="not kept in a folder"):
        load(train(model, TEXT, SMALL))


def test_a_score_tells_what_means_something() -> None:
    assert str(Score(2.0, 2)) == "1.0000 nats, 1.4427 bits, perplexity 2.718"
    labels = Score(1.0, 4, {"accuracy": 0.75}, symbols=False)
    assert str(labels) == "accuracy 0.7500, loss 0.2500 nats"
    assert str(Score(1.0, 2, {"mse": 0.5}, "squared error", False)) == "mse 0.5000, loss 0.5000 squared error"
