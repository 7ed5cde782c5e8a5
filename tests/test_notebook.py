"""Notebooks: each thing that is shown is well-formed HTML with its figure, and what cannot be shown says why."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor

from everloop import Cell, H, Recurrent, cells, state
from everloop.data import Text
from everloop.decode import tree
from everloop.diagnose import TrainingFacts
from everloop.diagnose.training import read_metrics
from everloop.models import Forecast, LanguageModel
from everloop.notebook import SHOWN, load_ipython_extension, unload_ipython_extension
from everloop.report.figures import losses
from everloop.train import train
from everloop.train.folder import METRICS, read_lines

TEXT = Text.from_string("the cat & the <b>mat</b>\n" * 60)


class Formatter(dict[type, Any]):
    """What IPython has for a kind of output, as far as extensions use it."""

    def for_type(self, kind: type, show: Any) -> None:
        self[kind] = show

    def __call__(self, shown: object) -> str:
        return str(next(self[kind] for kind in type(shown).__mro__ if kind in self)(shown))


class Branching(Cell):
    """A cell that the compiler cannot read."""

    h = state(H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return h + 1 if float(h.sum()) > 0 else h


@pytest.fixture
def formatter() -> Formatter:
    found = Formatter()
    load_ipython_extension(SimpleNamespace(display_formatter=SimpleNamespace(formatters={"text/html": found})))
    return found


def check(html: str, *, figures: int) -> str:
    """Check that HTML is well formed and has so many figures, and return its text."""
    root = ElementTree.fromstring(f"<div>{html}</div>")
    assert len([part for part in root.iter() if part.tag.endswith("svg")]) == figures
    return " ".join("".join(root.itertext()).split())


def test_cells_and_layers(formatter: Formatter) -> None:
    text = check(formatter(cells.LSTM(2, 3)), figures=1)
    assert "c = sigmoid(f) * c[t-1] + sigmoid(i) * tanh(g)" in text
    assert "LSTM(2, 3)" in text
    assert "how it runs" in check(formatter(Recurrent(cells.GRU(2, 3))), figures=0)


def test_what_cannot_be_read_says_why(formatter: Formatter) -> None:
    text = check(formatter(Branching(3, 3)), figures=0)
    assert "Branching(3, 3)" in text
    assert "the compiler does not know" in text


def test_models_runs_and_trees(formatter: Formatter, tmp_path: Path) -> None:
    model = LanguageModel(TEXT.vocabulary, hidden=4, layers=1)
    assert "language-model" in check(formatter(model), figures=1)
    run = train(model, TEXT, steps=4, batch=2, length=8, validate=2, log_every=1, out=tmp_path / "run")
    shown = check(formatter(run), figures=1)
    assert "finished 4 steps" in shown
    noted = read_metrics(read_lines(tmp_path / "run" / METRICS))
    facts = TrainingFacts(noted["losses"], noted["valid"])
    assert losses({"": facts}, model.measure).svg() in formatter(run), "the curves of the report"
    kept = train(model, TEXT, steps=1, batch=2, length=8)
    assert "finished 1 step" in check(formatter(kept), figures=0)
    html = formatter(tree(model, "the <b>", depth=2))
    assert "After the <b> these may come" in check(html, figures=0)
    assert html.count("<details") > 1


@pytest.mark.parametrize(
    ("forecast", "named"),
    [
        (Forecast(torch.zeros(3, 2, 2)), []),
        (Forecast(torch.zeros(3, 1, 2), spread=torch.ones(3, 1, 2)), ["0.1", "0.9"]),
        (
            Forecast(torch.zeros(3, 1, 2), quantiles=torch.arange(3.0).expand(3, 1, 2, 3), levels=(0.2, 0.5, 0.8)),
            ["0.2", "0.8"],
        ),
    ],
)
def test_forecasts(formatter: Formatter, forecast: Forecast, named: list[str]) -> None:
    text = check(formatter(forecast), figures=2)
    assert "Forecast of series 2" in text
    assert re.findall(r"quantile ([\d.]+\d)", text) == 2 * named


def test_it_can_be_taken_back(formatter: Formatter) -> None:
    assert set(formatter) == set(SHOWN)
    unload_ipython_extension(SimpleNamespace(display_formatter=SimpleNamespace(formatters={"text/html": formatter})))
    assert not formatter


def test_in_ipython() -> None:
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    shell.run_line_magic("load_ext", "everloop.notebook")
    data, _ = shell.display_formatter.format(cells.GRU(2, 2))
    assert "<svg" in data["text/html"]
    assert data["text/plain"] == "GRU(2, 2)"
    shell.run_line_magic("unload_ext", "everloop.notebook")
    assert "text/html" not in shell.display_formatter.format(cells.GRU(2, 2))[0]
