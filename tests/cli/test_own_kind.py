"""A kind of model in a package of one's own: one file, and every verb of the command line knows it."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from everloop.cli import main
from everloop.data.settings import read_toml
from everloop.errors import OptionError, RunError
from everloop.models import Kind, load
from everloop.models.kind import BUILT_IN, find

NAME = "parity_kind:PARITY"
SOURCE = '''
"""Whether a line of 0 and 1 has an even number of 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from everloop.data.dataset import Dataset
from everloop.data.files import read_bytes
from everloop.layers import Recurrent
from everloop import cells
from everloop.models import Kind, Loss, Model

Path("imported").touch()


@dataclass(frozen=True)
class LinesConfig:
    lines: Path | None = None
    """Lines of 0 and 1."""


@dataclass(frozen=True)
class ParityConfig:
    units: int = 4
    """Units of the layer."""


@dataclass(frozen=True)
class Bits:
    x: torch.Tensor
    first: bool = True

    def to(self, device):
        return Bits(self.x.to(device))


class Lines(Dataset[list[str]]):
    def __init__(self, path: Path, split: str, config: LinesConfig):
        super().__init__(config)
        self.items = {split: read_bytes(path, "lines").decode().split()}

    def content(self) -> Iterator[bytes]:
        yield from (line.encode() for lines in self.items.values() for line in lines)

    def describe(self, batch: int) -> list[str]:
        return [f"{split}: {len(lines)} lines" for split, lines in self.items.items()]

    def epoch(self, split: str, number: int, *, batch: int, seed: int = 0):
        lines = self[split]
        return [Bits(bits(lines[i : i + batch])) for i in range(0, len(lines), batch)]


def bits(lines):
    return torch.tensor([[[float(bit)] for bit in line] for line in lines]).transpose(0, 1)


class Parity(Model):
    kind = "parity_kind:PARITY"

    def __init__(self, config: ParityConfig):
        super().__init__()
        self.config = config
        self.recurrent = Recurrent(cells.GRU(1, config.units))
        self.head = nn.Linear(config.units, 1)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][-1])[:, 0]

    def loss(self, batch, state=None):
        wanted = batch.x.sum(0)[:, 0] % 2
        total = nn.functional.binary_cross_entropy_with_logits(self(batch.x), wanted, reduction="sum")
        return Loss(total, len(wanted))

    @classmethod
    def read(cls, folder: Path, config: ParityConfig):
        return cls(config)


def predict(model, config, source, options) -> Iterator[str]:
    with source.open() as file:
        for chunk in source.chunks(line.decode().strip() for line in file):
            yield from (f"{float(odd):.4f}\\n" for odd in model(bits(chunk)).sigmoid())


PARITY = Kind(
    model=Parity,
    model_config=ParityConfig,
    data_config=LinesConfig,
    description="Train a model of parity.",
    dataset=lambda config, shape, model: Lines(config.lines, "train", config),
    create_model=lambda data, shape: Parity(shape),
    evaluation_dataset=lambda model, config, path, labels: Lines(path, "test", config),
    predict=predict,
)
'''
STEPS = ["--steps", "3", "--batch", "4"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "parity_kind", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("parity_kind.py").write_text(SOURCE)
    Path("lines.txt").write_text("011\n111\n100\n000\n101\n001\n")
    return tmp_path


def test_every_verb_knows_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", NAME, "--lines", "lines.txt", "--units", "3", *STEPS, "--out", "run"]) == 0
    assert tomllib.loads(Path("run/config.toml").read_text())["model"] == {"kind": NAME, "units": 3}
    assert "train: 6 lines" in capsys.readouterr().err
    assert main(["train", NAME, "--resume", "run", "--steps", "5"]) == 0
    assert "resuming after step 3" in capsys.readouterr().err

    assert main(["evaluate", "run", "lines.txt", "--json", "--trust-code"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 6
    assert main(["predict", "run", "lines.txt", "--trust-code"]) == 0
    written = [float(line) for line in capsys.readouterr().out.split()]
    model = load("run", trust_code=True)
    x = torch.tensor([[0.0, 1, 1], [1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1]]).T[..., None]
    assert written == pytest.approx(model(x).sigmoid().tolist(), abs=1e-4)


def test_a_run_folder_imports_nothing_that_is_not_trusted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", NAME, "--lines", "lines.txt", *STEPS, "--out", "run"]) == 0
    sys.modules.pop("parity_kind")
    Path("imported").unlink()
    capsys.readouterr()
    for command in (["predict", "run", "lines.txt"], ["evaluate", "run", "lines.txt"], ["sample", "run"]):
        assert main(command) == 2
        told = capsys.readouterr().err
        assert "run/config.toml names a kind of model that is not built in" in told
        assert "--trust-code" in told
        assert len(told.splitlines()) == 1
    with pytest.raises(RunError, match="import the package parity_kind; if you trust it say trust_code=True"):
        load("run")
    assert not Path("imported").exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tager", "unknown kind of model 'tager'; did you mean 'tagger'? (your own: package:KIND)"),
        ("no_package:PARITY", "there is no package 'no_package' to import"),
        ("parity_kind:PARTY", "parity_kind has no PARTY; expected an everloop.models.Kind"),
        ("parity_kind:Parity", "expected an everloop.models.Kind"),
        ("parity_kind:OTHER", "its model says kind = 'parity_kind:PARITY'; expected 'parity_kind:OTHER'"),
    ],
)
def test_wrong_names(place: Path, name: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("parity_kind.py").write_text(SOURCE + "OTHER = PARITY\n")
    assert main(["train", name, "--lines", "lines.txt"]) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert len(shown.splitlines()) == 1


def test_a_package_that_lacks_something_says_what(place: Path) -> None:
    Path("parity_kind.py").write_text("import not_installed\n")
    with pytest.raises(ModuleNotFoundError, match="not_installed"):
        main(["train", NAME])


def test_a_built_in_kind_is_one_file() -> None:
    """Outside of its model and its data, what a kind needs is its file in everloop/kinds and its name in one tuple."""
    house = Path(__file__).parent.parent.parent / "everloop"
    files = {path.stem for path in (house / "kinds").glob("*.py")} - {
        "__init__",
        "decoding",
        "defaults",
        "examples",
        "source",
    }
    assert files == {name.replace("-", "_") for name in BUILT_IN}
    for name in BUILT_IN:
        kind = find(name)
        assert isinstance(kind, Kind)
        verbs = [path.stem for path in (house / "cli").glob("*.py") if f'"{name}"' in path.read_text("utf-8")]
        assert verbs == []
        named = [str(path) for path in house.rglob("*.py") if f'"{name}"' in path.read_text("utf-8")]
        numbers = {str(house / "cell.py"), str(house / "diagnose" / "stepped.py")}  # a generator of random numbers
        named = [path for path in named if path not in numbers]
        model = Path(sys.modules[kind.model.__module__].__file__ or "")
        assert sorted(named) == sorted([str(house / "models" / "kind.py"), str(model)])


def test_a_name_without_a_package_is_refused() -> None:
    with pytest.raises(OptionError, match="your own: package:KIND"):
        find("parity")


@pytest.mark.parametrize(
    "command", ["train parity_kind:PARITY --resume run --steps 4", "predict run lines.txt", "evaluate run lines.txt"]
)
def test_the_configuration_is_read_once(command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["train", NAME, "--lines", "lines.txt", *STEPS, "--out", "run"]) == 0
    counted = Mock(side_effect=read_toml)
    monkeypatch.setattr("everloop.models.run.read_toml", counted)
    assert main([*command.split(), "--trust-code"]) == 0
    assert counted.call_count == 1
