"""Several runs on one page: what differs, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from everloop.cli import main
from everloop.models import ForecasterConfig, LanguageModelConfig
from everloop.report.report import said
from everloop.train import TrainConfig
from tests.report.test_report import read


def test_two_runs(
    pages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pages["classifier"].parent
    monkeypatch.chdir(folder)
    columns = ["--columns", "text", "label", "--hold-out", "0.2", "0.2", "--threads", "1", "--log-every", "1"]
    sizes = ["--hidden", "9", "--batch", "4", "--steps", "6", "--validate", "3", "--pooling", "attention"]
    assert main(["train", "classifier", "--train", "t.tsv", *columns, *sizes, "--out", "wider"]) == 0
    capsys.readouterr()
    out = tmp_path / "c.html"
    assert main(["compare", "classifier", "wider", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    text = out.read_text("utf-8")
    assert read(out).missing == set()
    before, _, differing = text.partition('id="configuration-title"')
    assert '<th scope="row">model.hidden</th><td>6</td><td>9</td>' in differing
    assert differing.count('<th scope="row">') == 1
    assert '<th scope="row">parameters</th>' in before
    assert "wider, validation" in before
    assert before.count("<figure>") == 1


def test_runs_of_different_kinds_and_too_few(
    pages: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(pages[kind].with_suffix("")) for kind in ("language-model", "forecaster")]
    out = tmp_path / "c.html"
    assert main(["compare", *runs, "--out", str(out)]) == 0
    text = out.read_text("utf-8")
    assert "curves are not comparable" in text
    assert '<th scope="row">kind</th><td>language-model</td><td>forecaster</td>' in text
    listed = re.findall(r'<th scope="row">(model|train)[.](\w+)</th><td>(.*?)</td><td>(.*?)</td>', text)
    assert {"embedding", "horizon"} <= {name for _, name, *_ in listed}
    own = {"model": (LanguageModelConfig(), ForecasterConfig()), "train": (TrainConfig(), TrainConfig())}
    for part, name, *values in listed:
        assert values[0] != values[1]
        for value, config in zip(values, own[part], strict=True):
            lacks, lonely = not hasattr(config, name), "–" in values
            assert (value == "–") == lacks
            assert lacks or not lonely or value != said(getattr(config, name)), f"{name} was left alone"
    assert main(["compare", runs[0], runs[0], "--out", str(out)]) == 0
    assert "They do not differ." in out.read_text("utf-8")
    capsys.readouterr()
    assert main(["compare", runs[0], "--out", str(out)]) == 2
    assert "1 run to compare; expected at least 2" in capsys.readouterr().err
