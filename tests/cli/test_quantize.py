"""`everloop quantize`: a run of a quarter of the size, used as any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from everloop import quantize
from everloop.cli import main
from everloop.errors import OptionError
from everloop.layers.quantized_cell import QuantizedCell
from everloop.models import load

VERSE = "the cat sat on the mat and the rat sat on the cat.\n" * 40
SIZES = {"steps": 12, "batch": 4, "length": 16, "hidden": 128, "layers": 1, "validate": 6, "threads": 1}


def train(cell: str, out: str, *more: str) -> None:
    given = [part for name, value in SIZES.items() for part in (f"--{name}", str(value))]
    assert main(["train", "language-model", "--text", "verse.txt", "--cell", cell, *given, *more, "--out", out]) == 0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("verse.txt").write_text(VERSE)


def loss(run: str, capsys: pytest.CaptureFixture[str]) -> float:
    capsys.readouterr()
    assert main(["evaluate", run, "verse.txt", "--json"]) == 0
    found: Any = json.loads(capsys.readouterr().out)
    return float(found["loss"])


def test_a_language_model(capsys: pytest.CaptureFixture[str]) -> None:
    train("gru", "run", "--tied")
    capsys.readouterr()
    assert main(["quantize", "run", "--out", "small"]) == 0
    shown = capsys.readouterr().out
    assert "state h: in [-1, 1], proved" in shown
    sizes = [Path(run, "best.safetensors").stat().st_size for run in ("run", "small")]
    assert sizes[1] <= 0.3 * sizes[0]
    assert loss("small", capsys) == pytest.approx(loss("run", capsys), rel=0.01)
    small = load("small")
    assert any(isinstance(part, QuantizedCell) for part in small.modules())
    assert torch.equal(small.embedding.weight, small.head.weight)
    assert main(["sample", "small", "the cat", "--length", "9", "--seed", "1"]) == 0
    model = load("run")
    found = quantize(model).state_dict()
    for name, t in small.state_dict().items():
        torch.testing.assert_close(found[name], t, rtol=1e-6, atol=0)  # a scale is rounded to float32 in the file
    with torch.no_grad():
        model.embedding.weight[1, 2] = torch.nan
    with pytest.raises(OptionError, match=r"quantize: the weight embedding has numbers that are infinite or NaN"):
        quantize(model)


def test_what_may_grow_is_measured_on_the_data_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my_cells.py").write_text(
        "from everloop import Cell, H, I, param, state\n"
        "class Growing(Cell):\n"
        "    h = state(H)\n"
        "    W, R = param(H, I), param(H, H)\n"
        "    def step(self, x, h):\n"
        "        return (x @ self.W.T + h @ self.R.T).relu()\n"
    )
    train("my_cells.py:Growing", "run")
    capsys.readouterr()
    assert main(["quantize", "run", "--out", "small", "--trust-code"]) == 0
    shown = capsys.readouterr().out
    assert "measured" in shown
    (cell,) = (part for part in load("small", trust_code=True).modules() if isinstance(part, QuantizedCell))
    assert cell.summary() in shown
    numbers = torch.arange(8)[:, None]
    with torch.no_grad():
        y, _ = load("run", trust_code=True)(numbers)
        found, _ = load("small", trust_code=True)(numbers)
    torch.testing.assert_close(found, y, rtol=0, atol=0.05 * float(y.abs().max()))


def test_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    train("gru", "run")
    assert main(["quantize", "run", "--out", "small"]) == 0
    for run, out, said in (("run", "small", "is there already"), ("small", "new", "in 8 bits already")):
        assert main(["quantize", run, "--out", out]) == 2
        assert said in capsys.readouterr().err
    assert not Path("new").exists()
