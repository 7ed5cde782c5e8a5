"""A kind of model in a package of one's own that writes, is drawn as a tree and scores texts, by its registration."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from everloop.cli import main
from everloop.decode import Beam, generate
from everloop.models import load
from tests.cli.test_own_kind import SOURCE, STEPS

WRITING = '''
from dataclasses import replace

from everloop.decode.writer import Adapter
from everloop.models import Score


class Writing(Parity):
    kind = "parity_kind:WRITING"


class Digits(Adapter):
    """Writes each source once more: 0 or 1 with probability 0.9, then stops."""

    stop, never = 2, ()

    def logits(self, sources, place):
        wanted = [int(source[place]) if place < len(source) else 2 for source in sources]
        return torch.full((len(sources), 3), 0.05).scatter(1, torch.tensor(wanted)[:, None], 0.9).log()

    def begin(self, sources):
        self.sources = sources
        return self.logits(sources, 0), (torch.arange(len(sources)), torch.zeros(len(sources), dtype=torch.int64))

    def step(self, symbols, state):
        rows, places = state[0], state[1] + 1
        sources = [self.sources[row] for row in rows.tolist()]
        return torch.cat([self.logits([s], p) for s, p in zip(sources, places.tolist())]), (rows, places)

    def text(self, symbols):
        return "".join(map(str, symbols))

    def unknown(self, source):
        return [symbol for symbol in source if symbol not in "01"]


WRITING = replace(
    PARITY, model=Writing, create_model=lambda data, shape: Writing(shape), writer=Digits,
    scorer=lambda model, context: lambda text: Score(float(len(context or "-") + text.count("1")), len(text)),
)


class Answering(Parity):
    kind = "parity_kind:ANSWERING"


ANSWERING = replace(
    PARITY, model=Answering, create_model=lambda data, shape: Answering(shape),
    generate=lambda model, sources, method, length: [[f"{s} {method.temperature} {length}"] for s in sources],
)
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "parity_kind", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("parity_kind.py").write_text(SOURCE + WRITING)
    Path("lines.txt").write_text("011\n\n111\n1x0\n")
    return tmp_path


def trained(kind: str) -> None:
    assert main(["train", f"parity_kind:{kind}", "--lines", "lines.txt", *STEPS, "--out", "run"]) == 0


def test_a_writer_is_sampled_drawn_as_a_tree_and_scores(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("lines.txt").write_text("011\n111\n100\n")
    trained("WRITING")
    capsys.readouterr()
    assert main(["sample", "run", "0110", "--temperature", "0", "--trust-code"]) == 0
    assert capsys.readouterr().out == "0110\n"
    assert main(["tree", "run", "10", "--width", "1", "--depth", "2", "--trust-code"]) == 0
    shown = capsys.readouterr().out
    assert "90" in shown
    assert "81" in shown
    Path("lines.txt").write_text("011\n\n111\n1x0\n")
    assert main(["score", "run", "lines.txt", "--context", "01", "--trust-code"]) == 0
    told = capsys.readouterr()
    assert told.out == "-4.0000\t3\t011\n\n-5.0000\t3\t111\n-3.0000\t3\t1x0\n"
    assert "1 of 9 examples unknown" in told.err
    model = load("run", trust_code=True)
    assert generate(model, ["01"], Beam(3))[0][0].text == "01"


def test_what_a_kind_generates_is_what_sample_writes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("lines.txt").write_text("011\n111\n100\n")
    trained("ANSWERING")
    capsys.readouterr()
    assert main(["sample", "run", "01", "--length", "7", "--temperature", "0.5", "--trust-code"]) == 0
    assert capsys.readouterr().out == "01 0.5 7\n"
    assert main(["sample", "run", "--trust-code"]) == 2
    assert "needs a prompt" in capsys.readouterr().err
    assert main(["score", "run", "lines.txt", "--trust-code"]) == 2
    assert "run holds a parity_kind:ANSWERING; expected a language model" in capsys.readouterr().err
    assert main(["tree", "run", "01", "--trust-code"]) == 2
    assert "writes no symbols one after another" in capsys.readouterr().err
