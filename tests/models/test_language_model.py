"""The language model: what it computes, what it refuses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everloop import cells
from everloop.cell import Cell
from everloop.data import Text, Vocabulary, Window
from everloop.errors import DataError, EverloopError, OptionError
from everloop.models import LanguageModel, LanguageModelConfig

WORDS = Vocabulary("\n abcdefgh")


def window(steps: int = 7, batch: int = 3) -> Window:
    numbers = torch.randint(len(WORDS), (steps + 1, batch))
    return Window(numbers[:-1], numbers[1:], first=True)


@torch.no_grad()
def test_loss_is_the_mean_surprise_of_each_next_symbol() -> None:
    model = LanguageModel(WORDS, cell=cells.LSTM, hidden=5, layers=2).double()
    batch = window()
    loss = model.loss(batch)
    by_hand = 0.0
    for b in range(3):
        state = None
        for t in range(7):
            logits, state = model.step(batch.x[t, b : b + 1], state)
            by_hand -= float(logits.log_softmax(-1)[0, batch.y[t, b]])
    assert loss.count == 21
    assert float(loss.total) == pytest.approx(by_hand, rel=1e-12)
    assert float(loss.mean) == pytest.approx(by_hand / 21, rel=1e-12)


@pytest.mark.parametrize("cell", [cells.Elman, cells.LSTM, cells.GRU, cells.PeepholeLSTM, "minimal-gated-unit"])
@torch.no_grad()
def test_a_carried_state_equals_the_whole_text(cell: type[Cell] | str) -> None:
    model = LanguageModel(WORDS, cell=cell, hidden=6, layers=2).double()
    batch = window(12)
    whole = model.loss(batch)
    first = model.loss(Window(batch.x[:5], batch.y[:5], first=True))
    second = model.loss(Window(batch.x[5:], batch.y[5:], first=False), first.state)
    assert float(first.total + second.total) == pytest.approx(float(whole.total), rel=1e-12)
    assert float(second.total) != float(model.loss(Window(batch.x[5:], batch.y[5:], first=True)).total)


@torch.no_grad()
def test_begin_equals_steps() -> None:
    model = LanguageModel(WORDS, hidden=6).double()
    prompt = torch.randint(len(WORDS), (9, 2))
    logits, _ = model.begin(prompt)
    state = None
    for symbols in prompt:
        stepped, state = model.step(symbols, state)
    torch.testing.assert_close(logits, stepped, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_score_is_the_sum_over_the_text_alone() -> None:
    model = LanguageModel(WORDS, hidden=6).double()
    numbers = WORDS.encode("\nabba").long()
    logits, _ = model(numbers[:-1, None])
    expected = float(F.cross_entropy(logits[:, 0], numbers[1:], reduction="sum"))
    score = model.score("abba")
    assert score.count == 4
    assert score.nats == pytest.approx(expected, rel=1e-12)
    assert score.bits == pytest.approx(expected / 4 / math.log(2))
    assert score.perplexity == pytest.approx(math.exp(expected / 4))
    assert model.score("bba", context="\na").count == 3
    assert model.score("a").nats + model.score("bba", context="\na").nats == pytest.approx(expected)


def test_score_does_not_drop() -> None:
    model = LanguageModel(WORDS, hidden=6, dropout=0.5)
    assert model.score("abba") == model.score("abba")
    assert model.training


def test_tied_weights_are_one() -> None:
    model = LanguageModel(WORDS, cell="lstm", hidden=6, tied=True)
    assert model.head.weight is model.embedding.weight
    assert model.config.embedding == 6
    assert LanguageModel.from_config(WORDS, model.config).embedding.weight.shape == (len(WORDS), 6)


def test_tied_weights_need_one_size() -> None:
    with pytest.raises(OptionError, match="embedding is 4; tied weights expect 6"):
        LanguageModel(WORDS, hidden=6, embedding=4, tied=True)


def test_options_reach_the_cell() -> None:
    model = LanguageModel(WORDS, cell="projected-lstm", hidden=8, options={"proj_size": 3})
    assert model.head.in_features == 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"hidden": 0}, "hidden is 0; expected at least 1"),
        ({"layers": 0}, "layers is 0"),
        ({"embedding": -3}, "embedding is -3"),
        ({"dropout": 1.0}, "dropout is 1.0; expected a probability below 1"),
        ({"cell": "lstn"}, "unknown cell 'lstn'; did you mean 'lstm'"),
        ({"cell": "nowhere.py:My"}, r"there is no file nowhere\.py"),
        ({"options": {"pro_size": 3}, "cell": "projected-lstm"}, "did you mean 'proj_size'"),
    ],
)
def test_settings_that_make_no_sense(setting: dict[str, object], message: str) -> None:
    with pytest.raises(EverloopError, match=message):
        LanguageModel(WORDS, **setting)  # type: ignore[arg-type]


def test_a_text_is_no_vocabulary() -> None:
    with pytest.raises(OptionError, match=r"vocabulary is Text; expected one such as text\.vocabulary"):
        LanguageModel(Text.from_string("abab", split=(1, 0, 0)))  # type: ignore[arg-type]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@torch.no_grad()
def test_dropout_is_for_training_alone(dropout: float) -> None:
    model = LanguageModel(WORDS, hidden=8, layers=2, dropout=dropout)
    batch = window()
    assert (float(model.loss(batch).total) != float(model.loss(batch).total)) == bool(dropout)
    model.eval()
    assert float(model.loss(batch).total) == float(model.loss(batch).total)


def test_neighbours_are_the_nearest_by_angle() -> None:
    model = LanguageModel(WORDS, hidden=4, embedding=3)
    with torch.no_grad():
        model.embedding.weight[WORDS.numbers["b"]] = 2 * model.embedding.weight[WORDS.numbers["a"]]
    (first, cosine), *others = model.neighbours("a", 3)
    assert first == "b"
    assert cosine == pytest.approx(1)
    assert len(others) == 2
    assert "a" not in [symbol for symbol, _ in others]


def test_an_embedding_of_ones_own_is_called_for_neighbours_and_figures() -> None:
    class Doubled(nn.Module):
        """Has neither `weight` nor `embedding_dim`; turns the vector of b round."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, numbers: Tensor) -> Tensor:
            rows: Tensor = self.inner(numbers)
            return torch.where((numbers == WORDS.numbers["b"])[..., None], -rows, rows)

    model = LanguageModel(WORDS, hidden=4, embedding=3)
    with torch.no_grad():
        model.embedding.weight[WORDS.numbers["b"]] = -2 * model.embedding.weight[WORDS.numbers["a"]]
    before = str(model.outline())
    model.embedding = Doubled(model.embedding)  # type: ignore[assignment]
    ((nearest, cosine),) = model.neighbours("a", 1)
    assert (nearest, round(cosine, 5)) == ("b", 1)
    assert str(model.outline()) == before
    assert f"Block(name='embedding', reads={len(WORDS)}, writes=3)" in before


