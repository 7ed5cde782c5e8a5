"""The commands, called as the program calls them: what they print, what they return."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from everloop.cli import main
from everloop.data.readers import pictures
from everloop.data.readers.formats import audio_endings
from everloop.models import load

VERSE = "the cat sat on the mat and the rat sat on the cat.\n" * 40
SIZES = {"steps": 6, "batch": 2, "length": 8, "hidden": 8, "layers": 1, "cell": "lstm", "validate": 3, "threads": 1}
SMALL = [part for name, value in SIZES.items() for part in (f"--{name}", str(value))]


@pytest.fixture
def verse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "verse.txt").write_text(VERSE)
    return Path("verse.txt")


def train(*args: str | Path) -> int:
    return main(["train", "language-model", *map(str, args)])


@pytest.fixture
def run(verse: Path) -> Path:
    assert train("--text", verse, *SMALL, "--out", "run") == 0
    return Path("run")


def test_train_then_sample(verse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--text", verse, *SMALL, "--out", "run") == 0
    run = Path("run")
    shown = capsys.readouterr()
    assert "temperature 0.5" in shown.out
    assert "temperature 1.0" in shown.out
    assert "everloop sample run" in shown.out
    assert "finished 6 steps in run" in shown.err
    assert (run / "samples.txt").read_text().count("temperature") == 3
    assert main(["sample", "run", "the cat", "--length", "20", "--seed", "1"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("the cat")
    assert len(first) == len("the cat") + 20 + 1
    assert main(["sample", "run", "the cat", "--length", "20", "--seed", "1"]) == 0
    assert capsys.readouterr().out == first
    assert main(["sample", "run", "the cat", "--length", "20", "--seed", "2", "--temperature", "5"]) == 0
    assert capsys.readouterr().out != first


@pytest.mark.parametrize("option", [["--top-k", "1"], ["--top-p", "0.0001"], ["--temperature", "0"]])
def test_sampling_options_reach_the_sampler(run: Path, option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    texts = set()
    for seed in "12345":
        assert main(["sample", "run", "a", "--length", "30", "--seed", seed, *option]) == 0
        texts.add(capsys.readouterr().out)
    assert len(texts) == 1


def test_weights_option(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "best.safetensors").write_bytes(b"broken")
    assert main(["sample", "run", "--weights", "last", "--length", "3"]) == 0
    assert main(["sample", "run", "--length", "3"]) == 2


def test_runs_get_names_of_their_own(verse: Path) -> None:
    assert [train("--text", verse, *SMALL) for _ in range(2)] == [0, 0]
    assert sorted(path.name for path in Path("runs").iterdir()) == ["language-model", "language-model-2"]


def test_file_then_command_line(verse: Path) -> None:
    Path("recipe.toml").write_text(
        '[model]\nkind = "language-model"\ncell = "gru"\nhidden = 5\nlayers = 1\n'
        "[train]\nsteps = 4\nbatch = 2\nlength = 8\nlr = 0.5\n[data]\nsplit = [0.5, 0.25, 0.25]\n"
    )
    assert train("--text", verse, "--config", "recipe.toml", "--hidden", "7", "--out", "run") == 0
    tables = tomllib.loads(Path("run/config.toml").read_text())
    assert (tables["model"]["hidden"], tables["model"]["cell"]) == (7, "gru")
    assert (tables["train"]["steps"], tables["train"]["lr"]) == (4, 0.5)
    assert tables["data"]["split"] == [0.5, 0.25, 0.25]
    assert tables["data"]["text"] == [str(verse.absolute())]


def test_resume_goes_on_from_any_folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train("--resume", tmp_path / "run", "--steps", "9") == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 9
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["train"]["steps"] == 9


def test_a_run_copied_to_where_its_data_is_elsewhere(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "other machine 另"
    there.mkdir()
    run.rename(there / "run")
    (tmp_path / "verse.txt").rename(there / "诗 verse.txt")
    monkeypatch.chdir(there)
    assert "verse.txt: no such file or folder" in (said := failure(capsys, *LM, "--resume", "run", "--steps", "9"))
    assert "if it has moved, give its new place: --text …" in said
    Path("other.txt").write_text(VERSE + "more")
    moved = [*LM, "--resume", "run", "--steps", "9", "--text"]
    assert "was trained on other data" in failure(capsys, *moved, "other.txt")
    assert "keeps its model and its data" in failure(capsys, *moved, "诗 verse.txt", "--split", "0.8", "0.1", "0.1")
    assert "keeps its model and its data" in failure(capsys, *moved, "诗 verse.txt", "--valid", "诗 verse.txt")
    assert main([*moved, "诗 verse.txt"]) == 0
    assert tomllib.loads(Path("run/config.toml").read_text())["data"]["text"] == [str(there / "诗 verse.txt")]
    assert train("--resume", "run", "--steps", "10") == 0


def test_options_of_the_cell(verse: Path) -> None:
    small = [option if option != "lstm" else "projected-lstm" for option in SMALL]
    assert train("--text", verse, *small, "--options", "proj_size", "3", "--out", "run") == 0
    assert load("run").head.in_features == 3


def test_noise_and_first_weights(verse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = ["--zoneout", "h", "0.05", "c", "0.5", "--weight-drop", "0.2", "--variational-dropout", "0.1"]
    first = ["--orthogonal", "--forget-bias", "1.0", "--recurrent-dropout", "0.3"]
    assert train("--text", verse, *SMALL, *noise, *first, "--out", "run") == 0
    table = tomllib.loads(Path("run/config.toml").read_text())["model"]
    assert table["zoneout"] == {"h": 0.05, "c": 0.5}
    assert (table["weight_drop"], table["variational_dropout"], table["recurrent_dropout"]) == (0.2, 0.1, 0.3)
    assert (table["orthogonal"], table["forget_bias"]) == (True, 1.0)
    assert train("--resume", "run", "--steps", "8") == 0
    assert main(["sample", "run", "the", "--length", "5"]) == 0
    assert "unknown state 'm'" in failure(capsys, *LM, "--text", "verse.txt", *SMALL, "--zoneout", "m", "0.1")


def test_own_cell(verse: Path) -> None:
    Path("mine.py").write_text(
        "import torch\nfrom everloop.cell import Cell, H, I, param, state\n\n\nclass Mine(Cell):\n"
        "    h = state(H)\n    W = param(H, I + H)\n\n    def step(self, x, h):\n"
        "        return torch.tanh(torch.cat([x, h], -1) @ self.W.T)\n"
    )
    small = [option if option != "lstm" else "mine.py:Mine" for option in SMALL]
    assert train("--text", verse, *small, "--out", "run") == 0
    assert type(load("run", trust_code=True).recurrent.cell).__name__ == "Mine"


def test_chinese(verse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("poem.txt").write_text("床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n" * 30, encoding="utf-8")
    assert train("--text", "poem.txt", *SMALL, "--out", "poem") == 0
    capsys.readouterr()
    assert main(["sample", "poem", "明月", "--length", "12"]) == 0
    assert capsys.readouterr().out.startswith("明月")


def test_bytes(verse: Path) -> None:
    Path("any.bin").write_bytes(bytes(range(256)) * 10)
    assert train("--text", "any.bin", "--units", "bytes", *SMALL, "--out", "bytes") == 0
    assert main(["sample", "bytes", "é", "--length", "12"]) == 0


def failure(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    """Return the one message of a command that must fail."""
    capsys.readouterr()
    assert main(list(map(str, args))) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    return shown.err


LM = ("train", "language-model")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("trian",), "unknown command 'trian'; did you mean 'train'"),
        (("train", "langage-model"), "unknown kind of model 'langage-model'; did you mean 'language-model'"),
        ((*LM, "--text", "verse.txt", "--hiden", "3"), "unknown option '--hiden'; did you mean '--hidden'"),
        ((*LM, "--text", "verse.txt", "--weight_deca=3"), "did you mean '--weight-decay'"),
        ((*LM, "--text", "verse.txt", "--cell", "lstn"), "unknown cell 'lstn'; did you mean 'lstm'"),
        ((*LM, "--text", "verse.txt", "--cell", "no.py:X"), "there is no file no.py"),
        ((*LM, "--text", "verse.txt", "--device", "cdua"), "unknown device 'cdua'; did you mean 'cuda'"),
        ((*LM, "--text", "verse.txt", "--device", "cpu:one"), "device is 'cpu:one'; expected cpu, cuda"),
        ((*LM, "--text", "verse.txt", "--threads", "-1"), "threads is -1"),
        ((*LM, "--text", "verse.txt", "--threads", "99999999999"), "threads is 99999999999"),
        ((*LM, "--text", "verse.txt", "--hidden", "10000000"), "not enough memory"),
        ((*LM, "--text", ".", "--pattern", "/x"), "pattern is '/x'"),
        ((*LM, "--text", "verse.txt", "--cell", "broken.py:X"), "broken.py cannot be loaded: SyntaxError"),
        ((*LM, "--text", "vers.txt"), "vers.txt: no such file or folder; did you mean verse.txt"),
        ((*LM, "--text", "verse.txt", "--batch", "500"), "too short for one window"),
        ((*LM, "--text", "empty.txt"), "empty.txt is empty"),
        ((*LM, "--text", "binary.txt"), "binary.txt: line 1: byte 0x80 at offset 2 is not UTF-8"),
        ((*LM,), "no text given; name files or folders with --text"),
        ((*LM, "--config", "none.toml"), "none.toml: no such configuration file"),
        ((*LM, "--config", "table.toml"), "table.toml: unknown table 'trian'; did you mean 'train'"),
        ((*LM, "--config", "setting.toml"), "setting.toml [train]: unknown setting 'step'; did you mean 'steps'"),
        ((*LM, "--config", "kind.toml"), "kind.toml is for a tagger: everloop train tagger --config kind.toml"),
        ((*LM, "--config", "flat.toml"), "expected a table [model]"),
        ((*LM, "--config", "table.toml", "--resume", "x"), "--config and --resume exclude each other"),
        ((*LM, "--resume", "none"), "none: there is no such run folder"),
        (("sample", "none"), "none: there is no such run folder"),
        (("sample", "none", "--lenght", "4"), "did you mean '--length'"),
        (("demo", "--step", "4"), "did you mean '--steps'"),
    ],
)
def test_mistakes(verse: Path, args: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty.txt").write_text("")
    Path("binary.txt").write_bytes(b"ab\x80")
    Path("table.toml").write_text("[trian]\nsteps = 3\n")
    Path("setting.toml").write_text("[train]\nstep = 3\n")
    Path("kind.toml").write_text('[model]\nkind = "tagger"\n')
    Path("flat.toml").write_text("model = 3\n")
    Path("broken.py").write_text("class X(:\n")
    assert message in failure(capsys, *args)
    assert not Path("runs").exists()


def test_mistakes_with_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "the prompt is empty" in failure(capsys, "sample", "run", "")
    assert "temperature is -1.0" in failure(capsys, "sample", "run", "--temperature", "-1")
    assert "already holds a run" in failure(capsys, *LM, "--text", "verse.txt", *SMALL, "--out", "run")
    assert "keeps its model" in failure(capsys, *LM, "--resume", "run", "--hidden", "9")
    assert "exclude each other" in failure(capsys, *LM, "--resume", "run", "--out", "other")
    assert "cannot be resumed with batch 4" in failure(capsys, *LM, "--resume", "run", "--batch", "4")
    Path("verse.txt").write_text(VERSE + "more")
    assert "was trained on other data" in failure(capsys, *LM, "--resume", "run")
    Path("verse.txt").write_text(VERSE + "é")
    assert "was trained on other data" in failure(capsys, *LM, "--resume", "run")
    assert "seed is -1; expected an integer" in failure(capsys, "sample", "run", "a", "--seed", "-1")
    assert (
        "everloop predict is not for a language-model, which run holds; use everloop sample, tree or score run"
        in failure(capsys, "predict", "run")
    )
    assert "run/config.toml is for a language-model" in failure(capsys, "train", "tagger", "--resume", "run")
    assert "everloop train language-model --resume run" in failure(capsys, "train", "tagger", "--resume", "run")
    (run / "best.safetensors").write_bytes(b"broken")
    assert "best.safetensors is damaged" in failure(capsys, "sample", "run")


def test_a_language_model_is_evaluated(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    Path("new.txt").write_text("the rat sat on the mat.\n" * 20)
    assert main(["evaluate", "run", "new.txt", "--json"]) == 0
    shown = capsys.readouterr()
    figures = json.loads(shown.out)
    assert (figures["target"], figures["count"]) == ("character", 479)
    text = Path("new.txt").read_text()
    score = load("run").score(text[1:], context=text[0])
    assert figures["loss"] == pytest.approx(score.loss, rel=1e-5)
    assert figures["perplexity"] == pytest.approx(score.perplexity, rel=1e-4)
    assert "new.txt" in shown.err
    assert main(["evaluate", "run", "--split", "valid"]) == 0
    assert "perplexity" in capsys.readouterr().out
    Path("verse.txt").unlink()
    assert "the data that the run was trained with: " in failure(capsys, "evaluate", "run")
    assert "batch is 0; expected at least 1" in failure(capsys, "evaluate", "run", "new.txt", "--batch", "0")
    assert "none.txt: no such file or folder" in failure(capsys, "evaluate", "run", "none.txt")


def test_a_damaged_run_is_not_resumed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best, config = run / "best.safetensors", run / "config.toml"
    kept, settings = best.read_bytes(), config.read_text()
    best.write_bytes(kept[:-3] + b"abc")
    assert "best.safetensors is damaged" in failure(capsys, *LM, "--resume", "run", "--steps", "9")
    best.unlink()
    assert "best.safetensors is missing" in failure(capsys, *LM, "--resume", "run", "--steps", "9")
    best.write_bytes(kept)
    for table in ("data", "model", "train"):
        config.write_text("\n\n".join(part for part in settings.split("\n\n") if not part.startswith(f"[{table}]")))
        message = failure(capsys, *LM, "--resume", "run", "--steps", "9")
        assert f"[{table}]" in message
        assert "config.toml" in message
    config.write_text(settings)
    assert train("--resume", "run", "--steps", "9") == 0


def test_loss_that_is_not_finite(verse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wild = [
        *SMALL,
        "--lr",
        "1e38",
        "--warmup",
        "0",
        "--clip-norm",
        "inf",
        "--out",
        "wild",
        "--steps",
        "200",
        "--dropout",
        "0",
    ]
    capsys.readouterr()
    assert train("--text", verse, *wild) == 2
    message = capsys.readouterr().err
    assert "training stops" in message or "is nan" in message
    assert "last good checkpoint is kept in wild" in message
    assert main(["sample", "wild", "--weights", "last", "--length", "5"]) == 0


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((*LM, "--text", "verse.txt", "--steps", "many"), "--steps"),
        ((*LM, "--text", "verse.txt", "--steps", "0"), "steps is 0; expected at least 1"),
        ((*LM, "--text", "verse.txt", "--schedule", "cosin"), "cosine"),
        (("sample",), "run"),
    ],
)
def test_wrong_values_end_with_status_2(
    verse: Path, args: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(args)) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert expected in (shown.err + shown.out).lower()
    assert "Traceback" not in shown.err


def test_a_file_in_the_way(verse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken").write_text("x")
    assert "taken is a file" in failure(capsys, *LM, "--text", "verse.txt", *SMALL, "--out", "taken")
    capsys.readouterr()
    assert main([*LM, "--text", "verse.txt", *SMALL, "--out", "taken/run"]) == 2
    assert "taken" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"]])
def test_help(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 0
    assert "language-model" in capsys.readouterr().out


def test_the_help_of_predict_names_all_formats(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    shown = capsys.readouterr().out
    for ending in (*audio_endings(), *pictures.ENDINGS, *pictures.ARRAYS):
        assert re.search(rf"{re.escape(ending)}\b", shown), ending


@pytest.mark.parametrize("args", [[*LM, "--help"], ["sample", "--help"], ["demo", "--help"]])
def test_help_of_a_command(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 0
    assert "--threads" in capsys.readouterr().out


def test_no_command_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["train"]) == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"everloop {version('everloop')}\n"


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--steps", "2", "--threads", "1"]) == 0
    assert capsys.readouterr().out.count("temperature") == 3
    assert main(["demo", "--minutes", "0.01", "--threads", "1", "--out", "mine"]) == 0
    assert "0.01 minutes are enough for 1 steps on 1 thread" in capsys.readouterr().err
    assert main(["demo", "--minutes", "0"]) == 2
    assert train("--resume", "runs/demo", "--steps", "3") == 0
    assert main(["sample", "mine", "The ", "--length", "5"]) == 0
