"""What a first run leaves open fits its data, is told as options, and with these options is the same run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from everloop.cli import main
from everloop.cli.options import given
from everloop.cli.train import options_of
from everloop.data import Examples, ExamplesConfig, Parallel, ParallelConfig, Text
from everloop.kinds import defaults
from everloop.kinds.defaults import STEPS, WORK, fitted
from everloop.models import ClassifierConfig, EncoderDecoderConfig, LanguageModelConfig, load
from everloop.models.kind import find
from everloop.train import TrainConfig

LM, CLASSIFIER = find("language-model"), find("classifier")
ROWS = "".join(f"{'good' if i % 2 else 'bad'} film {i % 7}\t{i % 2}\n" for i in range(90))


def of_length(count: int) -> Text:
    return Text.from_string("ab" * (count // 2), split=(1.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("count", "hidden", "length", "batch", "steps"),
    [
        (300, 64, 64, 4, 200),
        (20_000, 64, 64, 8, 950),  # 39 windows in a pass, or 38 where it begins later
        (100_000, 160, 64, 32, 1200),
        (300_000, 288, 128, 32, 1825),
    ],
)
def test_sizes_of_a_text(count: int, hidden: int, length: int, batch: int, steps: int) -> None:
    fit = fitted(of_length(count), LM, LanguageModelConfig(), TrainConfig(), ())
    assert (fit.model.hidden, fit.model.layers, fit.model.dropout) == (hidden, 1, 0.2)
    assert (fit.train.length, fit.train.batch) == (length, batch)
    assert fit.train.steps == pytest.approx(steps, abs=25)
    assert fit.train.validate == fit.train.steps // 15


def test_large_runs_are_shorter() -> None:
    # a GRU of 512 units: its matrices, of which one reads 64 numbers for a symbol, and those of the head
    data, config = of_length(1_000_000), LanguageModelConfig(embedding=64)
    fit = fitted(data, LM, config, TrainConfig(), ())
    assert (fit.model.hidden, fit.train.length, fit.train.batch) == (512, 128, 32)
    weights = 3 * 512 * (512 + 64) + 512 * len(data.vocabulary)
    assert fit.train.steps == pytest.approx(WORK / (6 * weights * 128 * 32), abs=10)
    twice = fitted(data, LM, config, TrainConfig(accumulate=2), ("accumulate",))
    assert twice.train.steps == pytest.approx(fit.train.steps / 2, abs=1)
    more = fitted(of_length(4_000_000), LM, config, TrainConfig(), ())
    assert more.train.steps == pytest.approx(fit.train.steps, abs=10)
    much = fitted(of_length(1_000_000), LM, LanguageModelConfig(embedding=60_000), TrainConfig(), ())
    assert much.train.steps == STEPS[0], "the fewest"


def test_an_encoder_and_a_decoder_see_half_of_the_steps_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "WORK", 2e10)
    words = [f"w{i}" for i in range(800)]
    pairs = [(" ".join(words[i % 790 : i % 790 + 9]), words[i % 800]) for i in range(1000)]
    data, state = Parallel(pairs, config=ParallelConfig(min_freq=1)), torch.get_rng_state()
    config = EncoderDecoderConfig(hidden=60, layers=1, embedding=20)
    fit = fitted(data, find("translator"), config, TrainConfig(), ("hidden",))
    assert torch.equal(torch.get_rng_state(), state)
    read = 2 * 3 * 30 * (20 + 30)
    between = 60 * 60 + 60 * 60 + (60 + 60) * 20  # the first state, keys, and what the head reads
    written = 3 * 60 * (20 + 60) + between + 20 * len(data.target)
    passes = 2e10 / (6 * (read + written) / 2 * data.time_steps("train"))
    batches = len(data.epoch("train", 0, batch=fit.train.batch))
    assert fit.train.steps == int(passes * batches)
    assert STEPS[0] < fit.train.steps < 25 * batches


def test_texts_of_few_words_have_more_dropout_than_their_characters() -> None:
    texts, config = [text.partition("\t")[0] for text in ROWS.splitlines()], ClassifierConfig()
    for units, dropout, words in (("words", 0.5, 0.3), ("characters", 0.2, 0.0)):
        data = Examples.of((texts, [text[0] for text in texts]), config=ExamplesConfig(units=units))  # type: ignore[arg-type]
        fit = fitted(data, CLASSIFIER, config, TrainConfig(), ())
        assert (fit.model.dropout, fit.model.word_dropout, fit.train.early_stop) == (dropout, words, 5)
    without = fitted(of_length(900), LM, LanguageModelConfig(), TrainConfig(), ())
    assert without.train.early_stop == 0, "nothing is held out"
    given_length = fitted(data, CLASSIFIER, config, TrainConfig(steps=90), ("steps",))
    assert given_length.train.early_stop == 0
    averaged = TrainConfig(optimiser="sgd", average_after=5)
    assert fitted(data, CLASSIFIER, config, averaged, ("optimiser", "average_after")).train.early_stop == 0


def test_large_data_has_the_usual_model() -> None:
    fit = fitted(of_length(6_000_000), LM, LanguageModelConfig(), TrainConfig(), ())
    assert fit.model == LanguageModelConfig()


def test_what_is_given_stays() -> None:
    train = TrainConfig(epochs=2, batch=16)
    fit = fitted(of_length(20_000), LM, LanguageModelConfig(), train, ("epochs", "batch", "hidden"))
    assert fit.model.hidden == LanguageModelConfig().hidden
    assert (fit.train.batch, fit.train.epochs) == (16, 2)
    assert "steps" not in fit.chosen
    assert fit.train.validate == 10
    everything = ("hidden", "layers", "dropout", "length", "batch", "steps", "validate", "early_stop")
    kept = fitted(of_length(20_000), LM, LanguageModelConfig(), TrainConfig(), everything)
    assert (kept.model, kept.train, str(kept)) == (LanguageModelConfig(), TrainConfig(), "")


def test_names_of_what_is_given() -> None:
    options = options_of(find("classifier"))
    args = ["--hidden=8", "--learning-rate", "0.1", "--average", "0.9", "--no-lower", "--epochs", "2"]
    assert given(options, args) == {"hidden", "lr", "ema_decay", "no-lower", "epochs"}


def weights(run: str) -> dict[str, Any]:
    return dict(load(run).state_dict())


def test_the_options_that_are_told_make_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("films.tsv").write_text(ROWS)
    command = ["train", "classifier", "--train", "films.tsv", "--columns", "text", "label", "--threads", "1"]
    assert main([*command, "--steps", "4", "--out", "a"]) == 0
    told = re.search(r"chosen for 243 time steps, unless you give others: (.*)", capsys.readouterr().err)
    assert told
    assert told[1] == "--hidden 64 --dropout 0.5 --word-dropout 0.3 --batch 8 --validate 10"
    assert main([*command, "--steps", "4", *told[1].split(), "--out", "b"]) == 0
    assert "chosen for" not in capsys.readouterr().err
    one, other = weights("a"), weights("b")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_configuration_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("films.tsv").write_text(ROWS)
    Path("c.toml").write_text('[data]\ncolumns = ["text", "label"]\n[model]\nkind = "classifier"\n[train]\nsteps = 2\n')
    assert main(["train", "classifier", "--config", "c.toml", "--train", "films.tsv", "--out", "run"]) == 0
    assert "chosen for" not in capsys.readouterr().err
    assert load("run").config == ClassifierConfig()


def test_long_runs_say_how_long_before_they_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("films.tsv").write_text(ROWS)
    command = ["train", "classifier", "--train", "films.tsv", "--columns", "text", "label", "--hidden", "4"]
    assert main([*command, "--epochs", "1", "--threads", "1", "--out", "run"]) == 0
    told = capsys.readouterr().err
    assert told.index("about 1 min on 1 thread, as busy") < told.index("training, 11 steps")
    assert main([*command, "--steps", "3", "--out", "short"]) == 0
    assert " min on " not in capsys.readouterr().err


def test_the_only_column_of_numbers_is_forecast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"19{50 + i // 12}-{i % 12 + 1:02},{100 + i % 12}\n" for i in range(96))
    Path("t.csv").write_text(f"month,sales\n{rows}")
    command = ["train", "forecaster", "--train", "t.csv", "--time", "month", "--context", "12", "--horizon", "6"]
    assert main([*command, "--steps", "2", "--hidden", "4", "--out", "run"]) == 0
    assert "the series is sales, the only column of numbers (--series names others)" in capsys.readouterr().err
    assert main(["train", "forecaster", "--resume", "run", "--steps", "4"]) == 0
    Path("two.csv").write_text("month,sales,price\n1950-01,1,2\n1950-02,1,2\n")
    assert main(["train", "forecaster", "--train", "two.csv", "--out", "none"]) == 2
    assert "no series named; say what to forecast with --series COLUMN…; columns of numbers: sales, price" in (
        capsys.readouterr().err
    )


def test_the_configuration_of_an_older_run_does_what_the_run_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("ein hund\nzwei katzen\n" * 20)
    command = ["train", "translator", "--source", "a.txt", "--target", "a.txt", "--hidden", "4", "--embedding", "4"]
    assert main([*command, "--steps", "1", "--hold-out", "0", "--out", "old"]) == 0
    config = Path("old/config.toml")
    config.write_text(config.read_text().replace("hold_out = 0.0\n", ""))
    again = ["train", "translator", "--config", "old/config.toml", "--steps", "1"]
    for more, told, held in (([], True, 0.0), (["--hold-out", "0.1"], False, 0.1)):
        capsys.readouterr()
        assert main([*again, *more, "--out", f"new{held}"]) == 0
        said = " ".join(capsys.readouterr().err.split())
        assert ("is of a run before there was hold_out: it is 0.0 here too; --hold-out says otherwise" in said) is told
        assert f"hold_out = {held}" in Path(f"new{held}/config.toml").read_text()
    Path("mine.toml").write_text(config.read_text())  # not of a run: what it does not say is the default
    assert main(["train", "translator", "--config", "mine.toml", "--steps", "1", "--out", "mine"]) == 0
    assert "hold_out = 0.05" in Path("mine/config.toml").read_text()