def test_own_cells_are_named_by_file_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from everloop.cell import *\nimport torch\n\n\nclass Mine(Cell):\n"
        "    h = state(H)\n    W = param(H, I + H)\n\n    def step(self, x, h):\n"
        "        return torch.tanh(torch.cat([x, h], -1) @ self.W.T)\n"
    )
    monkeypatch.chdir(tmp_path)
    model = LanguageModel(WORDS, cell="mine.py:Mine", hidden=4)
    assert model.config.cell == f"{tmp_path / 'mine.py'}:Mine"
    again = LanguageModel(WORDS, cell=type(model.recurrent.cell.members[0]), hidden=4)
    assert again.config.cell.endswith("Mine")
    assert LanguageModel(WORDS, cell=cells.PeepholeLSTM, hidden=4).config.cell == "peephole-lstm"


def test_target_is_what_the_loss_is_counted_per() -> None:
    assert LanguageModel(WORDS, hidden=2).target == "character"
    assert LanguageModel(Vocabulary.of("", "bytes"), hidden=2).target == "byte"


def test_nothing_to_score() -> None:
    model = LanguageModel(WORDS, hidden=2)
    with pytest.raises(DataError, match="empty"):
        model.score("")
    with pytest.raises(OptionError, match="context is empty"):
        model.score("a", context="")
    with pytest.raises(DataError, match=r"'x' .* of the text to score"):
        model.score("x")


def test_config_describes_the_model() -> None:
    model = LanguageModel(WORDS, cell="gru", hidden=7, layers=3, embedding=5, dropout=0.25)
    assert model.config == LanguageModelConfig("gru", hidden=7, layers=3, embedding=5, dropout=0.25)
