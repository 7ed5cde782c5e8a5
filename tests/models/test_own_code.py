"""A run folder runs no code unless the user says so; what a run was trained with is kept in it, with its hash."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from everloop.cells import named
from everloop.data import Text
from everloop.errors import RunError
from everloop.models import LanguageModel, load
from everloop.models.run import RunConfig
from everloop.train import TrainConfig, train

TEXT = Text.from_string("the cat sat on the mat.\n" * 30, split=(0.8, 0.2, 0))
SMALL = TrainConfig(steps=4, batch=2, length=8, validate=2, warmup=0)
SOURCE = """from pathlib import Path

import torch

from everloop.cell import Cell, H, I, param, state

Path("ran").touch()


class Mine(Cell):
    h = state(H)
    W = param(H, I + H)

    def step(self, x, h):
        return torch.tanh(torch.cat([x, h], -1) @ self.W.T)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path("mine.py").write_text(SOURCE)
    model = LanguageModel(TEXT.vocabulary, cell="mine.py:Mine", hidden=6, layers=1)
    train(model, TEXT, SMALL, out=tmp_path / "run")
    Path("ran").unlink()
    return tmp_path / "run"


def weights_after(run: Path) -> Tensor:
    weight: Tensor = load(run, trust_code=True).recurrent.cell.W
    return weight


def test_the_source_is_kept_with_its_hash(run: Path) -> None:
    tables = tomllib.loads((run / "config.toml").read_text())
    assert (run / "cell.py").read_text() == SOURCE
    assert tables["model"]["cell"] == "cell.py:Mine"
    assert tables["code"] == {"cell.py": hashlib.sha256(SOURCE.encode()).hexdigest()}


def test_nothing_runs_unless_told(run: Path) -> None:
    for ask in (load, lambda run: RunConfig.read(run).rebuild()):
        with pytest.raises(RunError) as told:
            ask(run)
        message = str(told.value)
        assert "\n" not in message
        assert str(run / "config.toml") in message
        assert str(run / "cell.py") in message
        assert "trust_code=True" in message
        assert "--trust-code" in message
    assert not Path("ran").exists()
    assert type(load(run, trust_code=True).recurrent.cell).__name__ == "Mine"
    assert Path("ran").exists()


def test_the_kept_source_runs_not_the_one_it_came_from(run: Path) -> None:
    Path("mine.py").write_text("raise SystemExit(7)\n")
    assert torch.equal(weights_after(run), load(run, trust_code=True).recurrent.cell.W)
    Path("mine.py").unlink()
    assert type(RunConfig.read(run).rebuild(trust_code=True).recurrent.cell).__name__ == "Mine"  # type: ignore[union-attr]


def test_a_changed_source_is_refused_even_if_trusted(run: Path) -> None:
    (run / "cell.py").write_text(SOURCE + "# one line more\n")
    with pytest.raises(RunError, match=r"cell\.py is not the source the model was trained with: its SHA-256 is \w+;"):
        load(run, trust_code=True)
    assert not Path("ran").exists()
    (run / "cell.py").unlink()
    with pytest.raises(RunError, match=r"there is no file .*cell\.py"):
        load(run, trust_code=True)


def test_a_compiled_file_beside_the_source_does_not_run_in_its_place(run: Path, tmp_path: Path) -> None:
    import importlib.util
    import py_compile

    evil = tmp_path / "evil.py"
    evil.write_text('from pathlib import Path\nPath("evil").touch()\n')
    place = Path(importlib.util.cache_from_source(str(run / "cell.py")))
    place.parent.mkdir(exist_ok=True)
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(evil), str(place), invalidation_mode=mode)
    assert type(load(run, trust_code=True).recurrent.cell).__name__ == "Mine"
    assert not Path("evil").exists()


@pytest.mark.parametrize("place", ["mine.py:Mine", "./mine.py:Mine", "{cwd}/mine.py:Mine"])
def test_a_configuration_that_names_another_file(run: Path, place: str) -> None:
    """Neither the current folder nor any other is where code is taken from without being asked."""
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("cell.py:Mine", place.format(cwd=Path.cwd())))
    with pytest.raises(RunError, match=r"mine\.py; read it first"):
        load(run)
    assert not Path("ran").exists()


def test_a_relative_name_is_a_file_of_the_run(run: Path) -> None:
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("cell.py:Mine", "mine.py:Mine"))
    with pytest.raises(RunError, match=rf"there is no file {run}/mine\.py"):
        load(run, trust_code=True)
    assert not Path("ran").exists()


def test_a_run_that_kept_no_source_still_loads(run: Path) -> None:
    config = (run / "config.toml").read_text().replace("cell.py:Mine", f"{Path.cwd()}/mine.py:Mine")
    (run / "config.toml").write_text(config[: config.index("[code]")])
    (run / "cell.py").unlink()
    assert type(load(run, trust_code=True).recurrent.cell).__name__ == "Mine"


def test_a_resumed_run_keeps_the_source_of_the_class_that_goes_on(run: Path) -> None:
    Path("mine.py").write_text("# the same, with a comment\n" + SOURCE)
    model = LanguageModel(TEXT.vocabulary, cell=named("mine.py:Mine"), hidden=6, layers=1)
    train(model, TEXT, SMALL, out=run, resume=True, steps=6)
    assert (run / "cell.py").read_text().startswith("# the same")
    assert weights_after(run).shape[0] == 6


def test_a_loaded_model_can_be_trained_into_a_run_of_its_own(run: Path, tmp_path: Path) -> None:
    train(load(run, trust_code=True), TEXT, SMALL, out=tmp_path / "second")
    assert (tmp_path / "second" / "cell.py").read_text() == SOURCE
    assert weights_after(tmp_path / "second").shape[0] == 6


def test_a_cell_of_the_library_keeps_no_code(tmp_path: Path) -> None:
    train(LanguageModel(TEXT.vocabulary, hidden=4, layers=1), TEXT, SMALL, out=tmp_path / "run")
    assert not (tmp_path / "run" / "cell.py").exists()
    assert "code" not in tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    load(tmp_path / "run")


def test_a_table_of_hashes_that_is_none(run: Path) -> None:
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text("code = 3\n" + config[: config.index("[code]")])
    with pytest.raises(RunError, match=r"config\.toml: code is 3; expected a table"):
        load(run, trust_code=True)
