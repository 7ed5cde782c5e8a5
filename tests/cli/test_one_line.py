"""Whatever is wrong is told in one line, with status 2: sizes of zero, links in a circle, endless nesting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from everloop.cli import main
from everloop.data import Vocabulary
from everloop.data.settings import read_toml
from everloop.data.tokenize.vocabulary_file import read_json
from everloop.errors import DataError, OptionError
from everloop.models import LanguageModel, LanguageModelConfig
from everloop.train import train
from tests.stubs import cannot_be_imported
from tests.train.small import BASE, TEXT, small_model

LM = ["train", "language-model", "--text", "verse.txt", "--threads", "1"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("verse.txt").write_text("the cat sat on the mat.\n" * 40)
    Path("t.tsv").write_text("text\tlabel\na b\tA\nb a\tB\n" * 9)
    Path("loop").symlink_to("loop")


def failure(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    capsys.readouterr()
    assert main(list(command)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    return shown.err


SIZES = ["embedding", "hidden", "layers", "batch", "length", "steps", "validate", "log_every", "plateau"]


@pytest.mark.parametrize("value", ["0", "-1"])
@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_nothing(name: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{name} is {value}; expected at least 1" in failure(capsys, *LM, f"--{name}", value)
    assert not Path("runs").exists()


@pytest.mark.parametrize("value", ["0", "-1"])
@pytest.mark.parametrize("name", ["hidden", "patch"])
def test_sizes_of_a_forecaster(name: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.csv").write_text("a\n" + "1\n2\n" * 90)
    command = ["train", "forecaster", "--train", "t.csv", "--series", "a", f"--{name}", value]
    assert f"{name} is {value}; expected at least 1" in failure(capsys, *command)


@pytest.mark.parametrize("name", ["context", "horizon", "season"])
def test_windows_of_a_forecaster(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.csv").write_text("a\n" + "1\n2\n" * 90)
    command = ["train", "forecaster", "--train", "t.csv", "--series", "a", f"--{name}", "-1"]
    assert f"{name} is -1; expected at least 0" in failure(capsys, *command)  # 0: as fits the data


def test_a_shift_below_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    told = failure(capsys, "train", "classifier", "--train", "t.tsv", "--shift", "-1")
    assert "shift is -1; expected 0 or more" in told
    told = failure(capsys, "train", "tagger", "--train", "t.tsv", "--transpose", "-1")
    assert "transpose is -1; expected 0 or more" in told


@pytest.mark.parametrize("value", [0, -3])
def test_no_embedding_is_not_the_usual_one(value: int) -> None:
    for make in (
        lambda: LanguageModelConfig(embedding=value),
        lambda: LanguageModel(Vocabulary("ab"), embedding=value),
    ):
        with pytest.raises(OptionError, match=f"embedding is {value}; expected at least 1"):
            make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hidden", "x"], "--hidden"),
        (["--hidden", "1.5"], "--hidden"),
        (["--hidden"], "--hidden"),
        (["--steps", "1", "2"], "2"),
        (["--schedule", "cos"], "'cosine', 'plateau', 'constant'"),
        (["--split", "1"], "--split"),
        (["--zoneout", "2"], "--zoneout"),
    ],
)
def test_values_that_are_none(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = failure(capsys, *LM, *options)
    assert message in told
    assert told.endswith("; everloop train language-model --help lists all\n")


DEEP = {
    "list": "[model]\nhidden = " + "[" * 9000 + "]" * 9000,
    "table": "[model]\noptions = " + "{a = " * 9000 + "1" + "}" * 9000,
    "name": "[model]\nhidden" + ".a" * 9000 + " = 1",
    "head": "[model" + ".a" * 9000 + "]\nb = 1",
    "little": "[model]\noptions = " + "[" * 60 + "]" * 60,
}


@pytest.mark.parametrize("content", DEEP.values(), ids=DEEP)
def test_settings_nested_without_end(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.toml").write_text(content)
    assert "c.toml is nested too deeply" in failure(capsys, *LM, "--config", "c.toml")
    Path("run").mkdir()
    Path("c.toml").rename("run/config.toml")
    assert "run/config.toml is nested too deeply" in failure(capsys, "sample", "run")


def test_settings_as_deep_as_they_may_be() -> None:
    Path("c.toml").write_text("a = " + "[" * 19 + "]" * 19)
    assert str(read_toml("c.toml")["a"]).count("[") == 19


def test_json_nested_without_end(capsys: pytest.CaptureFixture[str]) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    Path("t.jsonl").write_text(json.dumps({"text": "a", "label": "A"}) + '\n{"text": ' + deep + "}\n")
    told = failure(capsys, "train", "classifier", "--train", "t.jsonl")
    assert "t.jsonl: line 2: no JSON (nested too deeply)" in told
    Path("s.jsonl").write_text('{"strokes": ' + deep + "}\n")
    assert "s.jsonl: line 1: nested too deeply" in failure(capsys, "train", "generator", "--strokes", "s.jsonl")
    Path("v.json").write_text(deep)
    with pytest.raises(DataError, match=r"v\.json is not a vocabulary: it is not JSON \(nested too deeply\)"):
        read_json(Path("v.json"))


@pytest.mark.parametrize(
    "command",
    [
        ["train", "language-model", "--text", "loop"],
        [*LM, "--config", "loop"],
        [*LM, "--out", "loop"],
        ["train", "language-model", "--resume", "loop"],
        ["train", "classifier", "--train", "loop"],
        ["sample", "loop"],
        ["predict", "loop", "verse.txt"],
        ["evaluate", "loop"],
        ["show", "loop/cell.py:C"],
    ],
)
def test_links_in_a_circle(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    told = failure(capsys, *command)
    assert "loop" in told
    assert "did you mean loop" not in told


def test_a_link_is_told_as_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert "it is a link that leads nowhere, or round in a circle" in failure(capsys, *LM, "--config", "loop")
    assert "loop is a link that leads nowhere" in failure(capsys, *LM, "--out", "loop")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ([*LM, "--steps", "1", "--out", ""], "out"),
        ([*LM, "--steps", "1", "--out="], "out"),
        (["train", "language-model", "--text", "verse.txt", "", "--steps", "1", "--out", "run"], "text"),
        ([*LM, "--resume", ""], "resume"),
        ([*LM, "--config="], "config"),
        (["find-lr", "language-model", "--text", "verse.txt", "--out", ""], "out"),
        (["sweep", "lr=1", "--out", "", "--", *LM[1:]], "out"),
        (["sweep", "lr=1", "--out", "s", "--", "language-model", "--text", ""], "text"),
    ],
)
def test_an_empty_name_is_not_the_working_folder(
    command: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path().iterdir())
    assert failure(capsys, *command) == f"error: --{name} is ''; expected a name\n"
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("command", "name"),
    [([*LM, "--steps", "1", "--out", "r\udcff"], "out"), (["train", "lm", "--text", "verse.txt", "r\udcff"], "text")],
)
def test_a_name_that_no_run_can_keep_is_refused_before_anything_is_done(
    command: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failure(capsys, *command) == f"error: --{name} is 'r\\udcff', which is not UTF-8; expected a name that is\n"
    assert not Path("runs").exists()


def test_an_empty_name_in_a_file_or_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.toml").write_text('[data]\ntext = ""\n')
    told = failure(capsys, "train", "language-model", "--config", "c.toml", "--steps", "1")
    assert "c.toml [data]: text[0] is ''; expected a path" in told
    with pytest.raises(OptionError, match="out is ''; expected the name of a folder"):
        train(small_model(), TEXT, BASE, out="")


def test_a_command_that_is_given_as_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    told = failure(capsys, *LM, "--find-lr")
    assert told == "error: --find-lr is no option but a command: everloop find-lr --help\n"
    assert "unknown option '--train'" in failure(capsys, *LM, "--train", "verse.txt")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("a.xyz", "a.xyz: the ending is '.xyz'; expected one of .svg, .png, .txt"),
        ("verse.txt/a.svg", "verse.txt/a.svg: a file stands where a folder is expected; choose another name"),
        ("loop/a.svg", "loop/a.svg: loop is a link that leads nowhere, or round in a circle; choose another name"),
        ("/proc/nothing/a.svg", "/proc/nothing/a.svg: No such file or directory"),
        ("folder.svg", "folder.svg: Is a directory"),
    ],
)
@pytest.mark.parametrize(
    "command", ["find-lr language-model --text verse.txt", "experiment gradients", "experiment memory --lags 3"]
)
def test_where_a_figure_cannot_go_is_told_before_work_is_done(
    command: str, out: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder.svg").mkdir()
    assert failure(capsys, *command.split(), "--out", out) == f"error: {message}\n"


def test_a_picture_without_matplotlib_is_told_before_work_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cannot_be_imported("matplotlib", ImportError, tmp_path, monkeypatch)
    told = failure(capsys, "find-lr", "language-model", "--text", "verse.txt", "--out", "a.png")
    assert "a PNG picture needs matplotlib: pip install 'everloop[plot]'" in told


def test_a_folder_that_holds_itself(tmp_path: Path) -> None:
    Path("texts").mkdir()
    Path("texts/again").symlink_to("../texts")
    Path("texts/one.txt").write_text("the cat sat on the mat.\n" * 20)
    sizes = ["--steps", "1", "--batch", "1", "--length", "4", "--hidden", "3", "--layers", "1", "--threads", "1"]
    assert main(["train", "language-model", "--text", "texts", *sizes, "--out", "run"]) == 0


@pytest.mark.parametrize(
    ("given", "said"), [((17, "File exists"), "File exists"), ((17, "File exists", "a"), "a: a file")]
)
def test_a_file_that_exists_is_named_where_its_name_is_known(
    given: tuple[Any, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raises(args: Any) -> int:
        raise FileExistsError(*given)

    monkeypatch.setattr("everloop.cli._dispatch", raises)
    assert main(["runs"]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "None" not in shown


def test_a_model_that_has_become_no_number_is_not_asked_for_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("verse.txt").write_text("the sea is blue and wide, " * 60)
    sizes = "--steps 200 --validate 50 --log-every 50 --batch 4 --length 8 --hidden 8 --layers 1 --threads 1 --seed 3"
    wild = "--lr 1e30 --optimiser sgd --schedule constant --warmup 0 --clip-norm inf"
    command = f"train language-model --text verse.txt {sizes} {wild} --out run"
    assert main(command.split()) == 2
    shown = capsys.readouterr().err
    assert "no sample: what the model says of the next symbol is infinite or no number" in shown
    assert shown.splitlines()[-1].startswith("error: ")
