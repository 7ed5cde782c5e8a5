"""Figures of cells: what they show is what the step computes, and nothing overlaps."""

from __future__ import annotations

import io
import random
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, sigmoid, tanh

from everloop import cells
from everloop.cell import Cell, H, I, bias, param, state
from everloop.cli import main
from everloop.cli.show import example
from everloop.draw import Figure, draw_cell
from everloop.draw.arrange import arranged
from everloop.draw.cell import SPACING
from everloop.draw.flow import Flow, flow_of
from everloop.draw.scene import Theme
from everloop.errors import CellError, EverloopError, OptionError
from tests import zoo
from tests.draw.overlaps import overlaps, upon_each_other
from tests.random_cells.build import class_of
from tests.random_cells.campaign import drawn
from tests.random_cells.source import LETTERS
from tests.stubs import cannot_be_imported


class LongNames(Cell):
    """Names as people write them, three states, numbers, a softmax."""

    hidden_representation, slow_memory_of_the_network, gate_memory = state(H), state(H), state(H)
    W, R = param(2 * H, I), param(2 * H, H)
    importance_weights = param(H)

    def step(
        self, x: Tensor, hidden_representation: Tensor, slow_memory_of_the_network: Tensor, gate_memory: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        write_gate, candidate_content = (x @ self.W.T + hidden_representation @ self.R.T).chunk(2, -1)
        write_gate_activation = sigmoid(write_gate + self.importance_weights * gate_memory)
        slow = slow_memory_of_the_network + write_gate_activation * tanh(candidate_content)
        forgetful = 0.9 * gate_memory + 0.1 * write_gate_activation
        return torch.softmax(slow, -1) * hidden_representation, slow, forgetful


def gates(flow: Flow) -> dict[str, tuple[str, set[str]]]:
    """Return the function of each gate and what comes into it, by its name; a join stands for what it joins."""
    found = {}
    for number in flow.of("gate", "linear"):
        sources = set()
        for source in flow.into(number):
            inner = flow.into(source) if flow.nodes[source].role == "join" else [source]
            sources |= {flow.nodes[n].name or flow.nodes[n].sign for n in inner}
        found[flow.nodes[number].name] = (flow.nodes[number].sign, sources)
    return found


XH = {"x", "h"}
EXPECTED = {
    "elman": {"": ("tanh", XH)},
    "lstm": {"i": ("σ", XH), "f": ("σ", XH), "g": ("tanh", XH), "o": ("σ", XH)},
    # the output gate sees the new memory, which is a sum
    "peephole-lstm": {"i": ("σ", XH | {"c"}), "f": ("σ", XH | {"c"}), "g": ("tanh", XH), "o": ("σ", XH | {"+"})},
    "coupled-lstm": {"f": ("σ", XH), "g": ("tanh", XH), "o": ("σ", XH)},
    "projected-lstm": {"i": ("σ", XH), "f": ("σ", XH), "g": ("tanh", XH), "o": ("σ", XH), "": ("V", {"×"})},
    # reset after the product: r multiplies what R makes of h; before it: h itself
    "gru": {"r": ("σ", XH), "z": ("σ", XH), "n": ("tanh", {"x", "×"}), "n_h": ("R", {"h"})},
    "reset-before-gru": {"r": ("σ", XH), "z": ("σ", XH), "n": ("tanh", {"x", "×"})},
    "minimal-gated-unit": {"f": ("σ", XH), "n": ("tanh", {"x", "×"})},
    "indrnn": {"": ("relu", XH)},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_gates_are_those_of_the_paper(name: str) -> None:
    assert gates(flow_of(example(cells.named(name)))) == EXPECTED[name]


def test_what_scales_a_row_is_written_out() -> None:
    class Mine(Cell):
        h = state(H)
        W, rate, scale = param(H, I), bias(H), bias(H)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            keep = 0.99 * torch.sigmoid(self.rate)
            return self.scale * (keep * h + (1 - keep) * torch.tanh(x @ self.W.T)) / (2 + self.scale)

    signs = [node.sign for node in flow_of(Mine(3, 4)).nodes.values()]
    for sign in ("× 0.99 σ(rate)", "× (1 − 0.99 σ(rate))", "× scale", "÷ (2 + scale)"):
        assert sign in signs, signs


def test_where_the_reset_gate_is_tells_the_two_grus_apart() -> None:
    into = {}
    for name in ("gru", "reset-before-gru"):
        flow = flow_of(example(cells.named(name)))
        r = next(n for n in flow.of("gate") if flow.nodes[n].name == "r")
        (product,) = flow.edges[r]
        into[name] = {flow.nodes[n].name for n in flow.into(product)} - {"r"}
    assert into == {"gru": {"n_h"}, "reset-before-gru": {"h"}}


def test_normalisations_are_marks_not_twenty_circles() -> None:
    flow = flow_of(example(cells.LayerNormLSTM))
    assert [flow.nodes[n].note for n in flow.of("gate") if flow.nodes[n].name] == ["norm"] * 4
    assert "norm" in [flow.nodes[n].sign for n in flow.of("map")]
    assert "softmax" in [n.sign for n in flow_of(LongNames(3, 4)).nodes.values()]
    assert len(flow.nodes) < 20


def test_every_state_goes_out_and_comes_in() -> None:
    for name in zoo.NAMES:
        cell = zoo.make(name, 3, 4)
        flow = flow_of(cell)
        assert [flow.nodes[n].name for n in flow.of("state")] == list(cell.state_sizes)
        assert [flow.nodes[n].name for n in flow.of("new")] == list(cell.state_sizes)
        assert [flow.nodes[n].name for n in flow.of("output")] == list(cell.output_sizes)
        assert all(len(flow.into(n)) == 1 for n in flow.of("new", "output"))


def test_a_sum_of_products_that_goes_out_is_one_node() -> None:
    class Filter(Cell):
        h = state(H)
        W, R = param(H, I), param(H, H)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return x @ self.W.T + h @ self.R.T

    flow = flow_of(Filter(3, 4))
    assert [flow.nodes[n].sign for n in flow.of("linear")] == ["W R"]


@pytest.mark.parametrize("name", [*zoo.NAMES, "long names"])
def test_nothing_overlaps(name: str) -> None:
    cell = LongNames(3, 4) if name == "long names" else zoo.make(name, 3, 4)
    figure = draw_cell(cell)
    assert overlaps(figure.scene) == []


def test_nothing_overlaps_in_figures_of_random_cells() -> None:
    seen = 0
    for number in random.Random(5).sample(range(10_000), 30):
        one, _ = drawn(7, number)
        options: dict[str, Any] = {k: v for k, v in one.options if any(d.name == k for d in one.used()[1])}
        options |= {LETTERS[x]: 2 for x in one.letters}
        try:
            flow = flow_of(class_of(one.source())(3, 4, **options))
        except EverloopError:  # the compiler cannot read it
            continue
        if len(flow.nodes) > 30:
            continue
        seen += 1
        layout = arranged(flow, dict.fromkeys(flow.nodes, (40.0, 30.0)), SPACING, frozenset(flow.of("map")))
        assert list(upon_each_other([(wire.source, wire.points) for wire in layout.wires])) == []
    assert seen > 10


def test_the_svg_says_what_is_in_it() -> None:
    figure = draw_cell(cells.PeepholeLSTM(3, 4))
    root = ET.fromstring(figure.svg())
    texts = ["".join(e.itertext()) for e in root.iter() if e.tag.endswith("text")]
    assert {"ct−1", "ht", "xt", "σ", "f", "o", "[h, x]"} <= set(texts)
    titles = [e.text for e in root.iter() if e.tag.endswith("title")]
    assert any("p_f * c[t-1]" in str(t) for t in titles), "a pointer shows the equation"
    assert figure.svg() == figure.svg("light") != figure.svg("dark")
    assert "http" not in figure.svg().replace("http://www.w3.org/2000/svg", "")


def test_dot_and_mermaid_have_each_edge() -> None:
    flow = flow_of(cells.GRU(3, 4))
    count = sum(map(len, flow.edges.values())) + 1  # and the way back
    figure = draw_cell(cells.GRU(3, 4))
    assert figure.dot.count("->") == count
    assert figure.mermaid.count("-->") + figure.mermaid.count("-.->") == count
    assert figure.dot.count("{") == figure.dot.count("}") == 1


TERMINAL = """\
LSTM

c[t−1]────────────────────────►(×)───►(+)──┬─────────────────►c[t]
                                ▲       ▲  │
h[t−1]──┬►[h,x]──┬─►[σ] f ──────┘       │  └►(tanh)───►(×)───►h[t]
        │        │                      │               ▲
 x[t]───┘        ├─►[σ] i ────►(×)──────┘               │
                 │              ▲                       │
                 ├►[tanh] g─────┘                       │
                 │                                      │
                 └─►[σ] o ──────────────────────────────┘

to the next step: h[t] → h[t−1], c[t] → c[t−1]
"""


def test_an_lstm_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", "cell", "lstm"]) == 0
    assert capsys.readouterr().out == TERMINAL


def test_pictures_of_both_themes_are_dark_and_light() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    figure = draw_cell(cells.GRU(3, 4))
    papers: dict[Theme, float] = {"light": 1.0, "dark": 0.1}
    for theme, paper in papers.items():
        picture = imread(io.BytesIO(figure.png(theme)), format="png")
        assert abs(picture.shape[0] - 2 * figure.scene.height) <= 1 >= abs(picture.shape[1] - 2 * figure.scene.width)
        assert abs(float(picture[0, 0, :3].mean()) - paper) < 0.1


def test_files_by_their_endings(tmp_path: Path) -> None:
    names = [tmp_path / f"f{ending}" for ending in (".svg", ".dot", ".mmd", ".txt")]
    assert main(["draw", "cell", "elman", "--theme", "dark", "--out", *map(str, names)]) == 0
    assert [path.read_text("utf-8").split()[0] for path in names] == ["<svg", "digraph", "flowchart", "Elman"]
    assert "#12181f" in names[0].read_text("utf-8")


def test_what_cannot_be_drawn_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = draw_cell(cells.Elman(1, 1))
    with pytest.raises(OptionError, match=r"'.jpg'; expected one of .svg, .png, .txt, .dot, .mmd"):
        figure.write(tmp_path / "a.jpg")
    with pytest.raises(OptionError, match="unknown theme 'drak'; did you mean 'dark'"):
        figure.svg("drak")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"expected one of .svg, .png"):
        Figure(figure.scene).write(tmp_path / "a.dot")
    with pytest.raises(CellError, match="got LSTM; expected an instance"):
        draw_cell(cells.LSTM)  # type: ignore[arg-type]
    assert main(["draw", "sell", "lstm"]) == 2
    assert "did you mean 'cell'" in capsys.readouterr().err
    assert main(["draw"]) == 2
    assert main(["draw", "--help"]) == 0
    assert "everloop draw cell" in capsys.readouterr().out


@pytest.mark.parametrize("error", [ModuleNotFoundError, ImportError])
def test_without_matplotlib_a_png_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    cannot_be_imported("matplotlib", error, tmp_path, monkeypatch)
    with pytest.raises(OptionError, match=r"pip install 'everloop\[plot\]', or write SVG"):
        draw_cell(cells.Elman(1, 1)).png()
