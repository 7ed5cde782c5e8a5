"""Figures of models: each topology, rolled and unrolled, with the sizes of the model itself, and nothing overlaps."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from everloop import Bidirectional, Recurrent, Stack, Zoneout, cells
from everloop.cli import main
from everloop.data import Parallel, PictureSize, Text
from everloop.draw import draw_network
from everloop.draw.scene import Line
from everloop.errors import OptionError
from everloop.models import Classifier, EncoderDecoder, Forecaster, Generator, LanguageModel, Model, Tagger, Transcriber
from everloop.train import train
from tests.draw.overlaps import overlaps
from tests.draw.test_cell import LongNames

TEXT = Text.from_string("The quick brown fox jumps over the lazy dog.\n" * 20)
V = len(TEXT.vocabulary)
PAIRS = Parallel([("ein hund", "a dog"), ("ein mann", "a man"), ("ein hund und ein mann", "a dog and a man")] * 4)


def translator(context: str, **settings: Any) -> EncoderDecoder:
    return EncoderDecoder(PAIRS.source, PAIRS.target, hidden=64, embedding=32, context=context, **settings)


MODELS: dict[str, nn.Module] = {
    "N to N": LanguageModel(TEXT.vocabulary, hidden=64, layers=1),
    "N to N, four layers": LanguageModel(TEXT.vocabulary, cell="peephole-lstm", hidden=1024, layers=4),
    "N to N, both directions, CRF": Tagger(7, ["N", "V"], hidden=16, layers=3, output="crf"),
    "N to 1, last": Classifier(12, ["a", "b"], hidden=32, bidirectional=False, pooling="last"),
    "N to 1, last of both": Classifier(12, ["a", "b"], hidden=32, pooling="last"),
    "N to 1, attention": Classifier(12, ["a", "b"], hidden=32, layers=2, pooling="attention"),
    "N to M at once": Forecaster(["s"], horizon=4, context=16, patch=4, bidirectional=False),
    "N to M, CTC": Transcriber(TEXT.vocabulary, hidden=32, layers=2),
    "1 to N, at first": Generator(["0", "1"], TEXT.vocabulary, hidden=32, given="first"),
    "1 to N, at every step": Generator(3, None, hidden=32, layers=2, given="every-step"),
    "1 to N, attention": Generator(PictureSize(8, 8), TEXT.vocabulary, hidden=32, channels=(4, 8), given="attention"),
    "N to M, initial": translator("initial", bidirectional=False),
    "N to M, initial, both": translator("initial", layers=4),
    "N to M, every step": translator("every-step"),
    "N to M, attention": translator("attention", layers=2),
    "layers of all kinds": Recurrent(
        Stack([Bidirectional(Stack([cells.GRU(3, 4), cells.LSTM(4, 5)])), Zoneout(cells.LSTM(10, 6), h=0.1)])
    ),
    "long names": Recurrent(LongNames(3, 40)),
}


@pytest.mark.parametrize("steps", [0, 2, 5])
@pytest.mark.parametrize("name", MODELS)
def test_nothing_overlaps(name: str, steps: int) -> None:
    assert overlaps(draw_network(MODELS[name], steps=steps).scene) == []


def texts(model: nn.Module, steps: int = 0) -> list[str]:
    root = ET.fromstring(draw_network(model, steps=steps).svg())
    return ["".join(e.itertext()) for e in root.iter() if e.tag.endswith("text")]


def test_sizes_are_those_of_the_model() -> None:
    model = LanguageModel(TEXT.vocabulary, cell="lstm", hidden=48, layers=2, embedding=20)
    found = texts(model)
    assert {f"embedding {V} → 20", "LSTM 20 → 48", "LSTM 48 → 48", f"head 48 → {V}"} <= set(found)
    assert found.count("h, c") == 2, "a loop of both states at each layer"
    weights = [model.embedding.weight, model.head.weight]
    assert [list(w.shape) for w in weights] == [[V, 20], [V, 48]]


def test_unrolled_each_step_has_each_part() -> None:
    found = texts(MODELS["N to N, four layers"], steps=4)
    assert found.count("PeepholeLSTM") == 4 * 4
    assert found.count("embedding") == found.count("head") == 4
    assert {"character0", "character1", "characterT−1", "characterT"} <= set(found)
    both = texts(MODELS["N to N, both directions, CRF"], steps=3)
    assert both.count("LSTM") == 3 * 3 * 2


def branches(name: str) -> int:
    """Return how many lines in the accent colour, those of a context, end at a step."""
    shapes = draw_network(MODELS[name], steps=4).scene.shapes
    return sum(isinstance(s, Line) and s.stroke == "accent" and s.arrow for s in shapes)


def test_what_is_given_goes_to_the_first_step_or_to_each() -> None:
    assert branches("1 to N, at first") == 1
    assert branches("1 to N, at every step") == 4
    assert branches("1 to N, attention") == 4 + 4, "to the layers, and to the attention"
    assert branches("N to M, initial") == 0
    assert branches("N to M, every step") == branches("N to M, attention") == 4


def test_in_the_terminal_and_as_graphs() -> None:
    figure = draw_network(MODELS["N to M, attention"])
    assert figure.text.startswith("translator: N → M, context: attention\n")
    parts = [
        "GRU 32 → 64 in both directions   ↻ h",
        "attention 64 → 64",
        "readout 128 → 32",
        f"head 32 → {len(PAIRS.target)}",
    ]
    places = [figure.text.index(part) for part in parts]
    assert places == sorted(places)
    assert figure.dot.count("style=dashed") == figure.mermaid.count("-.->") == 4, "a loop at each layer"
    edges = figure.mermaid.count("-->") + figure.mermaid.count("-.->")
    assert figure.dot.count("->") == edges == 3 + 7 + 4 + 2, "encoder, decoder, loops, from one to the other"


def test_attention_to_a_picture_leads_from_the_picture() -> None:
    model = MODELS["1 to N, attention"]
    figure = draw_network(model)
    assert figure.scene.title == "generator: 1 → N, picture at every step and by attention"
    assert "  + picture: convolutions 64 → 64, at every step and by attention\n" in figure.text
    number = {label: n for n, label in re.findall(r'n(\d+)\["(.*)"\]', figure.mermaid)}
    picture = number["picture: convolutions 64 → 64"]
    targets = number["LSTM 128 → 32   ↻ h, c"], number["attention 32 → 8"]
    assert re.findall(rf"n{picture} --> n(\d+)", figure.mermaid) == [*targets]
    assert re.findall(rf"n{picture} -> n(\d+)", figure.dot) == [*targets]
    assert {"attention 32 → 8", "readout 40 → 32"} <= set(texts(model))


def test_a_run_and_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = LanguageModel(TEXT.vocabulary, hidden=8, layers=2)
    train(model, TEXT, steps=1, batch=2, length=8, out=tmp_path / "run")
    assert main(["draw", "network", str(tmp_path / "run")]) == 0
    of_run = capsys.readouterr().out
    assert "GRU 8 → 8   ↻ h" in of_run
    (tmp_path / "a.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 20)
    table = f'[data]\ntext = ["{tmp_path}/a.txt"]\n[model]\nkind = "language-model"\nhidden = 8\nlayers = 2\n'
    (tmp_path / "a.toml").write_text(table)
    assert main(["draw", "network", str(tmp_path / "a.toml")]) == 0
    assert "GRU 8 → 8   ↻ h" in capsys.readouterr().out
    svg = tmp_path / "model.svg"
    assert main(["draw", "network", str(tmp_path / "run"), "--steps", "3", "--out", str(svg)]) == 0
    assert svg.read_text("utf-8").count(">GRU<") == 6
    (tmp_path / "b.toml").write_text("[model]\nhidden = 8\n")
    assert main(["draw", "network", str(tmp_path / "b.toml")]) == 2
    assert "has no kind" in capsys.readouterr().err


class Own(Model):
    """A kind of model that says nothing of itself."""

    kind = "own:KIND"

    def __init__(self) -> None:
        super().__init__()
        self.layers = Recurrent(cells.GRU(2, 3))


def test_what_is_no_network_is_refused() -> None:
    assert "GRU 2 → 3" in str(draw_network(Own()))
    with pytest.raises(OptionError, match="Model has no Recurrent layers; write its outline"):
        draw_network(Model())
    with pytest.raises(OptionError, match="got Linear; expected a Model or Recurrent layers"):
        draw_network(torch.nn.Linear(1, 1))
    for steps in (1, -1):
        with pytest.raises(OptionError, match="expected 0"):
            draw_network(Own(), steps=steps)
