"""Options and settings under their names of the version before, and under those of other libraries."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from everloop.cli import VERBS, evaluate, main, predict
from everloop.cli.options import parse
from everloop.cli.train import RunOptions
from everloop.data import AudioConfig, ConditionsConfig, ExamplesConfig, ParallelConfig, SeriesConfig, TextConfig
from everloop.data.settings import ALIKE, MEANT, from_table, old_names, to_toml
from everloop.errors import OptionError
from everloop.kinds.decoding import PredictOptions
from everloop.models import EncoderDecoderConfig, ForecasterConfig, load
from everloop.models.encoder_decoder import EncoderDecoder
from everloop.models.kind import BUILT_IN, find
from everloop.train import TrainConfig
from tests.models.small_pairs import backwards

SMALL = ["--hidden", "6", "--embedding", "4", "--steps", "2", "--validate", "2", "--batch", "4"]


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(name).write_text("ein hund\nein mann\n" * 10)
    return tmp_path


def test_old_options_work_and_tell_the_new_ones(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = ["--written", "b", "--least=1", "--longest", "9", "--feeding", "--smoothing", "0.2", "--watch", "accuracy"]
    valid = ["--valid-source", "a", "--valid-target", "b"]
    assert main(["train", "translator", "--source", "a", *valid, *old, *SMALL, "--out", "run"]) == 0
    told = capsys.readouterr().err
    for name, now in [("least", "min-freq"), ("longest", "max-length"), ("feeding", "input-feeding")]:
        assert f"--{name} is called --{now}; the old name works in this version, not in the next\n" in told
    config = tomllib.loads(Path("run/config.toml").read_text())
    assert (config["data"]["min_freq"], config["data"]["max_length"]) == (1, 9)
    assert (config["model"]["input_feeding"], config["model"]["label_smoothing"]) == (True, 0.2)
    assert config["train"]["best_metric"] == "accuracy"
    assert main(["predict", "run", "a", "--width", "2", "--best", "2", "--longest", "3"]) == 0
    old_way = capsys.readouterr()
    assert "--width is called --beam" in old_way.err
    assert main(["predict", "run", "a", "--beam", "2", "--n-best", "2", "--max-length", "3"]) == 0
    assert capsys.readouterr() == (old_way.out, "")


@pytest.mark.parametrize("both", [["--average", "0.9", "--ema-decay=0.8"], ["--ema_decay", "0.8", "--average", "0.9"]])
def test_both_names_of_an_option(both: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "language-model", "--text", "none.txt", *both]) == 2
    assert (
        "--average is the old name of --ema-decay, and both are given; leave out --average" in capsys.readouterr().err
    )


def test_old_options_of_recordings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = ["--audio", str(tmp_path), "--said", str(tmp_path / "a"), "--valid-said", str(tmp_path / "a")]
    (tmp_path / "a").touch()
    assert main(["train", "transcriber", *old, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "--said is called --transcripts; the old name works in this version, not in the next\n" in told
    assert "--valid-said is called --valid-transcripts; " in told
    assert "there is no recording to train on" in told
    config = from_table(AudioConfig, {"said": "a", "valid_said": "b"}, "t")
    assert config == AudioConfig(transcripts=Path("a"), valid_transcripts=Path("b"))


def test_old_names_in_a_file(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("old.toml").write_text(
        '[data]\nleast = 1\nlongest = 9\n[model]\nsmoothing = 0.2\n[train]\nwatch = "accuracy"\n'
    )
    files = ["--source", "a", "--target", "b", "--valid-source", "a", "--valid-target", "b"]
    assert main(["train", "translator", "--config", "old.toml", *files, *SMALL, "--out", "run"]) == 0
    told = capsys.readouterr().err
    assert (
        "old.toml [train]: watch is called best_metric; the old name works in this version, not in the next\n" in told
    )
    assert tomllib.loads(Path("run/config.toml").read_text())["train"]["best_metric"] == "accuracy"


def test_run_folder_of_the_version_before(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--source", "a", "--target", "b", "--valid-source", "a", "--valid-target", "b"]
    assert main(["train", "translator", *files, *SMALL, "--input-feeding", "--ema-decay", "0.5", "--out", "run"]) == 0
    config = Path("run/config.toml")
    tables = tomllib.loads(config.read_text())
    kinds = {"model": EncoderDecoderConfig, "train": TrainConfig}
    for name, kind in kinds.items():
        for old, new in old_names(kind).items():
            tables[name] = {old if key == new else key: value for key, value in tables[name].items()}
    config.write_text(to_toml(tables))
    assert "feeding = true" in config.read_text().splitlines()
    capsys.readouterr()
    assert load("run").config.input_feeding
    assert main(["train", "translator", "--resume", "run", "--steps", "3"]) == 0
    assert "is called" not in capsys.readouterr().err
    assert main(["evaluate", "run", "a", "--labels", "b"]) == 0


@pytest.mark.parametrize(
    ("verb", "old", "name", "value"),
    [(evaluate, "--part", "split", "valid"), (predict, "--every", "stride", "3")],
)
def test_old_options_of_verbs(
    verb: ModuleType, old: str, name: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = parse(verb.Options, ["run", old, value], command="verb", description="")
    assert str({**vars(found), **vars(vars(found).get("answers", found))}[name]) == value
    assert f"{old} is called --{name}; the old name works in this version, not in the next\n" in capsys.readouterr().err


def test_old_names_in_python() -> None:
    data = backwards(10)
    model = EncoderDecoder(data.source, data.target, feeding=True, smoothing=0.5, hidden=4, embedding=4)
    assert (model.config.input_feeding, model.config.label_smoothing) == (True, 0.5)
    for old in ("watch", "monitor"):
        assert TrainConfig().replace({old: "accuracy"}).best_metric == "accuracy"
        with pytest.raises(OptionError, match=f"{old} is the old name of best_metric, and both are given"):
            TrainConfig().replace({old: "accuracy", "best_metric": "loss"})
    with pytest.raises(OptionError, match="watch is the old name of best_metric, and monitor is given too"):
        TrainConfig().replace({"watch": "accuracy", "monitor": "loss"})
    assert TrainConfig().replace({"log": 3}).log_every == 3


@pytest.mark.parametrize(
    ("option", "ours"),
    [
        ("--learning-rate", "--lr"), ("--num-epochs", "--epochs"), ("--batch-size", "--batch"),
        ("--num_layers", "--layers"), ("--hidden-size", "--hidden"), ("--patience", "--early-stop"),
        ("--min-count", "--min-freq"), ("--max-len", "--max-length"), ("--output-dir", "--out"),
    ],
)  # fmt: skip
def test_names_of_other_libraries_are_understood(option: str, ours: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "translator", option, "4"]) == 2
    note, told = capsys.readouterr().err.splitlines()
    assert note == f"{option.replace('_', '-')} is called {ours} here"
    assert "no parallel files given" in told
    assert main(["train", "translator", f"{option}=4", ours, "4"]) == 2
    assert f"is called {ours} here, and both are given; leave out" in capsys.readouterr().err


def test_a_name_that_is_nearly_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "translator", "--mini-freq", "3"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown option '--mini-freq'; did you mean '--min-freq'?")


def test_beams_of_other_libraries(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "translator", "--source", "a", "--target", "b", *SMALL, "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["predict", "run", "a", "--num-beams", "3"]) == 0
    wanted, told = capsys.readouterr()
    assert told == "--num-beams is called --beam here\n"
    assert main(["predict", "run", "a", "--beam", "3"]) == 0
    assert capsys.readouterr().out == wanted


@pytest.mark.parametrize(
    ("name", "kind"),
    [("lm", "language-model"), ("NER", "tagger"), ("seq2seq", "translator"), ("time_series", "forecaster")],
)
def test_kinds_by_their_task(name: str, kind: str) -> None:
    assert find(name).name == kind


def test_no_two_kinds_have_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for kind in BUILT_IN for name in (kind, *find(kind).also)]
    assert len(set(names)) == len(names)
    verbs = [name for verb, one in VERBS.items() for name in (verb, *one.also)]
    assert len(set(verbs)) == len(verbs)
    assert main(["generate", "run"]) == 2
    assert "unknown command 'generate'; here it is 'sample'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--steps", "3.5"], "--steps is '3.5'; expected a whole number"),
        (["--lr", "fast"], "--lr is 'fast'; expected a number"),
        (["--lr"], "--lr has no value; expected one"),
        (["--betas", "0.9"], "--betas has too few values; expected 2"),
        (["--betas", "0.9", "x"], "--betas is '0.9', 'x'; expected float, float"),
        (["--schedule", "cos"], "--schedule is 'cos'; expected one of 'cosine', 'plateau', 'constant'"),
        (["--tied", "maybe"], "no option takes this"),
    ],
)
def test_wrong_values_in_our_words(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "language-model", "--text", "t.txt", *args]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train lm --text t --gpu", "unknown option '--gpu'; did you mean '--device cuda'?"),
        ("train lm --text t --fp16", "unknown option '--fp16'; did you mean '--precision bf16'?"),
        ("train lm --data t", "unknown option '--data'; did you mean '--text'?"),
        ("train classifier --data t", "unknown option '--data'; did you mean '--train'?"),
        ("train classifier --train t --test-size 0.2", "unknown option '--test-size'; did you mean '--hold-out'?"),
        ("train lm --text t --val-split 0.2", "unknown option '--val-split'; did you mean '--split'?"),
        ("train transcriber --wav t", "unknown option '--wav'; did you mean '--audio'?"),
        ("train transcriber --audio t --labels t", "unknown option '--labels'; did you mean '--transcripts'?"),
        ("train generator --texts t --images t", "unknown option '--images'; did you mean '--pictures'?"),
        ("train lm --text t --bidirectional", "unknown option '--bidirectional'; known: "),
        ("train lm --text t --zoneout 0.1", "--zoneout takes pairs NAME VALUE; one is incomplete;"),
        ("predict --model runs/a t", "--model is no option; give RUN without the name"),
        ("predict runs/a --input t", "--input is no option; give FILE without the name"),
        ("evaluate runs/a --test t", "--test is no option; give FILE without the name"),
        ("sample runs/a --text t", "--text is no option; give PROMPT without the name"),
        ("export runs/a", "'export' is no command; in Python everloop.models.load(RUN) is an nn.Module"),
        ("version", "'version' is an option: everloop --version"),
        ("show .", ". is a folder; expected a cell; of a run: everloop draw network ."),
    ],
)
def test_what_people_mean_is_answered(
    command: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_names_of_other_libraries_lead_somewhere() -> None:
    with pytest.raises(OptionError, match="unknown setting 'learning_rate'; here it is 'lr'"):
        from_table(TrainConfig, {"learning_rate": 0.1}, "t")
    configs = (TrainConfig, EncoderDecoderConfig, ForecasterConfig, TextConfig, SeriesConfig, ExamplesConfig)
    known = {name for config in (*configs, ParallelConfig, PredictOptions, RunOptions) for name in vars(config())}
    assert set(ALIKE.values()) <= known
    kinds = (ConditionsConfig, AudioConfig)
    meant = {one.partition(" ")[0] for names in MEANT.values() for one in names}
    assert meant <= known | {name for config in kinds for name in vars(config())}
    assert not set(MEANT) & set(ALIKE)
    # of language models, whose text is files, and of translators, which have two columns; elsewhere they are called so
    assert known & set(ALIKE) == {"text_column", "target_column"}
    assert from_table(TextConfig, {"text_column": "body"}, "t").text_column == "body"
    with pytest.raises(OptionError, match="unknown setting 'text_column'; here it is 'text'"):
        from_table(ExamplesConfig, {"text_column": "body"}, "t")
