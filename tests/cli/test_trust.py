"""No command runs the Python file of a run or a configuration unless it is told to."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

from everloop.cli import main
from tests.models.test_own_code import SOURCE

VERSE = "the cat sat on the mat and the rat sat on the cat.\n" * 20
SIZES = {"steps": 2, "batch": 2, "hidden": 4, "layers": 1, "validate": 2, "threads": 1, "cell": "mine.py:Mine"}
SMALL = [part for name, value in SIZES.items() for part in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("mine.py").write_text(SOURCE)
        Path("verse.txt").write_text(VERSE)
        Path("t.tsv").write_text("text\tlabel\na b\tA\nb a\tB\n" * 9)
        assert main(["train", "language-model", "--text", "verse.txt", "--length", "8", *SMALL, "--out", "lm"]) == 0
        assert main(["train", "classifier", "--train", "t.tsv", *SMALL, "--out", "classifier"]) == 0
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    for path in (Path("ran"), Path("mine.py")):  # the source is gone: what runs is what the run kept
        path.unlink()
    return tmp_path / "copy"


@pytest.mark.parametrize(
    "command",
    [
        "sample lm the --length 3",
        "tree lm the --depth 1",
        "score lm verse.txt",
        "evaluate lm verse.txt",
        "evaluate classifier t.tsv",
        "predict classifier t.tsv",
        "train language-model --resume lm --steps 3",
        "train classifier --resume classifier --steps 3",
        "train language-model --config lm/config.toml --steps 1 --out again",
    ],
)
def test_every_command_asks_first(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = "lm" if "lm" in command else "classifier"
    assert main(command.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(
        f"error: {run}/config.toml names a cell of its own, Mine: to load it is to run the Python"
    )
    assert f"{run}/cell.py" in shown.err
    assert "--trust-code" in shown.err
    assert shown.err.count("\n") == 1
    assert not Path("ran").exists()
    assert main([*command.split(), "--trust-code"]) == 0
    assert Path("ran").exists()


def test_a_resumed_run_still_has_its_code(place: Path) -> None:
    before = Path("lm/config.toml").read_text()
    assert main(["train", "language-model", "--resume", "lm", "--steps", "3", "--trust-code"]) == 0
    tables = tomllib.loads(Path("lm/config.toml").read_text())
    assert tables["model"]["cell"] == "cell.py:Mine"
    assert tables["code"] == tomllib.loads(before)["code"]
    assert Path("lm/cell.py").read_text() == SOURCE


def test_a_changed_source_is_refused_when_resuming(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("lm/cell.py").write_text(SOURCE + "\n")
    assert main(["train", "language-model", "--resume", "lm", "--steps", "3", "--trust-code"]) == 2
    assert "is not the source the model was trained with" in capsys.readouterr().err
    assert not Path("ran").exists()


def test_a_configuration_of_ones_own(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file may come from anyone; a cell on the command line comes from the user."""
    Path("mine.py").write_text(SOURCE)
    Path("c.toml").write_text('[model]\ncell = "mine.py:Mine"\nhidden = 4\nlayers = 1\n[data]\ntext = ["verse.txt"]\n')
    command = ["train", "language-model", "--config", "c.toml", "--steps", "1", "--batch", "2", "--length", "8"]
    assert main([*command, "--out", "one"]) == 2
    assert f"run the Python file {place}/mine.py" in capsys.readouterr().err
    assert not Path("ran").exists()
    assert main([*command, "--out", "one", "--trust-code"]) == 0
    assert main([*command, "--out", "two", "--cell", "mine.py:Mine"]) == 0
    assert main([*command, "--out", "three", "--cell", "lstm"]) == 0
    assert not Path("three/cell.py").exists()


def test_a_character_model_beside_a_transcriber(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from everloop.decode.generate import Beam
    from everloop.errors import RunError
    from everloop.kinds.decoding import DecodingOptions

    with pytest.raises(RunError, match="names a cell of its own"):
        DecodingOptions(language_model=Path("lm")).decoder(Beam(8))
    assert not Path("ran").exists()
    method = DecodingOptions(language_model=Path("lm"), trust_code=True).decoder(Beam(8)).method
    assert isinstance(method, Beam)
    assert method.fusion is not None
    with pytest.raises(SystemExit):
        main(["predict", "lm", "--help"])
    assert capsys.readouterr().out.count("--trust-code") == 1
