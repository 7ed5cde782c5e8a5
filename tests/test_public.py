"""The public face: its names, and that every Python block of the README and the pages runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import everloop

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = [("steps=5_000", "steps=3"), ("hidden=512", "hidden=8"), ("length=256", "length=16"), ("=300", "=9")]


def test_public_names() -> None:
    assert set(everloop.__all__) == {
        "GRU",
        "LSTM",
        "RNN",
        "Bidirectional",
        "Cell",
        "EverloopError",
        "H",
        "I",
        "Recurrent",
        "Stack",
        "VariationalDropout",
        "WeightDrop",
        "Zoneout",
        "accelerate",
        "bias",
        "cells",
        "context",
        "custom_gradient",
        "inputs",
        "linear_cross_entropy",
        "mask",
        "noise",
        "output",
        "param",
        "quantize",
        "size",
        "state",
    }
    for name in everloop.__all__:
        assert getattr(everloop, name) is not None


ROOMS = {
    "data": (
        "AudioConfig AugmentConfig Conditions ConditionsConfig Dataset DigitStrings DigitsConfig ErrorPolicy Examples "
        "ExamplesConfig FrameConfig GlyphStrings GlyphsConfig Handwriting HandwritingConfig Parallel ParallelConfig "
        "Part PictureSize Pieces Plans Recordings SequenceDataset Series SeriesConfig Strokes StrokesConfig "
        "SubwordVocabulary Symbols Tagged TaggedConfig Text TextConfig TextTokenizer Vocabulary Window Windows "
        "WordTokenizer WordVocabulary"
    ),
    "models": (
        "Block Classifier ClassifierConfig EncoderDecoder EncoderDecoderConfig Forecast Forecaster ForecasterConfig "
        "Generator GeneratorConfig Kind LanguageModel LanguageModelConfig Loss Model Outline Score Strand Tagger "
        "TaggerConfig Transcriber TranscriberConfig detach forecast_frame load"
    ),
    "decode": (
        "Beam Branch Greedy Hypothesis Sampling ShallowFusion Sketch Tree align bleu compose generate probabilities "
        "sample sketch stream tree"
    ),
    "diagnose": (
        "Activity Agreement Comparison Connectivity Diagnosis Finding Gate GradientThroughTime States TrainingFacts "
        "activities agree connectivity diagnose gradient_through_time"
    ),
    "draw": "Figure Panel draw_cell draw_forecasts draw_network",
    "train": (
        "Backtest Confusion Event Label Labels Note RangeTest Run Scores Started Stepped TensorBoard Tracker "
        "TrainConfig Validated backtest confusion evaluate find_lr label_metrics log_to train"
    ),
}


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_of_a_room(room: str) -> None:
    found = getattr(everloop, room)
    assert found.__all__ == sorted(found.__all__, key=lambda name: (not name[0].isupper(), name))
    assert set(found.__all__) == set(ROOMS[room].split())
    for name in found.__all__:
        assert not isinstance(getattr(found, name), ModuleType)


def test_an_unknown_name_is_none() -> None:
    with pytest.raises(AttributeError, match="no attribute 'LSMT'"):
        _ = everloop.LSMT


def test_the_command_does_not_wait_for_torch() -> None:
    code = "import sys, everloop.cli; sys.exit(everloop.cli.main(['--help']) or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_layers_do_not_wait_for_dynamo() -> None:
    code = "import sys, everloop; everloop.LSTM, everloop.Recurrent; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def shrunk(block: str) -> str:
    for large, small in SMALL:
        block = block.replace(large, small)
    return block


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shakespeare.txt").write_text("ROMEO: But soft, what light through yonder window breaks?\n" * 200)
    names: dict[str, object] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(shrunk(block), str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
